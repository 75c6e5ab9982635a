//! The coordinator's process: its core, and a shell that writes before it answers.

use std::collections::BTreeMap;
use std::rc::Rc;

use retort_coordinator_core::group::Contributed;
use retort_coordinator_core::ids::{Millis, Refusal, Session};
use retort_coordinator_core::lease::{self, Reason};
use retort_coordinator_core::manifest::{Cut, FORMAT, Manifest};
use retort_coordinator_core::record::Record;
use retort_coordinator_core::round::{ClosedRound, Evaluation, Member, Ticket, Work};
use retort_coordinator_core::run::{Command, Message, Run};
use retort_coordinator_core::spec::Source;

use crate::disk::Stored;
use crate::message::{Body, Event, Node, Refused, Reply, Request, Verb, Weights};
use crate::model::Model;
use crate::plant::Plant;
use crate::world::{World, drifted};

/// How long a question for work is held open, ms.
const LEASE_WAIT: u64 = 5_000;

type Caller = (Node, u64, u64);

#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) run: Run,
    born: u64,
    clock_base: u64,
    drift: i64,
    leases: Vec<(Caller, Session, (u64, u64), u64)>,
    parked: BTreeMap<String, (Caller, Session, Option<Weights>)>,
    /// Manifests on their way to the disk, by group.
    writing: BTreeMap<String, (Caller, Ticket, Rc<Model>)>,
    streams: BTreeMap<String, (Node, u64, u64)>,
    /// The newest merge of each group, for a replica whose answer was lost.
    last: BTreeMap<String, (ClosedRound, Option<Rc<Model>>)>,
    ticking_at: u64,
    told: u64,
}

/// What leaves the process once it is durable.
enum Effect {
    Reply(Caller, Reply),
    Control(String, Message),
}

impl Coordinator {
    fn clock(&self, now: u64) -> Millis {
        Millis(self.clock_base + drifted(now - self.born, self.drift))
    }
}

impl World {
    pub(crate) fn start_coordinator(&mut self) {
        if self.coordinator.is_some() {
            return;
        }
        self.coordinator_life += 1;
        if !self.has(Plant::WrongTerm) || self.disk.term == 0 {
            self.disk.term += 1;
        }
        let term = self.disk.term;
        let clock = Millis(self.disk.clock);
        let spec = self.setting.spec.clone();
        let records: Vec<Record> = self.disk.records.values().cloned().collect();
        let first = records.is_empty();
        let run = if first {
            Run::new(spec, term, clock)
        } else {
            let names = self.disk.versions.keys().cloned().collect::<Vec<_>>();
            let newest = |name: &String| {
                let (_, stored) = self.disk.newest(name)?;
                Some((name.clone(), stored.manifest.clone()))
            };
            let manifests: BTreeMap<String, Manifest> = names.iter().filter_map(newest).collect();
            Run::restore(spec, (term, clock), records, &manifests)
        };
        let drift = self.random.within(0..101) as i64 - 50;
        self.say(|| format!("coordinator starts, term {term}"));
        self.coordinator = Some(Coordinator {
            run,
            born: self.now,
            clock_base: clock.0,
            drift,
            leases: Vec::new(),
            parked: BTreeMap::new(),
            writing: BTreeMap::new(),
            streams: BTreeMap::new(),
            last: BTreeMap::new(),
            ticking_at: 0,
            told: 0,
        });
        self.oracle.term(term);
        self.provide(clock);
        self.check_restored();
        self.settle(Vec::new());
    }

    /// Fixed teachers are uploaded once.
    fn provide(&mut self, clock: Millis) {
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        for teacher in self
            .setting
            .spec
            .teachers
            .iter()
            .filter(|t| t.source == Source::Fixed)
        {
            let known = c
                .run
                .teachers()
                .iter()
                .any(|t| t.spec.name == teacher.name && t.newest().is_some());
            if !known {
                let held_out = Evaluation {
                    loss: 0.5,
                    accuracy: 0.5,
                    samples: 1,
                };
                let _ = c.run.provided(&teacher.name, Some(held_out), clock);
                let stored = Stored {
                    manifest: Manifest {
                        group: teacher.name.clone(),
                        ..Manifest::default()
                    },
                    model: Model::initial(&teacher.name),
                    parent: None,
                    torn: false,
                };
                self.disk.versions.insert(teacher.name.clone(), vec![stored]);
            }
        }
    }

