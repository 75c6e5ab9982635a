//! One history from its first event to its last.

use std::fmt;

use retort_coordinator_core::manifest::Manifest;
use retort_coordinator_core::run::State;
use retort_coordinator_core::spec::{Source, Which};
use retort_data::order::Order;

use crate::message::{Event, Verb};
use crate::plant::Plant;
use crate::world::World;

/// Events after which a history counts as running in circles.
const MOST_EVENTS: u64 = 1_000_000;
/// Progress must be seen this often once faults have stopped (P7), ms.
const PROGRESS: u64 = 15_000;
/// Longest freeze or cut link, in lease times.
const LONGEST: u64 = 3;

/// What to play.
#[derive(Clone)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// A bug to plant.
    pub plant: Option<Plant>,
    /// Tell what happens.
    pub verbose: bool,
    /// Where to tell it.
    pub print: fn(&str),
}

/// What a history covered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Messages lost.
    pub lost: u64,
    /// Messages delivered twice.
    pub duplicated: u64,
    /// Deaths of coordinators.
    pub crashes: u64,
    /// Deaths of workers and servers.
    pub kills: u64,
    /// Freezes.
    pub freezes: u64,
    /// Links cut, one way or both.
    pub cuts: u64,
    /// Versions that could not be written.
    pub disk_full: u64,
    /// Versions whose files were damaged.
    pub torn: u64,
    /// Requests of an operator.
    pub verbs: u64,
    /// Versions written.
    pub versions: u64,
    /// Virtual time, ms.
    pub virtual_ms: u64,
}

impl Counts {
    /// Adds another history's.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.crashes += other.crashes;
        self.kills += other.kills;
        self.freezes += other.freezes;
        self.cuts += other.cuts;
        self.disk_full += other.disk_full;
        self.torn += other.torn;
        self.verbs += other.verbs;
        self.versions += other.versions;
        self.virtual_ms += other.virtual_ms;
    }

    /// All faults.
    pub fn faults(&self) -> u64 {
        self.lost
            + self.duplicated
            + self.crashes
            + self.kills
            + self.freezes
            + self.cuts
            + self.disk_full
            + self.torn
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events, {} faults ({} messages lost, {} duplicated, {} coordinator crashes, {} kills, \
             {} freezes, {} cut links, {} failed writes, {} damaged versions), {} operator requests, \
             {} versions, {:.1} h of virtual time",
            self.events,
            self.faults(),
            self.lost,
            self.duplicated,
            self.crashes,
            self.kills,
            self.freezes,
            self.cuts,
            self.disk_full,
            self.torn,
            self.verbs,
            self.versions,
            self.virtual_ms as f64 / 3.6e6
        )
    }
}

/// A promise was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Seed that does it again.
    pub seed: u64,
    /// When, in virtual ms.
    pub at: u64,
    /// Which promise, and how.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {} ms: {}", self.seed, self.at, self.what)
    }
}

impl std::error::Error for Failure {}

/// Plays one history.
pub fn history(options: Options) -> Result<Counts, Failure> {
    let seed = options.seed;
    let mut world = World::new(options);
    world.say(|| format!("{:#?}", world.setting));
    world.begin();
    let ended = world.play();
    world.counts.virtual_ms = world.now;
    match ended {
        Ok(()) => Ok(world.counts),
        Err(what) => Err(Failure {
            seed,
            at: world.now,
            what,
        }),
    }
}

impl World {
    fn begin(&mut self) {
        self.after(0, Event::CoordinatorStart);
        for node in 0..self.students.len() + self.servers.len() {
            let wait = self.random.within(1..1_000);
            self.after(wait, Event::Start { node });
        }
        if self.setting.fault_every < u64::MAX {
            self.next_fault();
        }
        let calm_at = self.setting.calm_at;
        if self.random.chance(200) {
            let verb = match self.random.within(0..3) {
                0 => Verb::Pause,
                1 => Verb::Stop,
                _ => Verb::Drain(self.random.within(0..self.students.len() as u64) as usize),
            };
            let at = self.random.within(0..calm_at);
            self.after(at, Event::Operator(verb));
            self.after(calm_at, Event::Operator(Verb::Resume));
        }
        self.after(calm_at + PROGRESS, Event::Watch);
    }

