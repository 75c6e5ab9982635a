//! What replicas contribute to a round, what they are told to do next, and what a round adds up to.

use std::collections::BTreeMap;

use retort_data::ranges::RangeSet;
use serde::{Deserialize, Serialize};

use crate::manifest::{Merge, null_as_nan};

/// What all replicas of a group do until the next merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundPlan {
    /// Rolled-back histories so far.
    pub generation: u64,
    /// Counts merges, from 0.
    pub round: u64,
    /// Batches before a contribution is due.
    pub steps: u32,
    /// Share of the soft loss after schedule and gate.
    pub alpha: f64,
    /// Why alpha is what it is; `None`: no gate.
    pub gate: Option<Gate>,
    /// Publish the state at the start of this round.
    pub publish: bool,
    /// Evaluate on the held-out samples before stepping.
    pub evaluate: bool,
    /// Contributions carry weights.
    pub exchange: bool,
    /// The contribution also carries the state at the start of this round, for a replica that joined.
    #[serde(default)]
    pub hand_over: bool,
    /// Positions merged before this round.
    #[serde(default)]
    pub positions: u64,
}

/// The teacher's measured lead, from held-out hard losses (nats).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Version of the teacher that was measured.
    pub teacher_version: u64,
    /// Its loss.
    #[serde(deserialize_with = "null_as_nan")]
    pub teacher_loss: f64,
    /// The student's loss.
    #[serde(deserialize_with = "null_as_nan")]
    pub student_loss: f64,
    /// `clamp((student - teacher) / student, 0, 1)`.
    pub lead: f64,
}

impl Gate {
    /// Smallest student loss that is divided by; below it nothing is left to learn from labels.
    const EPSILON: f64 = 1e-9;

    /// The lead of a teacher over a student.
    pub fn new(teacher_version: u64, teacher_loss: f64, student_loss: f64) -> Self {
        let lead = (student_loss - teacher_loss) / student_loss.max(Self::EPSILON);
        // A loss that is not a number gives no lead.
        let lead = if lead.is_finite() {
            lead.clamp(0.0, 1.0)
        } else {
            0.0
        };
        Self {
            teacher_version,
            teacher_loss,
            student_loss,
            lead,
        }
    }
}

/// How a replica begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Initial weights, a function of the seed.
    Init,
    /// The published version.
    Restore(u64),
    /// An empty contribution to the next merge; the optimizer state comes from this version, if any.
    Join(Option<u64>),
    /// The state it has, with these untrained positions still its own.
    Resume(RangeSet),
}

/// What a replica that lost its session still has. It asks to go on with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claim {
    /// Group it trained.
    pub part: String,
    /// Rolled-back histories it knows of.
    pub generation: u64,
    /// Its state began at the start of this round.
    pub round: u64,
    /// Epoch of the positions.
    pub epoch: u32,
    /// Positions that its state contains since the round's start.
    pub trained: RangeSet,
    /// Positions leased and not trained.
    pub held: RangeSet,
    /// It still has the snapshot of the round's start that it was to publish.
    pub snapshot: bool,
}

/// Mean loss and accuracy on the held-out samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood, nats.
    #[serde(deserialize_with = "null_as_nan")]
    pub loss: f64,
    /// 0..=1.
    pub accuracy: f64,
    /// Samples evaluated.
    pub samples: u64,
}

/// What one replica did since the last merge.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    /// Rolled-back histories the replica knows of.
    pub generation: u64,
    /// Round it contributes to.
    pub round: u64,
    /// It holds no state yet; everything else is empty.
    pub joining: bool,
    /// Epoch of `trained`.
    pub epoch: u32,
    /// Positions trained exactly once.
    pub trained: RangeSet,
    /// Optimizer steps.
    pub steps: u32,
    /// Sums over the samples.
    pub sums: Sums,
    /// The evaluation that the plan asked for.
    pub held_out: Option<Evaluation>,
    /// Teacher -> version -> samples trained on it.
    pub teacher_use: BTreeMap<String, BTreeMap<u64, u64>>,
}

/// Sums and counts over samples, so that means over replicas and rounds are right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Samples trained.
    pub samples: u64,
    /// Hard loss over `labelled`, nats.
    #[serde(deserialize_with = "null_as_nan")]
    pub hard_loss: f64,
    /// Labelled samples.
    pub labelled: u64,
    /// KL at temperature T over `taught`, nats.
    #[serde(deserialize_with = "null_as_nan")]
    pub kl: f64,
    /// Samples with soft targets.
    pub taught: u64,
    /// The teacher's share of the gradient, weighted by samples.
    #[serde(deserialize_with = "null_as_nan")]
    pub gradient_share: f64,
    /// Seconds in optimizer steps.
    pub step_seconds: f64,
    /// Frames that reached the loss.
    pub frames: u64,
    /// Their payload bytes.
    pub frame_bytes: u64,
    /// Largest staleness trained on.
    pub max_staleness: u64,
    /// Samples with soft targets that were 0, 1, 2, 3, and 4 or more versions behind.
    pub staleness: [u64; 5],
    /// Loss between a layer of the student and one of its teacher over `hinted`, unweighted.
    #[serde(default, deserialize_with = "null_as_nan")]
    pub feature_loss: f64,
    /// Samples with a teacher's features.
    #[serde(default)]
    pub hinted: u64,
    /// Bytes exchanged with the other replicas, both ways.
    #[serde(default)]
    pub exchanged_bytes: u64,
    /// Seconds from contributions to their merges.
    #[serde(default)]
    pub sync_seconds: f64,
    /// Where the replicas' seconds went, by [`Activity`].
    #[serde(default)]
    pub spent: Spent,
}

