//! What a run leaves behind: `report.json`, `report.html`, and the audit they rest on.
//!
//! Everything here is a pure function of measurements and of the manifests on disk; it must never
//! depend on a runtime, a wire format or a tensor library. The types in this file are
//! `report.json`; `docs/report.schema.json` describes them to other programs. A value that a run
//! cannot have, such as the agreement of a student without teachers, is null.

pub mod audit;
pub mod compare;
pub mod curves;
pub mod html;
pub mod markdown;
pub mod metrics;
mod numbers;
pub mod stats;
mod svg;
mod tables;
#[cfg(test)]
mod tests;
mod verdict;

use serde::{Deserialize, Serialize};

use metrics::SharedErrors;

pub use audit::{Audit, AuditError, audit};
pub use curves::{Curves, GroupCurve, Point};

/// What a report can say of how its job's values were chosen.
const TUNED: &str = "This command tunes nothing: learning rates, temperature and alpha are the job's. Whoever chose them by \
                     looking at these test figures made them look better than they are; retort experiment chooses on validation \
                     data, with other seeds.";

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
    pub sync: Sync,
    pub throughput: Throughput,
    /// Where every `cost` was measured.
    pub machine: Machine,
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
    /// The job, with everything that the command changed, as TOML.
    #[serde(default)]
    pub job: String,
    /// Seeds whose run an operator tuned, so that the command alone does not repeat them.
    #[serde(default)]
    pub retuned: Vec<Retuned>,
}

/// What held at a run's end instead of the job's schedules; null: they did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retuned {
    pub seed: u64,
    pub alpha: Option<f64>,
    pub temperature: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    pub name: String,
    pub digest: String,
    /// Training samples, labelled or not.
    pub train: u64,
    /// Those of them that have labels and keep them.
    pub labelled: u64,
    /// Those of them that come without a label.
    #[serde(default)]
    pub unlabelled: u64,
    pub validation: u64,
    pub test: u64,
    /// How many classes.
    pub classes: u64,
    #[serde(default)]
    pub bad_rows: BadRows,
    /// More than 1 of a language model, of whose test data each target counts like a sample elsewhere.
    pub targets_per_sample: u64,
    /// Bytes of text that a target of the test data stands for, what stands between documents for one; null unless the data
    /// is a text whose next token is told and whose tokens are all of it.
    #[serde(default)]
    pub text_bytes_per_target: Option<f64>,
}

/// Rows or files of the data that cannot be used and were left out, in every process alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRows {
    pub count: u64,
    /// File, place and reason of the first of them.
    pub first: Vec<String>,
}

impl From<&retort_data::BadRows> for BadRows {
    fn from(bad: &retort_data::BadRows) -> Self {
        Self {
            count: bad.count(),
            first: bad.first().iter().map(ToString::to_string).collect(),
        }
    }
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
    /// Floating-point operations of one sample, twice the multiplications; null of an ONNX model, where nobody counts.
    pub flops_per_sample: Option<u64>,
    pub test_accuracy: Metric,
    pub test_nll: Metric,
    /// Of a token, `e^nll`; null unless the data is a text whose next token is told.
    pub test_perplexity: Option<Metric>,
    /// Bits of a byte of the text, whatever its tokens are; null as `dataset.text_bytes_per_target` is.
    #[serde(default)]
    pub test_bits_per_byte: Option<Metric>,
    pub ece: Metric,
    /// Between seeds; 0 of a fixed teacher, which is the same model under every seed.
    pub churn: Option<f64>,
    pub cost: Option<Cost>,
    /// BLAKE3 of the exported weights, seed by seed; none in older reports.
    #[serde(default)]
    pub weights_blake3: Vec<String>,
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
    /// Floating-point operations of one sample, twice the multiplications.
    pub flops_per_sample: Option<u64>,
    pub test_accuracy: Metric,
    pub test_nll: Metric,
    /// Of a token, `e^nll`; null unless the data is a text whose next token is told.
    pub test_perplexity: Option<Metric>,
    /// Bits of a byte of the text, whatever its tokens are; null as `dataset.text_bytes_per_target` is.
    #[serde(default)]
    pub test_bits_per_byte: Option<Metric>,
    pub ece: Metric,
    /// The teacher that the following are about: the first that the job gives the student, for its baseline as well.
    /// Null, as they are, in a job without teachers.
    pub compared_with: Option<String>,
    pub agreement_with_teacher: Option<Metric>,
    /// KL(teacher || student) on the test data at temperature 1.
    pub kl_to_teacher: Option<Metric>,
    /// The same of what both say at the temperature that the student was taught at; not scaled by its square.
    pub kl_to_teacher_at_temperature: Option<Metric>,
    pub temperature: Option<f64>,
    pub inherited: Option<Inherited>,
    pub validation_accuracy: Option<Metric>,
    /// Mean share of test samples whose top class differs between two seeds, over all pairs of them; null of a single
    /// seed.
    pub churn: Option<f64>,
    /// Null of a baseline, which costs what its student does.
    pub cost: Option<Cost>,
    /// BLAKE3 of the exported weights, seed by seed; none in older reports.
    #[serde(default)]
    pub weights_blake3: Vec<String>,
    /// Where its replicas' time went, over all seeds; null of what was not measured.
    pub time: Option<Time>,
    /// The smaller models that end at an exit; none of a model without exits.
    pub exits: Vec<ExitRow>,
    /// Null where no class was left out of training, or there is no validation data.
    pub left_out: Option<LeftOut>,
    pub per_class: Vec<ClassRow>,
}

