//! Workers of one group that drive the coordinator's core directly: no network, no clock.

use std::collections::BTreeMap;

use anyhow::Context;
use retort_coordinator_core::ids::{Millis, Role, Session};
use retort_coordinator_core::lease::Answer;
use retort_coordinator_core::record::{Key, Record};
use retort_coordinator_core::round::{Sums, Work};
use retort_coordinator_core::run::{Command, Registration, Run};
use retort_coordinator_core::spec::{GroupKind, GroupSpec, Pace, RunSpec};
use retort_data::ranges::RangeSet;

pub(crate) const BLOCK: u32 = 64;
const GROUP: &str = "g";

struct Worker {
    session: Session,
    requests: u64,
    /// Trained since the round began.
    trained: RangeSet,
}

/// A run with one group, and its workers.
pub(crate) struct Fleet {
    pub(crate) run: Run,
    pub(crate) now: Millis,
    workers: Vec<Worker>,
    /// What the journal would hold.
    records: BTreeMap<Key, Record>,
    what: What,
}

/// How much of the coordinator's work is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Leases, contributions and rounds.
    Pairs,
    /// And a version every ten rounds, and the records for the journal.
    All,
    /// And the records are kept.
    Kept,
}

pub(crate) fn spec(workers: u32, samples: u64, round_steps: u32) -> RunSpec {
    RunSpec {
        id: "bench".into(),
        dataset_digest: "d".into(),
        positions: samples,
        block: BLOCK,
        batch: BLOCK,
        groups: vec![GroupSpec {
            name: GROUP.into(),
            kind: GroupKind::Baseline,
            replicas: workers,
            epochs: 1,
            teachers: Vec::new(),
            round_steps,
            exchange: true,
            hands_over: false,
            shared: None,
            alpha: 0.0.into(),
            publish_every: 0,
            evaluate_every: u64::MAX / 2,
        }],
        teachers: Vec::new(),
        lease_ttl: 5_000,
        heartbeat: 500,
        checkpoint_every: 10_000,
        gate: false,
        max_staleness: 1,
        pace: Pace::Free,
    }
}

pub(crate) fn register(run: &mut Run, number: usize, now: Millis) -> anyhow::Result<Session> {
    register_as(run, (number, number), now)
}

/// A worker of that number, as a process of its own.
pub(crate) fn register_as(
    run: &mut Run,
    (number, process): (usize, usize),
    now: Millis,
) -> anyhow::Result<Session> {
    let registration = Registration {
        role: Role::StudentWorker,
        worker: format!("worker-{number:05}"),
        dataset_digest: "d".into(),
        address: String::new(),
        process: process as u64,
        attempt: 1,
        claim: None,
        floors: BTreeMap::new(),
    };
    Ok(run.register(registration, now)?.session)
}

impl Fleet {
    pub(crate) fn new(workers: u32, samples: u64, what: What) -> anyhow::Result<Self> {
        let now = Millis(0);
        let mut spec = spec(workers, samples, 1);
        if what == What::Pairs {
            spec.checkpoint_every = u64::MAX;
        }
        let mut fleet = Self {
            run: Run::new(spec, 1, now),
            now,
            workers: Vec::new(),
            records: BTreeMap::new(),
            what,
        };
        for number in 0..workers as usize {
            let session = register(&mut fleet.run, number, now)?;
            fleet.workers.push(Worker {
                session,
                requests: 0,
                trained: RangeSet::new(),
            });
            if number == 0 {
                fleet.publish(0)?;
            }
        }
        fleet.settle()?;
        Ok(fleet)
    }

    /// One lease and one contribution of each worker; a version where one is due. Gives the pairs.
    pub(crate) fn round(&mut self) -> anyhow::Result<u64> {
        let mut pairs = 0;
        for i in 0..self.workers.len() {
            pairs += u64::from(self.lease(i)?);
        }
        for i in 0..self.workers.len() {
            self.contribute(i)?;
        }
        // The time of a round of real steps.
        self.now = self.now.plus(1_000);
        self.settle()?;
        Ok(pairs)
    }

    fn lease(&mut self, i: usize) -> anyhow::Result<bool> {
        let worker = &mut self.workers[i];
        let asked = (worker.requests + 1, worker.requests);
        worker.requests += 1;
        let answer = self.run.lease(&worker.session, asked, self.now)?;
        if let Answer::Granted { positions, .. } = answer {
            worker.trained.insert(positions);
            return Ok(true);
        }
        Ok(false)
    }

    fn contribute(&mut self, i: usize) -> anyhow::Result<()> {
        let group = &self.run.groups()[0];
        let plan = group.plan();
        let (generation, round, epoch) = (plan.generation, plan.round, group.ledger.epoch());
        let worker = &mut self.workers[i];
        let trained = std::mem::take(&mut worker.trained);
        let work = Work {
            generation,
            round,
            epoch,
            steps: 1,
            sums: Sums {
                samples: trained.len(),
                ..Sums::default()
            },
            trained,
            ..Work::default()
        };
        self.run.contribute(&worker.session, work, self.now)?;
        Ok(())
    }

    /// Carries out what the core decided, as the coordinator's shell does.
    fn settle(&mut self) -> anyhow::Result<()> {
        if self.run.poll_timeout().is_some_and(|at| at <= self.now) {
            self.run.handle_timeout(self.now);
        }
        while let Some(command) = self.run.poll_command() {
            let Command::CloseRound(closed) = command else {
                continue;
            };
            if let Some(publisher) = closed.publisher {
                let number = self.workers.iter().position(|w| w.session.worker == publisher);
                self.publish(number.context("the publisher is a worker")?)?;
            }
        }
        if self.what == What::Pairs {
            return Ok(());
        }
        for (key, record) in self.run.take_writes() {
            match record.filter(|_| self.what == What::Kept) {
                Some(record) => self.records.insert(key, record),
                None => self.records.remove(&key),
            };
        }
        Ok(())
    }

    fn publish(&mut self, i: usize) -> anyhow::Result<()> {
        let plan = self.run.groups()[0].plan();
        let (generation, round) = (plan.generation, plan.round);
        let ticket = self.run.ticket(&self.workers[i].session, generation, round)?;
        self.run.published(&ticket, None, self.now);
        Ok(())
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Bytes of all records, as the journal holds them.
    pub(crate) fn record_bytes(&self) -> anyhow::Result<usize> {
        let sizes = self.records.iter().map(|(key, record)| {
            let value = serde_json::to_vec(record)?;
            anyhow::Ok(key.path().len() + value.len())
        });
        sizes.sum()
    }
}
