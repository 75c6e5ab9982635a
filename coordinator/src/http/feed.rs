//! Live states of runs as server-sent events. All who watch one run share one snapshot at a time;
//! whoever reads slowly misses states, since only the newest counts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use retort_proto::{pb, run_status_json};
use retort_runtime::{OnError, TaskGroup};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::off_the_runtime;
use crate::brain::Handle;
use crate::status;

/// Shortest time between two states of a run.
const PAUSE: Duration = Duration::from_secs(1);
/// Something is written at least this often, so that a reader that has gone is noticed.
const ALIVE: Duration = Duration::from_secs(15);
/// Who watches at the same time; one more is refused.
const MAX_WATCHERS: usize = 1_000;
/// Points of a curve in an event, about; `/api/runs/ID` has all.
const POINTS: usize = 256;

/// One state, as it is sent.
#[derive(Debug, Clone)]
struct Frame {
    event: Bytes,
    ended: bool,
}

/// The newest frame of a run, while somebody watches it.
type Frames = Arc<watch::Sender<Option<Frame>>>;

#[derive(Clone)]
pub(super) struct Feed {
    brain: Handle,
    tasks: TaskGroup,
    // A lock: watchers come, and a run's task goes, at any time; never across an await.
    live: Arc<Mutex<BTreeMap<String, Frames>>>,
    places: Arc<Semaphore>,
}

impl Feed {
    pub(super) fn new(brain: Handle, tasks: TaskGroup) -> Self {
        Self {
            brain,
            tasks,
            live: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_WATCHERS)),
        }
    }

    /// How many watch.
    pub(super) fn watchers(&self) -> usize {
        MAX_WATCHERS - self.places.available_permits()
    }

    /// Watches a run (empty: the newest, and stays with it).
    pub(super) async fn watch(&self, run: String) -> Result<Watcher, Status> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_WATCHERS} watch already: try again later"))
        })?;
        let run = status::of_run(&self.brain, run, false).await?.run;
        let mut live = self.lock();
        let frames = live.entry(run.clone()).or_insert_with(|| {
            let frames = Frames::new(watch::channel(None).0);
            let produce = self.clone().produce(run, frames.clone());
            self.tasks.spawn("feed", OnError::Log, produce);
            frames
        });
        let mut frames = frames.subscribe();
        // The newest frame is news to who has just come.
        frames.mark_changed();
        Ok(Watcher {
            frames,
            token: self.tasks.token().clone(),
            _place: place,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Frames>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a run's frames until it has ended or nobody watches it.
    async fn produce(self, run: String, frames: Frames) -> anyhow::Result<()> {
        let mut changes = self.brain.changes();
        let mut seen = 0;
        loop {
            changes.borrow_and_update();
            // Only a coordinator that is shutting down has no answer: runs are never forgotten.
            let Ok(state) = status::of_run(&self.brain, run.clone(), true).await else {
                break;
            };
            let ended = status::has_ended(&state);
            if state.revision > seen || ended {
                seen = state.revision;
                let Ok(frame) = off_the_runtime(move || Frame::new(state)).await else {
                    break;
                };
                frames.send_replace(Some(frame));
            }
            if ended {
                break;
            }
            let token = self.tasks.token();
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = token.cancelled() => break,
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = frames.closed() => {}
                () = token.cancelled() => break,
            }
            if frames.receiver_count() == 0 && self.forget(&run) {
                return Ok(());
            }
        }
        self.lock().remove(&run);
        Ok(())
    }

    /// True: nobody came meanwhile.
    fn forget(&self, run: &str) -> bool {
        let mut live = self.lock();
        let unwatched = live.get(run).is_some_and(|f| f.receiver_count() == 0);
        if unwatched {
            live.remove(run);
        }
        unwatched
    }
}

impl Frame {
    fn new(mut state: pb::RunStatus) -> Self {
        let ended = status::has_ended(&state);
        for group in &mut state.groups {
            thin(&mut group.curve);
        }
        let event = format!("id: {}\ndata: {}\n\n", state.revision, run_status_json(&state));
        Self {
            event: event.into(),
            ended,
        }
    }
}

/// Leaves about [`POINTS`] points: evenly spread ones, those with an evaluation, and the last.
fn thin(curve: &mut Vec<pb::CurvePoint>) {
    let stride = curve.len().div_ceil(POINTS).max(1);
    let last = curve.len().saturating_sub(1);
    let mut at = 0;
    curve.retain(|point| {
        let kept = at % stride == 0 || at == last || point.held_out_loss.is_some();
        at += 1;
        kept
    });
}

/// One who watches a run.
pub(super) struct Watcher {
    frames: watch::Receiver<Option<Frame>>,
    token: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// The newest state, then each newer one, until the run has ended.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(Some(self), |watcher| async move {
            let mut watcher = watcher?;
            let (event, ended) = watcher.next().await?;
            Some((Ok(event), (!ended).then_some(watcher)))
        })
    }

    async fn next(&mut self) -> Option<(Bytes, bool)> {
        loop {
            tokio::select! {
                changed = self.frames.changed() => changed.ok()?,
                () = tokio::time::sleep(ALIVE) => return Some((Bytes::from_static(b": alive\n\n"), false)),
                () = self.token.cancelled() => return None,
            }
            if let Some(frame) = self.frames.borrow_and_update().clone() {
                return Some((frame.event, frame.ended));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn state(revision: u64, state: &str) -> pb::RunStatus {
        pb::RunStatus {
            revision,
            state: state.into(),
            ..Default::default()
        }
    }

    fn watcher(frames: &watch::Sender<Option<Frame>>, token: &CancellationToken) -> Watcher {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Watcher {
            frames: frames.subscribe(),
            token: token.clone(),
            _place: place,
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_state_and_the_end() {
        let (frames, _kept) = watch::channel(None);
        let watcher = watcher(&frames, &CancellationToken::new());
        for revision in 1..=3 {
            frames.send_replace(Some(Frame::new(state(revision, "running"))));
        }
        let mut events = Box::pin(watcher.into_stream());
        let first = events.next().await.unwrap().unwrap();
        assert!(first.starts_with(b"id: 3\ndata: {"), "{first:?}");
        assert!(first.ends_with(b"}\n\n"), "{first:?}");
        frames.send_replace(Some(Frame::new(state(4, "done"))));
        let last = events.next().await.unwrap().unwrap();
        assert!(last.starts_with(b"id: 4\n"), "{last:?}");
        assert!(events.next().await.is_none(), "the run has ended");
    }

    #[tokio::test]
    async fn a_stopping_coordinator_ends_its_readers() {
        let (frames, _kept) = watch::channel(None);
        let token = CancellationToken::new();
        let mut events = Box::pin(watcher(&frames, &token).into_stream());
        token.cancel();
        assert!(events.next().await.is_none());
    }

    #[test]
    fn a_long_curve_is_thinned_and_keeps_evaluations_and_its_end() {
        let point = |step: u64| pb::CurvePoint {
            step,
            held_out_loss: (step == 501).then_some(0.5),
            ..Default::default()
        };
        let mut curve: Vec<_> = (0..1_000).map(point).collect();
        thin(&mut curve);
        let steps: Vec<u64> = curve.iter().map(|p| p.step).collect();
        assert!(curve.len() <= POINTS, "{}", curve.len());
        assert!([0, 501, 999].iter().all(|s| steps.contains(s)), "{steps:?}");
        let mut short: Vec<_> = (0..10).map(point).collect();
        thin(&mut short);
        assert_eq!(short.len(), 10);
        thin(&mut Vec::new());
    }
}
