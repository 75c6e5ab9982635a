//! The machine itself: what a replica does, over all its sessions.

mod rounds;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use retort_coordinator_core::ids::Session;
use retort_coordinator_core::lease::{Answer, Reason};
use retort_coordinator_core::round::{Activity, Claim, RoundPlan, Start, Work};
use retort_coordinator_core::run::Endpoints;
use retort_data::order::{Grid, Order};
use retort_data::ranges::RangeSet;

use crate::queue::{Batch, BlockId, Queue};

/// Batches handed to the trainer and not yet done: one computes while the next waits.
const TRAIN_AHEAD: usize = 2;

/// What does not change while the worker trains one group of one run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The group.
    pub part: String,
    /// The run's blocks.
    pub grid: Grid,
    /// The group's order.
    pub order: Order,
    /// Positions of one optimizer step.
    pub batch: u32,
    /// Blocks to hold and to want ahead of training.
    pub prefetch: usize,
    /// Teachers of the mixture; empty: labels only.
    pub teachers: Vec<String>,
    /// What to do without a teacher that nobody answers for.
    pub on_missing: OnMissing,
}

/// What a group does while nobody answers for one of its teachers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// It waits.
    #[default]
    Wait,
    /// It learns from the others, whose weights are normalised anew; without any it waits.
    Renormalise,
    /// It learns from the others, and from labels alone without any.
    Hard,
}

/// What registration gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Names every write from now on.
    pub session: Session,
    /// How to begin.
    pub start: Start,
    /// The round to take part in.
    pub plan: RoundPlan,
    /// The group's teachers.
    pub teachers: Vec<Endpoints>,
    /// Epoch and position of samples that can't be trained on.
    pub poison: Vec<(u32, u64)>,
}

/// What the shell carries out.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<F> {
    /// The session is lost: register again, with what there still is; answer with `admitted`.
    Register {
        /// What to ask for; `None`: nothing is left.
        claim: Option<Claim>,
        /// Floors that hold here.
        floors: BTreeMap<String, u64>,
    },
    /// Ask the coordinator for work; answer with `lease_answer`.
    AskLease {
        /// Session to ask in.
        session: Session,
        /// Numbers the requests of the session.
        sequence: u64,
        /// The request whose grant arrived last; 0: none did.
        received: u64,
    },
    /// Ask a server of `teacher` for a block; answer with `frame` or, after a pause, `frame_failed`.
    Want {
        /// Teacher.
        teacher: String,
        /// Block.
        id: BlockId,
        /// Oldest version that will do.
        floor: u64,
        /// The very version that must answer.
        exact: Option<u64>,
        /// What softens it; `None`: the job's temperature at its place.
        temperature: Option<f64>,
        /// Samples to be trained before it.
        ahead: u64,
    },
    /// Trainer: become this state, before anything else.
    Become(Start),
    /// Trainer: evaluate, and take a snapshot if asked; answer with `began`.
    BeginRound {
        /// The plan it belongs to.
        plan: RoundPlan,
        /// Take a snapshot to publish.
        snapshot: bool,
    },
    /// Trainer: one optimizer step with this share of the soft loss; answer with `trained`.
    Train {
        /// What to train on.
        batch: Batch<F>,
        /// Alpha of the round.
        alpha: f64,
    },
    /// Trainer: take over the merged state that came with `merged`.
    Adopt,
    /// Upload the snapshot; answer with `published` or `publish_failed`.
    Publish {
        /// Session to publish in.
        session: Session,
        /// Generation of the plan.
        generation: u64,
        /// The snapshot stands at this round's start.
        round: u64,
    },
    /// Contribute, with the trainer's weights if `weights`; answer with `merged`.
    Contribute {
        /// Session to contribute in.
        session: Session,
        /// What was done.
        work: Box<Work>,
        /// The plan says that weights are exchanged.
        weights: bool,
    },
    /// Give leased positions back.
    Release {
        /// Session that holds them.
        session: Session,
        /// Counts the releases of the session, so that a late copy of one is known.
        number: u64,
        /// Epoch.
        epoch: u32,
        /// Untrained positions.
        positions: RangeSet,
    },
    /// This sample can't be trained on.
    Reject {
        /// Session that holds it.
        session: Session,
        /// Epoch.
        epoch: u32,
        /// Position.
        position: u64,
        /// Sample there.
        sample: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// Send a heartbeat at once: the floors that hold have changed.
    Beat,
    /// Leave the run.
    Leave(String),
}

