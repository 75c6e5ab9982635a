//! The one owner of all runs. Services send it closures; it applies them one at a time, then
//! carries out what the core decided.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use retort_coordinator_core::ids::{Millis, Session};
use retort_coordinator_core::manifest::{Cut, HeldOut, Manifest};
use retort_coordinator_core::round::{ClosedRound, Evaluation, RoundPlan, Ticket, Work};
use retort_coordinator_core::run::{Command, Run};
use retort_coordinator_core::spec::GroupKind;
use retort_proto::pb;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};

use crate::average::{Weighted, average};
use crate::store::{Staged, Store};

/// Questions waiting for the brain; when full, services wait.
const QUEUE: usize = 1_024;
/// Commands waiting on one control stream. A reader that far behind is cut off and resynchronised.
pub(crate) const CONTROL_QUEUE: usize = 64;
/// Versions of a group whose files are kept beyond what students may still use.
const KEEP_EXTRA: u64 = 2;

type Question = Box<dyn FnOnce(&mut Brain) + Send>;
pub(crate) type MergeReply = Result<(RoundPlan, Bytes), Status>;

/// One run with what the shell keeps for it.
pub(crate) struct Entry {
    pub(crate) run: Run,
    pub(crate) name: String,
    pub(crate) job_toml: String,
    pub(crate) seed: u64,
    /// Contributions that wait for their round to close.
    parked: BTreeMap<String, Parked>,
    /// Control streams by worker.
    control: BTreeMap<String, (u64, mpsc::Sender<pb::ControlDown>)>,
    /// Newest manifest's hash by group.
    parents: BTreeMap<String, String>,
}

struct Parked {
    session: Session,
    weights: Bytes,
    reply: oneshot::Sender<MergeReply>,
}

/// All runs.
pub(crate) struct Brain {
    started: Instant,
    pub(crate) term: u64,
    pub(crate) store: Store,
    pub(crate) runs: Vec<Entry>,
    changes: watch::Sender<u64>,
    next_upload: u64,
}

/// Asks the brain.
#[derive(Clone)]
pub(crate) struct Handle {
    questions: mpsc::Sender<Question>,
    changes: watch::Receiver<u64>,
}

impl Handle {
    /// Runs `question` on the brain and returns its answer.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Brain) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let gone = |_| Status::unavailable("the coordinator is shutting down");
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |brain| {
            // The asker may have gone; what it asked for is done all the same.
            let _ = reply.send(question(brain));
        });
        self.questions.send(question).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))
    }

    /// Asks again after every change until there is an answer or `wait` is over.
    pub(crate) async fn ask_until<T: Send + 'static>(
        &self,
        wait: Duration,
        question: impl Fn(&mut Brain, bool) -> Option<T> + Clone + Send + 'static,
    ) -> Result<Option<T>, Status> {
        let mut changes = self.changes.clone();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            changes.borrow_and_update();
            let last = tokio::time::Instant::now() >= deadline;
            let question = question.clone();
            if let Some(answer) = self.ask(move |brain| question(brain, last)).await? {
                return Ok(Some(answer));
            }
            if last {
                return Ok(None);
            }
            // Cancel-safe: the watch keeps what changed meanwhile.
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(None) },
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

/// A brain and the task that runs it until `token` is cancelled.
pub(crate) fn start(
    store: Store,
    token: CancellationToken,
) -> (Handle, impl Future<Output = anyhow::Result<()>> + Send) {
    let (questions, inbox) = mpsc::channel(QUEUE);
    let (changes, watched) = watch::channel(0);
    let brain = Brain {
        started: Instant::now(),
        term: 1,
        store,
        runs: Vec::new(),
        changes,
        next_upload: 0,
    };
    let handle = Handle {
        questions,
        changes: watched,
    };
    (handle, brain.run(inbox, token))
}