/// Seconds by [`Activity`].
pub type Spent = [f64; Activity::ALL.len()];

/// What a replica does, or waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Steps.
    Compute,
    /// Reads samples.
    Input,
    /// Waits for soft targets.
    Teacher,
    /// Waits for work.
    Lease,
    /// Waits for the other replicas and the merge.
    Sync,
    /// Evaluates, takes a snapshot, publishes it.
    Checkpoint,
}

impl Activity {
    /// In the order of [`Sums::spent`].
    pub const ALL: [Self; 6] = [
        Self::Compute,
        Self::Input,
        Self::Teacher,
        Self::Lease,
        Self::Sync,
        Self::Checkpoint,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Input => "input",
            Self::Teacher => "teacher",
            Self::Lease => "lease",
            Self::Sync => "sync",
            Self::Checkpoint => "checkpoint",
        }
    }
}

impl ClosedRound {
    fn steps_of(&self, member: &str) -> Option<u32> {
        let at = self
            .members
            .binary_search_by(|m| m.worker.as_str().cmp(member))
            .ok()?;
        self.members[at].steps
    }

    /// The plan as one member gets it.
    pub fn plan_of(&self, member: &str) -> RoundPlan {
        RoundPlan {
            steps: self.steps_of(member).unwrap_or(self.plan.steps),
            publish: self.publisher.as_deref() == Some(member),
            hand_over: self.giver.as_deref() == Some(member),
            ..self.plan.clone()
        }
    }
}

impl Sums {
    /// The mean of [`Sums::staleness`]; `None`: nothing was taught.
    pub fn mean_staleness(&self) -> Option<f64> {
        let count: u64 = self.staleness.iter().sum();
        let behind = self.staleness.iter().zip(0u64..).map(|(n, by)| n * by);
        (count > 0).then(|| behind.sum::<u64>() as f64 / count as f64)
    }

    /// Adds another replica's or round's.
    pub fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.hard_loss += other.hard_loss;
        self.labelled += other.labelled;
        self.kl += other.kl;
        self.taught += other.taught;
        self.gradient_share += other.gradient_share;
        self.feature_loss += other.feature_loss;
        self.hinted += other.hinted;
        self.exchanged_bytes += other.exchanged_bytes;
        self.sync_seconds += other.sync_seconds;
        for (sum, more) in self.spent.iter_mut().zip(other.spent) {
            *sum += more;
        }
        self.step_seconds += other.step_seconds;
        self.frames += other.frames;
        self.frame_bytes += other.frame_bytes;
        self.max_staleness = self.max_staleness.max(other.max_staleness);
        for (sum, more) in self.staleness.iter_mut().zip(other.staleness) {
            *sum += more;
        }
    }
}

/// One of those whose contributions closed a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its name.
    pub worker: String,
    /// Its weight in the merge; 0: it brought no weights.
    pub samples: u64,
    /// Its steps in the next round, by measured rate; `None`: what the plan says.
    pub steps: Option<u32>,
    /// It came with nothing, and gets its first state.
    pub joined: bool,
}

/// A merge that the shell carries out: average, then answer every parked contribution.
#[derive(Debug, Clone, PartialEq)]
pub struct ClosedRound {
    /// Group it belongs to.
    pub group: String,
    /// Round that closed.
    pub round: u64,
    /// Members in merge order, which is the order of their names.
    pub members: Vec<Member>,
    /// Member that publishes the merged state, if one shall.
    pub publisher: Option<String>,
    /// Member that hands the merged state over to those who joined, where the merge alone is no state.
    pub giver: Option<String>,
    /// What everybody does next, but for the steps and `publish`, which differ by member.
    pub plan: RoundPlan,
}

/// What a version about to be published contains; the shell writes it into the manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ticket {
    /// Group.
    pub group: String,
    /// Number the version gets.
    pub version: u64,
    /// The state stands at the start of this round.
    pub round: u64,
    /// Optimizer steps in it.
    pub steps: u64,
    /// Positions in it.
    pub positions: u64,
    /// Epoch it stands in.
    pub epoch: u32,
    /// Positions of that epoch in it, along the whole lineage.
    pub committed: RangeSet,
    /// Merges since the parent.
    pub merges: Vec<Merge>,
    /// Positions taken out of this epoch so far.
    pub quarantined: RangeSet,
}

/// Means over one round, for curves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Optimizer steps so far.
    pub step: u64,
    /// Positions merged so far.
    pub positions: u64,
    /// Epoch.
    pub epoch: u32,
    /// Mean hard loss, nats.
    pub hard_loss: Option<f64>,
    /// Mean KL at T, nats.
    pub kl: Option<f64>,
    /// Mean loss between layers, unweighted.
    #[serde(default)]
    pub feature_loss: Option<f64>,
    /// Held-out evaluation, where one was due.
    pub held_out: Option<Evaluation>,
    /// Alpha of the round.
    pub alpha: Option<f64>,
    /// Newest teacher version trained on.
    pub teacher_version: Option<u64>,
    /// Mean share of the teacher in the gradient.
    pub gradient_share: Option<f64>,
    /// Samples per second of all replicas.
    pub samples_per_s: Option<f64>,
    /// Replicas that brought something.
    #[serde(default)]
    pub replicas: u32,
    /// Versions that its soft targets were behind the newest, in the mean of the samples; 4 stands for more.
    #[serde(default)]
    pub staleness: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_staleness_counts_samples() {
        assert_eq!(Sums::default().mean_staleness(), None);
        let sums = Sums {
            staleness: [6, 1, 0, 1, 0],
            ..Sums::default()
        };
        assert_eq!(sums.mean_staleness(), Some(0.5));
    }
}
