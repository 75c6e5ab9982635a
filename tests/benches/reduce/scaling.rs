//! Fleets of 2 to 512 replicas in virtual time: the coordinator's own core decides, and what took time here is put in for
//! what would take time there. Simulated, not measured.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::Context;
use retort_coordinator_core::ids::{Millis, Session};
use retort_coordinator_core::lease::Answer;
use retort_coordinator_core::round::{Sums, Work};
use retort_coordinator_core::run::{Command, Heartbeat, Message, Run};
use retort_coordinator_core::spec::Shared;
use retort_data::ranges::RangeSet;
use retort_tests::bench::Table;

use crate::fleet::{BLOCK, register, spec};

/// A second of virtual time, in its unit.
const SECOND: u64 = 1_000_000;
/// Seconds in which a replica dies once, in the mean.
const MTBF: f64 = 3_600.0;
/// Seconds until it is there again.
const RESTART: u64 = 2 * SECOND;
/// Gigabytes per second of the reducer's network: 10 Gbit/s.
const NETWORK: f64 = 1.25;

/// What was measured before, in seconds.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    /// One step of a batch of [`BLOCK`] samples.
    pub(crate) step: f64,
    /// The mean of one replica's gigabyte.
    pub(crate) mean: f64,
    /// Bringing a gigabyte to the coordinator, or from it.
    pub(crate) transport: f64,
}

struct Strategy {
    name: &'static str,
    /// Steps between exchanges; 0: each step is shared.
    every: u32,
    /// Bytes that a replica sends, and gets.
    bytes: f64,
}

pub(crate) fn run(table: &mut Table, measured: Measured, quick: bool) -> anyhow::Result<()> {
    let parameters = super::MODEL as f64;
    table.head(&format!(
        "Simulated: replicas of {:.1} M parameters, {:.1} ms a step; each dies once an hour and is back after 2 s",
        parameters / 1e6,
        1e3 * measured.step
    ));
    let strategies = [
        ("step, f32", 0, 4.0 * parameters),
        ("local-sgd every 16, f32", 16, 4.0 * parameters),
        ("diloco every 32, bf16", 32, 2.0 * parameters),
    ]
    .map(|(name, every, bytes)| Strategy { name, every, bytes });
    let sizes: &[u32] = if quick {
        &[2, 16]
    } else {
        &[2, 4, 8, 16, 32, 64, 128, 256, 512]
    };
    let seconds = if quick { 10 } else { 60 };
    let alone = f64::from(BLOCK) / measured.step;
    for strategy in &strategies {
        for &replicas in sizes {
            let calm = Fleet::new(replicas, strategy, measured, false)?.play(seconds)?;
            let fire = Fleet::new(replicas, strategy, measured, true)?.play(seconds)?;
            let efficiency = |samples: u64| samples as f64 / seconds as f64 / alone / f64::from(replicas);
            let name = format!(
                "{}: {replicas} replicas, share of {replicas} alone",
                strategy.name
            );
            let text = format!(
                "{:.0} %, dying {:.0} %",
                100.0 * efficiency(calm.merged),
                100.0 * efficiency(fire.merged)
            );
            table.note(name, text);
            let key = |what: &str| format!("simulated_{}_{replicas}_{what}", strategy.every);
            table.keep(&key("efficiency"), efficiency(calm.merged));
            table.keep(&key("efficiency_dying"), efficiency(fire.merged));
            table.keep(&key("deaths"), fire.deaths);
            let goodput = fire.merged as f64 / (fire.merged + fire.again) as f64;
            table.keep(&key("goodput_dying"), goodput);
        }
    }
    Ok(())
}

/// What came of a while.
struct Outcome {
    merged: u64,
    /// Leased again after a death.
    again: u64,
    deaths: u64,
}

struct Replica {
    number: usize,
    session: Session,
    /// Events of a former life are not for it.
    life: u64,
    alive: bool,
    joins: bool,
    requests: u64,
    steps: u32,
    share: u32,
    left: RangeSet,
    trained: RangeSet,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// It may take its next step.
    Step(usize, u64),
    Dies(usize, u64),
    Returns(usize, u64),
}

struct Fleet<'a> {
    run: Run,
    replicas: Vec<Replica>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    strategy: &'a Strategy,
    measured: Measured,
    dying: bool,
    chance: u64,
    deaths: u64,
}

