//! One replica of a group: the shell around the worker's pure machine, over all its sessions.
//! Everything that takes time runs beside it and comes back as an [`Event`]; commands of the machine
//! are carried out one by one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use retort_coordinator_core::ids;
use retort_coordinator_core::lease::Answer;
use retort_coordinator_core::round::{Activity, Evaluation, RoundPlan, Start, Work};
use retort_coordinator_core::run::{Endpoints, Heartbeat};
use retort_models::Choice;
use retort_proto::pb;
use retort_runtime::{OnError, TaskGroup, failpoint};
use retort_student_worker_core::{BlockId, Command, OnMissing, Setup, StepDone, Worker};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config::SHUTDOWN_GRACE;
use crate::exchange::Outgoing;
use crate::frames::{Frames, Terms, Want};
use crate::part::{Loaded, Part};
use crate::rpc::{self, Channels, Failed, Joined, Published};
use crate::session;
use crate::thread::{self, Frame, OPTIMIZER_FILE, Snapshot, TrainerCommand, TrainerEvent};

/// Events waiting for the replica; when full, whoever brings the next one waits.
const EVENTS: usize = 256;
/// The measured rate follows about this many steps.
const RATE_STEPS: f64 = 20.0;
/// Share of its lease that a worker trusts its own clock with, in percent: it stops training and
/// contributing before the coordinator gives its positions to others.
const OWN_LEASE: u64 = 75;

/// Seconds that a want is put off at most: a rate that was measured once may be far off.
const MAX_WITHIN: f64 = 60.0;

/// What happened beside the replica.
pub(crate) enum Event {
    /// A registration was granted.
    Joined(Box<Joined>, Instant),
    Lease(ids::Session, u64, Answer),
    Frame {
        teacher: String,
        id: BlockId,
        version: u64,
        frame: Arc<Frame>,
        /// Positions that the teacher can't read.
        unreadable: Vec<u64>,
    },
    FrameFailed {
        teacher: String,
        id: BlockId,
    },
    FrameRefused {
        teacher: String,
        id: BlockId,
        reason: &'static str,
    },
    Trainer(TrainerEvent),
    Merged(ids::Session, RoundPlan, rpc::Merge),
    Published(ids::Session, Published),
    Control(ids::Session, pb::control_down::Command),
    /// A heartbeat that was sent then was answered.
    Heard(ids::Session, Instant),
    Failed(ids::Session, Failed),
    /// Registering again is no use: start over.
    Unwanted(String),
}

/// Where a replica's time goes.
struct Spent {
    seconds: [f64; Activity::ALL.len()],
    activity: Activity,
    since: Instant,
}

impl Spent {
    fn new() -> Self {
        Self {
            seconds: Default::default(),
            activity: Activity::Lease,
            since: Instant::now(),
        }
    }

    /// From now on it is at this.
    fn turn(&mut self, activity: Activity) {
        let now = Instant::now();
        self.seconds[self.activity as usize] += now.duration_since(self.since).as_secs_f64();
        (self.activity, self.since) = (activity, now);
    }

    /// So much of the time of a step went into reading its samples.
    fn input(&mut self, seconds: f64) {
        self.turn(self.activity);
        let compute = &mut self.seconds[Activity::Compute as usize];
        let part = seconds.min(*compute);
        *compute -= part;
        self.seconds[Activity::Input as usize] += part;
    }

    /// What there is since it was taken last.
    fn take(&mut self) -> [f64; Activity::ALL.len()] {
        self.turn(self.activity);
        std::mem::take(&mut self.seconds)
    }
}

/// A merge on its way to the trainer.
struct Arrived {
    merge: rpc::Merge,
    /// Positions merged before the round that it closes.
    positions: u64,
}

impl Arrived {
    /// `None`: nothing was exchanged.
    fn command(self) -> Option<TrainerCommand> {
        match self.merge {
            rpc::Merge::Update(merged) if merged.is_empty() => None,
            rpc::Merge::Update(merged) => Some(TrainerCommand::Import {
                merged,
                positions: self.positions,
            }),
            rpc::Merge::State(state) => {
                info!(bytes = state.len(), "another replica handed its state over");
                Some(TrainerCommand::TakeOver(state))
            }
        }
    }
}

