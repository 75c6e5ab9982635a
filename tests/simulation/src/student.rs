//! A student worker's process: the worker's own machine, and a shell around it with a trainer that
//! only keeps track.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use retort_coordinator_core::ids::{Role, Session};
use retort_coordinator_core::round::{Claim, Evaluation, RoundPlan, Start, Work};
use retort_coordinator_core::run::{Admission, Endpoints, Heartbeat, Message, Registration, Rejected};
use retort_data::order::{Grid, Order};
use retort_student_worker_core::{Admitted, Batch, Command, OnMissing, Setup, StepDone, Worker};

use crate::message::{Body, Event, Frame, Node, Refused, Reply, Want, Weights};
use crate::model::Model;
use crate::plant::Plant;
use crate::world::{Peer, World};

/// Pause after a want that was not answered, ms.
const WANT_AGAIN: u64 = 100;
/// Share of its lease that a worker trusts its own clock with.
const SILENT_SHARE: (u64, u64) = (3, 4);

/// What the trainer does next.
#[derive(Debug, Clone)]
enum Job {
    Become(Start),
    Begin { snapshot: bool },
    Train(Batch<Frame>),
    Adopt(Option<Rc<Model>>),
    Export(Session, Box<Work>),
}

#[derive(Debug)]
pub(crate) struct Student {
    pub(crate) peer: Peer,
    index: usize,
    machine: Option<Worker<Frame>>,
    part: String,
    jobs: VecDeque<Job>,
    training: bool,
    /// Counts trainer threads: what an earlier one still does is nobody's business.
    trainer: u64,
    model: Rc<Model>,
    /// Weights at the round's start.
    base: Rc<Model>,
    snapshot: Option<Rc<Model>>,
    arrived: Option<Option<Rc<Model>>>,
    endpoints: BTreeMap<String, Endpoints>,
    /// Own clock when the newest answered heartbeat was sent.
    heard: u64,
    registering_since: u64,
    /// A registration is under way, or will be tried again.
    registering: bool,
    /// Virtual ms for one sample.
    pace: u64,
    done: bool,
}

impl Student {
    pub(crate) fn new(peer: Peer, index: usize) -> Self {
        Self {
            peer,
            index,
            machine: None,
            part: String::new(),
            jobs: VecDeque::new(),
            training: false,
            trainer: 0,
            model: Model::initial(""),
            base: Model::initial(""),
            snapshot: None,
            arrived: None,
            endpoints: BTreeMap::new(),
            heard: 0,
            registering_since: 0,
            registering: false,
            pace: 1,
            done: false,
        }
    }

    /// The replica ends, and its trainer with it; the process asks for a part from the beginning.
    fn forget(&mut self) {
        self.machine = None;
        self.jobs.clear();
        self.training = false;
        self.trainer += 1;
        self.registering = false;
    }

    fn session(&self) -> Option<&Session> {
        self.machine.as_ref().and_then(|m| m.session())
    }

    fn heartbeat(&self) -> Heartbeat {
        let machine = self.machine.as_ref();
        Heartbeat {
            rate: 1_000.0 / self.pace as f64,
            floors: machine.map(|m| m.held_floors().clone()).unwrap_or_default(),
            ..Heartbeat::default()
        }
    }
}

impl World {
    pub(crate) fn start_student(&mut self, node: Node) {
        let pace = self.random.within(1..20);
        let s = &mut self.students[node];
        let index = s.index;
        let mut peer = Peer::new(String::new(), 0);
        std::mem::swap(&mut peer, &mut s.peer);
        peer.start();
        *s = Student::new(peer, index);
        s.pace = pace;
        let life = s.peer.life;
        self.after(1, Event::Tick { node, life });
    }

    /// Before anything else happens in a process it looks at its own clock: it may have been stopped.
    pub(crate) fn look_at_clock(&mut self, node: Node) {
        let (now, ttl) = (self.now, self.setting.spec.lease_ttl);
        let s = &mut self.students[node];
        let clock = s.peer.clock(now);
        if let Some(machine) = s.machine.as_mut() {
            let limit = ttl * SILENT_SHARE.0 / SILENT_SHARE.1;
            machine.set_silent(clock.saturating_sub(s.heard) >= limit);
        }
    }