    fn play(&mut self) -> Result<(), String> {
        let mut seen = String::new();
        while let Some(event) = self.next_event() {
            self.counts.events += 1;
            if self.counts.events > MOST_EVENTS {
                return Err(format!("P7: still not done after {MOST_EVENTS} events"));
            }
            if matches!(event, Event::Watch) {
                let now = self.progress();
                self.say(|| now.clone());
                self.say(|| self.floors());
                let explained = self.now - self.oracle.alive_at < PROGRESS;
                if now == seen && !explained {
                    return Err(format!("P7: no progress in {PROGRESS} ms without faults: {now}"));
                }
                seen = now;
                self.after(PROGRESS, Event::Watch);
                continue;
            }
            self.apply(event);
            if let Some(violation) = self.oracle.violation.take() {
                return Err(violation);
            }
            if self.is_over() {
                return self.check_end();
            }
        }
        Err("P7: nothing is left to happen".into())
    }

    fn is_over(&self) -> bool {
        let state = self.coordinator.as_ref().map(|c| c.run.state().0);
        matches!(state, Some(State::Done | State::Failed))
    }

    fn check_end(&mut self) -> Result<(), String> {
        let Some(c) = &self.coordinator else {
            return Ok(());
        };
        let (state, reason) = c.run.state();
        if state == State::Failed {
            return Err(format!("the run failed: {reason}"));
        }
        let order = Order::new_all(self.setting.seed, self.setting.spec.positions as u32);
        let poison = self.setting.poison;
        let at = |epoch: u32| {
            let (sample, _) = poison?;
            (0..order.len()).find(|p| order.sample(epoch, *p) == sample)
        };
        for group in c.run.groups() {
            self.oracle.ended(group, &self.disk, &at);
        }
        self.oracle.violation.take().map_or(Ok(()), Err)
    }

    /// Changes whenever the run gets on.
    fn progress(&self) -> String {
        let Some(c) = &self.coordinator else {
            return "no coordinator".into();
        };
        let groups: Vec<String> = c
            .run
            .groups()
            .iter()
            .map(|g| {
                format!(
                    "{} epoch {} {:?} version {:?} waits for {:?}",
                    g.spec.name,
                    g.ledger.epoch(),
                    g.ledger.counts(),
                    g.version(),
                    c.run.waiting_for(&g.spec.name),
                )
            })
            .collect();
        format!("{}: {}", c.run.state().0.name(), groups.join("; "))
    }

    fn floors(&self) -> String {
        let Some(c) = &self.coordinator else {
            return String::new();
        };
        let of = |m: &retort_coordinator_core::run::Member| {
            format!(
                "{} {:?} {:?}",
                m.session.worker, m.heartbeat.floors, m.heartbeat.staged
            )
        };
        let members: Vec<String> = c.run.members().map(of).collect();
        let teachers: Vec<String> = c
            .run
            .teachers()
            .iter()
            .map(|t| {
                format!(
                    "active {:?} floor {} newest {:?} {:?}",
                    t.active,
                    t.floor,
                    t.newest(),
                    t.servers
                )
            })
            .collect();
        format!("{}; {}", members.join("; "), teachers.join("; "))
    }

    fn next_fault(&mut self) {
        let every = self.setting.fault_every;
        let wait = self.random.within(every / 4..every * 2);
        self.after(wait, Event::Fault);
    }

    fn apply(&mut self, event: Event) {
        let students = self.students.len();
        match event {
            Event::Request(request) => self.on_request(*request),
            Event::CoordinatorStart => self.start_coordinator(),
            Event::Written { life, group } => self.on_written(life, group),
            Event::CoordinatorTick { life } => self.on_coordinator_tick(life),
            Event::Operator(verb) => self.on_operator(&verb),
            Event::Fault => self.fault(),
            Event::Start { node } if self.peer(node).up => {}
            Event::Start { node } if node < students => self.start_student(node),
            Event::Start { node } => self.start_server(node - students),
            Event::Watch => {}
            Event::Reply { node, life, .. }
            | Event::Broken { node, life, .. }
            | Event::Again { node, life, .. }
            | Event::Control { node, life, .. }
            | Event::StreamBroken { node, life, .. }
            | Event::Frame { node, life, .. }
            | Event::Trainer { node, life, .. }
            | Event::Staged { node, life, .. }
            | Event::Tick { node, life } => {
                if self.reaches(node, life, &event) {
                    self.apply_to_node(node, event);
                }
            }
            Event::Want {
                server,
                server_life,
                node,
                life,
                ref want,
            } => {
                if self.reaches(server, server_life, &event) {
                    self.server_want(server - students, (node, life), want.clone());
                } else if self.peer(server).life != server_life || !self.peer(server).up {
                    let failed = Event::Frame {
                        node,
                        life,
                        want: want.clone(),
                        answer: None,
                    };
                    self.after(50, failed);
                }
            }
        }
    }

