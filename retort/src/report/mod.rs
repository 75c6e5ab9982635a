//! What a run leaves behind: `report.json`, `report.html`, and the audit they rest on.
//!
//! Everything here is a pure function of measurements and of the manifests on disk; it must never
//! depend on a runtime, a wire format or a tensor library. The types in this file are
//! `report.json`; `docs/report.schema.json` describes them to other programs. A value that a run
//! cannot have, such as the agreement of a student without teachers, is null.

pub mod audit;
pub mod curves;
pub mod html;
pub mod metrics;
pub mod stats;
mod svg;
#[cfg(test)]
mod tests;
mod verdict;

use serde::{Deserialize, Serialize};

pub use audit::{Audit, AuditError, audit};
pub use curves::{Curves, GroupCurve, Point};

/// `DIR/report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub run: Run,
    pub dataset: Dataset,
    pub teachers: Vec<Teacher>,
    pub students: Vec<Student>,
    /// The same students alone, each named `<student>@alone`.
    pub baselines: Vec<Student>,
    pub soft_targets: SoftTargets,
    pub ledger: Ledger,
    pub throughput: Throughput,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub name: String,
    /// In the order of every metric's `values`.
    pub seeds: Vec<u64>,
    /// Wall clock of the whole run, all seeds.
    pub wall_s: f64,
    /// The command line that repeats the run.
    pub command: String,
    /// Version of the program.
    pub retort: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    pub name: String,
    pub digest: String,
    /// Training samples, labelled or not.
    pub train: u64,
    /// Those of them that have labels.
    pub labelled: u64,
    pub validation: u64,
    pub test: u64,
    /// How many classes.
    pub classes: u64,
}

/// A value measured once per seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub mean: f64,
    /// Standard deviation of the sample; 0 of a single seed, which shows no spread.
    pub sd: f64,
    pub values: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Teacher {
    pub name: String,
    pub parameters: u64,
    /// Size of the exported weights.
    pub bytes: u64,
    pub test_accuracy: Metric,
    /// Versions activated, summed over seeds.
    pub versions: u64,
    /// Distinct versions that students trained on, summed over seeds.
    pub versions_trained_on: u64,
}

/// A student, or the same student alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Student {
    pub name: String,
    pub parameters: u64,
    /// Size of the exported weights.
    pub bytes: u64,
    pub test_accuracy: Metric,
    pub test_nll: Metric,
    pub ece: Metric,
    /// Null in a job without teachers.
    pub agreement_with_teacher: Option<Metric>,
    /// KL(teacher || student) on the test data at temperature 1; null in a job without teachers.
    pub kl_to_teacher: Option<Metric>,
    pub validation_accuracy: Option<Metric>,
    pub per_class: Vec<ClassRow>,
}

/// The test samples with one label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    pub class: String,
    /// Null of a class without test samples.
    pub accuracy: Option<Metric>,
    pub agreement: Option<Metric>,
    /// Test samples with this label.
    pub support: u64,
}

/// What teachers sent, summed over seeds and student groups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SoftTargets {
    /// Samples that students trained on with soft targets.
    pub samples: u64,
    pub frames: u64,
    /// On the wire.
    pub bytes: u64,
    pub encoding: Option<String>,
    pub temperature: Option<f64>,
    /// Samples that students with teachers trained on without any.
    pub samples_without: u64,
    /// In versions.
    pub max_staleness_seen: Option<u64>,
    /// Samples whose soft targets were 0, 1, 2, 3, and 4 or more versions behind.
    pub samples_by_staleness: [u64; 5],
    /// Mean share of the gradient that came from the teacher.
    pub teacher_gradient_share: Option<f64>,
    /// Frames refused: wrong shape, not finite, unknown version.
    pub rejected: u64,
}

/// What became of the samples, recomputed by [`audit()`] and summed over seeds and student groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Epochs of each group, not a sum.
    pub epochs: u64,
    /// Training samples x epochs x groups x seeds.
    pub samples: u64,
    pub committed: u64,
    pub duplicates: u64,
    pub lost: u64,
    pub quarantined: u64,
    /// Samples leased again after a lease was revoked, as the coordinator counted them.
    pub redelivered: u64,
    /// Samples merged, then undone by a return to an older checkpoint.
    pub rolled_back: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Samples that student groups trained on, by the seconds they took.
    pub samples_per_s: Option<f64>,
}

/// Did the teacher help?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub text: String,
    /// Mean over seeds of student minus baseline, in test accuracy (0.05 is five points), of the
    /// first student that has a baseline.
    pub difference: Option<f64>,
    /// Its 95 % interval; null of a single seed.
    pub interval: Option<[f64; 2]>,
}

impl From<Vec<f64>> for Metric {
    /// # Panics
    /// Without values: a seed that could not be measured fails the run, it is not left out.
    fn from(values: Vec<f64>) -> Self {
        let mean = stats::mean(&values).expect("a metric has a value for every seed, and a run a seed");
        assert!(
            values.iter().all(|v| v.is_finite()),
            "a metric is finite, JSON has no other numbers: {values:?}"
        );
        Self {
            mean,
            sd: stats::sample_sd(&values).unwrap_or(0.0),
            values,
        }
    }
}

impl Metric {
    /// A metric that some jobs cannot have: none unless every seed has it.
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect::<Option<_>>()?;
        (!values.is_empty()).then(|| values.into())
    }
}

impl Ledger {
    /// The audit's counts over all student groups; the last two only the coordinator can know.
    pub fn new(audit: &Audit, redelivered: u64, rolled_back: u64) -> Self {
        let counts = audit.totals("student");
        let students = audit.groups.iter().filter(|g| g.kind == "student");
        Self {
            epochs: students.map(|g| g.epochs.len() as u64).max().unwrap_or(0),
            samples: counts.samples,
            committed: counts.committed,
            duplicates: counts.duplicates,
            lost: counts.lost,
            quarantined: counts.quarantined,
            redelivered,
            rolled_back,
        }
    }
}

impl Report {
    /// The bytes of `report.json`.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("keys are names, so JSON holds every value");
        json.push('\n');
        json
    }

    /// The baseline of a student, where the job trained one.
    pub fn baseline_of(&self, student: &str) -> Option<&Student> {
        baseline_of(&self.baselines, student)
    }
}

fn baseline_of<'a>(baselines: &'a [Student], student: &str) -> Option<&'a Student> {
    baselines
        .iter()
        .find(|b| b.name.strip_suffix("@alone") == Some(student))
}
