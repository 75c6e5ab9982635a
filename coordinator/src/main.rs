//! The coordinator as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use retort_coordinator::Config;
use retort_runtime::{Shutdown, TaskGroup, logging};
use retort_tls::Security;
use tokio_util::sync::CancellationToken;

/// Retort's coordinator: balances batches, keeps versions in step, answers status queries.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    config: Config,
}

fn main() -> ExitCode {
    let config = Args::parse().config;
    let _traces = logging::init(config.log_format, "info", Some("retort-coordinator"));
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
    let tasks = TaskGroup::new(CancellationToken::new());
    Shutdown::install(&tasks, config.exit_with_parent)?;
    match retort_coordinator::bind(&config, &security, tasks.token()).await? {
        Some(listeners) => retort_coordinator::run(config, security, listeners, tasks).await,
        None => Ok(()),
    }
}