/// Why a replica ended.
pub(crate) enum Left {
    Finished,
    Lost(String),
    Shutdown,
}

pub(crate) struct Replica {
    run: String,
    part: Part,
    dataset_digest: String,
    worker: Worker<Arc<Frame>>,
    name: String,
    frames: Frames,
    trainer: mpsc::Sender<TrainerCommand>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    /// Tasks of this replica only; they end with it.
    tasks: TaskGroup,
    process: CancellationToken,
    channels: Channels,
    heartbeat: watch::Sender<Heartbeat>,
    /// Ends the control stream of a former session.
    stream: CancellationToken,
    /// When the newest answered heartbeat was sent, and how long a silence ends the lease.
    heard: Instant,
    lease: Duration,
    /// Pause between two looks at the clock.
    look: Duration,
    /// Contributions whose weights the trainer is exporting.
    exporting: VecDeque<(ids::Session, Work)>,
    /// Weights of a merge that the machine has not taken over yet.
    arrived: Option<Arrived>,
    /// Bytes and seconds of the newest merge, until a contribution counts them; when the newest was sent.
    synced: (u64, f64),
    contributed: Option<Instant>,
    spent: Spent,
    /// The snapshot to publish, until it is durable or not wanted any more.
    snapshot: Option<(Option<Evaluation>, Snapshot)>,
    /// The trainer has a state of its own.
    trained: bool,
    rate: f64,
    left: Option<Left>,
}

impl Replica {
    pub(crate) fn new(
        loaded: &Loaded,
        part: Part,
        name: String,
        channels: Channels,
        process: &TaskGroup,
    ) -> anyhow::Result<Self> {
        let (events, inbox) = mpsc::channel(EVENTS);
        let tasks = TaskGroup::new(process.token().child_token());
        let prefetch = loaded.job.fleet.prefetch;
        let terms = Terms {
            run: loaded.run.clone(),
            reader: name.clone(),
            group: part.group.name.clone(),
            dataset_digest: loaded.dataset.digest().to_owned(),
            temperature: part.group.temperature.clone(),
            epochs: part.group.epochs,
            encoding: part.encoding,
            grid: loaded.grid(),
            classes: loaded.dataset.classes(),
            rows: loaded.dataset.rows(),
            prefetch: u64::from(prefetch),
            layer: part.hinted.as_ref().map(|h| (h.stream.clone(), h.layer.clone())),
        };
        let setup = Setup {
            part: part.group.name.clone(),
            grid: loaded.grid(),
            order: part.order.clone(),
            batch: part.group.batch_size,
            prefetch: prefetch as usize,
            teachers: part.group.teachers.iter().map(|m| m.name.clone()).collect(),
            on_missing: match part.group.on_missing {
                retort_job::OnMissing::Wait => OnMissing::Wait,
                retort_job::OnMissing::Renormalise => OnMissing::Renormalise,
                retort_job::OnMissing::Hard => OnMissing::Hard,
            },
        };
        let device: Choice = part.group.device.0.parse()?;
        let heartbeat = Heartbeat {
            device: device.resolve().to_string(),
            ..Heartbeat::default()
        };
        Ok(Self {
            run: loaded.run.clone(),
            dataset_digest: loaded.dataset.digest().to_owned(),
            worker: Worker::new(setup),
            name,
            frames: Frames::new(terms, channels.dialer.clone(), events.clone(), tasks.clone()),
            trainer: thread::start(part.clone(), events.clone()).context("start trainer thread")?,
            part,
            events,
            inbox,
            process: process.token().clone(),
            stream: tasks.token().child_token(),
            tasks,
            channels,
            heartbeat: watch::channel(heartbeat).0,
            heard: Instant::now(),
            lease: Duration::from_secs(1),
            look: Duration::from_secs(1),
            exporting: VecDeque::new(),
            arrived: None,
            synced: (0, 0.0),
            contributed: None,
            spent: Spent::new(),
            snapshot: None,
            trained: false,
            rate: 0.0,
            left: None,
        })
    }