/// One step's result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepDone {
    /// Samples of the batch.
    pub samples: u64,
    /// Mean hard loss over `labelled`; 0 if there are none.
    pub hard_loss: f64,
    /// Labelled samples in the batch.
    pub labelled: u64,
    /// Mean KL at T; `None` without teachers.
    pub kl: Option<f64>,
    /// The teacher's share of the gradient.
    pub gradient_share: Option<f64>,
    /// Mean loss between layers; `None` without a teacher's features.
    pub feature_loss: Option<f64>,
    /// Time of the step, and of reading its samples.
    pub seconds: f64,
    /// The latter alone.
    pub input_seconds: f64,
    /// Bytes of the frames behind it.
    pub frame_bytes: u64,
}

/// A batch at the trainer.
#[derive(Debug, Clone)]
struct InFlight<F> {
    batch: Batch<F>,
    staleness: u64,
}

/// Where the snapshot of the round's start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    /// None is wanted.
    No,
    /// The trainer will take it.
    Asked,
    /// It waits to be uploaded, or is being uploaded.
    Held,
}

/// State of one replica.
#[derive(Debug, Clone)]
pub struct Worker<F> {
    setup: Setup,
    /// `None`: lost, or not admitted yet.
    session: Option<Session>,
    /// The lease may have run out by this process's own clock: nothing is trained or contributed.
    silent: bool,
    plan: RoundPlan,
    queue: Queue<F>,
    in_flight: VecDeque<InFlight<F>>,
    /// Results of the trainer that belong to a state that was given up.
    void_steps: usize,
    void_begins: usize,
    work: Work,
    /// Steps handed to the trainer in this round.
    started: u32,
    /// The trainer evaluates or takes a snapshot before the round's first step.
    beginning: bool,
    /// The next contribution waits for the snapshot to be durable, so that a version exists at every
    /// boundary that asked for one.
    snapshot: Snapshot,
    /// The coordinator waits for it and gives no work before.
    told_to_publish: bool,
    /// What waits for its round to close.
    contributing: Option<Work>,
    /// It holds no state; the next merge gives it one.
    joining: bool,
    /// It was admitted before, so that its trainer has a state.
    has_state: bool,
    /// Epoch and positions that its newest claim called trained.
    claimed: Option<(u32, RangeSet)>,
    asked: bool,
    sequence: u64,
    received: u64,
    /// Releases of this session so far.
    releases: u64,
    idle: Option<Reason>,
    active: BTreeMap<String, u64>,
    floors: BTreeMap<String, u64>,
    held: BTreeMap<String, u64>,
    /// Teachers that nobody answers for.
    missing: BTreeSet<String>,
    poison: BTreeSet<u32>,
    left: bool,
    commands: VecDeque<Command<F>>,
}

impl<F: Clone> Worker<F> {
    /// A replica before its first session; `admitted` starts it.
    pub fn new(setup: Setup) -> Self {
        let plan = RoundPlan {
            generation: 0,
            round: 0,
            steps: 1,
            alpha: 0.0,
            gate: None,
            publish: false,
            evaluate: false,
            exchange: false,
            hand_over: false,
            positions: 0,
        };
        Self {
            queue: Queue::new(setup.grid, setup.batch),
            setup,
            session: None,
            silent: false,
            plan,
            in_flight: VecDeque::new(),
            void_steps: 0,
            void_begins: 0,
            work: Work::default(),
            started: 0,
            beginning: false,
            snapshot: Snapshot::No,
            told_to_publish: false,
            contributing: None,
            joining: false,
            has_state: false,
            claimed: None,
            asked: false,
            sequence: 0,
            received: 0,
            releases: 0,
            idle: None,
            active: BTreeMap::new(),
            floors: BTreeMap::new(),
            held: BTreeMap::new(),
            missing: BTreeSet::new(),
            poison: BTreeSet::new(),
            left: false,
            commands: VecDeque::new(),
        }
    }

    /// The next thing to carry out.
    pub fn poll_command(&mut self) -> Option<Command<F>> {
        self.commands.pop_front()
    }

    /// Floors that hold here: nothing older is or will be at the trainer.
    pub fn held_floors(&self) -> &BTreeMap<String, u64> {
        &self.held
    }

    /// The round's plan.
    pub fn plan(&self) -> &RoundPlan {
        &self.plan
    }

    /// What it is at. Reading samples is part of a step here.
    pub fn activity(&self) -> Activity {
        if !self.in_flight.is_empty() {
            Activity::Compute
        } else if self.contributing.is_some() {
            Activity::Sync
        } else if self.beginning || self.snapshot != Snapshot::No {
            Activity::Checkpoint
        } else if self.queue.is_empty() {
            Activity::Lease
        } else {
            Activity::Teacher
        }
    }

