//! What survives the coordinator's process: records, manifests, the term.

use std::collections::BTreeMap;
use std::rc::Rc;

use retort_coordinator_core::manifest::Manifest;
use retort_coordinator_core::record::{Record, Write};
use retort_data::ranges::RangeSet;

use crate::model::Model;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) term: u64,
    pub(crate) clock: u64,
    pub(crate) records: BTreeMap<String, Record>,
    /// Versions by group: the manifest and the state that its files hold.
    pub(crate) versions: BTreeMap<String, Vec<Stored>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) manifest: Manifest,
    pub(crate) model: Rc<Model>,
    /// Index of the parent among the group's versions.
    pub(crate) parent: Option<usize>,
    /// Its files are damaged.
    pub(crate) torn: bool,
}

impl Disk {
    pub(crate) fn write(&mut self, writes: Vec<Write>) {
        for (key, record) in writes {
            match record {
                Some(record) => self.records.insert(key.path(), record),
                None => self.records.remove(&key.path()),
            };
        }
    }

    /// Positions by epoch that the manifests from a group's newest intact version back to its first took out.
    pub(crate) fn taken_out(&self, group: &str) -> BTreeMap<u32, RangeSet> {
        let mut taken: BTreeMap<u32, RangeSet> = BTreeMap::new();
        let mut at = self.newest(group).map(|(index, _)| index);
        while let Some(stored) = at.and_then(|index| self.versions.get(group)?.get(index)) {
            for cut in &stored.manifest.quarantined {
                let epoch = taken.entry(cut.epoch).or_default();
                *epoch = epoch.union(&cut.positions);
            }
            at = stored.parent;
        }
        taken
    }

    /// The newest intact version of a group.
    pub(crate) fn newest(&self, group: &str) -> Option<(usize, &Stored)> {
        let versions = self.versions.get(group)?;
        versions.iter().enumerate().rev().find(|(_, v)| !v.torn)
    }

    pub(crate) fn model(&self, group: &str, version: u64) -> Option<Rc<Model>> {
        let mut versions = self.versions.get(group)?.iter();
        let found = versions.find(|v| v.manifest.version == version && !v.torn)?;
        Some(found.model.clone())
    }
}
