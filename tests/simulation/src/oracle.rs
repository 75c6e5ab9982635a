//! What must hold, seen from outside: the oracle keeps its own account of states, sessions and
//! versions, and believes no ledger.

use std::collections::BTreeMap;

use retort_coordinator_core::group::Group;
use retort_coordinator_core::ids::Session;
use retort_data::order::Grid;
use retort_data::ranges::RangeSet;
use retort_student_worker_core::Batch;

use crate::disk::{Disk, Stored};
use crate::message::Frame;
use crate::setting::Setting;

type Contents = BTreeMap<u32, RangeSet>;

#[derive(Debug)]
pub(crate) struct Oracle {
    grid: Grid,
    batch: u64,
    max_staleness: u64,
    /// What each version of each group contains by its lineage, in the order they were written.
    lineages: BTreeMap<String, Vec<Contents>>,
    /// Newest session granted to each worker.
    sessions: BTreeMap<String, Session>,
    term: u64,
    /// Newest version of each teacher that serves.
    active: BTreeMap<String, u64>,
    /// Something happened that explains a pause.
    pub(crate) alive_at: u64,
    pub(crate) violation: Option<String>,
}

impl Oracle {
    pub(crate) fn new(setting: &Setting) -> Self {
        let spec = &setting.spec;
        Self {
            grid: Grid {
                positions: spec.positions,
                block: spec.block,
            },
            batch: u64::from(spec.batch),
            max_staleness: spec.max_staleness,
            lineages: BTreeMap::new(),
            sessions: BTreeMap::new(),
            term: 0,
            active: BTreeMap::new(),
            alive_at: 0,
            violation: None,
        }
    }

