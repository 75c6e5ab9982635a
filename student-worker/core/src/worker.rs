//! The machine itself.

use std::collections::{BTreeMap, VecDeque};

use retort_coordinator_core::lease::{Answer, Reason};
use retort_coordinator_core::round::{Evaluation, RoundPlan, Sums, Work};
use retort_coordinator_core::run::Endpoints;
use retort_data::order::Grid;
use retort_data::ranges::RangeSet;

use crate::queue::{Batch, BlockId, Queue};

/// Batches handed to the trainer and not yet done: one computes while the next waits.
const TRAIN_AHEAD: usize = 2;

/// What does not change during a session.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The run's blocks.
    pub grid: Grid,
    /// Positions of one optimizer step.
    pub batch: u32,
    /// Blocks to hold and to want ahead of training.
    pub prefetch: usize,
    /// Teachers of the mixture; empty: labels only.
    pub teachers: Vec<String>,
}

/// What the shell carries out.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<F> {
    /// Ask the coordinator for work; answer with `lease_answer`.
    AskLease,
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
    },
    /// Before the round's first step: evaluate, and publish the state if asked; answer with `began`.
    BeginRound {
        /// The plan it belongs to.
        plan: RoundPlan,
        /// Upload the state as a version.
        publish: bool,
    },
    /// One optimizer step with this share of the soft loss; answer with `trained`.
    Train {
        /// What to train on.
        batch: Batch<F>,
        /// Alpha of the round.
        alpha: f64,
    },
    /// Contribute, with weights if the plan says so; answer with `merged`.
    Contribute(Work),
    /// Give leased positions back.
    Release {
        /// Epoch.
        epoch: u32,
        /// Untrained positions.
        positions: RangeSet,
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
    /// Time of the step.
    pub seconds: f64,
    /// Bytes of the frames behind it.
    pub frame_bytes: u64,
}

/// A batch at the trainer.
#[derive(Debug, Clone)]
struct InFlight {
    id: BlockId,
    positions: std::ops::Range<u64>,
    versions: Vec<(String, u64)>,
    staleness: u64,
    frames: u64,
}

/// State of one session.
#[derive(Debug, Clone)]
pub struct Worker<F> {
    setup: Setup,
    plan: RoundPlan,
    queue: Queue<F>,
    in_flight: VecDeque<InFlight>,
    work: Work,
    /// Steps handed to the trainer in this round.
    started: u32,
    /// The trainer evaluates or takes a snapshot before the round's first step.
    beginning: bool,
    /// A snapshot is on its way to the coordinator. The next contribution waits for it, so that a
    /// version exists at every boundary that asked for one.
    publishing: bool,
    contributing: bool,
    asked: bool,
    idle: Option<Reason>,
    active: BTreeMap<String, u64>,
    floors: BTreeMap<String, u64>,
    held: BTreeMap<String, u64>,
    left: bool,
    commands: VecDeque<Command<F>>,
}

