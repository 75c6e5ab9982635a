//! The one owner of all runs. Services send it closures; it applies them one at a time, carries out
//! what the core decided, writes what must survive, and only then lets anybody know.

pub(crate) mod entry;
mod restore;

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use retort_coordinator_core::ids::{Millis, Refusal, Session};
use retort_coordinator_core::round::{Evaluation, Ticket};
use retort_coordinator_core::run::{Average, Run};
use retort_coordinator_core::spec::Source;
use retort_coordinator_core::teacher::Teacher;
use retort_runtime::failpoint;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};

use crate::journal::{Batch, Journal, Writer};
use crate::services::refusal;
use crate::store::{self, Staged, Store};

pub(crate) use entry::Entry;

/// Questions waiting for the brain; when full, services wait.
const QUEUE: usize = 1_024;
/// Questions applied before the core's decisions are carried out and written, as one commit.
const TOGETHER: usize = 256;
/// Commands waiting on one control stream. A reader that far behind is cut off and resynchronised.
pub(crate) const CONTROL_QUEUE: usize = 64;
/// Versions of a group whose files are kept beyond what students may still use.
const KEEP_EXTRA: u64 = 2;

/// What leaves the process: an answer, or a merge on its way to its members.
pub(crate) type Effect = Box<dyn FnOnce() + Send>;
type Question = Box<dyn FnOnce(&mut Brain) + Send>;
/// Where an answer goes that comes later.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Status>>;

/// What was submitted: all that is needed to take a run up again, beside its records.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Submission {
    /// Runs take turns in this order.
    pub(crate) order: u64,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) job_toml: String,
    pub(crate) seed: u64,
    pub(crate) positions: u64,
    pub(crate) dataset_digest: String,
}

/// All runs.
pub(crate) struct Brain {
    started: Instant,
    /// Where the clock of former terms stood.
    clock_base: u64,
    pub(crate) term: u64,
    pub(crate) store: Store,
    pub(crate) runs: Vec<Entry>,
    /// Its own inbox, for what was done apart.
    questions: mpsc::WeakSender<Question>,
    changes: watch::Sender<Changes>,
    next_upload: u64,
    /// Changes that no batch contains yet.
    unwritten: Batch,
    /// Newest batch that was handed to the journal, and newest that is durable.
    handed: u64,
    durable: u64,
    /// What waits for which batch.
    outbox: VecDeque<(u64, Effect)>,
}

/// Counts what changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Of anything.
    pub(crate) all: u64,
    /// Runs that ended.
    pub(crate) ends: u64,
}

/// Asks the brain.
#[derive(Clone)]
pub(crate) struct Handle {
    questions: mpsc::Sender<Question>,
    changes: watch::Receiver<Changes>,
}

fn gone<E>(_: E) -> Status {
    Status::unavailable("the coordinator is shutting down")
}

impl Handle {
    /// Runs `question` on the brain. The answer comes once everything that it may rest on is durable.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Brain) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.tell(move |brain| {
            let value = question(brain);
            brain.effect(move || {
                // The asker may have gone; what it asked for is done all the same.
                let _ = reply.send(value);
            });
        })
        .await?;
        answer.await.map_err(gone)
    }

    /// Runs `question` on the brain, which answers it later.
    pub(crate) async fn ask_for<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Brain, Reply<T>) + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.tell(move |brain| question(brain, reply)).await?;
        answer.await.map_err(gone)?
    }

    /// As [`Handle::ask`], for answers that say nothing that could be lost: they come at once.
    pub(crate) async fn peek<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Brain) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.tell(move |brain| {
            let _ = reply.send(question(brain));
        })
        .await?;
        answer.await.map_err(gone)
    }

    /// Runs `question` on the brain, which answers by other means.
    pub(crate) async fn tell(
        &self,
        question: impl FnOnce(&mut Brain) + Send + 'static,
    ) -> Result<(), Status> {
        self.questions.send(Box::new(question)).await.map_err(gone)
    }

    /// Asks again after every change until there is an answer or `wait` is over.
    pub(crate) async fn ask_until<T: Send + 'static>(
        &self,
        wait: Duration,
        question: impl Fn(&mut Brain) -> Option<T> + Clone + Send + 'static,
    ) -> Result<Option<T>, Status> {
        let mut changes = self.changes.clone();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            changes.borrow_and_update();
            let last = tokio::time::Instant::now() >= deadline;
            let question = question.clone();
            if let Some(answer) = self.ask(question).await? {
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

    pub(crate) fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }
}