impl<'a> Fleet<'a> {
    fn new(replicas: u32, strategy: &'a Strategy, measured: Measured, dying: bool) -> anyhow::Result<Self> {
        // More samples than a fleet can train in the time, so that no epoch ends.
        let mut spec = spec(replicas, 1 << 40, strategy.every.max(1));
        spec.groups[0].shared = (strategy.every == 0).then_some(Shared {
            batches: replicas,
            samples: BLOCK,
        });
        // Versions cost a write, which another bench measures.
        spec.checkpoint_every = u64::MAX / 2;
        let mut fleet = Self {
            run: Run::new(spec, 1, Millis(0)),
            replicas: Vec::new(),
            events: BinaryHeap::new(),
            strategy,
            measured,
            dying,
            chance: 0x9e37_79b9_7f4a_7c15,
            deaths: 0,
        };
        for number in 0..replicas as usize {
            fleet.replicas.push(Replica {
                number,
                session: register(&mut fleet.run, number, Millis(0))?,
                life: 0,
                alive: true,
                joins: false,
                requests: 0,
                steps: 0,
                share: strategy.every.max(1),
                left: RangeSet::new(),
                trained: RangeSet::new(),
            });
            if number == 0 {
                fleet.publish(0, Millis(0))?;
            }
        }
        for i in 0..fleet.replicas.len() {
            // Whoever came after the first joins a round, or starts with it.
            fleet.replicas[i].joins = fleet.run.groups()[0].is_joining(&fleet.replicas[i].session.worker);
            fleet.at(0, Event::Step(i, 0));
            fleet.die_some_day(i, 0);
        }
        Ok(fleet)
    }

    fn at(&mut self, at: u64, event: Event) {
        self.events.push(Reverse((at, event)));
    }