    /// The session it is in.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The coordinator answered a request for work.
    pub fn lease_answer(&mut self, session: &Session, sequence: u64, answer: Answer) {
        if self.session.as_ref() != Some(session) || !self.asked || sequence != self.sequence {
            return; // of a former session, or a second answer
        }
        self.asked = false;
        self.idle = None;
        match answer {
            Answer::Granted {
                epoch,
                positions,
                exact,
                temperature,
            } => {
                self.received = sequence;
                self.queue.push(epoch, positions, (&exact, temperature));
                self.refuse_poison();
            }
            Answer::Idle(reason) => {
                self.idle = Some(reason);
                if reason == Reason::Stopping {
                    self.give_back();
                }
            }
            Answer::Publish => {
                self.told_to_publish = true;
                if self.started == 0 && !self.beginning && self.snapshot == Snapshot::No {
                    self.begin_round(true);
                }
            }
            Answer::Finish(reason) => self.finish(reason),
        }
        self.advance();
    }

    /// Soft targets of a block arrived. `Err`: refused, with the reason to count.
    pub fn frame(&mut self, teacher: &str, id: BlockId, version: u64, frame: F) -> Result<(), &'static str> {
        let floor = self.floors.get(teacher).copied().unwrap_or(0);
        let Some(block) = self.queue.find(id) else {
            return Ok(()); // given back meanwhile
        };
        block.wanted.insert(teacher.to_owned(), false);
        let result = match block.exact.get(teacher) {
            Some(exact) if *exact != version => Err("wrong version"),
            None if version < floor => Err("older than the floor"),
            _ => {
                block.frames.insert(teacher.to_owned(), (version, frame));
                Ok(())
            }
        };
        self.advance();
        result
    }

    /// A want was not answered (or its answer was refused): it is asked again.
    pub fn frame_failed(&mut self, teacher: &str, id: BlockId) {
        if let Some(block) = self.queue.find(id) {
            block.wanted.insert(teacher.to_owned(), false);
        }
        self.advance();
    }

    /// The coordinator raises a floor before it lets a newer version serve.
    pub fn floor(&mut self, teacher: &str, version: u64) {
        if self.raise_floor(teacher, version) {
            self.advance();
        }
    }

    /// True: it was lower. Nothing is trained before all floors that rise together have risen.
    fn raise_floor(&mut self, teacher: &str, version: u64) -> bool {
        let floor = self.floors.entry(teacher.to_owned()).or_default();
        if version <= *floor {
            return false;
        }
        *floor = version;
        for block in self
            .queue
            .blocks
            .iter_mut()
            .filter(|b| !b.exact.contains_key(teacher))
        {
            if block.frames.get(teacher).is_some_and(|(v, _)| *v < version) {
                block.frames.remove(teacher);
                block.wanted.insert(teacher.to_owned(), false);
            }
        }
        true
    }

    /// Servers or the active version of a teacher changed.
    pub fn endpoints(&mut self, endpoints: &Endpoints) {
        self.note_active(endpoints);
        self.advance();
    }

    fn note_active(&mut self, endpoints: &Endpoints) {
        let active = endpoints.active.map(|v| (endpoints.teacher.clone(), v));
        self.active.extend(active);
    }

    /// Nobody has answered for this teacher for a while, or somebody does again.
    pub fn set_missing(&mut self, teacher: &str, missing: bool) {
        let changed = match missing {
            true => self.missing.insert(teacher.to_owned()),
            false => self.missing.remove(teacher),
        };
        if changed {
            self.advance();
        }
    }

    /// The sample at this place of the order can't be trained on.
    pub fn poisoned(&mut self, epoch: u32, position: u64) {
        self.note_poison(epoch, position);
        self.refuse_poison();
        self.advance();
    }

    fn note_poison(&mut self, epoch: u32, position: u64) {
        if position < self.setup.order.len() {
            self.poison.insert(self.setup.order.sample(epoch, position));
        }
    }

    /// The trainer (or a teacher) can't read or compute this position of the oldest batch.
    pub fn unreadable(&mut self, position: u64, reason: &str) {
        if self.void_steps > 0 {
            self.void_steps -= 1;
            return;
        }
        let Some(InFlight { mut batch, .. }) = self.in_flight.pop_front() else {
            return;
        };
        // The floor may have risen while the batch was away.
        let (floors, exact) = (&self.floors, &batch.exact);
        batch
            .frames
            .retain(|(t, v, _)| exact.contains_key(t) || floors.get(t).is_none_or(|floor| v >= floor));
        self.started -= 1;
        let epoch = batch.id.epoch;
        self.queue.put_back(batch, position);
        self.reject(epoch, position, reason.to_owned());
        self.advance();
    }

    /// A teacher can't read this position of a block: it is not trained on.
    pub fn unteachable(&mut self, id: BlockId, position: u64, reason: &str) {
        let Some((epoch, held)) = self.queue.held() else {
            return;
        };
        if epoch == id.epoch && held.contains(position) {
            let rest = held.difference(&RangeSet::from(position..position + 1));
            self.queue.retain(&rest);
            self.reject(epoch, position, reason.to_owned());
        }
        self.advance();
    }

    /// The run has ended.
    pub fn finish(&mut self, reason: String) {
        if !self.left {
            self.left = true;
            self.commands.push_back(Command::Leave(reason));
        }
    }

    fn reject(&mut self, epoch: u32, position: u64, reason: String) {
        let sample = self.setup.order.sample(epoch, position);
        self.poison.insert(sample);
        if let Some(session) = self.session.clone() {
            self.commands.push_back(Command::Reject {
                session,
                epoch,
                position,
                sample,
                reason,
            });
        }
    }

    /// Known poison is rejected as soon as it is leased.
    fn refuse_poison(&mut self) {
        if self.poison.is_empty() {
            return;
        }
        let Some((epoch, held)) = self.queue.held() else {
            return;
        };
        let order = self.setup.order.clone();
        let bad: Vec<u64> = held
            .iter()
            .flatten()
            .filter(|p| self.poison.contains(&order.sample(epoch, *p)))
            .collect();
        let bad_set: RangeSet = bad.iter().map(|p| *p..p + 1).collect();
        self.queue.retain(&held.difference(&bad_set));
        for position in bad {
            self.reject(epoch, position, "it was rejected before".into());
        }
    }

    fn give_back(&mut self) {
        if self.session.is_some()
            && let Some((epoch, positions)) = self.queue.drain()
        {
            self.release(epoch, positions);
        }
    }

    fn release(&mut self, epoch: u32, positions: RangeSet) {
        if let Some(session) = self.session.clone() {
            self.releases += 1;
            self.commands.push_back(Command::Release {
                session,
                number: self.releases,
                epoch,
                positions,
            });
        }
    }

    /// Its session is live as far as its own clock can tell.
    fn may_write(&self) -> bool {
        self.session.is_some() && !self.silent
    }

    fn advance(&mut self) {
        if self.left {
            return;
        }
        // What is durable lets a floor rise: where a block waits for an older version yet, its lease
        // was revoked and somebody else has trained it.
        if let Some((epoch, positions)) = self.queue.drain_below(&self.floors) {
            self.release(epoch, positions);
        }
        if self.may_write() {
            self.train();
            self.want();
            self.ask();
            self.contribute_if_due();
        }
        self.hold_floors();
    }

    fn want(&mut self) {
        let mut ahead = 0;
        for block in self.queue.blocks.iter_mut().take(self.setup.prefetch) {
            let before = ahead;
            ahead += block.samples();
            for teacher in &self.setup.teachers {
                let asked = block.wanted.get(teacher).copied().unwrap_or(false);
                if asked || block.frames.contains_key(teacher) || !self.active.contains_key(teacher) {
                    continue;
                }
                block.wanted.insert(teacher.clone(), true);
                self.commands.push_back(Command::Want {
                    teacher: teacher.clone(),
                    id: block.id,
                    floor: self.floors.get(teacher).copied().unwrap_or(0),
                    exact: block.exact.get(teacher).copied(),
                    temperature: block.temperature,
                    ahead: before,
                });
            }
        }
    }

    fn ask(&mut self) {
        let enough = self.queue.blocks.len() >= self.setup.prefetch;
        // Nobody else can give this worker work before its round has closed.
        let pointless = matches!(self.idle, Some(Reason::Contribute | Reason::Stopping))
            || self.idle == Some(Reason::Paused) && self.work.steps > 0
            || self.contributing.is_some()
            || self.told_to_publish && self.snapshot != Snapshot::No;
        let Some(session) = self.session.clone().filter(|_| !self.asked) else {
            return;
        };
        if !enough && !pointless {
            self.asked = true;
            self.sequence += 1;
            self.commands.push_back(Command::AskLease {
                session,
                sequence: self.sequence,
                received: self.received,
            });
        }
    }

    fn hold_floors(&mut self) {
        let mut changed = false;
        for (teacher, floor) in &self.floors {
            let trains_older =
                |b: &InFlight<F>| b.batch.frames.iter().any(|(t, v, _)| t == teacher && v < floor);
            let holds = self.void_steps == 0 && !self.in_flight.iter().any(trains_older);
            if holds && self.held.get(teacher) != Some(floor) {
                self.held.insert(teacher.clone(), *floor);
                changed = true;
            }
        }
        if changed {
            self.commands.push_back(Command::Beat);
        }
    }
}