    /// Works until the run ends, the part is lost or the process shuts down.
    pub(crate) async fn run(mut self, joined: Joined, asked: Instant) -> anyhow::Result<Left> {
        self.join(joined, asked);
        self.carry_out().await;
        while self.left.is_none() {
            // Cancel-safe: the channel keeps what was not taken, and the clock is only looked at.
            tokio::select! {
                event = self.inbox.recv() => match event {
                    Some(event) => self.apply(event).await,
                    None => break,
                },
                () = tokio::time::sleep(self.look) => {}
                () = self.process.cancelled() => self.left = Some(Left::Shutdown),
            }
            self.look_at_clock();
            self.carry_out().await;
            self.spent.turn(self.worker.activity());
        }
        let left = self.left.unwrap_or(Left::Shutdown);
        if !matches!(left, Left::Lost(_))
            && let Some(session) = self.worker.session()
        {
            // What was leased and not contributed returns at once.
            rpc::leave(self.channels.control.clone(), session).await;
        }
        drop(self.trainer);
        drop(self.frames);
        drop(self.inbox);
        self.tasks.end(SHUTDOWN_GRACE).await?;
        Ok(left)
    }

    fn join(&mut self, joined: Joined, asked: Instant) {
        info!(
            start = ?joined.admitted.start,
            incarnation = joined.admitted.session.incarnation,
            term = joined.admitted.session.term,
            "joined"
        );
        self.heard = asked;
        self.lease = joined.lease * u32::try_from(OWN_LEASE).unwrap_or(100) / 100;
        self.look = joined.heartbeat;
        for endpoints in &joined.admitted.teachers {
            self.frames.endpoints(endpoints);
        }
        self.stream.cancel();
        self.stream = self.tasks.token().child_token();
        let session = joined.admitted.session.clone();
        let silent = self.heard.elapsed() >= self.lease;
        self.worker.admitted(joined.admitted, silent);
        let floors = self.worker.held_floors().clone();
        self.heartbeat.send_modify(|h| h.floors = floors);
        let stream = session::Stream {
            session,
            channel: self.channels.control.clone(),
            pause: joined.heartbeat,
            heartbeat: self.heartbeat.subscribe(),
            events: self.events.clone(),
        };
        let token = self.stream.clone();
        self.tasks.spawn("control", OnError::Log, stream.keep(token));
    }

    /// Before anything else is done the process looks at its own clock: it may have been stopped.
    fn look_at_clock(&mut self) {
        let silent = self.heard.elapsed() >= self.lease;
        self.worker.set_silent(silent);
        // A server's own lease has run out by then: it does not come back by itself.
        let now = std::time::Instant::now();
        for (teacher, missing) in self.frames.look(now, self.lease) {
            self.worker.set_missing(&teacher, missing);
        }
        // Not worth a heartbeat of its own.
        self.heartbeat.send_if_modified(|h| {
            h.answers = self.frames.rates(now);
            false
        });
    }

    async fn apply(&mut self, event: Event) {
        self.look_at_clock();
        match event {
            Event::Joined(joined, asked) if joined.part == self.part.group.name => self.join(*joined, asked),
            Event::Joined(joined, _) => {
                // Its place was taken, and it was given another: it starts over there.
                rpc::leave(self.channels.control.clone(), &joined.admitted.session).await;
                self.left = Some(Left::Lost(format!("moved to {}", joined.part)));
            }
            Event::Lease(session, sequence, answer) => {
                if matches!(answer, Answer::Granted { .. }) {
                    failpoint::hit("worker.leased");
                }
                self.worker.lease_answer(&session, sequence, answer);
            }
            Event::Frame {
                teacher,
                id,
                version,
                frame,
                unreadable,
            } => {
                for position in unreadable {
                    self.worker
                        .unteachable(id, position, &format!("{teacher} can't read it"));
                }
                if let Err(reason) = self.worker.frame(&teacher, id, version, frame) {
                    debug!(teacher, version, "frame refused: {reason}");
                    self.refused(reason);
                    self.worker.frame_failed(&teacher, id);
                }
            }
            Event::FrameFailed { teacher, id } => self.worker.frame_failed(&teacher, id),
            Event::FrameRefused { teacher, id, reason } => {
                self.refused(reason);
                self.worker.frame_failed(&teacher, id);
            }
            Event::Trainer(event) => self.apply_trainer(event).await,
            Event::Merged(session, plan, merge) => {
                failpoint::hit("worker.merged");
                let positions = self.worker.plan().positions;
                if self.worker.merged(&session, plan) {
                    let seconds = self
                        .contributed
                        .take()
                        .map_or(0.0, |at| at.elapsed().as_secs_f64());
                    self.synced = (merge.bytes(), seconds);
                    self.arrived = Some(Arrived { merge, positions });
                }
            }
            Event::Published(session, Published::Version(version)) => {
                debug!(version, "published");
                self.worker.published(&session);
            }
            Event::Published(session, Published::NotWritten(reason)) => {
                warn!("the version could not be written: {reason}");
                self.worker.publish_failed(&session);
            }
            Event::Heard(session, sent) => {
                if self.worker.session() == Some(&session) {
                    self.heard = self.heard.max(sent);
                }
            }
            Event::Control(session, command) => {
                if self.worker.session() == Some(&session) {
                    self.apply_control(command);
                }
            }
            Event::Failed(session, Failed::Lost(reason)) => {
                if self.worker.session() == Some(&session) {
                    warn!("session lost: {reason}");
                }
                self.worker.lost(&session);
            }
            Event::Failed(session, Failed::Diverged(reason)) => {
                error!("{reason}");
                rpc::leave(self.channels.control.clone(), &session).await;
                self.left = Some(Left::Lost(reason));
            }
            Event::Failed(session, Failed::Broken(reason)) => self.fail(&session, reason).await,
            Event::Unwanted(reason) => self.left = Some(Left::Lost(reason)),
        }
    }