    pub(crate) fn student_tick(&mut self, node: Node) {
        let now = self.now;
        let s = &mut self.students[node];
        let life = s.peer.life;
        let clock = s.peer.clock(now);
        let heartbeat = s.heartbeat();
        if s.done {
            return;
        }
        let mut call = None;
        match s.machine.as_mut() {
            None => {
                if !s.registering {
                    s.registering = true;
                    s.registering_since = clock;
                    call = Some(self.registration(node, None, BTreeMap::new()));
                }
            }
            Some(machine) => {
                if let Some(session) = machine.session().cloned() {
                    if s.peer.is_attached() {
                        call = Some(Body::Beat(session, heartbeat, clock));
                    } else if !s.peer.waits_for(|b| matches!(b, Body::Attach(..))) {
                        call = Some(Body::Attach(session, heartbeat));
                    }
                }
            }
        }
        if let Some(body) = call {
            self.call(node, body);
        }
        let pause = self.setting.spec.heartbeat;
        self.after(pause, Event::Tick { node, life });
        self.carry_out(node);
    }

    fn registration(&self, node: Node, claim: Option<Claim>, floors: BTreeMap<String, u64>) -> Body {
        Body::Register(Registration {
            role: Role::StudentWorker,
            worker: self.students[node].peer.name.clone(),
            dataset_digest: "d".into(),
            address: String::new(),
            process: 0,
            attempt: 0,
            claim,
            floors,
        })
    }

    pub(crate) fn student_reply(&mut self, node: Node, body: Body, reply: Reply) {
        let s = &mut self.students[node];
        if !matches!(reply, Reply::Refused(Refused::Later)) {
            s.peer.answered();
        }
        match (reply, &body) {
            (Reply::Admitted(admission), _) => self.student_admitted(node, *admission),
            (Reply::Alive(sent), _) => {
                s.heard = s.heard.max(sent);
                self.look_at_clock(node);
            }
            (Reply::Attached(stream), _) if s.session() == body.session() => s.peer.opened(stream),
            (Reply::Lease(sequence, answer), Body::Lease(session, _)) => {
                if let Some(machine) = s.machine.as_mut() {
                    machine.lease_answer(session, sequence, answer);
                }
            }
            (Reply::Merged(plan, merged), Body::Contribute(session, ..)) => {
                self.student_merged(node, session, plan, merged);
            }
            (Reply::Published, Body::Publish { session, .. }) => {
                if let Some(machine) = s.machine.as_mut() {
                    machine.published(session);
                }
            }
            (Reply::NotPublished, Body::Publish { session, .. }) => {
                if let Some(machine) = s.machine.as_mut() {
                    machine.publish_failed(session);
                }
            }
            (Reply::Fetched(model), Body::Fetch(group, version)) => {
                let expected = s.part == *group
                    && matches!(s.jobs.front(), Some(Job::Become(Start::Restore(v) | Start::Join(Some(v)))) if v == version);
                if expected {
                    self.fetched(node, &model);
                }
            }
            (Reply::Refused(refused), _) => self.student_refused(node, body, refused),
            _ => {}
        }
        self.carry_out(node);
    }

    fn student_refused(&mut self, node: Node, body: Body, refused: Refused) {
        let s = &mut self.students[node];
        match (refused, &body) {
            (Refused::Later, _) => self.call_again(node, body),
            // The run is over, or does not want this process: it asks again from the beginning.
            (_, Body::Register(_)) => s.forget(),
            // The version is gone: the machine starts over with another one.
            (_, Body::Fetch(..)) => self.kill_student(node, "it can't restore"),
            (_, body) => {
                if let (Some(session), Some(machine)) = (body.session(), s.machine.as_mut()) {
                    machine.lost(session);
                }
            }
        }
    }