    /// Uniform in 0..1.
    fn random(&mut self) -> f64 {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 11) as f64 / (1u64 << 53) as f64
    }

    fn die_some_day(&mut self, i: usize, now: u64) {
        if self.dying {
            let after = -MTBF * (1.0 - self.random()).ln() * SECOND as f64;
            let life = self.replicas[i].life;
            self.at(now + after as u64, Event::Dies(i, life));
        }
    }

    fn play(mut self, seconds: u64) -> anyhow::Result<Outcome> {
        while let Some(Reverse((at, event))) = self.events.pop() {
            if at >= seconds * SECOND {
                break;
            }
            let now = Millis(at / 1_000);
            if self.run.poll_timeout().is_some_and(|t| t <= now) {
                // Who lives is never silent.
                for i in 0..self.replicas.len() {
                    if self.replicas[i].alive {
                        self.beat(i, now)?;
                    }
                }
                self.run.handle_timeout(now);
                self.carry_out(at)?;
            }
            match event {
                Event::Step(i, life) if self.replicas[i].life == life => {
                    if let Some(took) = self.step(i, now)? {
                        self.at(at + took, Event::Step(i, life));
                    }
                }
                Event::Dies(i, life) if self.replicas[i].life == life => {
                    self.deaths += 1;
                    self.replicas[i].alive = false;
                    self.replicas[i].life += 1;
                    self.at(at + RESTART, Event::Returns(i, life + 1));
                }
                Event::Returns(i, life) if self.replicas[i].life == life => self.returns(i, at)?,
                _ => {}
            }
            self.carry_out(at)?;
        }
        let group = &self.run.groups()[0];
        Ok(Outcome {
            merged: group.positions,
            again: group.ledger.redelivered() + group.ledger.rolled_back(),
            deaths: self.deaths,
        })
    }

    fn returns(&mut self, i: usize, at: u64) -> anyhow::Result<()> {
        let now = Millis(at / 1_000);
        let process = self.replicas[i].number + 1_000_000 * self.replicas[i].life as usize;
        let session = crate::fleet::register_as(&mut self.run, (self.replicas[i].number, process), now)?;
        let joins = self.run.groups()[0].is_joining(&session.worker);
        let replica = &mut self.replicas[i];
        *replica = Replica {
            number: replica.number,
            session,
            life: replica.life,
            alive: true,
            joins,
            requests: 0,
            steps: 0,
            share: self.strategy.every.max(1),
            left: RangeSet::new(),
            trained: RangeSet::new(),
        };
        let life = replica.life;
        self.at(at, Event::Step(i, life));
        self.die_some_day(i, at);
        Ok(())
    }

    /// Tells the replicas what the core decided.
    fn carry_out(&mut self, at: u64) -> anyhow::Result<()> {
        let now = Millis(at / 1_000);
        while let Some(command) = self.run.poll_command() {
            match command {
                Command::Send {
                    worker,
                    message: Message::Revoke { .. },
                } => {
                    let late = self.replicas.iter().position(|r| r.session.worker == worker);
                    let late = late.context("a replica")?;
                    self.replicas[late].joins = true;
                }
                Command::CloseRound(closed) => {
                    let brought = closed.members.iter().filter(|m| m.samples > 0).count() as f64;
                    let all = closed.members.len() as f64;
                    let gigabytes = self.strategy.bytes / 1e9;
                    // All come to one reducer, over its network or as fast as it takes them.
                    let wire = (1.0 / NETWORK).max(self.measured.transport);
                    let exchange = gigabytes * ((brought + all) * wire + brought * self.measured.mean);
                    let next = at + (exchange * SECOND as f64) as u64;
                    for i in 0..self.replicas.len() {
                        let name = &self.replicas[i].session.worker;
                        let found = closed.members.binary_search_by(|m| m.worker.cmp(name));
                        if found.is_ok() && self.replicas[i].alive {
                            let plan = closed.plan_of(name);
                            if plan.publish {
                                self.publish(i, now)?;
                            }
                            let replica = &mut self.replicas[i];
                            (replica.share, replica.steps, replica.joins) = (plan.steps, 0, false);
                            let life = replica.life;
                            self.at(next, Event::Step(i, life));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// One optimizer step; gives its time. `None`: it contributed and waits.
    fn step(&mut self, i: usize, now: Millis) -> anyhow::Result<Option<u64>> {
        if !self.replicas[i].joins && self.replicas[i].steps < self.replicas[i].share {
            self.beat(i, now)?;
            let replica = &mut self.replicas[i];
            if replica.left.is_empty() {
                let asked = (replica.requests + 1, replica.requests);
                replica.requests += 1;
                if let Ok(Answer::Granted { positions, .. }) = self.run.lease(&replica.session, asked, now) {
                    replica.left.insert(positions);
                }
            }
            let batch = replica.left.take_first(u64::from(BLOCK));
            if !batch.is_empty() {
                for range in batch.iter() {
                    replica.trained.insert(range);
                }
                replica.steps += 1;
                // Steps differ by a tenth, as they do on machines that do something else as well.
                let took = self.measured.step * (0.95 + 0.1 * self.random());
                return Ok(Some((took * SECOND as f64) as u64));
            }
        }
        let group = &self.run.groups()[0];
        let (plan, epoch) = (group.plan().clone(), group.ledger.epoch());
        let replica = &mut self.replicas[i];
        let joins = replica.joins;
        if joins {
            (replica.left, replica.trained) = (RangeSet::new(), RangeSet::new());
        }
        let trained = std::mem::take(&mut replica.trained);
        let work = Work {
            generation: if joins { 0 } else { plan.generation },
            round: if joins { 0 } else { plan.round },
            joining: joins,
            epoch: if joins { 0 } else { epoch },
            steps: if joins { 0 } else { replica.steps },
            sums: Sums {
                samples: trained.len(),
                step_seconds: f64::from(replica.steps) * self.measured.step,
                ..Sums::default()
            },
            trained,
            ..Work::default()
        };
        self.run.contribute(&replica.session, work, now)?;
        Ok(None)
    }

    fn beat(&mut self, i: usize, now: Millis) -> anyhow::Result<()> {
        let heartbeat = Heartbeat {
            rate: f64::from(BLOCK) / self.measured.step,
            ..Heartbeat::default()
        };
        Ok(self.run.heartbeat(&self.replicas[i].session, heartbeat, now)?)
    }

    fn publish(&mut self, i: usize, now: Millis) -> anyhow::Result<()> {
        let plan = self.run.groups()[0].plan();
        let (generation, round) = (plan.generation, plan.round);
        let ticket = self.run.ticket(&self.replicas[i].session, generation, round)?;
        self.run.published(&ticket, None, now);
        Ok(())
    }
}