/// A brain that knows what its former terms wrote, and the task that runs it until `token` is
/// cancelled.
pub(crate) fn start(
    store: Store,
    mut journal: Box<dyn Journal>,
    token: CancellationToken,
) -> anyhow::Result<(Handle, impl Future<Output = anyhow::Result<()>> + Send)> {
    let (questions, inbox) = mpsc::channel(QUEUE);
    let (changes, watched) = watch::channel(Changes::default());
    let mut brain = Brain {
        started: Instant::now(),
        clock_base: 0,
        term: 0,
        store,
        runs: Vec::new(),
        questions: questions.downgrade(),
        changes,
        next_upload: 0,
        unwritten: Batch::new(),
        handed: 0,
        durable: 0,
        outbox: VecDeque::new(),
    };
    brain.restore(journal.as_mut())?;
    let writer = Writer::start(journal)?;
    let handle = Handle {
        questions,
        changes: watched,
    };
    Ok((handle, brain.run(inbox, writer, token)))
}

impl Brain {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Question>,
        mut writer: Writer,
        token: CancellationToken,
    ) -> anyhow::Result<()> {
        self.settle(&writer);
        loop {
            let timeout = self.runs.iter().filter_map(Entry::poll_timeout).min();
            let sleep = timeout.map_or(Duration::from_secs(60), |at| {
                Duration::from_millis(at.since(self.now()))
            });
            // All arms are cancel-safe: what was not received stays in its channel.
            tokio::select! {
                question = inbox.recv() => match question {
                    Some(question) => question(&mut self),
                    None => return Ok(()),
                },
                durable = writer.durable() => match durable {
                    Some(number) => self.durable = number,
                    None => anyhow::bail!("the journal's thread has ended"),
                },
                () = tokio::time::sleep(sleep) => {}
                () = token.cancelled() => return Ok(()),
            }
            for _ in 1..TOGETHER {
                match inbox.try_recv() {
                    Ok(question) => question(&mut self),
                    Err(_) => break,
                }
            }
            self.settle(&writer);
        }
    }

    /// Milliseconds by the monotonic clock, which goes on where former terms left it.
    pub(crate) fn now(&self) -> Millis {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Millis(self.clock_base.saturating_add(elapsed))
    }

    /// Something that leaves the process once all that was decided so far is durable.
    pub(crate) fn effect(&mut self, effect: impl FnOnce() + Send + 'static) {
        // The batch that will hold what was decided but not collected yet.
        self.outbox.push_back((self.handed + 1, Box::new(effect)));
    }

    /// Carries out what the core decided, and hands to the journal what must survive.
    fn settle(&mut self, writer: &Writer) {
        let now = self.now();
        self.make_averages(now);
        let mut effects = Vec::new();
        let (mut changed, mut ends) = (false, 0);
        for entry in &mut self.runs {
            let had_ended = entry.ended;
            changed |= entry.settle(now, &mut effects);
            ends += u64::from(entry.ended && !had_ended);
            let id = &entry.submission.id;
            for (key, record) in entry.run.take_writes() {
                let value = record.map(|r| restore::to_bytes(&r));
                self.unwritten.insert(restore::record_key(id, &key), value);
            }
        }
        // What was decided since the last batch waits for the next, if there is anything to write;
        // else for the one on its way.
        let tag = if self.unwritten.is_empty() {
            self.handed
        } else {
            self.handed + 1
        };
        for (waits_for, _) in self.outbox.iter_mut().rev() {
            if *waits_for <= tag {
                break;
            }
            *waits_for = tag;
        }
        self.outbox.extend(effects.into_iter().map(|e| (tag, e)));
        if self.handed == self.durable && !self.unwritten.is_empty() {
            self.unwritten
                .insert(restore::CLOCK.into(), Some(restore::to_bytes(&now)));
            self.handed += 1;
            writer.write(self.handed, std::mem::take(&mut self.unwritten));
        }
        while self.outbox.front().is_some_and(|(at, _)| *at <= self.durable) {
            if let Some((_, effect)) = self.outbox.pop_front() {
                effect();
            }
        }
        if changed {
            self.changes.send_modify(|changes| {
                changes.all += 1;
                changes.ends += ends;
            });
        }
    }

    /// Averages of versions that were published since: files first, then the core hears of it.
    fn make_averages(&mut self, now: Millis) {
        for i in 0..self.runs.len() {
            while let Some(due) = self.runs[i].run.average_due(now) {
                let place = (self.store.clone(), self.upload_id());
                let entry = &self.runs[i];
                let (run, making) = (entry.submission.id.clone(), entry.average(&due, place));
                self.apart(making, move |brain, made| brain.averaged(&run, &due, made));
            }
        }
    }

    fn averaged(&mut self, run: &str, due: &Average, made: anyhow::Result<String>) {
        let now = self.now();
        let Ok(entry) = self.entry(run) else { return };
        match made {
            Ok(hash) => {
                entry.parents.insert(due.teacher.clone(), hash);
                entry.run.averaged(&due.teacher, due.version, now);
                let teacher = entry.run.teachers().iter().find(|t| t.spec.name == due.teacher);
                let serves = teacher.and_then(Teacher::oldest_needed).unwrap_or(due.version);
                let keep = entry.run.spec.max_staleness + KEEP_EXTRA;
                self.prune(run, &due.teacher, serves.saturating_sub(keep));
            }
            Err(e) => {
                warn!(run, "no average of {}: {e:#}", due.of);
                entry.run.average_failed(&due.teacher, &format!("{e:#}"), now);
            }
        }
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

    /// Where a teacher or group of a run has its files, by names that the run itself has: they become part of paths.
    pub(crate) fn files_of(&mut self, run: &str, name: &str) -> Result<(Store, String, String), Status> {
        let store = self.store.clone();
        let spec = &self.entry(run)?.run.spec;
        let teacher = spec.teachers.iter().find(|t| t.name == name);
        // A teacher that follows a group has that group's files.
        let followed = teacher.map(|t| t.source.files_of().unwrap_or(&t.name));
        let group = || {
            spec.groups
                .iter()
                .find(|g| g.name == name)
                .map(|g| g.name.as_str())
        };
        let files = followed
            .or_else(group)
            .ok_or_else(|| Status::not_found(format!("run {}: no teacher or group {name:?}", spec.id)))?;
        Ok((store, spec.id.clone(), files.to_owned()))
    }

    /// A number for an upload's folder.
    pub(crate) fn upload_id(&mut self) -> u64 {
        self.next_upload += 1;
        self.next_upload
    }

    pub(crate) fn add_run(&mut self, run: Run, submission: Submission) {
        info!(run = run.spec.id, "accepted");
        let key = restore::submission_key(&submission.id);
        self.unwritten.insert(key, Some(restore::to_bytes(&submission)));
        self.runs.push(Entry::new(run, submission));
    }

    /// The store has a run's report.
    pub(crate) fn reported(&mut self, run: &str) -> Result<(), Status> {
        self.entry(run)?.reported = true;
        let key = restore::report_key(run);
        self.unwritten.insert(key, Some(restore::to_bytes(&true)));
        Ok(())
    }

    /// Makes an uploaded state of a group durable: manifest, rename, then the ledger moves and `reply` hears of it. The store
    /// may be slow; all else goes on meanwhile.
    pub(crate) fn commit_round(
        &mut self,
        (session, generation, round): (Session, u64, u64),
        staged: Staged,
        held_out: Option<Evaluation>,
        reply: Reply<u64>,
    ) {
        // Else the answer, which is there already.
        let begun = match self.entry(&session.run) {
            Err(status) => Err(Err(status)),
            Ok(entry) => match entry.run.ticket(&session, generation, round) {
                Ok(ticket) => Ok((entry.manifest(&ticket, &staged.files, held_out), ticket)),
                // A retry after its answer was lost.
                Err(refused) => {
                    let before = entry.run.published_as(&session, generation, round);
                    Err(before.ok_or_else(|| refusal(refused)))
                }
            },
        };
        let (manifest, ticket) = match begun {
            Ok(begun) => begun,
            Err(answer) => return self.answer(reply, answer),
        };
        let store = self.store.clone();
        let write = move || store.commit(&staged, &manifest);
        self.apart(write, move |brain, written| {
            let committed = brain.committed(&session.run, &ticket, held_out, written);
            brain.answer(reply, committed);
        });
    }

    /// What became of a ticket.
    fn committed(
        &mut self,
        run: &str,
        ticket: &Ticket,
        held_out: Option<Evaluation>,
        written: Result<String, store::Error>,
    ) -> Result<u64, Status> {
        let now = self.now();
        let entry = self.entry(run)?;
        match written {
            Ok(hash) => entry.parents.insert(ticket.group.clone(), hash),
            Err(e) => {
                warn!(run, group = ticket.group, "{e}: training goes on");
                entry.run.commit_failed(ticket, &e.to_string(), now);
                return Err(Status::resource_exhausted(e.to_string()));
            }
        };
        failpoint::hit("store.committed");
        entry.run.published(ticket, held_out, now);
        let serves = entry.run.oldest_needed(&ticket.group);
        let newest_needed = serves.unwrap_or(ticket.version).min(ticket.version);
        let keep = entry.run.spec.max_staleness + KEEP_EXTRA;
        self.prune(run, &ticket.group, newest_needed.saturating_sub(keep));
        debug!(run, group = ticket.group, version = ticket.version, "published");
        Ok(ticket.version)
    }

    /// Drops files that nobody needs any more.
    fn prune(&self, run: &str, group: &str, keep_from: u64) {
        let (store, run, group) = (self.store.clone(), run.to_owned(), group.to_owned());
        self.apart(move || store.prune(&run, &group, keep_from), |_, ()| {});
    }

    /// Does what may take long on a thread of its own, and then what follows from it here.
    fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Self, T) + Send + 'static,
    ) {
        let questions = self.questions.clone();
        tokio::task::spawn_blocking(move || {
            let question: Question = match catch_unwind(AssertUnwindSafe(work)) {
                Ok(done) => Box::new(move |brain| then(brain, done)),
                Err(panic) => Box::new(move |_| resume_unwind(panic)),
            };
            // Without anybody who asks the brain has ended.
            if let Some(questions) = questions.upgrade() {
                let _ = questions.blocking_send(question);
            }
        });
    }

    /// Answers once everything that the answer may rest on is durable.
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Status>) {
        // The asker may have gone; what it asked for is done all the same.
        self.effect(move || drop(reply.send(answer)));
    }

    /// A version could not be written: training goes on, and a later one is asked for.
    pub(crate) fn not_written(&mut self, session: &Session, error: &store::Error) -> Status {
        let now = self.now();
        warn!(
            run = session.run,
            worker = session.worker,
            "{error}: training goes on"
        );
        match self.entry(&session.run) {
            Ok(entry) => {
                entry.run.publish_failed(session, &error.to_string(), now);
                Status::resource_exhausted(error.to_string())
            }
            Err(status) => status,
        }
    }

    /// Makes a provided teacher version 0.
    pub(crate) fn commit_provided(
        &mut self,
        (run, teacher): (String, String),
        staged: Staged,
        held_out: Option<Evaluation>,
        reply: Reply<u64>,
    ) {
        let manifest = self.entry(&run).and_then(|entry| {
            let wanted = entry.run.teachers().iter().any(|t| {
                let absent = t.newest().is_none();
                t.spec.name == teacher && t.spec.source == Source::Fixed && absent
            }) && !entry.provided.contains(&teacher);
            let refused = || {
                Refusal::Invalid(format!(
                    "{teacher} is no fixed teacher of this run, or was provided before"
                ))
            };
            wanted.then_some(()).ok_or_else(|| refusal(refused()))?;
            entry.provided.insert(teacher.clone());
            let ticket = Ticket {
                group: teacher.clone(),
                ..Ticket::default()
            };
            Ok(entry.manifest(&ticket, &staged.files, held_out))
        });
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(status) => return self.answer(reply, Err(status)),
        };
        let store = self.store.clone();
        let write = move || store.commit(&staged, &manifest);
        self.apart(write, move |brain, written| {
            let now = brain.now();
            let provided = brain.entry(&run).and_then(|entry| {
                entry.provided.remove(&teacher);
                written.map_err(crate::services::store_error)?;
                let provided = entry.run.provided(&teacher, held_out, now);
                provided.map(|()| 0).map_err(refusal)
            });
            brain.answer(reply, provided);
        });
    }
}

#[cfg(test)]
mod tests;