    fn student_admitted(&mut self, node: Node, admission: Admission) {
        let spec = &self.setting.spec;
        let shift = self.has(Plant::FleetOrder);
        let s = &mut self.students[node];
        let Some((start, plan)) = admission.start else {
            return;
        };
        s.registering = false;
        s.heard = s.registering_since;
        s.peer.detach();
        if s.machine.is_some() && s.part != admission.part {
            s.forget();
            return;
        }
        if s.machine.is_none() {
            let group = spec.groups.iter().find(|g| g.name == admission.part);
            s.part = admission.part.clone();
            s.model = Model::initial(&admission.part);
            s.base = s.model.clone();
            let odd = shift && s.index % 2 == 1;
            s.machine = Some(Worker::new(Setup {
                part: admission.part.clone(),
                grid: Grid {
                    positions: spec.positions,
                    block: spec.block,
                },
                order: Order::new_all(self.setting.seed, spec.positions as u32),
                batch: if odd { spec.batch + 1 } else { spec.batch },
                prefetch: 2,
                on_missing: OnMissing::Wait,
                teachers: group.map(|g| g.teachers.clone()).unwrap_or_default(),
            }));
        }
        for endpoints in &admission.teachers {
            s.endpoints.insert(endpoints.teacher.clone(), endpoints.clone());
        }
        let limit = self.setting.spec.lease_ttl * SILENT_SHARE.0 / SILENT_SHARE.1;
        let silent = s.peer.clock(self.now).saturating_sub(s.heard) >= limit;
        if let Some(machine) = s.machine.as_mut() {
            let admitted = Admitted {
                session: admission.session,
                start,
                plan,
                teachers: admission.teachers,
                poison: admission.poison,
            };
            machine.admitted(admitted, silent);
        }
    }

    fn student_merged(&mut self, node: Node, session: &Session, plan: RoundPlan, merged: Option<Rc<Model>>) {
        let s = &mut self.students[node];
        if let Some(machine) = s.machine.as_mut()
            && machine.merged(session, plan)
        {
            s.arrived = Some(merged);
        }
    }

    pub(crate) fn student_control(&mut self, node: Node, message: Message) {
        let s = &mut self.students[node];
        let Some(machine) = s.machine.as_mut() else { return };
        match message {
            Message::Floor { teacher, version } => machine.floor(&teacher, version),
            Message::Endpoints(endpoints) => {
                machine.endpoints(&endpoints);
                s.endpoints.insert(endpoints.teacher.clone(), endpoints);
            }
            Message::Revoke { generation, round } => machine.revoked(generation, round),
            Message::Poison { epoch, position } => machine.poisoned(epoch, position),
            Message::Finish(reason) => machine.finish(reason),
            Message::Stage(_) | Message::Activate { .. } => {}
        }
        self.carry_out(node);
    }

    pub(crate) fn student_frame(&mut self, node: Node, want: &Want, answer: Option<(u64, Frame)>) {
        if self.options.verbose {
            let name = self.students[node].peer.name.clone();
            self.say(|| format!("{name} wanted {want:?}: {answer:?}"));
        }
        let s = &mut self.students[node];
        let Some(machine) = s.machine.as_mut() else { return };
        match answer {
            Some((version, frame)) => {
                if machine.frame(&want.teacher, want.id, version, frame).is_err() {
                    machine.frame_failed(&want.teacher, want.id);
                }
            }
            None => machine.frame_failed(&want.teacher, want.id),
        }
        self.carry_out(node);
    }

