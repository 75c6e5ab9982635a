//! Live states of runs, for all who watch one over gRPC or HTTP. Those who ask in the same while share one snapshot; whoever
//! reads slowly misses states, since only the newest counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use retort_coordinator_core::run::Kind;
use retort_proto::pb;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::brain::{Changes, Handle};
use crate::status;

/// Who watches at the same time; one more is refused.
const MAX_WATCHERS: usize = 1_000;

/// Points of a curve, about.
const POINTS: usize = 128;
/// Events of a brief state, and events of versions of any.
const EVENTS: usize = 16;

/// A run at one time.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: pb::RunStatus,
    /// Without curves and former events.
    pub(crate) brief: pb::RunStatus,
    /// As a server-sent event, once somebody reads it so.
    pub(crate) event: OnceCell<Bytes>,
    pub(crate) ended: bool,
    taken: Instant,
    /// Changes of the coordinator's state that it has; it may have later ones too.
    change: Changes,
}

impl Snapshot {
    fn new(mut status: pb::RunStatus, change: Changes) -> Self {
        for group in &mut status.groups {
            thin(&mut group.curve);
            gather(&mut group.teacher_use);
        }
        let of_version = |e: &pb::Event| e.kind == Kind::Version.name();
        let mut old = status
            .events
            .iter()
            .filter(|e| of_version(e))
            .count()
            .saturating_sub(EVENTS);
        status.events.retain(|event| {
            let kept = old == 0 || !of_version(event);
            old -= usize::from(!kept);
            kept
        });
        let mut brief = status.clone();
        for group in &mut brief.groups {
            group.curve.clear();
            group.teacher_use.clear();
        }
        brief.events.drain(..brief.events.len().saturating_sub(EVENTS));
        Self {
            ended: status::has_ended(&status),
            brief,
            status,
            event: OnceCell::new(),
            taken: Instant::now(),
            change,
        }
    }
}

/// Leaves about [`POINTS`] points: evenly spread ones, half of them with an evaluation if there are so many, and the last.
fn thin(curve: &mut Vec<pb::CurvePoint>) {
    let evaluated = |point: &pb::CurvePoint| usize::from(point.held_out_loss.is_some());
    let mut counts = [0; 2];
    curve.iter().for_each(|point| counts[evaluated(point)] += 1);
    let [rare, last] = [counts[1].min(POINTS / 2), curve.len().saturating_sub(1)];
    let strides = [counts[0].div_ceil(POINTS - rare), counts[1].div_ceil(POINTS / 2)];
    let (mut seen, mut at) = ([0; 2], 0);
    curve.retain(|point| {
        let kind = evaluated(point);
        let kept = seen[kind] % strides[kind] == 0 || at == last;
        (seen[kind], at) = (seen[kind] + 1, at + 1);
        kept
    });
}

/// Leaves about [`POINTS`] uses: those of neighbouring versions are counted with the newest of them.
fn gather(uses: &mut Vec<pb::VersionUse>) {
    let together = uses.len().div_ceil(POINTS).max(1);
    let all = std::mem::take(uses);
    for of_teacher in all.chunk_by(|a, b| a.teacher == b.teacher) {
        let newest = |some: &[pb::VersionUse]| {
            let samples = some.iter().map(|u| u.samples).sum();
            Some(pb::VersionUse {
                samples,
                ..some.last()?.clone()
            })
        };
        uses.extend(of_teacher.chunks(together).filter_map(newest));
    }
}

/// The newest snapshot of a run. A lock over an await: one takes it, others wait for that one.
type Newest = Arc<tokio::sync::Mutex<Option<Arc<Snapshot>>>>;

/// Whoever watches, and what they share.
#[derive(Clone)]
pub(crate) struct Watchers {
    brain: Handle,
    token: CancellationToken,
    // A lock: watchers come and go at any time; never across an await.
    runs: Arc<Mutex<BTreeMap<String, Newest>>>,
    places: Arc<Semaphore>,
}

impl Watchers {
    /// Their streams end with `token`.
    pub(crate) fn new(brain: Handle, token: CancellationToken) -> Self {
        Self {
            brain,
            token,
            runs: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_WATCHERS)),
        }
    }

    /// How many watch.
    pub(crate) fn count(&self) -> usize {
        MAX_WATCHERS - self.places.available_permits()
    }

    /// Watches a run (empty: the newest, and stays with it) from the first state beyond the revision `seen`, with at least
    /// `pause` between two states.
    pub(crate) async fn watch(&self, run: String, pause: Duration, seen: u64) -> Result<Watcher, Status> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_WATCHERS} watch already: try again later"))
        })?;
        let run = status::of_run(&self.brain, run, false).await?.run;
        Ok(Watcher {
            newest: self.lock().entry(run.clone()).or_default().clone(),
            changes: self.brain.changes(),
            watchers: self.clone(),
            run,
            pause,
            seen,
            next: None,
            ended: false,
            _place: place,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Newest>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who watches a run.
pub(crate) struct Watcher {
    watchers: Watchers,
    run: String,
    newest: Newest,
    changes: watch::Receiver<Changes>,
    pause: Duration,
    /// Newest revision that it was told.
    seen: u64,
    /// Not before this, unless a run has ended, and not before these changes: it has nothing new until then.
    next: Option<(Instant, Changes)>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// The newest state, as soon as there is one that was not told yet; `None`: there will be no more.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no state.
    pub(crate) async fn next(&mut self) -> Option<Result<Arc<Snapshot>, Status>> {
        let token = self.watchers.token.clone();
        while !self.ended {
            if let Some((not_before, change)) = self.next {
                let waited = async {
                    // The end is told at once: a coordinator may leave with its run.
                    let ended = async { self.changes.wait_for(|now| now.ends > change.ends).await.is_ok() };
                    tokio::select! {
                        () = tokio::time::sleep_until(not_before) => {}
                        _ = ended => {}
                    }
                    self.changes.wait_for(|now| now.all > change.all).await.is_ok()
                };
                tokio::select! {
                    waited = waited => if !waited { return None },
                    () = token.cancelled() => return None,
                }
            }
            let snapshot = match self.newest().await {
                Ok(snapshot) => snapshot,
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
            };
            self.next = Some((Instant::now() + self.pause, snapshot.change));
            self.ended = snapshot.ended;
            if snapshot.status.revision > self.seen || snapshot.ended {
                self.seen = snapshot.status.revision;
                return Some(Ok(snapshot));
            }
        }
        None
    }

    /// What another took just now, or what is so at this moment.
    async fn newest(&self) -> Result<Arc<Snapshot>, Status> {
        let mut newest = self.newest.lock().await;
        let change = *self.changes.borrow();
        let recent = |s: &Snapshot| s.taken.elapsed() < self.pause && s.change.ends == change.ends;
        let fresh = |s: &&Arc<Snapshot>| s.change == change || s.ended || recent(s);
        if let Some(snapshot) = newest.as_ref().filter(fresh) {
            return Ok(snapshot.clone());
        }
        let status = status::of_run(&self.watchers.brain, self.run.clone(), true).await?;
        let snapshot = Arc::new(Snapshot::new(status, change));
        *newest = Some(snapshot.clone());
        if snapshot.ended {
            // Who has it open already has all that will be.
            self.watchers.lock().remove(&self.run);
        }
        Ok(snapshot)
    }

    /// All of them, to the end.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Arc<Snapshot>, Status>> + Send {
        stream::unfold(self, |mut watcher| async move {
            let next = watcher.next().await?;
            Some((next, watcher))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
