//! One session: the shell around the worker's pure machine. Everything that takes time runs beside
//! it and comes back as an [`Event`]; commands of the machine are carried out one by one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use retort_client::Backoff;
use retort_coordinator_core::ids;
use retort_coordinator_core::lease::Answer;
use retort_coordinator_core::round::{Evaluation, RoundPlan, Start, Work};
use retort_coordinator_core::run::{Endpoints, Heartbeat};
use retort_proto::pb;
use retort_runtime::{OnError, TaskGroup};
use retort_student_worker_core::{BlockId, Command, Setup, StepDone, Worker};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{debug, error, info, warn};

use crate::config::SHUTDOWN_GRACE;
use crate::frames::{Frames, Terms, Want};
use crate::part::{Loaded, Part};
use crate::rpc::{self, Failed};
use crate::thread::{self, Frame, OPTIMIZER_FILE, Snapshot, TrainerCommand, TrainerEvent};

/// Events waiting for the session; when full, whoever brings the next one waits.
const EVENTS: usize = 256;
/// Heartbeats waiting to be sent; one is sent at a time.
const HEARTBEATS: usize = 4;
/// The measured rate follows about this many steps.
const RATE_STEPS: f64 = 20.0;

/// What happened beside the session.
pub(crate) enum Event {
    Lease(Answer),
    Frame {
        teacher: String,
        id: BlockId,
        version: u64,
        frame: Arc<Frame>,
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
    Merged(RoundPlan, Bytes),
    Published(u64),
    Control(pb::control_down::Command),
    Failed(Failed),
}

/// What registration gave.
pub(crate) struct Joined {
    pub(crate) session: ids::Session,
    pub(crate) heartbeat_ms: u64,
    pub(crate) start: Start,
    pub(crate) plan: RoundPlan,
    pub(crate) teachers: Vec<Endpoints>,
}

/// Why a session ended.
pub(crate) enum Left {
    Finished,
    Lost(String),
    Shutdown,
}

pub(crate) struct Session {
    session: ids::Session,
    run: String,
    group: String,
    worker: Worker<Arc<Frame>>,
    frames: Frames,
    trainer: mpsc::Sender<TrainerCommand>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    /// Tasks of this session only; they end with it.
    tasks: TaskGroup,
    process: CancellationToken,
    control: Channel,
    data: Channel,
    heartbeat: watch::Sender<Heartbeat>,
    start: Start,
    heartbeat_ms: u64,
    /// Contributions whose weights the trainer is exporting; merges whose weights it is importing.
    exporting: VecDeque<Work>,
    importing: VecDeque<RoundPlan>,
    publishing: VecDeque<RoundPlan>,
    rate: f64,
    left: Option<Left>,
}

impl Session {
    pub(crate) fn new(
        loaded: &Loaded,
        part: Part,
        joined: Joined,
        (control, data): (Channel, Channel),
        process: &TaskGroup,
    ) -> anyhow::Result<Self> {
        let (events, inbox) = mpsc::channel(EVENTS);
        let tasks = TaskGroup::new(process.token().child_token());
        let teachers: Vec<String> = part.group.teachers.iter().map(|m| m.name.clone()).collect();
        let prefetch = loaded.job.fleet.prefetch;
        let terms = Terms {
            run: loaded.run.clone(),
            reader: joined.session.worker.clone(),
            dataset_digest: loaded.dataset.digest().to_owned(),
            temperature: part.temperature,
            encoding: part.encoding.to_string(),
            grid: loaded.grid(),
            classes: loaded.dataset.classes(),
            prefetch: u64::from(prefetch),
        };
        let mut frames = Frames::new(terms, events.clone(), tasks.clone());
        for endpoints in &joined.teachers {
            frames.endpoints(endpoints);
        }
        let setup = Setup {
            grid: loaded.grid(),
            batch: loaded.job.run.batch_size,
            prefetch: prefetch as usize,
            teachers,
        };
        let joining = matches!(joined.start, Start::Join(_));
        let worker = Worker::new(setup, joined.plan, joining, joined.teachers);
        let first = Heartbeat {
            floors: worker.held_floors().clone(),
            ..Heartbeat::default()
        };
        Ok(Self {
            session: joined.session,
            run: loaded.run.clone(),
            group: part.group.name.clone(),
            worker,
            frames,
            trainer: thread::start(part, events.clone()).context("start trainer thread")?,
            events,
            inbox,
            tasks,
            process: process.token().clone(),
            control,
            data,
            heartbeat: watch::channel(first).0,
            start: joined.start,
            heartbeat_ms: joined.heartbeat_ms,
            exporting: VecDeque::new(),
            importing: VecDeque::new(),
            publishing: VecDeque::new(),
            rate: 0.0,
            left: None,
        })
    }