    /// Carries out all that the machine wants by now.
    fn carry_out(&mut self, node: Node) {
        loop {
            let s = &mut self.students[node];
            let Some(command) = s.machine.as_mut().and_then(Worker::poll_command) else {
                break;
            };
            match command {
                Command::Register { claim, floors } => {
                    s.registering = true;
                    s.registering_since = s.peer.clock(self.now);
                    s.peer.detach();
                    let body = self.registration(node, claim, floors);
                    self.call(node, body);
                }
                Command::AskLease {
                    session,
                    sequence,
                    received,
                } => self.call(node, Body::Lease(session, (sequence, received))),
                Command::Want {
                    teacher,
                    id,
                    floor,
                    exact,
                    ..
                } => {
                    let want = Want {
                        teacher,
                        id,
                        floor,
                        exact,
                    };
                    self.send_want(node, want);
                }
                Command::Become(start) => s.jobs.push_back(Job::Become(start)),
                Command::BeginRound { snapshot, .. } => s.jobs.push_back(Job::Begin { snapshot }),
                Command::Train { batch, .. } => {
                    s.jobs.push_back(Job::Train(batch.clone()));
                    let now = self.now;
                    self.oracle.trains(&batch, now);
                }
                Command::Adopt => {
                    let merged = s.arrived.take().flatten();
                    s.jobs.push_back(Job::Adopt(merged));
                }
                Command::Publish {
                    session,
                    generation,
                    round,
                } => {
                    if let Some(model) = s.snapshot.clone() {
                        let body = Body::Publish {
                            session,
                            generation,
                            round,
                            model,
                        };
                        self.call(node, body);
                    }
                }
                Command::Contribute {
                    session,
                    work,
                    weights,
                } => {
                    if weights {
                        s.jobs.push_back(Job::Export(session, work));
                    } else {
                        self.call(node, Body::Contribute(session, *work, None));
                    }
                }
                Command::Release {
                    session,
                    number,
                    epoch,
                    positions,
                } => self.call(node, Body::Release(session, number, epoch, positions)),
                Command::Reject {
                    session,
                    epoch,
                    position,
                    sample,
                    reason,
                } => {
                    let rejected = Rejected {
                        epoch,
                        position,
                        sample,
                        reason,
                    };
                    self.call(node, Body::Reject(session, rejected));
                }
                // The next heartbeat carries them.
                Command::Beat => {}
                Command::Leave(_) => {
                    let session = s.machine.as_ref().and_then(|m| m.session().cloned());
                    let registering = s.registering;
                    s.forget();
                    s.registering = registering;
                    if let Some(session) = session {
                        self.call(node, Body::Leave(session));
                    }
                }
            }
        }
        self.start_job(node);
    }

    fn send_want(&mut self, node: Node, want: Want) {
        let life = self.students[node].peer.life;
        let endpoints = self.students[node].endpoints.get(&want.teacher);
        let addresses = endpoints.map(|e| e.addresses.clone()).unwrap_or_default();
        let loss = self.setting.loss;
        let lost = self.fails(loss);
        let server = (!addresses.is_empty() && !lost)
            .then(|| self.random.pick(&addresses).clone())
            .and_then(|name| self.node_of(&name));
        match server {
            Some(server) => {
                let server_life = self.peer(server).life;
                let delay = self.delay();
                let event = Event::Want {
                    server,
                    server_life,
                    node,
                    life,
                    want,
                };
                self.after(delay, event);
            }
            None => {
                let event = Event::Frame {
                    node,
                    life,
                    want,
                    answer: None,
                };
                self.after(WANT_AGAIN, event);
            }
        }
    }

    /// The trainer takes its next job.
    fn start_job(&mut self, node: Node) {
        let s = &mut self.students[node];
        if s.training {
            return;
        }
        let Some(job) = s.jobs.front() else { return };
        let (life, trainer) = (s.peer.life, s.trainer);
        let wait = match job {
            Job::Become(Start::Restore(version) | Start::Join(Some(version))) => {
                let body = Body::Fetch(s.part.clone(), *version);
                s.training = true;
                self.call(node, body);
                return;
            }
            Job::Become(_) | Job::Adopt(_) | Job::Export(..) => 0,
            Job::Begin { .. } => 10,
            Job::Train(batch) => (batch.positions.end - batch.positions.start) * s.pace,
        };
        s.training = true;
        self.after(wait, Event::Trainer { node, life, trainer });
    }

