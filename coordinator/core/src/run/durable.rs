//! What survives the coordinator: records out, and a run taken up again from them.

use std::collections::BTreeMap;

use retort_data::ranges::RangeSet;

use crate::group::Group;
use crate::ids::{Millis, Role, Session};
use crate::manifest::Manifest;
use crate::record::{self, Key, Record, Write};
use crate::run::{Heartbeat, Kind, Member, Run, State};
use crate::spec::RunSpec;
use crate::teacher::Teacher;

impl Run {
    /// Takes up a run under a new term. `manifests`: the newest intact one of each group.
    ///
    /// Members of the former term stay in the list until they register again or their lease runs
    /// out; until then no work is given out in their groups.
    pub fn restore(
        spec: RunSpec,
        (term, now): (u64, Millis),
        records: Vec<Record>,
        manifests: &BTreeMap<String, Manifest>,
    ) -> Self {
        let mut run = Self::new(spec, term, now);
        let mut parts: BTreeMap<String, crate::group::Records> = BTreeMap::new();
        let mut members = Vec::new();
        for record in records {
            match record {
                Record::Run(r) => {
                    run.state = r.state;
                    run.reason = r.reason;
                    run.accepted = r.accepted;
                    run.started = r.started;
                    run.drained = r.drained.into_iter().collect();
                    run.retuned = r.retuned;
                }
                Record::Member(m) => members.push(m),
                Record::Event(event) => run.events.restore(event),
                Record::Teacher(t) => {
                    if let Some(teacher) = run.teacher_mut(&t.name) {
                        teacher.restore(&t);
                    }
                }
                Record::Version(v) => {
                    if let Some(teacher) = run.teacher_mut(&v.teacher) {
                        teacher.publish(v.version, v.index, v.held_out);
                    }
                }
                Record::Group(g) => {
                    let name = g.name.clone();
                    parts.entry(name).or_default().group = Some(*g);
                }
                Record::Merge { group, merge } => parts.entry(group).or_default().merges.push(merge),
                Record::Use {
                    group,
                    teacher,
                    version,
                    samples,
                } => parts
                    .entry(group)
                    .or_default()
                    .uses
                    .push((teacher, version, samples)),
                Record::Point { group, round, point } => {
                    parts.entry(group).or_default().points.push((round, point));
                }
            }
        }
        for i in 0..run.groups.len() {
            let spec = run.groups[i].spec.clone();
            let own = parts.remove(&spec.name).unwrap_or_default();
            run.groups[i] = Group::restore(spec, run.spec.positions, own);
        }
        run.expect_members(members, now);
        run.event(
            now,
            Kind::Run,
            format!("the coordinator started again: term {term}"),
        );
        run.settle_manifests(manifests, now);
        run.stop_if_safe(now);
        run
    }

    fn expect_members(&mut self, members: Vec<record::Member>, now: Millis) {
        let ended = self.state.ended();
        for m in members {
            self.incarnations.insert(m.worker.clone(), m.incarnation);
            let Some(live) = m.live.filter(|_| !ended) else {
                continue;
            };
            let session = Session {
                run: self.spec.id.clone(),
                role: live.role,
                worker: m.worker.clone(),
                incarnation: m.incarnation,
                term: live.term,
            };
            let mut heartbeat = Heartbeat::default();
            match live.role {
                Role::StudentWorker => {
                    if live.keeper
                        && let Some(group) = self.group_mut(&live.part)
                    {
                        group.expect(&m.worker);
                    }
                }
                Role::TeacherServer => {
                    let max_staleness = self.spec.max_staleness;
                    if let Some(teacher) = self.teacher_mut(&live.part) {
                        teacher.join(&m.worker, &live.address, max_staleness);
                        // It serves what it served; the rest it says when it comes back.
                        heartbeat.active = teacher.active;
                        heartbeat.staged.extend(teacher.active);
                        if let Some(server) = teacher.servers.get_mut(&m.worker) {
                            server.staged = heartbeat.staged.clone();
                            server.active = heartbeat.active;
                        }
                    }
                }
            }
            self.add_member(Member {
                session,
                part: live.part,
                last_seen: now,
                heartbeat,
                address: live.address,
                registered: live.registered,
                answered: None,
                void_until: 0,
                released: RangeSet::new(),
            });
        }
    }