    /// Works until the run ends, the session is lost or the process shuts down.
    pub(crate) async fn run(mut self) -> anyhow::Result<Left> {
        self.keep_control();
        self.restore().await?;
        self.carry_out().await;
        while self.left.is_none() {
            // Cancel-safe: the channel keeps what was not taken.
            tokio::select! {
                event = self.inbox.recv() => match event {
                    Some(event) => self.apply(event).await,
                    None => break,
                },
                () = self.process.cancelled() => self.left = Some(Left::Shutdown),
            }
            self.carry_out().await;
        }
        let left = self.left.unwrap_or(Left::Shutdown);
        if !matches!(left, Left::Lost(_)) {
            // What was leased and not contributed returns at once.
            rpc::leave(self.control.clone(), &self.session).await;
        }
        drop(self.trainer);
        drop(self.inbox);
        self.tasks.end(SHUTDOWN_GRACE).await?;
        Ok(left)
    }

    /// Fetches the state that registration named.
    async fn restore(&mut self) -> anyhow::Result<()> {
        let (version, with_weights) = match self.start {
            Start::Restore(version) => (version, true),
            // The weights come with the merge.
            Start::Join(Some(version)) => (version, false),
            Start::Init | Start::Join(None) => return Ok(()),
        };
        let mut client = retort_client::versions(self.data.clone());
        let at = (self.run.as_str(), self.group.as_str());
        let optimizer = retort_client::fetch(&mut client, at, Some(version), OPTIMIZER_FILE)
            .await?
            .bytes;
        let weights = if with_weights {
            Some(
                retort_client::fetch(&mut client, at, Some(version), "model.safetensors")
                    .await?
                    .bytes,
            )
        } else {
            None
        };
        let (steps, state) = optimizer
            .split_first_chunk::<8>()
            .context("optimizer state is cut short")?;
        let restore = TrainerCommand::Restore {
            weights,
            optimizer: Some(Bytes::copy_from_slice(state)),
            steps: u64::from_le_bytes(*steps),
        };
        info!(version, "restored");
        self.trainer
            .send(restore)
            .await
            .map_err(|_| anyhow::anyhow!("the trainer thread has ended"))
    }

    async fn apply(&mut self, event: Event) {
        match event {
            Event::Lease(answer) => self.worker.lease_answer(answer),
            Event::Frame {
                teacher,
                id,
                version,
                frame,
            } => {
                if let Err(reason) = self.worker.frame(&teacher, id, version, frame) {
                    debug!(teacher, version, "frame refused: {reason}");
                    self.refused(reason);
                }
            }
            Event::FrameFailed { teacher, id } => self.worker.frame_failed(&teacher, id),
            Event::FrameRefused { teacher, id, reason } => {
                self.refused(reason);
                self.worker.frame_failed(&teacher, id);
            }
            Event::Trainer(event) => self.apply_trainer(event).await,
            Event::Merged(plan, weights) if weights.is_empty() => self.worker.merged(plan),
            Event::Merged(plan, weights) => {
                self.importing.push_back(plan);
                self.command_trainer(TrainerCommand::Import(weights)).await;
            }
            Event::Published(version) => {
                debug!(version, "published");
                self.worker.published();
            }
            Event::Control(command) => self.apply_control(command),
            Event::Failed(Failed::Lost(reason)) => self.left = Some(Left::Lost(reason)),
            Event::Failed(Failed::Broken(reason)) => {
                error!("{reason}");
                rpc::fail(self.control.clone(), &self.session, reason.clone()).await;
                self.left = Some(Left::Lost(reason));
            }
        }
    }