/// Shares of the time of a group's replicas; they sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Steps.
    pub compute: f64,
    /// Reading samples.
    pub input: f64,
    /// Waiting for soft targets.
    pub teacher: f64,
    /// Waiting for work: the pace, an epoch's end, the coordinator.
    pub lease: f64,
    /// Waiting for the other replicas and the merge.
    pub sync: f64,
    /// Evaluating, and publishing versions.
    pub checkpoint: f64,
}

impl Time {
    /// Of seconds in the order of the coordinator's activities; none of no time.
    pub fn of(seconds: [f64; 6]) -> Option<Self> {
        let all: f64 = seconds.iter().sum();
        let [compute, input, teacher, lease, sync, checkpoint] = seconds.map(|s| s / all);
        (all > 0.0).then_some(Self {
            compute,
            input,
            teacher,
            lease,
            sync,
            checkpoint,
        })
    }
}

/// The model that ends at one exit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitRow {
    /// Where it is, as in the job.
    pub at: u32,
    pub parameters: u64,
    pub flops_per_sample: Option<u64>,
    pub test_accuracy: Metric,
}

/// Test samples of the classes that training went without (`dataset.without_classes`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Share of them put right; null without any.
    pub accuracy: Option<Metric>,
    /// The same once `bias` is added to the logits of these classes.
    pub corrected: Option<Metric>,
    /// Accuracy on all test samples with that bias.
    pub test_accuracy: Metric,
    /// Chosen on the validation data, which has these classes: the one with which most of it is put right.
    pub bias: Metric,
}

/// Mistakes on the test data that the teacher makes as well; [`metrics::SharedErrors`] has the formula.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inherited {
    /// Samples put wrong.
    pub errors: Metric,
    /// Those where the teacher names the same wrong class.
    pub shared: Metric,
    /// As many would be shared by chance.
    pub expected: Metric,
    /// `(shared - expected) / errors`; null where a seed has no error.
    pub excess: Option<Metric>,
}

/// What the exported model takes to run, measured on one machine: the first seed's model, by
/// `Classifier::logits`, which is what `retort predict` calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Median over calls with one sample.
    pub latency_ms: f64,
    /// 95 of 100 such calls took no longer.
    pub latency_p95_ms: f64,
    /// How many there were, after those that warmed up.
    pub latency_calls: u64,
    /// Samples in each call for the following two.
    pub batch: u64,
    pub samples_per_s: f64,
    /// By the processor's own counter, of all that ran on it; null where it cannot be read.
    pub joules_per_1000: Option<f64>,
}

/// What costs were measured on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As a job names it.
    pub device: String,
    /// As the system names it.
    pub processor: Option<String>,
    /// That the device may use; calls come from one of them, one after the other.
    pub threads: u64,
}

/// The test samples with one label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    pub class: String,
    /// Null of a class without test samples.
    pub accuracy: Option<Metric>,
    pub agreement: Option<Metric>,
    /// Accuracy of the student minus that of the same student alone, paired by seed; null of a baseline, and where
    /// there is none.
    pub gain: Option<Metric>,
    pub inherited: Option<Inherited>,
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
    /// Of each distribution that a sample was trained with: of a classifier's sample, or of a language model's token.
    pub bytes_per_target: Option<f64>,
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

/// How replicas stayed one model, summed over seeds and student groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sync {
    /// Merges, of groups with one replica too.
    pub rounds: u64,
    /// Of weights and states, up and down.
    pub bytes: u64,
    /// From contributions to their merges, of all replicas together.
    pub seconds: f64,
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
    /// What the intervals of all students say alike.
    #[serde(default)]
    pub finding: Finding,
}

/// What an interval says of a teacher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// It lies above zero.
    Helped,
    /// It lies below zero.
    Harmed,
    /// It holds zero, or there is none.
    #[default]
    Open,
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

    /// The differences, seed by seed.
    pub fn minus(&self, other: &Self) -> Self {
        let pairs = self.values.iter().zip(&other.values);
        pairs.map(|(a, b)| a - b).collect::<Vec<_>>().into()
    }
}

impl Inherited {
    /// From what each seed shares with its teacher; none without seeds.
    pub fn of(seeds: &[SharedErrors]) -> Option<Self> {
        let each = |value: fn(&SharedErrors) -> f64| Metric::of(seeds.iter().map(|s| Some(value(s))));
        Some(Self {
            errors: each(|s| s.errors as f64)?,
            shared: each(|s| s.shared as f64)?,
            expected: each(|s| s.expected)?,
            excess: Metric::of(seeds.iter().map(SharedErrors::excess)),
        })
    }

    /// The excess of all seeds' errors together, which also classes have that some seed puts right throughout; none
    /// without any error.
    pub fn pooled(&self) -> Option<f64> {
        let errors = self.errors.mean;
        (errors > 0.0).then(|| (self.shared.mean - self.expected.mean) / errors)
    }
}

impl Student {
    /// Fills in what each class gained over the same student alone.
    pub fn gain_over(&mut self, alone: &Self) {
        for (row, without) in self.per_class.iter_mut().zip(&alone.per_class) {
            let pair = row.accuracy.as_ref().zip(without.accuracy.as_ref());
            row.gain = pair.map(|(with, without)| with.minus(without));
        }
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

pub(crate) fn baseline_of<'a>(baselines: &'a [Student], student: &str) -> Option<&'a Student> {
    baselines
        .iter()
        .find(|b| b.name.strip_suffix("@alone") == Some(student))
}
