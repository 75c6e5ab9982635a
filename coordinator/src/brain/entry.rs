//! One run with what the shell keeps for it: parked questions, control streams, the newest merges.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use retort_coordinator_core::group::Contributed;
use retort_coordinator_core::ids::{Millis, Refusal, Session};
use retort_coordinator_core::lease::{Answer, Reason};
use retort_coordinator_core::manifest::{Cut, FORMAT, FileDigest, Manifest};
use retort_coordinator_core::round::{ClosedRound, Evaluation, RoundPlan, Ticket, Work};
use retort_coordinator_core::run::{Average, Command, Message, Run};
use retort_coordinator_core::spec::{GroupKind, Source};
use retort_job::{Strategy, Sync};
use retort_proto::pb;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;
use tracing::{debug, warn};

use super::{CONTROL_QUEUE, Effect, Submission};
use crate::average::{Hashed, Merge, blend};
use crate::services::refusal;
use crate::store::{CARD, Store, WEIGHTS};

/// A merge that may still be computed.
pub(crate) type Merging = watch::Receiver<Option<Result<Hashed, Status>>>;
/// What a contribution is answered with.
pub(crate) type Merged = Result<Answered, Status>;

/// The next plan, and what comes with it.
pub(crate) struct Answered {
    pub(crate) plan: RoundPlan,
    pub(crate) merging: Merging,
    /// It is the state of the plan's round, for a replica that joined, and not the merge.
    pub(crate) is_state: bool,
}

/// What comes with a contribution.
pub(crate) struct Brought {
    /// As the job's `sync.wire` has it; empty where nothing is exchanged.
    pub(crate) update: Bytes,
    /// The state at the round's start, where the plan asked for it.
    pub(crate) state: Hashed,
    /// Of the weights at the round's start.
    pub(crate) hash: String,
}

/// One run.
pub(crate) struct Entry {
    pub(crate) run: Run,
    pub(crate) submission: Submission,
    /// The store has its report.
    pub(crate) reported: bool,
    /// Fixed teachers whose manifest is being written.
    pub(super) provided: BTreeSet<String>,
    /// Newest manifest's hash by group.
    pub(super) parents: BTreeMap<String, String>,
    /// Contributions that wait for their round to close.
    parked: BTreeMap<String, Parked>,
    /// Requests for work that wait for something to change, by worker.
    leases: BTreeMap<String, ParkedLease>,
    /// Control streams by worker.
    control: BTreeMap<String, mpsc::Sender<pb::ControlDown>>,
    /// The newest merge of each group, for a replica whose answer was lost.
    merges: BTreeMap<String, (ClosedRound, Merging)>,
    /// How replicas exchange what they learned.
    sync: Sync,
    /// States on their way to replicas that joined, by group.
    handovers: BTreeMap<String, Handover>,
    /// By group: generation and round, the hash of the weights at its start, and who said so first.
    hashes: BTreeMap<String, (u64, u64, String, String)>,
    seen: u64,
    /// The run has, as far as was looked.
    pub(super) ended: bool,
    /// Sessions that had ended when contributions were last looked through.
    departures: u64,
}

/// The state at a round's start, which one replica sends with its contribution to that round for those who joined.
struct Handover {
    giver: Session,
    round: (u64, u64),
    done: watch::Sender<Option<Result<Hashed, Status>>>,
}

impl Handover {
    /// Nobody has the state any more: who waits for it registers again.
    fn fail(&self) {
        self.done.send_if_modified(|state| {
            let open = state.is_none();
            if open {
                *state = Some(Err(Status::aborted(
                    "the state was not handed over: register again",
                )));
            }
            open
        });
    }
}

struct Parked {
    session: Session,
    update: Bytes,
    reply: oneshot::Sender<Merged>,
}

struct ParkedLease {
    session: Session,
    asked: (u64, u64),
    deadline: Millis,
    reply: oneshot::Sender<Result<Answer, Status>>,
}

