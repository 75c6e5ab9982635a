//! Live states of a run as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use retort_proto::{pb, run_status_json};
use tonic::Status;

use super::off_the_runtime;
use crate::watchers::{Snapshot, Watcher};

/// Shortest time between two states of a run.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Something is written at least this often, so that a reader that has gone is noticed.
const ALIVE: Duration = Duration::from_secs(15);

/// The newest state, then each newer one, until the run has ended.
pub(super) fn of(watcher: Watcher) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(watcher, |mut watcher| async move {
        let Ok(next) = tokio::time::timeout(ALIVE, watcher.next()).await else {
            return Some((Ok(Bytes::from_static(b": alive\n\n")), watcher));
        };
        let event = event(&next?.ok()?).await.ok()?;
        Some((Ok(event), watcher))
    })
}

/// Made once for all who read it.
async fn event(snapshot: &Arc<Snapshot>) -> Result<Bytes, Status> {
    let make = || async {
        let snapshot = snapshot.clone();
        off_the_runtime(move || text(&snapshot.status).into()).await
    };
    Ok(snapshot.event.get_or_try_init(make).await?.clone())
}

fn text(state: &pb::RunStatus) -> String {
    format!("id: {}\ndata: {}\n\n", state.revision, run_status_json(state))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::watchers::tests::Runs;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_gets_the_newest_state_and_the_end() {
        let runs = Runs::new().await;
        let watcher = runs
            .watchers
            .watch(String::new(), Duration::from_millis(1), 0)
            .await
            .unwrap();
        let mut events = Box::pin(of(watcher));
        let first = events.next().await.unwrap().unwrap();
        assert!(
            first.starts_with(b"id: ") && first.ends_with(b"}\n\n"),
            "{first:?}"
        );
        runs.stop().await;
        let last = events.next().await.unwrap().unwrap();
        let last = std::str::from_utf8(&last).unwrap();
        assert!(last.contains(r#""state":"stopped""#), "{last}");
        assert!(events.next().await.is_none(), "the run has ended");
    }
}