    fn fetched(&mut self, node: Node, model: &Rc<Model>) {
        let s = &mut self.students[node];
        if let Some(Job::Become(start)) = s.jobs.front() {
            // A joiner takes the optimizer only; its weights come with the merge.
            if matches!(start, Start::Restore(_)) {
                s.model = model.clone();
                s.base = model.clone();
            }
            s.jobs.pop_front();
            s.training = false;
        }
    }

    pub(crate) fn trainer_done(&mut self, node: Node, trainer: u64) {
        if trainer != self.students[node].trainer {
            return;
        }
        let late = self.has(Plant::LateSnapshot);
        let poison = self.setting.poison;
        let seed = self.setting.seed;
        let positions = self.setting.spec.positions as u32;
        let s = &mut self.students[node];
        s.training = false;
        let Some(job) = s.jobs.pop_front() else { return };
        if self.options.verbose {
            let (name, was) = (s.peer.name.clone(), s.model.contents.clone());
            let told = format!("{name} has {was:?} and does {job:?}");
            self.say(|| told);
        }
        let s = &mut self.students[node];
        let Some(machine) = s.machine.as_mut() else { return };
        match job {
            Job::Become(_) => {
                s.model = Model::initial(&s.part);
                s.base = s.model.clone();
            }
            Job::Adopt(merged) => {
                if let Some(merged) = merged {
                    s.model = merged.clone();
                    s.base = merged;
                }
            }
            Job::Export(session, work) => {
                let weights = Weights {
                    base: s.base.clone(),
                    model: s.model.clone(),
                };
                self.call(node, Body::Contribute(session, *work, Some(weights)));
            }
            Job::Begin { snapshot } => {
                if snapshot {
                    s.snapshot = Some(if late {
                        s.model.step(0, 0..1)
                    } else {
                        s.model.clone()
                    });
                }
                machine.began(Some(Evaluation {
                    loss: 2.0 / (1.0 + s.model.contents.len() as f64),
                    accuracy: 0.5,
                    samples: 8,
                }));
            }
            Job::Train(batch) => {
                let order = Order::new_all(seed, positions);
                let bad = poison.and_then(|(sample, kills)| {
                    let epoch = batch.id.epoch;
                    let at = batch
                        .positions
                        .clone()
                        .find(|p| order.sample(epoch, *p) == sample)?;
                    Some((at, kills))
                });
                match bad {
                    Some((_, true)) => return self.kill_student(node, "poison"),
                    Some((at, false)) => machine.unreadable(at, "torn"),
                    None => {
                        s.model = s.model.step(batch.id.epoch, batch.positions.clone());
                        machine.trained(&StepDone {
                            samples: batch.positions.end - batch.positions.start,
                            hard_loss: 1.0,
                            labelled: 1,
                            kl: (!batch.frames.is_empty()).then_some(0.5),
                            gradient_share: (!batch.frames.is_empty()).then_some(0.5),
                            seconds: 0.01,
                            frame_bytes: 10,
                            ..StepDone::default()
                        });
                    }
                }
            }
        }
        self.carry_out(node);
    }

    pub(crate) fn kill_student(&mut self, node: Node, why: &str) {
        let name = self.students[node].peer.name.clone();
        self.say(|| format!("{name} dies: {why}"));
        self.counts.kills += 1;
        self.oracle.alive_at = self.now;
        self.students[node].peer.up = false;
        let again = self.random.within(100..1_500);
        self.after(again, Event::Start { node });
    }

    /// A call is made again, if it still makes sense.
    pub(crate) fn student_again(&mut self, node: Node, body: Body) {
        let current = self.students[node].machine.as_ref().and_then(|m| m.session());
        if body.session().is_none() || body.session() == current {
            self.call(node, body);
        }
    }

    pub(crate) fn student_broken(&mut self, node: Node, body: Body) {
        let s = &self.students[node];
        let current = s.machine.as_ref().and_then(|m| m.session());
        let live = match &body {
            // A broken heartbeat is followed by the next.
            Body::Beat(..) | Body::Attach(..) | Body::Leave(_) => false,
            Body::Register(_) | Body::Fetch(..) => true,
            body => body.session() == current,
        };
        if live {
            self.call_again(node, body);
        }
    }
}
