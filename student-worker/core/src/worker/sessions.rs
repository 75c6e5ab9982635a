//! Sessions: gained, lost, and gone on with. Losing one is not death.

use retort_coordinator_core::ids::Session;
use retort_coordinator_core::round::{Claim, Start, Work};
use retort_data::ranges::RangeSet;

use super::{Admitted, Command, Snapshot, Worker};

impl<F: Clone> Worker<F> {
    /// The coordinator took it in, for the first time or again. `silent`: the answer came so late that
    /// the lease may have run out already.
    pub fn admitted(&mut self, admitted: Admitted, silent: bool) {
        let Admitted {
            session,
            start,
            plan,
            teachers,
            poison,
        } = admitted;
        self.session = Some(session);
        self.silent = silent;
        self.asked = false;
        self.sequence = 0;
        self.received = 0;
        self.releases = 0;
        self.told_to_publish = false;
        self.idle = None;
        let (generation, round) = (plan.generation, plan.round);
        match start {
            Start::Resume(held) => {
                self.keep(&held);
                self.plan = plan;
                for work in self.contributing.iter_mut().chain([&mut self.work]) {
                    work.generation = generation;
                    work.round = round;
                }
                if !self.plan.publish {
                    self.snapshot = Snapshot::No;
                }
                self.publish_if_held();
                self.send_contribution();
            }
            start => {
                self.reset();
                self.joining = matches!(start, Start::Join(_));
                // A joiner that has a state keeps its optimizer; the weights come with the merge.
                if !(self.joining && self.has_state) {
                    self.commands.push_back(Command::Become(start));
                }
                self.has_state = true;
                self.plan = plan;
                if self.joining {
                    self.join_next_merge();
                } else {
                    self.start_round();
                }
            }
        }
        for endpoints in teachers {
            let teacher = endpoints.teacher.clone();
            self.raise_floor(&teacher, endpoints.floor);
            // A floor falls where the versions that it promised were lost.
            let held = self.held.entry(teacher.clone()).or_insert(endpoints.floor);
            *held = endpoints.floor.min(*held);
            self.floors.insert(teacher, endpoints.floor);
            self.note_active(&endpoints);
        }
        for (epoch, position) in poison {
            self.note_poison(epoch, position);
        }
        self.refuse_poison();
        self.advance();
    }

    /// The coordinator does not know this session any more.
    pub fn lost(&mut self, session: &Session) {
        if self.left || self.session.as_ref() != Some(session) {
            return;
        }
        self.session = None;
        let claim = self.claim();
        let floors = self.held.clone();
        self.claimed = claim.as_ref().map(|c| (c.epoch, c.trained.clone()));
        self.commands.push_back(Command::Register { claim, floors });
    }

    /// Its claim was granted: it holds these and what it claimed as trained. What it has not any more
    /// (a sample turned out unreadable meanwhile) it rejects, or gives back. So it does with what an exact
    /// version was to teach: whether that has outlived the coordinator, a new lease tells.
    fn keep(&mut self, held: &RangeSet) {
        let (epoch, trained) = self.claimed.take().unwrap_or_default();
        let own = held.union(&trained);
        self.queue.retain(&own);
        self.queue.drain_exact();
        let Some(now) = self.claim() else { return };
        let gone = own.difference(&now.trained).difference(&now.held);
        let poisoned = |position: &u64| self.poison.contains(&self.setup.order.sample(epoch, *position));
        let (bad, rest): (Vec<u64>, Vec<u64>) = gone.iter().flatten().partition(poisoned);
        for position in bad {
            self.reject(
                epoch,
                position,
                "it could not be read while the session was lost".into(),
            );
        }
        if !rest.is_empty() {
            self.release(epoch, rest.into_iter().map(|p| p..p + 1).collect());
        }
    }

    /// Its leases in this round were taken away: it goes on from the next merge.
    pub fn revoked(&mut self, generation: u64, round: u64) {
        let current = (self.plan.generation, self.plan.round) == (generation, round);
        if self.session.is_none() || self.joining || !current {
            return;
        }
        self.reset();
        self.joining = true;
        self.join_next_merge();
        self.advance();
    }

    /// By this process's own clock the lease may have run out (`true`), or it was renewed.
    pub fn set_silent(&mut self, silent: bool) {
        if self.silent != silent {
            self.silent = silent;
            self.advance();
        }
    }

    /// What it would ask for if it lost its session now; `None`: it has no state of its own.
    pub fn claim(&self) -> Option<Claim> {
        if self.joining || !self.has_state {
            return None;
        }
        let done = self.contributing.iter().chain([&self.work]);
        let mut trained: RangeSet = done.clone().flat_map(|w| w.trained.iter()).collect();
        for batch in &self.in_flight {
            trained.insert(batch.batch.positions.clone());
        }
        let (queued, held) = self.queue.held().unzip();
        let worked = done.filter(|w| !w.trained.is_empty()).map(|w| w.epoch).next();
        let at_trainer = self.in_flight.front().map(|b| b.batch.id.epoch);
        Some(Claim {
            part: self.setup.part.clone(),
            generation: self.plan.generation,
            round: self.plan.round,
            epoch: queued.or(worked).or(at_trainer).unwrap_or(0),
            trained,
            held: held.unwrap_or_default(),
            snapshot: self.snapshot != Snapshot::No,
        })
    }

    /// Gives up everything since the state was last known to be the group's.
    fn reset(&mut self) {
        self.queue.drain();
        self.void_steps += self.in_flight.len();
        self.in_flight.clear();
        self.void_begins += usize::from(self.beginning);
        self.beginning = false;
        self.snapshot = Snapshot::No;
        self.contributing = None;
        self.work = Work::default();
        self.started = 0;
        self.asked = false;
        self.idle = None;
    }

    fn join_next_merge(&mut self) {
        self.contributing = Some(Work {
            generation: self.plan.generation,
            round: self.plan.round,
            joining: true,
            ..Work::default()
        });
        self.send_contribution();
    }
}