impl<F: Clone> Worker<F> {
    /// A session's machine. `joining`: it holds no state yet and gets its first from a merge.
    pub fn new(setup: Setup, plan: RoundPlan, joining: bool, teachers: Vec<Endpoints>) -> Self {
        let mut worker = Self {
            queue: Queue::new(setup.grid, setup.batch),
            setup,
            plan: plan.clone(),
            in_flight: VecDeque::new(),
            work: Work::default(),
            started: 0,
            beginning: false,
            publishing: false,
            contributing: false,
            asked: false,
            idle: None,
            active: BTreeMap::new(),
            floors: BTreeMap::new(),
            held: BTreeMap::new(),
            left: false,
            commands: VecDeque::new(),
        };
        for endpoints in teachers {
            worker.held.insert(endpoints.teacher.clone(), endpoints.floor);
            worker.floors.insert(endpoints.teacher.clone(), endpoints.floor);
            worker
                .active
                .extend(endpoints.active.map(|v| (endpoints.teacher, v)));
        }
        if joining {
            worker.contributing = true;
            worker.commands.push_back(Command::Contribute(Work {
                generation: plan.generation,
                round: plan.round,
                joining: true,
                ..Work::default()
            }));
        } else {
            worker.begin(plan);
        }
        worker
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

    /// The coordinator answered a request for work.
    pub fn lease_answer(&mut self, answer: Answer) {
        self.asked = false;
        self.idle = None;
        match answer {
            Answer::Granted {
                epoch,
                positions,
                exact,
            } => self.queue.push(epoch, positions, &exact),
            Answer::Idle(reason) => {
                self.idle = Some(reason);
                if reason == Reason::Stopping {
                    self.give_back();
                }
            }
            Answer::Publish => {
                assert_eq!(self.started, 0, "asked to publish in the middle of a round");
                self.beginning = true;
                self.publishing = true;
                self.commands.push_back(Command::BeginRound {
                    plan: self.plan.clone(),
                    publish: true,
                });
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

    /// The round's evaluation (and snapshot) is done; training may step.
    pub fn began(&mut self, held_out: Option<Evaluation>) {
        self.beginning = false;
        // An evaluation for a manifest's sake comes at a time of its own; only the planned ones may
        // decide alpha, or lockstep could not be repeated.
        if self.plan.evaluate {
            self.work.held_out = held_out;
        }
        self.advance();
    }

    /// The version that was asked for is durable.
    pub fn published(&mut self) {
        self.publishing = false;
        self.advance();
    }

    /// The oldest batch at the trainer is done.
    pub fn trained(&mut self, done: &StepDone) {
        let Some(batch) = self.in_flight.pop_front() else {
            return;
        };
        let samples = batch.positions.end - batch.positions.start;
        self.work.epoch = batch.id.epoch;
        self.work.steps += 1;
        self.work.trained.insert(batch.positions);
        let taught = if done.kl.is_some() { samples } else { 0 };
        self.work.sums.add(&Sums {
            samples,
            hard_loss: done.hard_loss * done.labelled as f64,
            labelled: done.labelled,
            kl: done.kl.unwrap_or(0.0) * taught as f64,
            taught,
            gradient_share: done.gradient_share.unwrap_or(0.0) * taught as f64,
            step_seconds: done.seconds,
            frames: batch.frames,
            frame_bytes: done.frame_bytes,
            max_staleness: batch.staleness,
        });
        for (teacher, version) in batch.versions {
            *self
                .work
                .teacher_use
                .entry(teacher)
                .or_default()
                .entry(version)
                .or_default() += samples;
        }
        self.advance();
    }

    /// The round closed; this is what comes next.
    pub fn merged(&mut self, plan: RoundPlan) {
        self.contributing = false;
        self.idle = None;
        self.plan = plan.clone();
        self.begin(plan);
        self.advance();
    }

    /// The coordinator raises a floor before it lets a newer version serve.
    pub fn floor(&mut self, teacher: &str, version: u64) {
        let floor = self.floors.entry(teacher.to_owned()).or_default();
        if version <= *floor {
            return;
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
        self.advance();
    }

    /// Servers or the active version of a teacher changed.
    pub fn endpoints(&mut self, endpoints: &Endpoints) {
        self.active
            .extend(endpoints.active.map(|v| (endpoints.teacher.clone(), v)));
        self.advance();
    }

    /// The run has ended.
    pub fn finish(&mut self, reason: String) {
        if !self.left {
            self.left = true;
            self.commands.push_back(Command::Leave(reason));
        }
    }

    fn begin(&mut self, plan: RoundPlan) {
        self.started = 0;
        self.work = Work {
            generation: plan.generation,
            round: plan.round,
            ..Work::default()
        };
        if plan.evaluate || plan.publish {
            self.beginning = true;
            let publish = plan.publish;
            self.publishing |= publish;
            self.commands.push_back(Command::BeginRound { plan, publish });
        }
        self.advance();
    }

    fn give_back(&mut self) {
        if let Some((epoch, positions)) = self.queue.drain() {
            self.commands.push_back(Command::Release { epoch, positions });
        }
    }

    fn advance(&mut self) {
        if self.left {
            return;
        }
        self.train();
        self.want();
        self.ask();
        self.contribute_if_due();
        self.hold_floors();
    }

    fn train(&mut self) {
        while !self.contributing
            && !self.beginning
            && self.in_flight.len() < TRAIN_AHEAD
            && self.started < self.plan.steps
        {
            let Some(batch) = self.queue.next(&self.setup.teachers) else {
                return;
            };
            self.started += 1;
            let versions: Vec<(String, u64)> = batch.frames.iter().map(|(t, v, _)| (t.clone(), *v)).collect();
            let behind = |(t, v): &(String, u64)| self.active.get(t).map_or(0, |a| a.saturating_sub(*v));
            self.in_flight.push_back(InFlight {
                id: batch.id,
                positions: batch.positions.clone(),
                staleness: versions.iter().map(behind).max().unwrap_or(0),
                frames: if batch.first_of_block {
                    versions.len() as u64
                } else {
                    0
                },
                versions,
            });
            let alpha = self.plan.alpha;
            self.commands.push_back(Command::Train { batch, alpha });
        }
    }

    fn want(&mut self) {
        for block in self.queue.blocks.iter_mut().take(self.setup.prefetch) {
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
                });
            }
        }
    }

    fn ask(&mut self) {
        let enough = self.queue.blocks.len() >= self.setup.prefetch;
        // Nobody else can give this worker work before its round has closed.
        let pointless = matches!(self.idle, Some(Reason::Contribute | Reason::Stopping)) || self.contributing;
        if !self.asked && !enough && !pointless {
            self.asked = true;
            self.commands.push_back(Command::AskLease);
        }
    }

    fn contribute_if_due(&mut self) {
        let drained =
            self.queue.is_empty() && matches!(self.idle, Some(Reason::Contribute | Reason::Stopping));
        let due = self.work.steps >= self.plan.steps || drained;
        if due && self.in_flight.is_empty() && !self.contributing && !self.beginning && !self.publishing {
            self.contributing = true;
            self.commands
                .push_back(Command::Contribute(std::mem::take(&mut self.work)));
        }
    }

    fn hold_floors(&mut self) {
        let mut changed = false;
        for (teacher, floor) in &self.floors {
            let trains_older = |b: &InFlight| b.versions.iter().any(|(t, v)| t == teacher && v < floor);
            let needs_older = self
                .queue
                .blocks
                .iter()
                .any(|b| b.exact.get(teacher).is_some_and(|v| v < floor));
            let holds = !needs_older && !self.in_flight.iter().any(trains_older);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(round: u64, steps: u32) -> RoundPlan {
        RoundPlan {
            generation: 0,
            round,
            steps,
            alpha: 0.5,
            gate: None,
            publish: false,
            evaluate: false,
            exchange: false,
        }
    }

    fn worker(teachers: &[&str]) -> Worker<u8> {
        let setup = Setup {
            grid: Grid {
                positions: 20,
                block: 4,
            },
            batch: 2,
            prefetch: 2,
            teachers: teachers.iter().map(|t| (*t).to_owned()).collect(),
        };
        let endpoints = teachers
            .iter()
            .map(|t| Endpoints {
                teacher: (*t).to_owned(),
                addresses: Vec::new(),
                active: Some(3),
                floor: 2,
            })
            .collect();
        Worker::new(setup, plan(0, 4), false, endpoints)
    }

    fn commands(w: &mut Worker<u8>) -> Vec<Command<u8>> {
        std::iter::from_fn(|| w.poll_command()).collect()
    }

    fn granted(positions: std::ops::Range<u64>) -> Answer {
        Answer::Granted {
            epoch: 0,
            positions,
            exact: BTreeMap::new(),
        }
    }

    fn trained_positions(commands: &[Command<u8>]) -> Vec<std::ops::Range<u64>> {
        commands
            .iter()
            .filter_map(|c| match c {
                Command::Train { batch, .. } => Some(batch.positions.clone()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn labels_only_work_goes_straight_to_the_trainer_and_is_contributed() {
        let mut w = worker(&[]);
        assert_eq!(commands(&mut w), [Command::AskLease]);
        w.lease_answer(granted(2..7));
        let c = commands(&mut w);
        assert_eq!(trained_positions(&c), [2..4, 4..6], "batches lie on the grid");
        w.trained(&StepDone::default());
        w.trained(&StepDone::default());
        assert_eq!(
            trained_positions(&commands(&mut w)),
            std::iter::once(6..7).collect::<Vec<_>>()
        );
        w.lease_answer(Answer::Idle(Reason::Contribute));
        assert!(commands(&mut w).is_empty(), "a batch is still at the trainer");
        w.trained(&StepDone::default());
        let c = commands(&mut w);
        let [Command::Contribute(work)] = c.as_slice() else {
            panic!("expected a contribution, got {c:?}");
        };
        assert_eq!((work.steps, work.trained.len(), work.sums.samples), (3, 5, 5));
        w.merged(plan(1, 4));
        assert_eq!(commands(&mut w), [Command::AskLease]);
    }

    #[test]
    fn no_step_without_every_teachers_frame() {
        let mut w = worker(&["t", "u"]);
        w.lease_answer(granted(0..4));
        let c = commands(&mut w);
        assert!(trained_positions(&c).is_empty());
        assert_eq!(c.iter().filter(|c| matches!(c, Command::Want { .. })).count(), 2);
        let id = BlockId { epoch: 0, block: 0 };
        w.frame("t", id, 3, 1).unwrap();
        assert!(trained_positions(&commands(&mut w)).is_empty());
        w.frame("u", id, 2, 2).unwrap();
        assert_eq!(trained_positions(&commands(&mut w)), [0..2, 2..4]);
    }

    #[test]
    fn a_floor_holds_only_after_older_frames_are_gone() {
        let mut w = worker(&["t"]);
        w.lease_answer(granted(0..8));
        w.frame("t", BlockId { epoch: 0, block: 0 }, 2, 1).unwrap();
        w.frame("t", BlockId { epoch: 0, block: 1 }, 2, 1).unwrap();
        commands(&mut w);
        w.floor("t", 3);
        let c = commands(&mut w);
        assert!(
            c.iter()
                .any(|c| matches!(c, Command::Want { id, floor: 3, .. } if id.block == 1)),
            "asked again"
        );
        assert_eq!(
            w.held_floors()["t"],
            2,
            "two batches of version 2 are at the trainer"
        );
        w.trained(&StepDone::default());
        assert_eq!(w.held_floors()["t"], 2);
        w.trained(&StepDone::default());
        assert_eq!(w.held_floors()["t"], 3);
        assert!(commands(&mut w).contains(&Command::Beat));
        assert!(
            w.frame("t", BlockId { epoch: 0, block: 1 }, 2, 1).is_err(),
            "too old now"
        );
    }

    #[test]
    fn an_exact_version_is_waited_for_and_keeps_the_floor_down() {
        let mut w = worker(&["t"]);
        let exact = BTreeMap::from([("t".to_owned(), 2)]);
        w.lease_answer(Answer::Granted {
            epoch: 0,
            positions: 0..4,
            exact,
        });
        w.floor("t", 3);
        assert_eq!(w.held_floors()["t"], 2);
        let id = BlockId { epoch: 0, block: 0 };
        assert!(w.frame("t", id, 3, 1).is_err(), "newer is as wrong as older");
        w.frame("t", id, 2, 1).unwrap();
        w.trained(&StepDone::default());
        w.trained(&StepDone::default());
        assert_eq!(w.held_floors()["t"], 3);
    }

    #[test]
    fn stopping_gives_back_what_was_not_trained() {
        let mut w = worker(&["t"]);
        w.lease_answer(granted(0..4));
        commands(&mut w);
        w.asked = true;
        w.lease_answer(Answer::Idle(Reason::Stopping));
        let c = commands(&mut w);
        assert!(
            matches!(&c[0], Command::Release { positions, .. } if positions.len() == 4),
            "{c:?}"
        );
        assert!(
            matches!(&c[1], Command::Contribute(work) if work.steps == 0),
            "{c:?}"
        );
        w.merged(plan(1, 4));
        w.lease_answer(Answer::Finish("stopped".into()));
        assert!(commands(&mut w).contains(&Command::Leave("stopped".into())));
    }

    #[test]
    fn a_contribution_waits_for_the_version_before_it() {
        let mut w = worker(&[]);
        w.merged(RoundPlan {
            publish: true,
            ..plan(1, 1)
        });
        assert!(
            commands(&mut w)
                .iter()
                .any(|c| matches!(c, Command::BeginRound { publish: true, .. }))
        );
        w.began(None);
        w.lease_answer(granted(0..2));
        commands(&mut w);
        w.trained(&StepDone::default());
        assert!(
            !commands(&mut w)
                .iter()
                .any(|c| matches!(c, Command::Contribute(_))),
            "not before it is durable"
        );
        w.published();
        assert!(
            commands(&mut w)
                .iter()
                .any(|c| matches!(c, Command::Contribute(_)))
        );
    }

    #[test]
    fn a_joiner_contributes_nothing_first() {
        let setup = worker(&[]).setup;
        let mut w: Worker<u8> = Worker::new(setup, plan(7, 4), true, Vec::new());
        let c = commands(&mut w);
        assert!(
            matches!(&c[..], [Command::Contribute(work)] if work.joining && work.round == 7),
            "{c:?}"
        );
        w.merged(plan(8, 4));
        assert_eq!(commands(&mut w), [Command::AskLease]);
    }
}
