//! Taking up what former terms wrote.

use std::collections::BTreeMap;

use anyhow::Context;
use retort_coordinator_core::manifest::Manifest;
use retort_coordinator_core::record::{Key, Record};
use retort_coordinator_core::run::{Run, State};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;

use super::{Brain, Entry, Submission};
use crate::journal::{Batch, Journal};
use crate::spec::{Data, run_spec};

const TERM: &str = "meta/term";
/// Where the monotonic clock stood, in ms.
pub(super) const CLOCK: &str = "meta/clock";

pub(super) fn submission_key(run: &str) -> String {
    format!("submission/{run}")
}

pub(super) fn report_key(run: &str) -> String {
    format!("report/{run}")
}

pub(super) fn record_key(run: &str, key: &Key) -> String {
    format!("run/{run}/{}", key.path())
}

pub(super) fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("keys are strings or integers, so JSON holds every record")
}

fn from_bytes<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("read record {key}"))
}

impl Brain {
    /// Reads everything, and makes a new term durable before anybody hears of it.
    pub(super) fn restore(&mut self, journal: &mut dyn Journal) -> anyhow::Result<()> {
        let all = journal.load()?;
        let number =
            |key: &str| -> anyhow::Result<u64> { all.get(key).map_or(Ok(0), |bytes| from_bytes(key, bytes)) };
        self.term = number(TERM)? + 1;
        self.clock_base = number(CLOCK)?;
        let term = Batch::from([(TERM.to_owned(), Some(to_bytes(&self.term)))]);
        journal.write(&term).context("write the new term")?;
        let mut submissions: Vec<Submission> = Vec::new();
        for (key, bytes) in all.iter().filter(|(key, _)| key.starts_with("submission/")) {
            submissions.push(from_bytes(key, bytes)?);
        }
        submissions.sort_by_key(|s| s.order);
        for submission in submissions {
            let prefix = format!("run/{}/", submission.id);
            let mut records: Vec<Record> = Vec::new();
            for (key, bytes) in all.iter().filter(|(key, _)| key.starts_with(&prefix)) {
                records.push(from_bytes(key, bytes)?);
            }
            let mut entry = self.restore_run(submission, records)?;
            entry.reported = all.contains_key(&report_key(&entry.submission.id));
            self.runs.push(entry);
        }
        if !self.runs.is_empty() {
            info!(term = self.term, runs = self.runs.len(), "taken up again");
        }
        Ok(())
    }

    fn restore_run(&self, submission: Submission, records: Vec<Record>) -> anyhow::Result<Entry> {
        let id = submission.id.clone();
        let job = retort_job::parse(&submission.job_toml, std::path::Path::new("job"), &[])
            .with_context(|| format!("job of run {id}"))?;
        let data = Data {
            positions: submission.positions,
            digest: submission.dataset_digest.clone(),
        };
        let spec = run_spec(id.clone(), &job, data);
        let names = spec.groups.iter().map(|g| &g.name);
        let names: Vec<String> = names
            .chain(spec.teachers.iter().map(|t| &t.name))
            .cloned()
            .collect();
        // A run that is over for good needs no files any more, which may be all that a fleet ever made.
        let is_over =
            |r: &Record| matches!(r, Record::Run(run) if matches!(run.state, State::Done | State::Failed));
        let goes_on = !records.iter().any(is_over);
        let mut manifests: BTreeMap<String, Manifest> = BTreeMap::new();
        let mut parents = BTreeMap::new();
        for name in names {
            if let Some((newest, hash)) = self.store.newest_intact((&id, &name), goes_on)? {
                parents.insert(name.clone(), hash);
                manifests.insert(name, newest);
            }
        }
        let run = Run::restore(spec, (self.term, self.now()), records, &manifests);
        let mut entry = Entry::new(run, submission);
        entry.parents = parents;
        Ok(entry)
    }
}
