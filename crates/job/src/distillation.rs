//! How students learn from their teachers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Features, Loss, Schedule};

/// How students learn from their teachers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Distillation {
    /// The soft loss.
    pub loss: Loss,
    /// Softens teacher and student alike, > 0; an exported model always runs at 1. A schedule's progress is the place of
    /// a block in the order of all epochs.
    pub temperature: Schedule,
    /// Share of the soft loss in `(1 - alpha) CE + alpha SOFT`, within 0..=1.
    pub alpha: Schedule,
    /// Unset: `lead` where a teacher is still learning, `none` where all are fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Oldest version a student may train on, in versions behind the active one.
    pub max_staleness: u32,
    pub pace: Pace,
    pub encoding: Encoding,
    /// How several teachers become one.
    pub combine: Combine,
    /// How much each of several teachers counts.
    pub weights: Weights,
    /// What a student makes of the classes that a cut encoding (`top-K`) left out.
    pub tail: Tail,
    /// What a layer of the student learns from one of a teacher; unset: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
}

impl Default for Distillation {
    fn default() -> Self {
        Self {
            loss: Loss::Kd,
            temperature: Schedule::Constant(4.0),
            alpha: Schedule::Constant(0.9),
            gate: None,
            max_staleness: 2,
            pace: Pace::Students,
            encoding: Encoding::Auto,
            combine: Combine::Probability,
            weights: Weights::Static,
            tail: Tail::Bucket,
            features: None,
        }
    }
}

impl Distillation {
    /// The encoding for so many classes. `auto` is [`retort_codec::Encoding::auto`]'s choice, but whole distributions
    /// where logits are combined and for losses that compare all classes.
    pub fn encoding(&self, classes: usize) -> retort_codec::Encoding {
        match self.encoding {
            Encoding::Fixed(encoding) => encoding,
            Encoding::Auto => match retort_codec::Encoding::auto(classes) {
                retort_codec::Encoding::TopK(_) if self.whole() => retort_codec::Encoding::F16,
                encoding => encoding,
            },
        }
    }

    /// Whether soft targets must be whole distributions.
    fn whole(&self) -> bool {
        self.combine == Combine::Logit || self.loss.whole()
    }
}

/// Whether alpha follows the teacher's measured lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// `alpha · clamp((L_student - L_teacher) / L_student, 0, 1)`, held-out hard losses.
    Lead,
    None,
}

/// How a teacher group's progress is tied to its students'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// Teacher and slowest student stay within one publishing interval of each other's share of work.
    Students,
    /// Version v teaches exactly the positions assigned to it: reproducible bit for bit.
    Lockstep,
    /// Nobody waits for progress; publishes are coalesced.
    Free,
}

/// What a mixture of teachers is the mean of. The two are different teachers: where they disagree, the mean of
/// probabilities is undecided between their answers, the mean of logits prefers what none of them rules out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Combine {
    /// `p = Σ w_k p_k`; distilling it is distilling the weighted sum of the teachers' losses.
    Probability,
    /// `p ∝ exp(Σ w_k log p_k)`, which is the softmax of the weighted mean of the logits at T. Whole distributions only.
    Logit,
}

/// What the weights of a mixture are, of positions that several teachers answered for. They are normalised over those
/// that did. All but the first two differ from sample to sample, and look at probabilities as they were sent, at
/// temperature T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// `students[].teachers[].weight`.
    Static,
    /// The same for all.
    Uniform,
    /// The static weight times the teacher's top probability.
    Confidence,
    /// `w_k = (1 - exp(CE_k) / Σ_j exp(CE_j)) / (K - 1)`, with CE_k the teacher's cross entropy with the label; uniform
    /// for a sample without one. Zhang, Chen and Wang, Confidence-Aware Multi-Teacher Knowledge Distillation, 2022,
    /// <https://arxiv.org/abs/2201.00007>.
    LabelCrossEntropy,
    /// `w_k ∝ 1 / H_k`, the entropy of the teacher's answer, which needs no label.
    InverseEntropy,
}

/// What becomes of the probability of the classes that a teacher's `top-K` left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// One class of its own, compared with the sum of the student's: unbiased for what was kept.
    Bucket,
    /// Left out of the loss: the student is free to give it anything, but the kept classes no longer sum to 1.
    Drop,
    /// Given to the kept classes in proportion: surer than the teacher is.
    Renormalise,
}

/// How soft targets travel: `auto`, or the name of a [`retort_codec::Encoding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Encoding {
    /// By the number of classes, see [`Distillation::encoding`].
    Auto,
    Fixed(retort_codec::Encoding),
}

/// A name that is no [`Encoding`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown encoding {0:?}, expected auto, f32, f16, bf16, u8, or top-K such as top-64")]
pub struct UnknownEncoding(String);

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Fixed(encoding) => encoding.fmt(f),
        }
    }
}

impl FromStr for Encoding {
    type Err = UnknownEncoding;

    fn from_str(name: &str) -> Result<Self, UnknownEncoding> {
        match name {
            "auto" => Ok(Self::Auto),
            name => name
                .parse()
                .map(Self::Fixed)
                .map_err(|_| UnknownEncoding(name.to_owned())),
        }
    }
}

impl TryFrom<String> for Encoding {
    type Error = UnknownEncoding;

    fn try_from(name: String) -> Result<Self, UnknownEncoding> {
        name.parse()
    }
}

impl From<Encoding> for String {
    fn from(encoding: Encoding) -> Self {
        encoding.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_read_as_they_are_written() {
        for name in ["auto", "f32", "f16", "bf16", "u8", "top-1", "top-64"] {
            let encoding: Encoding = name.parse().unwrap();
            assert_eq!(encoding.to_string(), name);
        }
        for name in ["", "Auto", "f64", "top-", "top-0", "top-x", "top-100000000"] {
            let error = name.parse::<Encoding>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("{name:?}")) && error.contains("top-64"),
                "{error}"
            );
        }
    }

    #[test]
    fn auto_sends_whole_distributions_where_they_are_needed() {
        use retort_codec::Encoding as Codec;
        let dkd = Loss::Dkd {
            alpha: 1.0,
            beta: 8.0,
        };
        for classes in [2, 10, 1_000, 100_000] {
            let with = |loss, combine| Distillation {
                loss,
                combine,
                ..Distillation::default()
            };
            for loss in [Loss::Kd, Loss::ReverseKl, Loss::Jsd { beta: 0.5 }] {
                let cut = with(loss, Combine::Probability);
                assert_eq!(cut.encoding(classes), Codec::auto(classes), "{loss:?}");
            }
            for mut whole in [
                with(Loss::Kd, Combine::Logit),
                with(Loss::Mse, Combine::Probability),
                with(dkd, Combine::Probability),
            ] {
                assert!(!matches!(whole.encoding(classes), Codec::TopK(_)), "{whole:?}");
                whole.encoding = Encoding::Fixed(Codec::F32);
                assert_eq!(whole.encoding(classes), Codec::F32);
            }
        }
    }
}