    /// The first violation stays.
    pub(crate) fn violated(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// A coordinator started: terms grow (P3).
    pub(crate) fn term(&mut self, term: u64) {
        if term <= self.term {
            self.violated(format!("P3: term {term} follows term {}", self.term));
        }
        self.term = term;
    }

    pub(crate) fn granted(&mut self, session: &Session) {
        let former = self.sessions.insert(session.worker.clone(), session.clone());
        if former.is_some_and(|f| f.incarnation >= session.incarnation) {
            self.violated(format!(
                "P3: {} got incarnation {} again",
                session.worker, session.incarnation
            ));
        }
    }

    /// A write was accepted or refused: only the newest session of this term may write (P3).
    pub(crate) fn write(&mut self, session: &Session, accepted: bool) {
        let current = self.sessions.get(&session.worker) == Some(session) && session.term == self.term;
        if accepted && !current {
            self.violated(format!(
                "P3: a write of {} in incarnation {} of term {} was accepted in term {}",
                session.worker, session.incarnation, session.term, self.term
            ));
        }
    }

    pub(crate) fn activated(&mut self, teacher: &str, version: u64) {
        let newest = self.active.entry(teacher.to_owned()).or_default();
        *newest = version.max(*newest);
    }

    /// A version's files are lost: the newest intact one serves from the next term on.
    pub(crate) fn damaged(&mut self, teacher: &str, left: u64) {
        if let Some(active) = self.active.get_mut(teacher) {
            *active = left.min(*active);
        }
    }

    /// A batch goes to a trainer (P4, P5, P9).
    pub(crate) fn trains(&mut self, batch: &Batch<Frame>, now: u64) {
        for (teacher, version, frame) in &batch.frames {
            if frame.made_by != *version {
                self.violated(format!(
                    "P4: a frame of {teacher} says version {version}, and version {} made it",
                    frame.made_by
                ));
            }
            let active = self.active.get(teacher).copied().unwrap_or(0);
            if version + self.max_staleness < active {
                self.violated(format!(
                    "P5: trained on version {version} of {teacher} at {now} ms while {active} serves and {} are allowed",
                    self.max_staleness
                ));
            }
        }
        let whole = self.grid.range(batch.id.block);
        let (start, end) = (batch.positions.start, batch.positions.end);
        let inside = start < end && whole.start <= start && end <= whole.end;
        let cell = |p: u64| (p - whole.start) / self.batch;
        if !inside || cell(start) != cell(end - 1) {
            self.violated(format!(
                "P9: batch {:?} does not lie on the grid",
                batch.positions
            ));
        }
    }

    /// A manifest was written: what it says by its lineage is what its files contain (P2, P8).
    pub(crate) fn committed(&mut self, stored: &Stored) {
        let m = &stored.manifest;
        let lineage = self.lineages.entry(m.group.clone()).or_default();
        let mut contents = stored
            .parent
            .and_then(|p| lineage.get(p).cloned())
            .unwrap_or_default();
        let mut twice = None;
        for merge in &m.merges {
            for cut in merge.contributions.iter().flat_map(|c| &c.trained) {
                let known = contents.entry(cut.epoch).or_default();
                for range in cut.positions.iter() {
                    if known.insert_disjoint(range.clone()).is_err() {
                        twice = Some((cut.epoch, range));
                    }
                }
            }
        }
        lineage.push(contents.clone());
        let at = format!("version {} of {}", m.version, m.group);
        if let Some((epoch, range)) = twice {
            self.violated(format!(
                "P2: {at} lists positions {range:?} of epoch {epoch} twice"
            ));
        }
        if stored.model.twice.values().any(|t| !t.is_empty()) {
            self.violated(format!("P2: {at} contains twice: {:?}", stored.model.twice));
        }
        let filled = |c: &Contents| -> Contents {
            let some = c.iter().filter(|(_, p)| !p.is_empty());
            some.map(|(e, p)| (*e, p.clone())).collect()
        };
        if filled(&stored.model.contents) != filled(&contents) {
            self.violated(format!(
                "P8: {at} contains {:?}, its lineage says {:?}",
                filled(&stored.model.contents),
                filled(&contents)
            ));
        }
        let cut = contents.get(&m.epoch).cloned().unwrap_or_default();
        if cut != m.committed {
            self.violated(format!(
                "P8: the cut of {at} is {}, its lineage says {cut}",
                m.committed
            ));
        }
    }

    /// A ledger as it stands (P1).
    pub(crate) fn look(&mut self, group: &Group) {
        let counted = group.ledger.counted();
        let sum: u64 = counted.iter().sum();
        if counted != group.ledger.counts() || sum != group.ledger.positions() {
            self.violated(format!(
                "P1: group {} counts {:?}, and holds {counted:?}",
                group.spec.name,
                group.ledger.counts()
            ));
        }
    }

    /// A ledger that was taken up again agrees with the newest intact manifest.
    pub(crate) fn restored(&mut self, group: &Group, newest: Option<usize>) {
        let lineage = self.lineages.get(&group.spec.name);
        let contents = newest.and_then(|n| lineage?.get(n).cloned()).unwrap_or_default();
        let epoch = group.ledger.epoch();
        let durable = contents.get(&epoch).cloned().unwrap_or_default();
        if durable != *group.ledger.committed() {
            self.violated(format!(
                "P2: group {} starts with {} of epoch {epoch} as committed, its newest manifest has {durable}",
                group.spec.name,
                group.ledger.committed()
            ));
        }
    }

    /// The run is done: every position of every epoch is in the newest state once, or was taken out by a manifest.
    pub(crate) fn ended(&mut self, group: &Group, disk: &Disk, poison: &dyn Fn(u32) -> Option<u64>) {
        let name = group.spec.name.clone();
        let Some((_, stored)) = disk.newest(&name) else {
            return self.violated(format!("P2: group {name} ended without a version"));
        };
        let taken_out = disk.taken_out(&name);
        for epoch in 0..group.spec.epochs {
            let held = stored.model.contents.get(&epoch).cloned().unwrap_or_default();
            let missing = RangeSet::from(0..self.grid.positions).difference(&held);
            let taken = taken_out.get(&epoch).cloned().unwrap_or_default();
            if missing != taken {
                self.violated(format!(
                    "P2: epoch {epoch} of {name} misses {missing}, and {taken} were taken out"
                ));
            }
            if let Some(position) = poison(epoch)
                && held.contains(position)
            {
                self.violated(format!("group {name} trained on the poison at {position}"));
            }
        }
    }
}
