//! One root token. SIGTERM and SIGINT cancel it; a second signal exits at once.

use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{OnError, TaskGroup};

/// Exit code after a second signal, as a shell reports SIGINT.
const INTERRUPTED: i32 = 130;

/// The process's root token and what cancels it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Watches signals and, with `with_parent`, standard input: a supervisor holds its other end
    /// open, so its death is noticed even if it was killed.
    pub fn install(tasks: &TaskGroup, with_parent: bool) -> std::io::Result<Self> {
        let token = tasks.token().clone();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let cancel = token.clone();
        tasks.spawn("signals", OnError::Log, async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                () = cancel.cancelled() => return Ok(()),
            };
            info!("{name}: leaving in order; a second signal exits at once");
            cancel.cancel();
            let exit = async {
                tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
            };
            // The process ends when its other tasks do; this one must not keep it.
            if tokio::time::timeout(std::time::Duration::from_secs(1), exit)
                .await
                .is_ok()
            {
                std::process::exit(INTERRUPTED);
            }
            Ok(())
        });
        if with_parent {
            watch_parent(tasks);
        }
        Ok(Self { token })
    }

    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

fn watch_parent(tasks: &TaskGroup) {
    let token = tasks.token().clone();
    tasks.spawn("parent", OnError::Log, async move {
        let mut stdin = tokio::io::stdin();
        let mut byte = [0u8; 1];
        loop {
            tokio::select! {
                read = stdin.read(&mut byte) => if !matches!(read, Ok(1..)) {
                    info!("the supervisor is gone: leaving in order");
                    token.cancel();
                    return Ok(());
                },
                () = token.cancelled() => return Ok(()),
            }
        }
    });
}

/// The host's name (in a container: its id).
pub(crate) fn host_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() {
        "localhost".into()
    } else {
        host.into()
    }
}

/// A name for a process that was given none.
pub fn default_name(role: &str) -> String {
    format!("{role}-{}-{}", host_name(), std::process::id())
}