    fn check_restored(&mut self) {
        let Some(c) = &self.coordinator else { return };
        for group in c.run.groups() {
            let stored = self.disk.newest(&group.spec.name);
            self.oracle.restored(group, stored.map(|(i, _)| i));
        }
    }

    pub(crate) fn crash_coordinator(&mut self) {
        let Some(c) = self.coordinator.take() else { return };
        self.counts.crashes += 1;
        self.say(|| "coordinator dies".into());
        for (caller, ticket, model) in c.writing.into_values() {
            self.break_call(caller.0, caller.1, caller.2);
            // It was written, or it was not: nobody is left who heard of it.
            if self.random.within(0..2) == 0 {
                self.commit(&ticket, model, Millis::default());
            }
        }
        let leases = c.leases.into_iter().map(|(caller, ..)| caller);
        let parked = c.parked.into_values().map(|(caller, ..)| caller);
        for (node, life, call) in leases.chain(parked) {
            self.break_call(node, life, call);
        }
        for (node, life, stream) in c.streams.into_values() {
            let noticed = self.random.within(1..500);
            self.after(noticed, Event::StreamBroken { node, life, stream });
        }
        let again = self.random.within(50..3_000);
        self.after(again, Event::CoordinatorStart);
    }

    /// Dies with answers that nobody will get.
    fn crash_with(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Reply((node, life, call), _) = effect {
                self.break_call(node, life, call);
            }
        }
        self.crash_coordinator();
    }

    pub(crate) fn on_request(&mut self, mut request: Request) {
        let caller = (request.node, request.life, request.call);
        if self.coordinator_frozen > self.now {
            let wait = self.coordinator_frozen - self.now;
            self.after(wait, Event::Request(Box::new(request)));
            return;
        }
        if self.coordinator.is_none() {
            self.break_call(caller.0, caller.1, caller.2);
            return;
        }
        // As it was sent: the oracle knows whether that session may write.
        let session = request.body.session().cloned();
        if self.has(Plant::MissingFence) {
            self.pass_off_as_current(&mut request.body);
        }
        let effects = self.serve(caller, request.body);
        if let Some(session) = session {
            let refused = effects
                .iter()
                .any(|e| matches!(e, Effect::Reply(c, Reply::Refused(_)) if *c == caller));
            self.oracle.write(&session, !refused);
        }
        self.settle(effects);
    }

    fn pass_off_as_current(&mut self, body: &mut Body) {
        let Some(c) = &self.coordinator else { return };
        if let Some(session) = body.session_mut()
            && let Some(member) = c.run.members().find(|m| m.session.worker == session.worker)
        {
            *session = member.session.clone();
        }
    }

    fn serve(&mut self, caller: Caller, body: Body) -> Vec<Effect> {
        let now = self.now;
        let full = matches!(body, Body::Publish { .. }) && self.fails(30);
        let leaks = self.has(Plant::LeakedLease);
        let Some(c) = self.coordinator.as_mut() else {
            return Vec::new();
        };
        let clock = c.clock(now);
        let one = |result: Result<Reply, Refusal>| {
            let reply = result.unwrap_or_else(|r| Reply::Refused(judge(&r)));
            vec![Effect::Reply(caller, reply)]
        };
        match body {
            Body::Register(registration) => {
                let told = format!("{} registers: {:?}", registration.worker, registration.claim);
                let result = c.run.register(registration, clock);
                let told = match &result {
                    Ok(a) => format!("{told} -> {:?}", a.start),
                    Err(refused) => format!("{told} -> {refused}"),
                };
                let effects = one(result.map(|a| Reply::Admitted(Box::new(a))));
                self.say(|| told);
                effects
            }
            Body::Beat(session, heartbeat, sent) => one(c
                .run
                .heartbeat(&session, heartbeat, clock)
                .map(|()| Reply::Alive(sent))),
            Body::Attach(session, heartbeat) => {
                if let Err(refused) = c.run.heartbeat(&session, heartbeat, clock) {
                    return one(Err(refused));
                }
                let worker = session.worker;
                self.streams += 1;
                let stream = self.streams;
                c.streams.insert(worker.clone(), (caller.0, caller.1, stream));
                let messages = c.run.resync(&worker).into_iter();
                c.run.set_attached(&worker, true, clock);
                let first = Effect::Reply(caller, Reply::Attached(stream));
                let all = messages.map(|m| Effect::Control(worker.clone(), m));
                std::iter::once(first).chain(all).collect()
            }
            Body::Lease(session, (sequence, mut received)) => {
                let deadline = now + LEASE_WAIT;
                if leaks {
                    received = u64::MAX;
                }
                match c.run.lease(&session, (sequence, received), clock) {
                    Ok(lease::Answer::Idle(
                        Reason::Closing | Reason::Pace | Reason::Paused | Reason::Reclaim,
                    )) => {
                        c.leases.push((caller, session, (sequence, received), deadline));
                        Vec::new()
                    }
                    other => {
                        let told = format!("{} asks {:?}: {other:?}", session.worker, (sequence, received));
                        let effects = one(other.map(|answer| Reply::Lease(sequence, answer)));
                        self.say(|| told);
                        effects
                    }
                }
            }
            Body::Contribute(session, work, weights) => self.contribute(caller, session, work, weights),
            Body::Publish {
                session,
                generation,
                round,
                model,
            } => match c.run.ticket(&session, generation, round) {
                Ok(ticket) if full => {
                    self.counts.disk_full += 1;
                    c.run.commit_failed(&ticket, "no space left", clock);
                    one(Ok(Reply::NotPublished))
                }
                Ok(ticket) => {
                    let group = ticket.group.clone();
                    c.writing.insert(group.clone(), (caller, ticket, model));
                    // A store that is slow, now and then.
                    let takes = if self.fails(50) { 1..4_000 } else { 0..20 };
                    let (takes, life) = (self.random.within(takes), self.coordinator_life);
                    self.after(takes, Event::Written { life, group });
                    Vec::new()
                }
                Err(Refusal::Busy(_)) => one(Ok(Reply::NotPublished)),
                Err(refused) => {
                    let before = c.run.published_as(&session, generation, round);
                    one(before.map(|_| Reply::Published).ok_or(refused))
                }
            },
            Body::Release(session, number, epoch, positions) => {
                let released = c.run.release(&session, number, (epoch, &positions));
                one(released.map(|()| Reply::Done))
            }
            Body::Reject(session, rejected) => {
                one(c.run.reject(&session, &rejected, clock).map(|()| Reply::Done))
            }
            Body::Leave(session) => one(c.run.leave(&session, clock).map(|()| Reply::Done)),
            Body::Fetch(group, version) => {
                let model = self.disk.model(&group, version);
                let reply = model.map_or(Reply::Refused(Refused::Lost), Reply::Fetched);
                vec![Effect::Reply(caller, reply)]
            }
        }
    }

    fn contribute(
        &mut self,
        caller: Caller,
        session: Session,
        mut work: Work,
        weights: Option<Weights>,
    ) -> Vec<Effect> {
        let now = self.now;
        if self.has(Plant::LostAck) && !work.trained.is_empty() {
            let last = work.trained.iter().next_back().map_or(0, |r| r.end - 1);
            if work.trained.remove(last..last + 1) > 0 {
                work.sums.samples -= 1;
            }
        }
        let late = self.has(Plant::LateMerge);
        let Some(c) = self.coordinator.as_mut() else {
            return Vec::new();
        };
        let clock = c.clock(now);
        let worker = session.worker.clone();
        let part = c
            .run
            .members()
            .find(|m| m.session == session)
            .map(|m| m.part.clone());
        if late
            && let Some(group) = part
                .as_ref()
                .and_then(|p| c.run.groups().iter().find(|g| g.spec.name == *p))
        {
            work.round = group.plan().round;
            work.generation = group.plan().generation;
        }
        match c.run.contribute(&session, work, clock) {
            Ok(Contributed::Waiting) => {
                c.parked.insert(worker, (caller, session, weights));
                Vec::new()
            }
            Ok(Contributed::Again) => {
                let reply = part
                    .and_then(|p| c.last.get(&p))
                    .map_or(Reply::Refused(Refused::Lost), |(closed, merged)| {
                        Reply::Merged(closed.plan_of(&worker), merged.clone())
                    });
                vec![Effect::Reply(caller, reply)]
            }
            Err(refused) => vec![Effect::Reply(caller, Reply::Refused(judge(&refused)))],
        }
    }

    /// Writes a version: files, then the manifest, which is the commit record.
    fn commit(&mut self, ticket: &Ticket, model: Rc<Model>, clock: Millis) {
        let parent = self.disk.newest(&ticket.group).map(|(i, _)| i);
        let mut merges = ticket.merges.clone();
        if self.has(Plant::DoubleCommit)
            && let Some(merge) = merges.last().cloned()
        {
            merges.push(merge);
        }
        let manifest = Manifest {
            format: FORMAT,
            run: "run".into(),
            group: ticket.group.clone(),
            version: ticket.version,
            steps: ticket.steps,
            positions: ticket.positions,
            epoch: ticket.epoch,
            round: ticket.round,
            committed: ticket.committed.clone(),
            positions_per_epoch: self.setting.spec.positions,
            merges,
            quarantined: vec![Cut {
                epoch: ticket.epoch,
                positions: ticket.quarantined.clone(),
            }],
            ..Manifest::default()
        };
        self.say(|| format!("group {}: version {} is written", ticket.group, ticket.version));
        self.counts.versions += 1;
        let stored = Stored {
            manifest,
            model,
            parent,
            torn: false,
        };
        self.oracle.committed(&stored);
        self.disk
            .versions
            .entry(ticket.group.clone())
            .or_default()
            .push(stored);
        let held_out = Evaluation {
            loss: 1.0 / (1.0 + ticket.steps as f64),
            accuracy: 0.5,
            samples: 8,
        };
        if let Some(c) = self.coordinator.as_mut() {
            c.run.published(ticket, Some(held_out), clock);
        }
    }

    pub(crate) fn on_operator(&mut self, verb: &Verb) {
        let now = self.now;
        let name = match verb {
            Verb::Drain(node) => self.peer(*node).name.clone(),
            _ => String::new(),
        };
        if let Some(c) = self.coordinator.as_mut() {
            let clock = c.clock(now);
            let _ = match verb {
                Verb::Pause => c.run.pause(clock),
                Verb::Stop => c.run.stop("asked to", clock),
                Verb::Drain(_) => c.run.drain(&name, clock),
                Verb::Resume => c.run.resume(clock),
            };
            self.counts.verbs += 1;
            self.say(|| format!("operator: {verb:?}"));
            self.settle(Vec::new());
        } else if self.calm() {
            self.after(500, Event::Operator(verb.clone()));
        }
    }

    pub(crate) fn on_written(&mut self, life: u64, group: String) {
        if life != self.coordinator_life {
            return;
        }
        if self.coordinator_frozen > self.now {
            let wait = self.coordinator_frozen - self.now;
            return self.after(wait, Event::Written { life, group });
        }
        let now = self.now;
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        let clock = c.clock(now);
        if let Some((caller, ticket, model)) = c.writing.remove(&group) {
            self.commit(&ticket, model, clock);
            self.settle(vec![Effect::Reply(caller, Reply::Published)]);
        }
    }

    pub(crate) fn on_coordinator_tick(&mut self, life: u64) {
        if life != self.coordinator_life {
            return;
        }
        if self.coordinator_frozen > self.now {
            let wait = self.coordinator_frozen - self.now;
            self.after(wait, Event::CoordinatorTick { life });
        } else {
            self.settle(Vec::new());
        }
    }

    /// Decides, writes, and only then lets anybody know.
    fn settle(&mut self, mut effects: Vec<Effect>) {
        let now = self.now;
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        let clock = c.clock(now);
        if c.run.poll_timeout().is_some_and(|at| at <= clock) {
            c.run.handle_timeout(clock);
        }
        self.decide(&mut effects);
        self.ask_parked_leases(&mut effects);
        self.decide(&mut effects);
        self.make_averages(clock);
        self.decide(&mut effects);
        self.oracle_looks();
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        let mut writes = c.run.take_writes();
        if self.options.plant == Some(Plant::UnsavedMerge) {
            writes.retain(|(_, record)| !matches!(record, Some(Record::Merge { .. })));
        }
        let crash = self.setting.crash;
        if !writes.is_empty() {
            if self.has(Plant::EarlyReply) {
                self.release(std::mem::take(&mut effects));
            }
            if self.fails(crash) {
                self.say(|| "... before a write".into());
                return self.crash_with(effects);
            }
            self.disk.write(writes);
            self.disk.clock = clock.0;
            if self.fails(crash) {
                self.say(|| "... after a write".into());
                return self.crash_with(effects);
            }
        }
        self.release(effects);
        self.tick_when_due();
    }

    /// Averages are made and kept like versions, their manifest being the commit record.
    fn make_averages(&mut self, clock: Millis) {
        let due = |world: &mut Self| world.coordinator.as_mut()?.run.average_due(clock);
        while let Some(due) = due(self) {
            let full = self.fails(30);
            let model = self.disk.model(&due.of, due.version);
            let Some(c) = self.coordinator.as_mut() else {
                return;
            };
            let Some(model) = model.filter(|_| !full) else {
                c.run.average_failed(&due.teacher, "no space left", clock);
                continue;
            };
            c.run.averaged(&due.teacher, due.version, clock);
            self.say(|| format!("teacher {}: average {} is written", due.teacher, due.version));
            let manifest = Manifest {
                group: due.teacher.clone(),
                version: due.version,
                ..Manifest::default()
            };
            let stored = Stored {
                manifest,
                model,
                parent: None,
                torn: false,
            };
            self.disk.versions.entry(due.teacher).or_default().push(stored);
        }
    }

    fn tick_when_due(&mut self) {
        let now = self.now;
        let life = self.coordinator_life;
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        let clock = c.clock(now);
        let deadlines = c.leases.iter().map(|(.., deadline)| *deadline);
        let due = c
            .run
            .poll_timeout()
            .map(|at| now + at.since(clock) + at.since(clock) / 15 + 1);
        let Some(at) = deadlines.chain(due).min() else {
            return;
        };
        if c.ticking_at <= now || at < c.ticking_at {
            c.ticking_at = at.max(now + 1);
            let wait = c.ticking_at - now;
            self.after(wait, Event::CoordinatorTick { life });
        }
    }

    fn decide(&mut self, effects: &mut Vec<Effect>) {
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        let mut broken = None;
        let mut rounds = Vec::new();
        while let Some(command) = c.run.poll_command() {
            match command {
                Command::Send { worker, message } => {
                    effects.push(Effect::Control(worker, message));
                }
                Command::CloseRound(closed) => {
                    let mut replies = Vec::new();
                    let mut parts = Vec::new();
                    for Member { worker, samples, .. } in &closed.members {
                        if let Some((caller, _, weights)) = c.parked.remove(worker) {
                            parts.extend(weights.map(|w| (*samples, w)));
                            replies.push((caller, worker.clone()));
                        }
                    }
                    let merged = average(&parts).unwrap_or_else(|e| {
                        broken = Some(format!("group {}, round {}: {e}", closed.group, closed.round));
                        None
                    });
                    for (caller, worker) in replies {
                        let reply = Reply::Merged(closed.plan_of(&worker), merged.clone());
                        effects.push(Effect::Reply(caller, reply));
                    }
                    let brought = closed.members.iter().map(|m| (&m.worker, m.samples));
                    let text = format!(
                        "group {}: round {} of generation {} closes with {:?}",
                        closed.group,
                        closed.round,
                        closed.plan.generation,
                        brought.collect::<Vec<_>>()
                    );
                    rounds.push(text);
                    c.last.insert(closed.group.clone(), (closed, merged));
                }
                Command::Waits { .. } => {}
                Command::AbortRound { workers } => {
                    for worker in workers {
                        if let Some((caller, ..)) = c.parked.remove(&worker) {
                            effects.push(Effect::Reply(caller, Reply::Refused(Refused::Lost)));
                        }
                    }
                }
            }
        }
        // Contributions of sessions that have ended.
        let run = &c.run;
        let orphan = |session: &Session| !run.is_replica(session);
        let gone: Vec<String> = c
            .parked
            .iter()
            .filter(|(_, (_, session, _))| orphan(session))
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in gone {
            if let Some((caller, ..)) = c.parked.remove(&worker) {
                effects.push(Effect::Reply(caller, Reply::Refused(Refused::Lost)));
            }
        }
        for text in rounds {
            self.say(|| text);
        }
        if let Some(text) = broken {
            self.oracle.violated(text);
        }
    }

    fn ask_parked_leases(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        let clock = c.clock(now);
        let mut told = Vec::new();
        for (caller, session, sequence, deadline) in std::mem::take(&mut c.leases) {
            let answer = c.run.lease(&session, sequence, clock);
            let waits = matches!(
                answer,
                Ok(lease::Answer::Idle(
                    Reason::Closing | Reason::Pace | Reason::Paused | Reason::Reclaim
                ))
            );
            if waits && now < deadline {
                c.leases.push((caller, session, sequence, deadline));
                continue;
            }
            let reply = match answer {
                Ok(answer) => Reply::Lease(sequence.0, answer),
                Err(refused) => Reply::Refused(judge(&refused)),
            };
            told.push(format!("{} asks {sequence:?}: {reply:?}", session.worker));
            effects.push(Effect::Reply(caller, reply));
        }
        for text in told {
            self.say(|| text);
        }
    }

    fn release(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply(caller, reply) => {
                    if let Reply::Admitted(admission) = &reply {
                        self.oracle.granted(&admission.session);
                    }
                    self.reply(caller, reply);
                }
                Effect::Control(worker, message) => {
                    if let Message::Activate { version, .. } = &message
                        && let Some(c) = &self.coordinator
                        && let Some(server) = c.run.members().find(|m| m.session.worker == worker)
                    {
                        self.oracle.activated(&server.part, *version);
                    }
                    self.send_control(&worker, message);
                }
            }
        }
    }

    fn send_control(&mut self, worker: &str, message: Message) {
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        let Some(&(node, life, stream)) = c.streams.get(worker) else {
            return;
        };
        let (now, loss) = (self.now, self.setting.loss);
        if self.peer(node).cut[1] > now || self.fails(loss) {
            // Whatever was on the stream is gone with it.
            if let Some(c) = self.coordinator.as_mut() {
                c.streams.remove(worker);
                let clock = c.clock(now);
                c.run.set_attached(worker, false, clock);
            }
            let noticed = self.random.within(20..2_000);
            self.after(noticed, Event::StreamBroken { node, life, stream });
            return;
        }
        // In order: a stream has one delay.
        let delay = 1 + self.setting.jitter / 2;
        let event = Event::Control { node, life, message };
        self.after(delay, event);
    }

    fn oracle_looks(&mut self) {
        if self.options.verbose {
            self.tell_events();
        }
        if let Some(c) = &self.coordinator {
            for group in c.run.groups() {
                self.oracle.look(group);
            }
        }
    }
}