    async fn fail(&mut self, session: &ids::Session, reason: String) {
        error!("{reason}");
        rpc::fail(self.channels.control.clone(), session, reason.clone()).await;
        self.left = Some(Left::Lost(reason));
    }

    async fn apply_trainer(&mut self, event: TrainerEvent) {
        match event {
            TrainerEvent::Began { held_out, snapshot } => {
                if let Some(snapshot) = snapshot {
                    self.snapshot = Some((held_out, snapshot));
                }
                self.worker.began(held_out);
            }
            TrainerEvent::Trained(done) => {
                self.measure(&done);
                failpoint::hit("worker.trained");
                self.worker.trained(&done);
            }
            TrainerEvent::Unreadable { position, reason } => {
                warn!(position, "sample can't be trained on: {reason}");
                self.worker.unreadable(position, &reason);
            }
            TrainerEvent::Exported(weights) => {
                if let Some((session, work)) = self.exporting.pop_front() {
                    self.contribute(session, work, weights);
                }
            }
            TrainerEvent::Imported | TrainerEvent::Restored => {}
            TrainerEvent::Failed(reason) => match self.worker.session().cloned() {
                Some(session) => {
                    self.fail(&session, format!("training can't go on: {reason}"))
                        .await
                }
                None => self.left = Some(Left::Lost(reason)),
            },
            // Without a farewell: what it held is suspect, as if the process had died.
            TrainerEvent::Panicked(reason) => {
                error!("the trainer panicked: {reason}");
                self.left = Some(Left::Lost(reason));
            }
        }
    }

    fn apply_control(&mut self, command: pb::control_down::Command) {
        use pb::control_down::Command as Down;
        match command {
            Down::Floor(floor) => self.worker.floor(&floor.teacher, floor.version),
            Down::Teacher(endpoints) => {
                let endpoints = Endpoints::from(endpoints);
                self.frames.endpoints(&endpoints);
                self.worker.endpoints(&endpoints);
            }
            Down::Revoke(revoke) => self.worker.revoked(revoke.generation, revoke.round),
            Down::Poison(place) => self.worker.poisoned(place.epoch, place.position),
            Down::Finish(finish) => self.worker.finish(finish.reason),
            Down::Alive(_) | Down::Stage(_) | Down::Activate(_) => {}
        }
    }

