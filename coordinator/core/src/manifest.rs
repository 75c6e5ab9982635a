//! The commit record of a group's version.
//!
//! A version of a group exists once its `manifest.json` does: it names the weights by hash, the
//! samples merged since its parent, and the parent by the hash of *its* manifest. The chain of
//! parents from a version back to version 0 is that version's lineage, and is all that an audit
//! needs to say which samples the weights contain.

use std::collections::BTreeMap;

use retort_data::ranges::RangeSet;
use serde::{Deserialize, Deserializer, Serialize};

use crate::round::Evaluation;

/// The format that [`Manifest`] writes and reads.
pub const FORMAT: u32 = 1;

/// File name of a manifest in its version's folder.
pub const FILE_NAME: &str = "manifest.json";

/// One cut of weights, optimizer, randomness, ledger and teacher versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: u32,
    /// The term of the coordinator that wrote it: of two with one version the later term's counts. 0: written before terms were.
    #[serde(default)]
    pub term: u64,
    /// The run this group belongs to.
    pub run: String,
    /// The group's name in the job.
    pub group: String,
    /// What the group is: `"teacher"`, `"student"` or `"baseline"`.
    pub kind: String,
    /// Grows along the lineage and never goes back.
    pub version: u64,
    /// [`hash`] of the parent's manifest bytes; none for version 0 only.
    pub parent: Option<String>,
    /// Optimizer steps taken so far.
    pub steps: u64,
    /// Samples merged so far, along the whole lineage.
    pub positions: u64,
    /// The epoch this cut lies in.
    pub epoch: u32,
    /// The weights stand at the start of this round.
    pub round: u64,
    /// Positions of `epoch` that the weights contain, along the whole lineage: the ledger's cut.
    pub committed: RangeSet,
    /// Epochs the group is to train.
    pub epochs: u32,
    /// Positions of one epoch; each is to be merged once or quarantined.
    pub positions_per_epoch: u64,
    /// Key of the order and of the initial weights.
    pub seed: u64,
    /// Names the data and its splits.
    pub dataset_digest: String,
    /// What was merged since the parent, in order.
    pub merges: Vec<Merge>,
    /// Positions given up. Repeating those of the parent is allowed: an audit takes the union.
    pub quarantined: Vec<Cut>,
    /// Every file of the version, by its path relative to the manifest.
    pub files: BTreeMap<String, FileDigest>,
    /// By teacher, the version that was active when this was written.
    pub teacher_versions: BTreeMap<String, u64>,
    /// The held-out measurement of exactly these weights, where one was made.
    pub held_out: Option<HeldOut>,
}

/// One round of contributions that entered the state together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    /// Number of the round within the run of the group.
    pub round: u64,
    /// What each replica brought.
    pub contributions: Vec<Contribution>,
}

impl Merge {
    /// All positions that it merged, all of one epoch and disjoint.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<u64>> + '_ {
        let cuts = self.contributions.iter().flat_map(|c| &c.trained);
        cuts.flat_map(|cut| cut.positions.iter())
    }
}

/// What one replica brought to a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The replica's name.
    pub worker: String,
    /// Which life of that replica it was.
    pub incarnation: u64,
    /// Optimizer steps it took since the round's start.
    pub steps: u32,
    /// Exactly the positions its displacement contains.
    pub trained: Vec<Cut>,
    /// By teacher, then version: samples whose soft targets came from it.
    pub teacher_versions: BTreeMap<String, BTreeMap<u64, u64>>,
}

/// Positions of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// Counted from 0.
    pub epoch: u32,
    /// Positions in the epoch's order.
    pub positions: RangeSet,
}

/// Size and content of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Length in bytes.
    pub bytes: u64,
    /// blake3 of the content, in hex.
    pub blake3: String,
    /// Where it lies in a bucket; absent: beside the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// A measurement on data that no group trains on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Mean hard loss in nats. JSON has no NaN, so the loss of a diverged group is written as null.
    #[serde(deserialize_with = "null_as_nan")]
    pub loss: f64,
    /// Share of samples whose most likely class is the label.
    pub accuracy: f64,
    /// Samples measured.
    pub samples: u64,
}

impl From<Evaluation> for HeldOut {
    fn from(e: Evaluation) -> Self {
        Self {
            loss: e.loss,
            accuracy: e.accuracy,
            samples: e.samples,
        }
    }
}