impl World {
    /// What the coordinator has noted since it was last asked.
    fn tell_events(&mut self) {
        let Some(c) = self.coordinator.as_mut() else {
            return;
        };
        let told = std::mem::replace(&mut c.told, c.run.revision());
        let new = usize::try_from(c.run.revision() - told).unwrap_or(usize::MAX);
        let events: Vec<String> = c
            .run
            .events()
            .map(|e| format!("{}: {}", e.at.0, e.text))
            .collect();
        let from = events.len().saturating_sub(new);
        for text in &events[from..] {
            if !self.told.contains(text) {
                self.say(|| format!("  {text}"));
                self.told.insert(text.clone());
            }
        }
    }
}

fn judge(refusal: &Refusal) -> Refused {
    match refusal {
        Refusal::Fenced { .. } | Refusal::Gone(_) => Refused::Lost,
        Refusal::Wait { .. } | Refusal::NoPart { .. } | Refusal::Full { .. } | Refusal::Busy(_) => {
            Refused::Later
        }
        Refusal::Mismatch(_) | Refusal::Invalid(_) => Refused::Ended,
    }
}

/// The mean of the weights, which must have begun as the same.
fn average(parts: &[(u64, Weights)]) -> Result<Option<Rc<Model>>, String> {
    let Some((_, first)) = parts.first() else {
        return Ok(None);
    };
    if let Some((_, other)) = parts.iter().find(|(_, w)| w.base.id != first.base.id) {
        return Err(format!(
            "replicas began with different weights: {:x} and {:x}",
            first.base.id, other.base.id
        ));
    }
    let trained: Vec<Rc<Model>> = parts
        .iter()
        .filter(|(samples, _)| *samples > 0)
        .map(|(_, w)| w.model.clone())
        .collect();
    Ok(Some(match trained.as_slice() {
        [] => first.model.clone(),
        [only] => only.clone(),
        several => Model::merge(&first.base, several),
    }))
}
