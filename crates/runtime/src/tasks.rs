//! Tasks with an owner: named, counted, and never silently lost.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info_span, warn};

/// What a task's error (or panic) does to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The process shuts down with this error.
    Shutdown,
    /// It is logged; the others go on.
    Log,
}

/// All tasks of a process or of one run within it.
#[derive(Debug, Clone)]
pub struct TaskGroup {
    token: CancellationToken,
    tracker: TaskTracker,
    // A lock: the first failure is written by whichever task fails, once, and read at the end.
    failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl TaskGroup {
    /// A group that ends when `token` is cancelled.
    pub fn new(token: CancellationToken) -> Self {
        Self {
            token,
            tracker: TaskTracker::new(),
            failure: Arc::default(),
        }
    }

    /// Cancelled when the group shall end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Starts a task. It should watch `token()`; a panic counts as an error.
    pub fn spawn<F>(&self, name: &'static str, on_error: OnError, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let group = self.clone();
        let guarded = AssertUnwindSafe(task).catch_unwind();
        self.tracker.spawn(
            async move {
                let failed = match guarded.await {
                    Ok(Ok(())) => return,
                    Ok(Err(e)) => e,
                    Err(panic) => anyhow::anyhow!("task {name} panicked: {}", panic_text(&*panic)),
                };
                match on_error {
                    OnError::Log => warn!("task {name}: {failed:#}"),
                    OnError::Shutdown => group.fail(failed.context(format!("task {name}"))),
                }
            }
            .instrument(info_span!("task", name)),
        );
    }

    fn fail(&self, failed: anyhow::Error) {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(failed);
        } else {
            error!("after another failure: {failed:#}");
        }
        self.token.cancel();
    }

    /// Cancels the group and waits for its tasks, at most `grace`. The first failure is returned.
    pub async fn end(self, grace: Duration) -> anyhow::Result<()> {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait()).await.is_err() {
            warn!(left = self.tracker.len(), "tasks did not end within {grace:?}");
        }
        let failed = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), Err)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_group_and_is_reported() {
        let group = TaskGroup::new(CancellationToken::new());
        group.spawn("bad", OnError::Shutdown, async { panic!("boom") });
        group.token().cancelled().await;
        let failed = group
            .end(Duration::from_secs(5))
            .await
            .expect_err("the panic is an error");
        assert!(format!("{failed:#}").contains("boom"));
    }

    #[tokio::test]
    async fn a_logged_error_leaves_the_others_alone() {
        let group = TaskGroup::new(CancellationToken::new());
        group.spawn("bad", OnError::Log, async { anyhow::bail!("no") });
        tokio::task::yield_now().await;
        assert!(!group.token().is_cancelled());
        group.end(Duration::from_secs(5)).await.expect("logged only");
    }
}