impl From<HeldOut> for Evaluation {
    fn from(h: HeldOut) -> Self {
        Self {
            loss: h.loss,
            accuracy: h.accuracy,
            samples: h.samples,
        }
    }
}

impl Manifest {
    /// The bytes that go to disk and that [`hash`] is taken of. Equal manifests give equal bytes:
    /// fields have a fixed order and maps are sorted.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec_pretty(self).expect("keys are strings or integers, so JSON holds every value");
        bytes.push(b'\n');
        bytes
    }

    /// Reads what [`Manifest::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(Error::Malformed)?;
        match manifest.format {
            FORMAT => Ok(manifest),
            other => Err(Error::Format(other)),
        }
    }
}

/// What a child names its parent by: blake3 of the manifest's bytes, in hex.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// JSON has no NaN: a loss that is not finite is written as null.
pub(crate) fn null_as_nan<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(input)?.unwrap_or(f64::NAN))
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Torn, or never a manifest.
    #[error("parse manifest")]
    Malformed(#[source] serde_json::Error),
    /// Written by another release.
    #[error("manifest format {0} is unknown, this release reads {FORMAT}")]
    Format(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            term: 1,
            run: "r".into(),
            group: "small".into(),
            kind: "student".into(),
            version: 0,
            parent: None,
            steps: 0,
            positions: 0,
            epoch: 0,
            round: 0,
            committed: RangeSet::new(),
            epochs: 2,
            positions_per_epoch: 100,
            seed: 1,
            dataset_digest: "d".into(),
            merges: vec![Merge {
                round: 3,
                contributions: vec![Contribution {
                    worker: "small-0".into(),
                    incarnation: 1,
                    steps: 4,
                    trained: vec![Cut {
                        epoch: 1,
                        positions: (0..32).into(),
                    }],
                    teacher_versions: [("wide".to_owned(), [(7, 32)].into())].into(),
                }],
            }],
            quarantined: Vec::new(),
            files: BTreeMap::new(),
            teacher_versions: BTreeMap::new(),
            held_out: Some(HeldOut {
                loss: 0.1 + 0.2,
                accuracy: 1.0 / 3.0,
                samples: 9,
            }),
        }
    }

    #[test]
    fn bytes_come_back_as_the_same_manifest_with_the_same_hash() {
        let bytes = manifest().to_bytes();
        let read = Manifest::from_bytes(&bytes).unwrap();
        assert_eq!(read, manifest());
        assert_eq!(hash(&read.to_bytes()), hash(&bytes));
    }

    #[test]
    fn every_float_comes_back_as_it_was() {
        for bits in (0..1_000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2) {
            let held_out = HeldOut {
                loss: f64::from_bits(bits),
                accuracy: f64::from_bits(bits ^ 1),
                samples: 1,
            };
            let bytes = Manifest {
                held_out: Some(held_out),
                ..manifest()
            }
            .to_bytes();
            assert_eq!(Manifest::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        }
    }

    #[test]
    fn a_torn_manifest_and_another_format_are_named_errors() {
        let bytes = manifest().to_bytes();
        assert!(matches!(
            Manifest::from_bytes(&bytes[..bytes.len() / 2]),
            Err(Error::Malformed(_))
        ));
        let other = Manifest {
            format: 2,
            ..manifest()
        };
        assert!(matches!(
            Manifest::from_bytes(&other.to_bytes()),
            Err(Error::Format(2))
        ));
    }

    #[test]
    fn a_diverged_loss_can_be_read_back() {
        let diverged = HeldOut {
            loss: f64::INFINITY,
            accuracy: 0.1,
            samples: 9,
        };
        let bytes = Manifest {
            held_out: Some(diverged),
            ..manifest()
        }
        .to_bytes();
        assert!(
            Manifest::from_bytes(&bytes)
                .unwrap()
                .held_out
                .unwrap()
                .loss
                .is_nan()
        );
    }

    #[test]
    fn fields_of_a_later_release_are_ignored() {
        let text = String::from_utf8(manifest().to_bytes()).unwrap();
        let text = text.replacen('{', "{\"new\": 1,", 1);
        assert_eq!(Manifest::from_bytes(text.as_bytes()).unwrap(), manifest());
    }
}
