//! Time, the network between processes, and what fails.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::Coordinator;
use crate::disk::Disk;
use crate::history::{Counts, Options};
use crate::message::{Body, Event, Node, Reply, Request};
use crate::oracle::Oracle;
use crate::plant::Plant;
use crate::random::Random;
use crate::server::Server;
use crate::setting::Setting;
use crate::student::Student;

/// A first retry, and the longest pause between two, ms.
const BACKOFF: (u64, u64) = (100, 5_000);

/// One process other than the coordinator, as the network sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// Counts its processes; what is on its way to a former one is lost.
    pub(crate) life: u64,
    pub(crate) up: bool,
    pub(crate) frozen_until: u64,
    /// Nothing reaches the coordinator, or nothing comes back, before this.
    pub(crate) cut: [u64; 2],
    /// Its clock runs this many per mille fast or slow.
    pub(crate) drift: i64,
    /// Newest control stream that opened, and newest that broke.
    stream: [u64; 2],
    calls: BTreeMap<u64, Body>,
    next_call: u64,
    backoff: u64,
}

impl Peer {
    pub(crate) fn new(name: String, drift: i64) -> Self {
        Self {
            name,
            life: 0,
            up: false,
            frozen_until: 0,
            cut: [0; 2],
            drift,
            stream: [0; 2],
            calls: BTreeMap::new(),
            next_call: 0,
            backoff: BACKOFF.0,
        }
    }

    /// The process's own monotonic clock.
    pub(crate) fn clock(&self, now: u64) -> u64 {
        drifted(now, self.drift)
    }

    pub(crate) fn start(&mut self) {
        self.life += 1;
        self.up = true;
        self.calls.clear();
        self.detach();
        self.backoff = BACKOFF.0;
    }

    /// The call that an answer belongs to; `None`: nobody waits for it any more.
    pub(crate) fn take_call(&mut self, call: u64) -> Option<Body> {
        self.calls.remove(&call)
    }

    pub(crate) fn waits_for(&self, what: impl Fn(&Body) -> bool) -> bool {
        self.calls.values().any(what)
    }

    pub(crate) fn opened(&mut self, stream: u64) {
        self.stream[0] = self.stream[0].max(stream);
    }

    pub(crate) fn stream_broke(&mut self, stream: u64) {
        self.stream[1] = self.stream[1].max(stream);
    }

    /// The worker's end of the control stream is given up.
    pub(crate) fn detach(&mut self) {
        self.stream[1] = self.stream[0];
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.stream[0] > self.stream[1]
    }

    pub(crate) fn answered(&mut self) {
        self.backoff = BACKOFF.0;
    }

    pub(crate) fn next_pause(&mut self, random: &mut Random) -> u64 {
        let pause = self.backoff;
        self.backoff = (pause * 2).min(BACKOFF.1);
        pause / 2 + random.within(0..pause / 2 + 1)
    }
}

pub(crate) fn drifted(ms: u64, per_mille: i64) -> u64 {
    let shift = i128::from(ms) * i128::from(per_mille) / 1_000;
    u64::try_from(i128::from(ms) + shift).unwrap_or(0)
}

