//! A teacher server as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use retort_runtime::{Shutdown, TaskGroup, announce, listen, logging};
use retort_teacher_server::Config;
use retort_tls::Security;
use tokio_util::sync::CancellationToken;

/// Retort's teacher server: answers with temperature-softened soft targets.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    config: Config,
}

fn main() -> ExitCode {
    let config = Args::parse().config;
    let _traces = logging::init(config.log_format, "info", Some("retort-teacher-server"));
    let security = match config.security() {
        Ok(security) => security,
        Err(e) => {
            tracing::error!("{e:#}");
            return ExitCode::from(2);
        }
    };
    match retort_runtime::block_on(start(config, security)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start(config: Config, security: Security) -> anyhow::Result<()> {
    let listener = listen(config.listen).await?;
    if let Some(path) = &config.announce {
        announce(
            path,
            &format!("{}://{}", security.scheme(), listener.local_addr()?),
        )?;
    }
    let tasks = TaskGroup::new(CancellationToken::new());
    Shutdown::install(&tasks, config.exit_with_parent)?;
    retort_teacher_server::run(config, security, listener, tasks).await
}