    async fn apply_trainer(&mut self, event: TrainerEvent) {
        match event {
            TrainerEvent::Began { held_out, snapshot } => {
                if let (Some(snapshot), Some(plan)) = (snapshot, self.publishing.pop_front()) {
                    self.publish(plan, held_out, snapshot);
                }
                self.worker.began(held_out);
            }
            TrainerEvent::Trained(done) => {
                self.measure(&done);
                self.worker.trained(&done);
            }
            TrainerEvent::Exported(weights) => {
                if let Some(work) = self.exporting.pop_front() {
                    self.contribute(work, weights);
                }
            }
            TrainerEvent::Imported => {
                if let Some(plan) = self.importing.pop_front() {
                    self.worker.merged(plan);
                }
            }
            TrainerEvent::Restored => {}
            TrainerEvent::Failed(reason) => {
                error!("training can't go on: {reason}");
                rpc::fail(self.control.clone(), &self.session, reason.clone()).await;
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
            Down::Finish(finish) => self.worker.finish(finish.reason),
            Down::Alive(_) | Down::Stage(_) | Down::Activate(_) => {}
        }
    }

    /// Carries out all that the machine wants by now.
    async fn carry_out(&mut self) {
        while let Some(command) = self.worker.poll_command() {
            match command {
                Command::AskLease => self.ask_lease(),
                Command::Want {
                    teacher,
                    id,
                    floor,
                    exact,
                } => {
                    self.frames.want(Want {
                        teacher,
                        id,
                        floor,
                        exact,
                    });
                }
                Command::BeginRound { plan, publish } => {
                    let begin = TrainerCommand::Begin {
                        evaluate: plan.evaluate || publish,
                        snapshot: publish,
                    };
                    if publish {
                        self.publishing.push_back(plan);
                    }
                    self.command_trainer(begin).await;
                }
                Command::Train { batch, alpha } => {
                    self.command_trainer(TrainerCommand::Train { batch, alpha }).await;
                }
                Command::Contribute(work) if self.worker.plan().exchange && !work.joining => {
                    self.exporting.push_back(work);
                    self.command_trainer(TrainerCommand::Export).await;
                }
                Command::Contribute(work) => self.contribute(work, Bytes::new()),
                Command::Release { epoch, positions } => {
                    let ranges = (epoch, rpc::positions(&positions));
                    rpc::release(self.control.clone(), self.session.clone(), ranges).await;
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

    fn ask_lease(&self) {
        let (channel, session) = (self.control.clone(), self.session.clone());
        self.call("lease", async move {
            rpc::lease(channel, session).await.map(Event::Lease)
        });
    }

    fn contribute(&self, work: Work, weights: Bytes) {
        let (channel, session) = (self.data.clone(), self.session.clone());
        self.call("contribute", async move {
            let (plan, merged) = rpc::contribute(channel, session, (work, weights)).await?;
            Ok(Event::Merged(plan, merged))
        });
    }

    fn publish(&self, plan: RoundPlan, held_out: Option<Evaluation>, snapshot: Snapshot) {
        let (channel, session) = (self.data.clone(), self.session.clone());
        self.call("publish", async move {
            rpc::publish(channel, session, plan, (held_out, snapshot))
                .await
                .map(Event::Published)
        });
    }

    /// Runs a call beside the session; its result comes back as an event.
    fn call(&self, name: &'static str, call: impl Future<Output = Result<Event, Failed>> + Send + 'static) {
        let events = self.events.clone();
        let token = self.tasks.token().clone();
        self.tasks.spawn(name, OnError::Log, async move {
            let event = tokio::select! {
                event = call => event.unwrap_or_else(Event::Failed),
                () = token.cancelled() => return Ok(()),
            };
            // A closed channel means that the session is over.
            let _ = events.send(event).await;
            Ok(())
        });
    }

    /// Heartbeats up, commands down, over a stream that is opened again when it breaks.
    fn keep_control(&self) {
        let (session, channel, events) = (self.session.clone(), self.control.clone(), self.events.clone());
        let pause = Duration::from_millis(self.heartbeat_ms);
        let heartbeat = self.heartbeat.subscribe();
        let token = self.tasks.token().clone();
        self.tasks.spawn("control", OnError::Log, async move {
            let mut backoff = Backoff::new(session.incarnation);
            loop {
                let follow = follow(&session, channel.clone(), (pause, heartbeat.clone()), &events);
                let status = tokio::select! {
                    ended = follow => match ended {
                        Ok(()) => return Ok(()),
                        Err(status) => status,
                    },
                    () = token.cancelled() => return Ok(()),
                };
                if let Ok(failed) = rpc::judge(&status) {
                    let _ = events.send(Event::Failed(failed)).await;
                    return Ok(());
                }
                // The coordinator is away: training goes on with what is leased.
                warn!("control stream: {}", status.message());
                tokio::time::sleep(backoff.next_delay()).await;
            }
        });
    }

    fn refused(&self, reason: &'static str) {
        self.heartbeat
            .send_modify(|h| *h.rejected.entry(reason.to_owned()).or_default() += 1);
    }

    /// Samples per second of the trainer while it works: what the fleet is balanced by.
    fn measure(&mut self, done: &StepDone) {
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

/// One control stream. `Ok`: the session is over.
async fn follow(
    session: &ids::Session,
    channel: Channel,
    (pause, mut heartbeat): (Duration, watch::Receiver<Heartbeat>),
    events: &mpsc::Sender<Event>,
) -> Result<(), tonic::Status> {
    let (up, messages) = mpsc::channel(HEARTBEATS);
    let beat = |h: &Heartbeat| pb::ControlUp::from((session, h));
    let first = beat(&heartbeat.borrow_and_update());
    let _ = up.send(first).await;
    let mut down = retort_client::fleet(channel)
        .control(ReceiverStream::new(messages))
        .await?
        .into_inner();
    let mut beats = tokio::time::interval(pause);
    loop {
        // Cancel-safe: streams, intervals and watches keep what was not taken.
        tokio::select! {
            message = down.message() => {
                let message = message?.ok_or_else(|| tonic::Status::unavailable("the stream ended"))?;
                if let Some(command) = message.command
                    && !matches!(command, pb::control_down::Command::Alive(_))
                    && events.send(Event::Control(command)).await.is_err()
                {
                    return Ok(());
                }
            }
            _ = beats.tick() => { let _ = up.try_send(beat(&heartbeat.borrow_and_update())); }
            changed = heartbeat.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let _ = up.try_send(beat(&heartbeat.borrow_and_update()));
            }
        }
    }
}