    /// Carries out all that the machine wants by now.
    async fn carry_out(&mut self) {
        while let Some(command) = self.worker.poll_command() {
            match command {
                Command::Register { claim, floors } => {
                    self.register(rpc::registration(claim.as_ref(), &floors))
                }
                Command::AskLease {
                    session,
                    sequence,
                    received,
                } => self.ask_lease(session, (sequence, received)),
                Command::Want {
                    teacher,
                    id,
                    floor,
                    exact,
                    temperature,
                    ahead,
                } => {
                    let seconds = if self.rate > 0.0 {
                        ahead as f64 / self.rate
                    } else {
                        0.0
                    };
                    self.frames.want(Want {
                        teacher,
                        id,
                        floor,
                        exact,
                        temperature,
                        within: Duration::from_secs_f64(seconds.min(MAX_WITHIN)),
                    });
                }
                Command::Become(start) => self.become_state(start).await,
                Command::BeginRound { plan, snapshot } => {
                    let begin = TrainerCommand::Begin {
                        evaluate: plan.evaluate || snapshot,
                        snapshot,
                    };
                    self.command_trainer(begin).await;
                }
                Command::Train { batch, alpha } => {
                    self.command_trainer(TrainerCommand::Train { batch, alpha }).await;
                }
                Command::Adopt => {
                    let command = self.arrived.take().and_then(Arrived::command);
                    if let Some(command) = command {
                        self.command_trainer(command).await;
                    }
                }
                Command::Publish {
                    session,
                    generation,
                    round,
                } => self.publish(session, (generation, round)),
                Command::Contribute {
                    session,
                    work,
                    weights: true,
                } => {
                    self.exporting.push_back((session, *work));
                    let hand_over = self.worker.plan().hand_over;
                    self.command_trainer(TrainerCommand::Export { hand_over }).await;
                }
                Command::Contribute { session, work, .. } => {
                    self.contribute(session, *work, Outgoing::nothing());
                }
                Command::Release {
                    session,
                    number,
                    epoch,
                    positions,
                } => {
                    let request = pb::ReleaseRequest {
                        session: Some((&session).into()),
                        epoch,
                        positions: rpc::positions(&positions),
                        number,
                    };
                    self.release(session, request);
                }
                Command::Reject {
                    session,
                    epoch,
                    position,
                    sample,
                    reason,
                } => {
                    let request = pb::RejectRequest {
                        session: Some((&session).into()),
                        epoch,
                        position,
                        sample,
                        reason,
                    };
                    self.reject(session, request);
                }
                Command::Beat => {
                    let floors = self.worker.held_floors().clone();
                    self.heartbeat.send_modify(|h| h.floors = floors);
                }
                Command::Leave(reason) => {
                    info!("leaving: {reason}");
                    self.left = Some(Left::Finished);
                }
            }
        }
    }

    async fn command_trainer(&mut self, command: TrainerCommand) {
        if self.trainer.send(command).await.is_err() && self.left.is_none() {
            self.left = Some(Left::Lost("the trainer thread has ended".into()));
        }
    }

    /// Fetches the state that registration named and hands it to the trainer.
    async fn become_state(&mut self, start: Start) {
        let (version, with_weights) = match start {
            Start::Restore(version) => (version, true),
            // The weights come with the merge.
            Start::Join(Some(version)) => (version, false),
            Start::Init if self.trained => {
                self.command_trainer(TrainerCommand::Reset).await;
                return;
            }
            Start::Init | Start::Join(None) | Start::Resume(_) => {
                self.trained = true;
                return;
            }
        };
        self.trained = true;
        let diloco = |s: &retort_job::Sync| s.strategy == retort_job::Strategy::Diloco;
        let with_outer = self.part.sync.as_ref().is_some_and(diloco);
        let fetch = rpc::state(
            self.channels.data.clone(),
            (&self.run, &self.part.group.name),
            version,
            (with_weights, with_outer),
        );
        let fetched = tokio::select! {
            fetched = fetch => fetched,
            () = self.process.cancelled() => return,
        };
        match fetched {
            Ok(state) => {
                let Some((steps, optimizer)) = state.optimizer.split_first_chunk::<8>() else {
                    self.left = Some(Left::Lost(format!("{OPTIMIZER_FILE} is cut short")));
                    return;
                };
                let restore = TrainerCommand::Restore {
                    optimizer: Some(Bytes::copy_from_slice(optimizer)),
                    weights: state.weights,
                    outer: state.outer,
                    steps: u64::from_le_bytes(*steps),
                };
                info!(version, "restored");
                self.command_trainer(restore).await;
            }
            Err(reason) => self.left = Some(Left::Lost(reason)),
        }
    }