/// Everything there is in a history.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) setting: Setting,
    pub(crate) random: Random,
    pub(crate) now: u64,
    pub(crate) disk: Disk,
    pub(crate) coordinator: Option<Coordinator>,
    pub(crate) coordinator_life: u64,
    pub(crate) coordinator_frozen: u64,
    pub(crate) students: Vec<Student>,
    pub(crate) servers: Vec<Server>,
    pub(crate) oracle: Oracle,
    pub(crate) counts: Counts,
    /// Events of the coordinator that were told.
    pub(crate) told: BTreeSet<String>,
    /// Control streams so far.
    pub(crate) streams: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let mut random = Random::new(options.seed);
        let setting = Setting::new(options.seed, &mut random);
        let mut drift = || random.within(0..101) as i64 - 50;
        let students = (0..setting.students)
            .map(|i| Student::new(Peer::new(format!("student-worker-{i}"), drift()), i))
            .collect();
        let servers = (0..setting.servers)
            .map(|i| Server::new(Peer::new(format!("teacher-server-{i}"), drift())))
            .collect();
        Self {
            options,
            oracle: Oracle::new(&setting),
            setting,
            random,
            now: 0,
            disk: Disk::default(),
            coordinator: None,
            coordinator_life: 0,
            coordinator_frozen: 0,
            students,
            servers,
            counts: Counts::default(),
            told: BTreeSet::new(),
            streams: 0,
            queue: BTreeMap::new(),
            sequence: 0,
        }
    }

    pub(crate) fn calm(&self) -> bool {
        self.now >= self.setting.calm_at
    }

    pub(crate) fn has(&self, plant: Plant) -> bool {
        self.options.plant == Some(plant)
    }

    /// Something of this kind goes wrong now.
    pub(crate) fn fails(&mut self, per_mille: u64) -> bool {
        !self.calm() && self.random.chance(per_mille)
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.options.verbose {
            (self.options.print)(&format!("{:>8} ms  {}", self.now, text()));
        }
    }

    pub(crate) fn after(&mut self, ms: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + ms, self.sequence), event);
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = self.now.max(at);
        Some(event)
    }

    pub(crate) fn peer(&mut self, node: Node) -> &mut Peer {
        let students = self.students.len();
        match node.checked_sub(students) {
            None => &mut self.students[node].peer,
            Some(server) => &mut self.servers[server].peer,
        }
    }

    pub(crate) fn node_of(&self, worker: &str) -> Option<Node> {
        let all = self.students.iter().map(|s| &s.peer);
        let mut all = all.chain(self.servers.iter().map(|s| &s.peer));
        all.position(|p| p.name == worker)
    }

    pub(crate) fn delay(&mut self) -> u64 {
        let jitter = self.setting.jitter;
        1 + self.random.within(0..jitter)
    }

    /// Calls the coordinator; the answer, or the breaking of the connection, comes as an event.
    pub(crate) fn call(&mut self, node: Node, mut body: Body) {
        let now = self.now;
        let peer = self.peer(node);
        peer.next_call += 1;
        let (life, call) = (peer.life, peer.next_call);
        if let Body::Register(registration) = &mut body {
            registration.process = life;
            registration.attempt = call;
        }
        let cut = peer.cut[0] > now;
        peer.calls.insert(call, body.clone());
        let request = Request {
            node,
            life,
            call,
            body,
        };
        let loss = self.setting.loss;
        if cut || self.fails(loss) {
            self.counts.lost += 1;
            self.break_call(node, life, call);
            return;
        }
        let duplication = self.setting.duplication;
        if self.fails(duplication) {
            self.counts.duplicated += 1;
            let delay = self.delay() * 3;
            self.after(delay, Event::Request(Box::new(request.clone())));
        }
        let delay = self.delay();
        self.after(delay, Event::Request(Box::new(request)));
    }

    pub(crate) fn reply(&mut self, (node, life, call): (Node, u64, u64), reply: Reply) {
        let now = self.now;
        let loss = self.setting.loss;
        if self.peer(node).cut[1] > now || self.fails(loss) {
            self.counts.lost += 1;
            self.break_call(node, life, call);
            return;
        }
        let delay = self.delay();
        let event = Event::Reply {
            node,
            life,
            call,
            reply,
        };
        self.after(delay, event);
    }

    pub(crate) fn break_call(&mut self, node: Node, life: u64, call: u64) {
        let noticed = self.random.within(20..2_000);
        self.after(noticed, Event::Broken { node, life, call });
    }

    pub(crate) fn call_again(&mut self, node: Node, body: Body) {
        let mut random = self.random.clone();
        let pause = self.peer(node).next_pause(&mut random);
        self.random = random;
        let life = self.peer(node).life;
        let body = Box::new(body);
        self.after(pause, Event::Again { node, life, body });
    }

    /// Whether an event for a process reaches it now; a frozen one gets it when it goes on.
    pub(crate) fn reaches(&mut self, node: Node, life: u64, event: &Event) -> bool {
        let now = self.now;
        let peer = self.peer(node);
        if !peer.up || peer.life != life {
            return false;
        }
        let until = peer.frozen_until;
        if until > now {
            self.after(until - now, event.clone());
            return false;
        }
        true
    }
}