    fn settle_manifests(&mut self, manifests: &BTreeMap<String, Manifest>, now: Millis) {
        for i in 0..self.groups.len() {
            let name = self.groups[i].spec.name.clone();
            let manifest = manifests.get(&name);
            if let Some(text) = self.groups[i].settle_with(manifest, now) {
                self.event(now, Kind::Run, text);
                let newest = manifest.map(|m| m.version);
                self.forget_above(newest, |t| t.spec.source.files_of() == Some(&name));
                let held_out = manifest.and_then(|m| m.held_out).map(Into::into);
                if let Some(m) = manifest {
                    let taken_out = m.quarantined.iter().filter(|c| c.epoch == m.epoch);
                    let in_epoch = m.committed.len() + taken_out.map(|c| c.positions.len()).sum::<u64>();
                    let place = u64::from(m.epoch) * self.spec.positions + in_epoch;
                    self.note_version(&name, (m.version, place), held_out, now);
                }
            }
        }
        self.settle_own_files(manifests);
        if self.state == State::Done && !self.groups.iter().all(Group::is_done) {
            self.set_state(State::Running, "a version that had ended it is damaged", now);
        }
        self.start_if_provided(now);
        self.end_if_done(now);
    }

    /// Fixed teachers and averages have manifests of their own, which are their commit records.
    fn settle_own_files(&mut self, manifests: &BTreeMap<String, Manifest>) {
        for i in 0..self.teachers.len() {
            let teacher = &self.teachers[i];
            if teacher.spec.source.files_of().is_some() {
                continue;
            }
            let name = teacher.spec.name.clone();
            let manifest = manifests.get(&name);
            let (found, known) = (manifest.map(|m| m.version), teacher.newest());
            if found < known {
                self.forget_above(found, |t| t.spec.name == name);
            } else if let Some(m) = manifest.filter(|_| found > known) {
                self.teachers[i].publish(m.version, m.version, m.held_out.map(Into::into));
                self.dirty.insert(Key::Version(name, m.version));
            }
        }
    }

    /// Versions above the newest intact one are lost to these teachers.
    fn forget_above(&mut self, newest: Option<u64>, of: impl Fn(&Teacher) -> bool) {
        let max_staleness = self.spec.max_staleness;
        for teacher in self.teachers.iter_mut().filter(|t| of(t)) {
            let name = &teacher.spec.name;
            self.dirty.insert(Key::Teacher(name.clone()));
            let name = name.clone();
            for version in teacher.forget_above(newest, max_staleness) {
                self.dirty.insert(Key::Version(name.clone(), version));
            }
        }
    }

    /// The records that changed since this was last called. They must be durable before anybody
    /// hears of what changed them.
    pub fn take_writes(&mut self) -> Vec<Write> {
        let mut keys: Vec<Key> = std::mem::take(&mut self.dirty).into_iter().collect();
        for group in &mut self.groups {
            keys.extend(group.take_dirty());
        }
        keys.into_iter()
            .map(|key| {
                let record = self.record(&key);
                (key, record)
            })
            .collect()
    }

    fn record(&self, key: &Key) -> Option<Record> {
        match key {
            Key::Run => Some(Record::Run(record::Run {
                state: self.state,
                reason: self.reason.clone(),
                accepted: self.accepted,
                started: self.started,
                drained: self.drained.iter().cloned().collect(),
                retuned: self.retuned,
            })),
            Key::Member(worker) => Some(Record::Member(record::Member {
                worker: worker.clone(),
                incarnation: *self.incarnations.get(worker)?,
                live: self.members.get(worker).map(|m| record::Live {
                    role: m.session.role,
                    part: m.part.clone(),
                    term: m.session.term,
                    address: m.address.clone(),
                    keeper: m.session.role == Role::StudentWorker,
                    registered: m.registered,
                }),
            })),
            Key::Event(number) => self.events.get(*number).cloned().map(Record::Event),
            Key::Teacher(name) => self.teacher(name).map(|t| Record::Teacher(t.record())),
            Key::Version(teacher, version) => self.teacher(teacher)?.version_record(*version),
            Key::Group(group) | Key::Merge(group, _) | Key::Use(group, ..) | Key::Point(group, _) => {
                self.group(group)?.record(key)
            }
        }
    }
}