impl Entry {
    pub(super) fn new(run: Run, submission: Submission) -> Self {
        // A job that can't be read was refused when it was submitted.
        let job = retort_job::parse(&submission.job_toml, Path::new("job"), &[]);
        let sync = job.map(|job| job.sync).unwrap_or_default();
        Self {
            run,
            submission,
            reported: false,
            provided: BTreeSet::new(),
            parents: BTreeMap::new(),
            parked: BTreeMap::new(),
            leases: BTreeMap::new(),
            control: BTreeMap::new(),
            merges: BTreeMap::new(),
            sync,
            handovers: BTreeMap::new(),
            hashes: BTreeMap::new(),
            seen: 0,
            ended: false,
            departures: 0,
        }
    }

    /// When `settle` must be called at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Millis> {
        let leases = self.leases.values().map(|l| l.deadline);
        leases.chain(self.run.poll_timeout()).min()
    }

    /// Carries out what the core decided, until it has nothing more to say. True: something changed.
    pub(super) fn settle(&mut self, now: Millis, effects: &mut Vec<Effect>) -> bool {
        if self.run.poll_timeout().is_some_and(|at| at <= now) {
            self.run.handle_timeout(now);
        }
        self.carry_out(effects);
        let changed = self.run.revision() != self.seen;
        self.ask_parked_leases(now, changed, effects);
        self.carry_out(effects);
        let changed = self.run.revision() != self.seen;
        if self.run.departures() != self.departures {
            self.departures = self.run.departures();
            self.drop_orphans(effects);
        }
        if changed {
            self.ended = self.run.state().0.ended();
            self.forget();
        }
        self.seen = self.run.revision();
        changed
    }

    /// Work for a replica; where only others can end its wait, it is parked until `deadline`.
    pub(crate) fn lease(
        &mut self,
        (session, asked): (Session, (u64, u64)),
        (now, deadline): (Millis, Millis),
        reply: oneshot::Sender<Result<Answer, Status>>,
    ) -> Option<Effect> {
        match self.run.lease(&session, asked, now) {
            Ok(answer) if now < deadline && waits(&answer) => {
                let parked = ParkedLease {
                    session: session.clone(),
                    asked,
                    deadline,
                    reply,
                };
                // A second question of one worker replaces the first, whose asker has gone.
                self.leases.insert(session.worker, parked);
                None
            }
            answer => Some(Box::new(move || {
                let _ = reply.send(answer.map_err(refusal));
            })),
        }
    }

    fn ask_parked_leases(&mut self, now: Millis, changed: bool, effects: &mut Vec<Effect>) {
        let due = |l: &ParkedLease| changed || now >= l.deadline;
        let ask: Vec<String> = self
            .leases
            .iter()
            .filter(|(_, l)| due(l))
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in ask {
            let Some(parked) = self.leases.remove(&worker) else {
                continue;
            };
            if parked.reply.is_closed() {
                continue;
            }
            match self.run.lease(&parked.session, parked.asked, now) {
                Ok(answer) if now < parked.deadline && waits(&answer) => {
                    self.leases.insert(worker, parked);
                }
                answer => effects.push(Box::new(move || {
                    let _ = parked.reply.send(answer.map_err(refusal));
                })),
            }
        }
    }

    /// Parks a contribution until its round closes.
    pub(crate) fn contribute(
        &mut self,
        (session, work): (Session, Work),
        brought: Brought,
        now: Millis,
        reply: oneshot::Sender<Merged>,
    ) -> Option<Effect> {
        let worker = session.worker.clone();
        let group = self
            .run
            .member(&worker)
            .map(|m| m.part.clone())
            .unwrap_or_default();
        let round = (work.generation, work.round);
        // Who has no valid session says nothing of the weights.
        if self.run.is_replica(&session)
            && let Err(status) = self.same_bits(&group, (round, &brought.hash), &worker)
        {
            return Some(refuse(reply, status));
        }
        match self.run.contribute(&session, work, now) {
            Ok(Contributed::Waiting) => {
                self.hand_over((&group, round), &session, brought.state);
                let parked = Parked {
                    session,
                    update: brought.update,
                    reply,
                };
                self.parked.insert(worker, parked);
                None
            }
            Ok(Contributed::Again) => Some(self.merged_again(&session, reply)),
            Err(refused) => Some(refuse(reply, refusal(refused))),
        }
    }

    /// Replicas must begin a round with the same weights, bit for bit: whoever differs from the first does not count.
    fn same_bits(
        &mut self,
        group: &str,
        (round, hash): ((u64, u64), &str),
        worker: &str,
    ) -> Result<(), Status> {
        if hash.is_empty() {
            return Ok(());
        }
        match self.hashes.get(group) {
            Some((generation, number, known, first)) if (*generation, *number) == round && known != hash => {
                let text = format!(
                    "{worker} began round {number} of {group} with other weights ({hash}) than {first} ({known})"
                );
                warn!("{text}");
                Err(Status::out_of_range(text))
            }
            // The same bits, or a contribution that was sent again after its round had closed.
            Some((generation, number, ..)) if (*generation, *number) >= round => Ok(()),
            _ => {
                let first = (round.0, round.1, hash.to_owned(), worker.to_owned());
                self.hashes.insert(group.to_owned(), first);
                Ok(())
            }
        }
    }

    /// The state that who joined waits for may have come with this contribution, or will not come any more.
    fn hand_over(&mut self, (group, round): (&str, (u64, u64)), session: &Session, state: Hashed) {
        let Some(handover) = self.handovers.get(group) else {
            return;
        };
        if handover.giver.worker != session.worker {
            return;
        }
        if handover.round == round && !state.bytes.is_empty() {
            handover.done.send_replace(Some(Ok(state)));
        } else {
            handover.fail();
        }
    }

    fn merged_again(&self, session: &Session, reply: oneshot::Sender<Merged>) -> Effect {
        let part = self
            .run
            .members()
            .find(|m| m.session == *session)
            .map(|m| m.part.clone());
        let Some((closed, merging)) = part.and_then(|p| self.merges.get(&p)) else {
            let lost = Refusal::Gone("the merge is not here any more".into());
            return refuse(reply, refusal(lost));
        };
        let plan = closed.plan_of(&session.worker);
        let joined = closed
            .members
            .iter()
            .any(|m| m.joined && m.worker == session.worker);
        let handover = self.handovers.get(&closed.group).filter(|_| joined);
        let answered = Answered {
            plan,
            merging: handover.map_or_else(|| merging.clone(), |h| h.done.subscribe()),
            is_state: handover.is_some(),
        };
        Box::new(move || {
            let _ = reply.send(Ok(answered));
        })
    }

    /// A control stream begins with all that the worker must know now, however much that is.
    pub(crate) fn attach(&mut self, session: &Session, now: Millis) -> mpsc::Receiver<pb::ControlDown> {
        let first = self.run.resync(&session.worker);
        let (stream, commands) = mpsc::channel(first.len() + CONTROL_QUEUE);
        for message in &first {
            let sent = stream.try_send(message.into());
            debug_assert!(sent.is_ok(), "there is a place for each");
        }
        self.control.insert(session.worker.clone(), stream);
        self.run.set_attached(&session.worker, true, now);
        commands
    }

    /// A control stream has ended; its worker may have another one by now.
    pub(crate) fn detach(&mut self, worker: &str, now: Millis) {
        if self.control.get(worker).is_some_and(mpsc::Sender::is_closed) {
            self.control.remove(worker);
            self.run.set_attached(worker, false, now);
        }
    }

    fn carry_out(&mut self, effects: &mut Vec<Effect>) {
        while let Some(command) = self.run.poll_command() {
            match command {
                Command::Send { worker, message } => self.send(&worker, message, effects),
                Command::CloseRound(closed) => self.close_round(closed, effects),
                Command::Waits { group, reason } => {
                    let run = &self.run.spec.id;
                    match reason {
                        Some(reason) => debug!(run, group, "no work: waiting for {reason}"),
                        None => debug!(run, group, "there is work"),
                    }
                }
                Command::AbortRound { workers } => {
                    for worker in workers {
                        if let Some(parked) = self.parked.remove(&worker) {
                            let gone = Status::aborted("the round's state is gone: register again");
                            effects.push(refuse(parked.reply, gone));
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, worker: &str, message: Message, effects: &mut Vec<Effect>) {
        let Some(stream) = self.control.get(worker) else {
            return;
        };
        match stream.clone().try_reserve_owned() {
            Ok(place) => effects.push(Box::new(move || {
                place.send((&message).into());
            })),
            Err(_) => {
                warn!(worker, "control stream is too far behind: cut, it resynchronises");
                self.control.remove(worker);
            }
        }
    }

    fn close_round(&mut self, closed: ClosedRound, effects: &mut Vec<Effect>) {
        if let Some(before) = self.handovers.remove(&closed.group) {
            before.fail();
        }
        let giver = closed.giver.as_ref().and_then(|name| self.parked.get(name));
        if let Some(giver) = giver {
            let handover = Handover {
                giver: giver.session.clone(),
                round: (closed.plan.generation, closed.plan.round),
                done: watch::channel(None).0,
            };
            self.handovers.insert(closed.group.clone(), handover);
        }
        let handover = self.handovers.get(&closed.group);
        let (done, merging) = watch::channel(None);
        let mut replies = Vec::new();
        let mut parts = Vec::new();
        for member in &closed.members {
            let Some(parked) = self.parked.remove(&member.worker) else {
                continue;
            };
            parts.push((member.samples, parked.update));
            let handed = handover.filter(|_| member.joined);
            let answered = Answered {
                plan: closed.plan_of(&member.worker),
                merging: handed.map_or_else(|| merging.clone(), |h| h.done.subscribe()),
                is_state: handed.is_some(),
            };
            replies.push((parked.reply, answered));
        }
        let how = Merge {
            wire: self.sync.wire(),
            of_weights: self.sync.strategy == Strategy::LocalSgd,
        };
        let used = self.merges.remove(&closed.group);
        let used = used.and_then(|(_, merging)| Some(merging.borrow().clone()?.ok()?.bytes));
        let merge = move || {
            let merged = how
                .merge(&parts, used)
                .map(Hashed::from)
                .map_err(|e| Status::internal(e.to_string()));
            let _ = done.send(Some(merged));
        };
        if closed.plan.exchange {
            // Averaging is the brain's only long computation: not on its own task.
            tokio::task::spawn_blocking(merge);
        } else {
            merge();
        }
        let again = (closed.clone(), merging.clone());
        self.merges.insert(closed.group, again);
        effects.push(Box::new(move || {
            for (reply, answered) in replies {
                let _ = reply.send(Ok(answered));
            }
        }));
    }

    /// Of versions that no group made.
    fn kind_of(&self, teacher: &str) -> &'static str {
        let found = self.run.spec.teachers.iter().find(|t| t.name == teacher);
        match found.map(|t| &t.source) {
            Some(Source::Average { .. }) => "average",
            _ => "fixed",
        }
    }

    /// Answers parked contributions whose session has ended.
    fn drop_orphans(&mut self, effects: &mut Vec<Effect>) {
        let run = &self.run;
        let left = |h: &&Handover| !run.is_replica(&h.giver);
        self.handovers.values().filter(left).for_each(Handover::fail);
        let orphans: Vec<String> = self
            .parked
            .iter()
            .filter(|(_, p)| !run.is_replica(&p.session))
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in orphans {
            if let Some(parked) = self.parked.remove(&worker) {
                let ended = Status::aborted("the session has ended: register again");
                effects.push(refuse(parked.reply, ended));
            }
        }
    }

    /// Once nobody is left in a run that has ended, nobody asks for its merges again, each as large as the model.
    fn forget(&mut self) {
        if self.ended && self.run.members().next().is_none() {
            self.merges.clear();
            self.handovers.clear();
            self.hashes.clear();
        }
    }

    /// What makes an average of a group's versions durable, like a version of its own, and gives its manifest's hash.
    pub(super) fn average(
        &self,
        due: &Average,
        (store, id): (Store, u64),
    ) -> impl FnOnce() -> anyhow::Result<String> + Send + 'static {
        let ticket = Ticket {
            group: due.teacher.clone(),
            version: due.version,
            ..Ticket::default()
        };
        let manifest = self.manifest(&ticket, &BTreeMap::new(), None);
        let due = due.clone();
        move || make_average(&due, manifest, (&store, id))
    }

    pub(super) fn manifest(
        &self,
        ticket: &Ticket,
        files: &BTreeMap<String, FileDigest>,
        held_out: Option<Evaluation>,
    ) -> Manifest {
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
            format: FORMAT,
            term: self.run.term(),
            run: spec.id.clone(),
            group: ticket.group.clone(),
            kind: group
                .map_or_else(|| self.kind_of(&ticket.group), |g| GroupKind::name(g.kind))
                .to_owned(),
            version: ticket.version,
            parent: self.parents.get(&ticket.group).cloned(),
            steps: ticket.steps,
            positions: ticket.positions,
            epoch: ticket.epoch,
            round: ticket.round,
            committed: ticket.committed.clone(),
            epochs: group.map_or(0, |g| g.epochs),
            positions_per_epoch: spec.positions,
            seed: self.submission.seed,
            dataset_digest: spec.dataset_digest.clone(),
            merges: ticket.merges.clone(),
            quarantined,
            files: files.clone(),
            teacher_versions: self
                .run
                .teachers()
                .iter()
                .filter_map(|t| Some((t.spec.name.clone(), t.active?)))
                .collect(),
            held_out: held_out.map(Into::into),
        }
    }
}

/// Reads the versions, mixes them, and writes the mixture.
fn make_average(due: &Average, mut manifest: Manifest, (store, id): (&Store, u64)) -> anyhow::Result<String> {
    let run = manifest.run.clone();
    let read = |name: &str, version: u64, file: &str| {
        let read = store.read((&run, name), Some(version), file);
        read.map(|(_, bytes, _)| bytes)
    };
    let steps = |name: &str, version: u64| {
        let manifest = store.manifest(&run, name, version);
        manifest.map(|(_, manifest)| manifest.steps)
    };
    let newest = read(&due.of, due.version, WEIGHTS)?;
    let to = steps(&due.of, due.version)?;
    let weights = match due.before {
        None => newest,
        Some(before) => {
            let kept = due.kept(steps(&due.teacher, before)?, to);
            blend(&read(&due.teacher, before, WEIGHTS)?, &newest, kept)?.into()
        }
    };
    let files = [(WEIGHTS, weights), (CARD, read(&due.of, due.version, CARD)?)];
    let files =
        files.map(|(name, bytes)| (name.to_owned(), blake3::hash(&bytes).to_hex().to_string(), bytes));
    let staged = store.stage((&run, id), &files)?;
    manifest.steps = to;
    manifest.files.clone_from(&staged.files);
    Ok(store.commit(&staged, &manifest)?)
}

/// Only others can end these waits.
fn waits(answer: &Answer) -> bool {
    let Answer::Idle(reason) = answer else {
        return false;
    };
    matches!(
        reason,
        Reason::Closing | Reason::Pace | Reason::Paused | Reason::Reclaim
    )
}

fn refuse(reply: oneshot::Sender<Merged>, status: Status) -> Effect {
    Box::new(move || {
        let _ = reply.send(Err(status));
    })
}