impl Brain {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Question>,
        token: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let timeout = self.runs.iter().filter_map(|e| e.run.poll_timeout()).min();
            let sleep = timeout.map_or(Duration::from_secs(60), |at| {
                Duration::from_millis(at.since(self.now()))
            });
            // All arms are cancel-safe: a question that was not received stays in the queue.
            tokio::select! {
                question = inbox.recv() => match question {
                    Some(question) => question(&mut self),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(sleep) => {}
                () = token.cancelled() => return Ok(()),
            }
            self.settle();
        }
    }

    /// Milliseconds since start, by the monotonic clock.
    pub(crate) fn now(&self) -> Millis {
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Carries out what the core decided, until it has nothing more to say.
    fn settle(&mut self) {
        let now = self.now();
        for entry in &mut self.runs {
            if entry.run.poll_timeout().is_some_and(|at| at <= now) {
                entry.run.handle_timeout(now);
            }
            while let Some(command) = entry.run.poll_command() {
                entry.carry_out(command);
            }
            entry.drop_orphans();
        }
        self.changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn entry(&mut self, run: &str) -> Result<&mut Entry, Status> {
        let newest = run.is_empty();
        self.runs
            .iter_mut()
            .rev()
            .find(|e| newest || e.run.spec.id == run)
            .ok_or_else(|| {
                Status::not_found(if newest {
                    "no run yet".into()
                } else {
                    format!("no run {run}")
                })
            })
    }

    /// A number for an upload's folder.
    pub(crate) fn upload_id(&mut self) -> u64 {
        self.next_upload += 1;
        self.next_upload
    }

    pub(crate) fn add_run(&mut self, run: Run, (name, job_toml, seed): (String, String, u64)) {
        info!(run = run.spec.id, "accepted");
        self.runs.push(Entry {
            run,
            name,
            job_toml,
            seed,
            parked: BTreeMap::new(),
            control: BTreeMap::new(),
            parents: BTreeMap::new(),
        });
    }

    /// Makes an uploaded state of a group durable: manifest, rename, then the ledger moves.
    pub(crate) fn commit_round(
        &mut self,
        (session, generation, round): (&Session, u64, u64),
        staged: &Staged,
        held_out: Option<Evaluation>,
    ) -> Result<u64, Status> {
        let now = self.now();
        let store = self.store.clone();
        let entry = self.entry(&session.run)?;
        let ticket = entry
            .run
            .ticket(session, generation, round)
            .map_err(crate::services::refusal)?;
        let manifest = entry.manifest(&ticket, staged, held_out);
        let hash = store
            .commit(staged, &manifest)
            .map_err(crate::services::store_error)?;
        entry.parents.insert(ticket.group.clone(), hash);
        entry.run.published(&ticket, held_out, now);
        let serves = entry
            .run
            .teachers()
            .iter()
            .find(|t| t.spec.name == ticket.group)
            .and_then(|t| t.active);
        let newest_needed = serves.unwrap_or(ticket.version).min(ticket.version);
        let keep = entry.run.spec.max_staleness + KEEP_EXTRA;
        store.prune(&session.run, &ticket.group, newest_needed.saturating_sub(keep));
        debug!(
            run = session.run,
            group = ticket.group,
            version = ticket.version,
            "published"
        );
        Ok(ticket.version)
    }

    /// Makes a provided teacher version 0.
    pub(crate) fn commit_provided(
        &mut self,
        (run, teacher): (&str, &str),
        staged: &Staged,
        held_out: Option<Evaluation>,
    ) -> Result<u64, Status> {
        let now = self.now();
        let store = self.store.clone();
        let entry = self.entry(run)?;
        let ticket = Ticket {
            group: teacher.to_owned(),
            version: 0,
            round: 0,
            steps: 0,
            positions: 0,
            epoch: 0,
            merges: Vec::new(),
            quarantined: Default::default(),
        };
        entry
            .run
            .provided(teacher, held_out, now)
            .map_err(crate::services::refusal)?;
        let manifest = entry.manifest(&ticket, staged, held_out);
        store
            .commit(staged, &manifest)
            .map_err(crate::services::store_error)?;
        Ok(0)
    }
}

impl Entry {
    /// Parks a contribution until its round closes.
    pub(crate) fn contribute(
        &mut self,
        (session, work): (Session, Work),
        weights: Bytes,
        now: Millis,
        reply: oneshot::Sender<MergeReply>,
    ) {
        let worker = session.worker.clone();
        let parked = Parked {
            session: session.clone(),
            weights,
            reply,
        };
        // Parked first: the contribution may close the round.
        self.parked.insert(worker.clone(), parked);
        if let Err(refused) = self.run.contribute(&session, work, now)
            && let Some(parked) = self.parked.remove(&worker)
        {
            let _ = parked.reply.send(Err(crate::services::refusal(refused)));
        }
    }

    /// A control stream begins: the worker is told all it must know now.
    pub(crate) fn attach(&mut self, session: &Session, stream: mpsc::Sender<pb::ControlDown>) {
        for message in self.run.resync(&session.worker) {
            if stream.try_send((&message).into()).is_err() {
                return;
            }
        }
        self.control
            .insert(session.worker.clone(), (session.incarnation, stream));
    }

    pub(crate) fn detach(&mut self, session: &Session) {
        if self
            .control
            .get(&session.worker)
            .is_some_and(|(i, _)| *i == session.incarnation)
        {
            self.control.remove(&session.worker);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Send { worker, message } => {
                let Some((_, stream)) = self.control.get(&worker) else {
                    return;
                };
                if stream.try_send((&message).into()).is_err() {
                    warn!(worker, "control stream is too far behind: cut, it resynchronises");
                    self.control.remove(&worker);
                }
            }
            Command::CloseRound(closed) => self.close_round(closed),
            Command::AbortRound { workers } => {
                for worker in workers {
                    if let Some(parked) = self.parked.remove(&worker) {
                        let _ = parked
                            .reply
                            .send(Err(Status::aborted("the round's state is gone: register again")));
                    }
                }
            }
        }
    }

    fn close_round(&mut self, closed: ClosedRound) {
        let mut replies = Vec::new();
        let mut parts = Vec::new();
        for (worker, samples) in &closed.members {
            let Some(parked) = self.parked.remove(worker) else {
                continue;
            };
            parts.push(Weighted {
                samples: *samples,
                weights: parked.weights,
            });
            let mut plan = closed.plan.clone();
            plan.publish = closed.publisher.as_ref() == Some(worker);
            replies.push((parked.reply, plan));
        }
        let finish = move || {
            let merged = average(&parts);
            for (reply, plan) in replies {
                let answer = merged.as_ref().map(|w| (plan, w.clone()));
                let _ = reply.send(answer.map_err(|e| Status::internal(e.to_string())));
            }
        };
        if closed.plan.exchange {
            // Averaging is the brain's only long computation: not on its own task.
            tokio::task::spawn_blocking(finish);
        } else {
            finish();
        }
    }

    /// Answers parked contributions whose session has ended.
    fn drop_orphans(&mut self) {
        let run = &self.run;
        let orphans: Vec<String> = self
            .parked
            .iter()
            .filter(|(_, p)| !run.is_replica(&p.session))
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in orphans {
            if let Some(parked) = self.parked.remove(&worker) {
                let _ = parked
                    .reply
                    .send(Err(Status::aborted("the session has ended: register again")));
            }
        }
    }

    fn manifest(&self, ticket: &Ticket, staged: &Staged, held_out: Option<Evaluation>) -> Manifest {
        let spec = &self.run.spec;
        let group = spec.groups.iter().find(|g| g.name == ticket.group);
        let quarantined = if ticket.quarantined.is_empty() {
            Vec::new()
        } else {
            vec![Cut {
                epoch: ticket.epoch,
                positions: ticket.quarantined.clone(),
            }]
        };
        Manifest {
            format: retort_coordinator_core::manifest::FORMAT,
            run: spec.id.clone(),
            group: ticket.group.clone(),
            kind: group.map_or("fixed", |g| GroupKind::name(g.kind)).to_owned(),
            version: ticket.version,
            parent: self.parents.get(&ticket.group).cloned(),
            steps: ticket.steps,
            positions: ticket.positions,
            epoch: ticket.epoch,
            epochs: group.map_or(0, |g| g.epochs),
            positions_per_epoch: spec.positions,
            seed: self.seed,
            dataset_digest: spec.dataset_digest.clone(),
            merges: ticket.merges.clone(),
            quarantined,
            files: staged.files.clone(),
            teacher_versions: self
                .run
                .teachers()
                .iter()
                .filter_map(|t| Some((t.spec.name.clone(), t.active?)))
                .collect(),
            held_out: held_out.map(|e| HeldOut {
                loss: e.loss,
                accuracy: e.accuracy,
                samples: e.samples,
            }),
        }
    }
}