    fn register(&self, registration: rpc::Registration) {
        let (channel, name) = (self.channels.control.clone(), self.name.clone());
        let (run, digest) = (self.run.clone(), self.dataset_digest.clone());
        self.call("register", async move {
            match rpc::register(channel, (&run, &name, &digest), &registration).await {
                Ok((joined, asked)) => Event::Joined(Box::new(joined), asked),
                Err(reason) => Event::Unwanted(reason),
            }
        });
    }

    fn ask_lease(&self, session: ids::Session, asked: (u64, u64)) {
        let channel = self.channels.control.clone();
        self.call("lease", async move {
            match rpc::lease(channel, &session, asked).await {
                Ok(answer) => Event::Lease(session, asked.0, answer),
                Err(failed) => Event::Failed(session, failed),
            }
        });
    }

    fn contribute(&mut self, session: ids::Session, mut work: Work, outgoing: Outgoing) {
        if !work.joining {
            work.sums.exchanged_bytes = self.synced.0 + (outgoing.update.len() + outgoing.state.len()) as u64;
            work.sums.sync_seconds = self.synced.1;
            work.sums.spent = self.spent.take();
        }
        self.contributed.get_or_insert_with(Instant::now);
        failpoint::hit("worker.contribute");
        if !outgoing.state.is_empty() {
            failpoint::hit("worker.hands-over");
        }
        let channel = self.channels.data.clone();
        self.call("contribute", async move {
            match rpc::contribute(channel, &session, (work, &outgoing)).await {
                Ok((plan, merged)) => Event::Merged(session, plan, merged),
                Err(failed) => Event::Failed(session, failed),
            }
        });
    }

    fn publish(&self, session: ids::Session, round: (u64, u64)) {
        failpoint::hit("worker.publish");
        let Some((held_out, snapshot)) = self.snapshot.clone() else {
            return;
        };
        let channel = self.channels.data.clone();
        self.call("publish", async move {
            match rpc::publish(channel, &session, round, (held_out, snapshot)).await {
                Ok(published) => Event::Published(session, published),
                Err(failed) => Event::Failed(session, failed),
            }
        });
    }

    fn release(&self, session: ids::Session, request: pb::ReleaseRequest) {
        let channel = self.channels.control.clone();
        self.quietly("release", async move {
            let released = rpc::release(channel, &session, request).await;
            released.map_err(|failed| Event::Failed(session, failed))
        });
    }

    fn reject(&self, session: ids::Session, request: pb::RejectRequest) {
        let channel = self.channels.control.clone();
        self.quietly("reject", async move {
            let rejected = rpc::reject(channel, &session, request).await;
            rejected.map_err(|failed| Event::Failed(session, failed))
        });
    }

    /// Runs a call beside the replica; its result comes back as an event.
    fn call(&self, name: &'static str, call: impl Future<Output = Event> + Send + 'static) {
        self.quietly(name, async move { Err(call.await) });
    }

    /// Runs a call beside the replica; only a failure comes back.
    fn quietly(&self, name: &'static str, call: impl Future<Output = Result<(), Event>> + Send + 'static) {
        let events = self.events.clone();
        let token = self.tasks.token().clone();
        self.tasks.spawn(name, OnError::Log, async move {
            tokio::select! {
                ended = call => if let Err(event) = ended {
                    // A closed channel means that the replica is gone.
                    let _ = events.send(event).await;
                },
                () = token.cancelled() => {}
            }
            Ok(())
        });
    }

    fn refused(&self, reason: &'static str) {
        self.heartbeat
            .send_modify(|h| *h.rejected.entry(reason.to_owned()).or_default() += 1);
    }

    /// Samples per second of the trainer while it works: what the fleet is balanced by.
    fn measure(&mut self, done: &StepDone) {
        self.spent.input(done.input_seconds);
        if done.seconds <= 0.0 {
            return;
        }
        let now = done.samples as f64 / done.seconds;
        self.rate = if self.rate == 0.0 {
            now
        } else {
            self.rate + (now - self.rate) / RATE_STEPS
        };
        let rate = self.rate;
        // Not worth a heartbeat of its own.
        self.heartbeat.send_if_modified(|h| {
            h.rate = rate;
            false
        });
    }
}