    fn apply_to_node(&mut self, node: usize, event: Event) {
        let server = node.checked_sub(self.students.len());
        if server.is_none() {
            self.look_at_clock(node);
        }
        match (event, server) {
            (Event::Tick { .. }, None) => self.student_tick(node),
            (Event::Tick { .. }, Some(s)) => self.server_tick(s),
            (Event::Reply { call, reply, .. }, _) => {
                let Some(body) = self.peer(node).take_call(call) else {
                    return;
                };
                match server {
                    None => self.student_reply(node, body, reply),
                    Some(s) => self.server_reply(s, &body, reply),
                }
            }
            (Event::Broken { call, .. }, _) => {
                let Some(body) = self.peer(node).take_call(call) else {
                    return;
                };
                if server.is_none() {
                    self.student_broken(node, body);
                }
            }
            (Event::Again { body, .. }, None) => self.student_again(node, *body),
            (Event::Control { message, .. }, None) => self.student_control(node, message),
            (Event::Control { message, .. }, Some(s)) => self.server_control(s, message),
            (Event::StreamBroken { stream, .. }, _) => self.peer(node).stream_broke(stream),
            (Event::Frame { want, answer, .. }, None) => self.student_frame(node, &want, answer),
            (Event::Trainer { trainer, .. }, None) => self.trainer_done(node, trainer),
            (Event::Staged { version, .. }, Some(s)) => self.server_staged(s, version),
            _ => {}
        }
    }

    fn fault(&mut self) {
        if self.calm() {
            return;
        }
        self.next_fault();
        let nodes = (self.students.len() + self.servers.len()) as u64;
        let node = self.random.within(0..nodes) as usize;
        let longest = self.setting.spec.lease_ttl * LONGEST;
        let for_ms = self.random.within(50..longest);
        let until = (self.now + for_ms).min(self.setting.calm_at);
        match self.random.within(0..10) {
            0..=2 => {
                self.counts.kills += 1;
                let name = self.peer(node).name.clone();
                self.say(|| format!("{name} is killed"));
                self.peer(node).up = false;
                let again = self.random.within(50..3_000);
                self.after(again, Event::Start { node });
            }
            3 | 4 => {
                self.counts.freezes += 1;
                // What came meanwhile waits for the later end: a stream keeps its order.
                let peer = self.peer(node);
                peer.frozen_until = peer.frozen_until.max(until);
            }
            5 | 6 => {
                self.counts.cuts += 1;
                let way = self.random.within(0..3) as usize;
                let peer = self.peer(node);
                for (i, cut) in peer.cut.iter_mut().enumerate() {
                    if way == 2 || way == i {
                        *cut = until;
                    }
                }
            }
            7 => self.crash_coordinator(),
            8 => {
                self.counts.freezes += 1;
                self.coordinator_frozen = self.coordinator_frozen.max(until);
            }
            _ => self.damage(),
        }
    }

    /// The newest intact version of a group that is one of this source; 0: none.
    fn newest_left(&self, group: &str, source: &Source) -> u64 {
        let every = matches!(
            source,
            Source::Group {
                which: Which::Every,
                ..
            }
        );
        let intact = self.disk.versions.get(group).into_iter().flatten();
        let mut intact = intact.rev().filter(|v| !v.torn);
        let place = |m: &Manifest| {
            let taken_out = m.quarantined.iter().filter(|c| c.epoch == m.epoch);
            m.committed.len() + taken_out.map(|c| c.positions.len()).sum::<u64>()
        };
        let epoch = self.setting.spec.positions;
        let found = intact.find(|v| every || place(&v.manifest).is_multiple_of(epoch));
        found.map_or(0, |v| v.manifest.version)
    }

    /// The newest version of a group is damaged while the coordinator is down.
    fn damage(&mut self) {
        self.crash_coordinator();
        let names: Vec<String> = self.setting.spec.groups.iter().map(|g| g.name.clone()).collect();
        let name = self.random.pick(&names).clone();
        let Some(versions) = self.disk.versions.get_mut(&name) else {
            return;
        };
        if let Some(newest) = versions.iter_mut().rev().find(|v| !v.torn) {
            newest.torn = true;
            self.counts.torn += 1;
            for teacher in &self.setting.spec.teachers {
                if teacher.source.files_of() == Some(&name) {
                    let left = self.newest_left(&name, &teacher.source);
                    self.oracle.damaged(&teacher.name, left);
                }
            }
            self.say(|| format!("the newest version of {name} is damaged"));
        }
    }
}
