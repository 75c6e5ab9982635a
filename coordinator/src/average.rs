//! The merge of a round, and the average of two versions.

use bytes::Bytes;
use retort_sync::{Part, PartError, Wire};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

/// What replicas get: a merge, or a state at a round's start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hashed {
    pub(crate) bytes: Bytes,
    /// blake3 in hex; empty where there are no bytes.
    pub(crate) hash: String,
}

impl From<Bytes> for Hashed {
    /// Takes as long as reading the bytes does: not for the brain.
    fn from(bytes: Bytes) -> Self {
        let hash = match bytes.is_empty() {
            true => String::new(),
            false => blake3::hash(&bytes).to_hex().to_string(),
        };
        Self { bytes, hash }
    }
}

/// How the contributions of a group become one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Merge {
    pub(crate) wire: Wire,
    /// They are weights, which are a merge of their own where nobody trained.
    pub(crate) of_weights: bool,
}

impl Merge {
    /// The mean by samples of what replicas brought, in the order given. What only one brought passes untouched. `used` is
    /// an earlier merge, whose memory is taken if nobody reads it any more.
    pub(crate) fn merge(self, parts: &[(u64, Bytes)], used: Option<Bytes>) -> Result<Bytes, PartError> {
        let brought: Vec<&(u64, Bytes)> = parts.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
        if let Some(((_, first), (_, other))) = brought
            .first()
            .zip(brought.iter().find(|p| p.1.len() != brought[0].1.len()))
        {
            return Err(PartError::Sizes(first.len(), other.len()));
        }
        let trained: Vec<&&(u64, Bytes)> = brought.iter().filter(|(samples, _)| *samples > 0).collect();
        match (trained.as_slice(), brought.first()) {
            ([], Some((_, first))) if self.of_weights => Ok(first.clone()),
            ([(_, only)], _) => Ok(only.clone()),
            _ => {
                let parts = trained.iter().map(|(samples, bytes)| Part {
                    samples: *samples,
                    bytes,
                });
                let memory = used.filter(Bytes::is_unique).map(Vec::from).unwrap_or_default();
                Ok(retort_sync::mean(parts, self.wire, memory)?.into())
            }
        }
    }
}

/// Why two files have no average.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlendError {
    #[error("parse weights")]
    Format(#[from] SafeTensorError),
    #[error("{0} is in one of two versions only, or of another shape")]
    Differs(String),
    #[error("{0} holds no f32")]
    NotF32(String),
}

/// `kept * old + (1 - kept) * new` of every number of two safetensors files of one model. Models have no running
/// statistics besides their weights; whatever a file holds is averaged.
pub(crate) fn blend(old: &[u8], new: &[u8], kept: f64) -> Result<Vec<u8>, BlendError> {
    let (old, new) = (SafeTensors::deserialize(old)?, SafeTensors::deserialize(new)?);
    let mut out: Vec<(&str, Vec<usize>, Vec<u8>)> = Vec::with_capacity(new.len());
    for (name, view) in new.iter() {
        let differs = || BlendError::Differs(name.to_owned());
        let before = old.tensor(name).map_err(|_| differs())?;
        if before.shape() != view.shape() || old.len() != new.len() {
            return Err(differs());
        }
        if view.dtype() != Dtype::F32 || before.dtype() != Dtype::F32 {
            return Err(BlendError::NotF32(name.to_owned()));
        }
        let number = |bytes: &[u8]| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let pairs = before.data().chunks_exact(4).zip(view.data().chunks_exact(4));
        let mixed = pairs.map(|(a, b)| (kept * number(a) + (1.0 - kept) * number(b)) as f32);
        out.push((
            name,
            view.shape().to_vec(),
            mixed.flat_map(f32::to_le_bytes).collect(),
        ));
    }
    let views: Vec<(&str, TensorView<'_>)> = out
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<_, SafeTensorError>>()?;
    Ok(safetensors::serialize(views, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(values: &[(&str, &[f32])]) -> Vec<u8> {
        let bytes: Vec<(&str, usize, Vec<u8>)> = values
            .iter()
            .map(|(name, v)| (*name, v.len(), v.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = bytes.iter().map(|(name, len, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![*len], bytes).unwrap();
            (*name, view)
        });
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn an_average_keeps_its_share_of_every_number() {
        let old = file(&[("a.weight", &[1.0, 2.0]), ("b.bias", &[0.0])]);
        let new = file(&[("b.bias", &[4.0]), ("a.weight", &[5.0, -2.0])]);
        let blended = blend(&old, &new, 0.75).unwrap();
        assert_eq!(blended, file(&[("a.weight", &[2.0, 1.0]), ("b.bias", &[1.0])]));
        assert_eq!(blend(&old, &old, 0.3).unwrap(), old, "the same stays the same");
    }

    #[test]
    fn files_of_two_models_have_no_average() {
        let old = file(&[("a.weight", &[1.0, 2.0])]);
        for other in [
            file(&[("a.weight", &[1.0])]),
            file(&[("c.weight", &[1.0, 2.0])]),
            file(&[("a.weight", &[1.0, 2.0]), ("b.bias", &[0.0])]),
        ] {
            assert!(matches!(blend(&old, &other, 0.5), Err(BlendError::Differs(_))));
        }
        assert!(matches!(blend(&old[..9], &old, 0.5), Err(BlendError::Format(_))));
    }

    const WEIGHTS: Merge = Merge {
        wire: Wire::F32,
        of_weights: true,
    };

    fn part(samples: u64, values: &[f32]) -> (u64, Bytes) {
        (samples, retort_sync::encode(values, Wire::F32).into())
    }

    #[test]
    fn contributions_count_by_samples() {
        let mean = WEIGHTS
            .merge(
                &[part(1, &[1.0, 0.0]), part(3, &[5.0, 8.0])],
                Some(part(0, &[9.0]).1),
            )
            .unwrap();
        assert_eq!(mean, part(0, &[4.0, 6.0]).1);
    }

    #[test]
    fn what_only_one_replica_brought_passes_untouched() {
        let odd = part(7, &[0.1, -1e-30]);
        let merged = WEIGHTS
            .merge(&[part(0, &[9.0, 9.0]), odd.clone(), part(0, &[])], None)
            .unwrap();
        assert_eq!(merged, odd.1);
        assert_eq!(
            WEIGHTS.merge(&[part(0, &[2.0])], None).unwrap(),
            part(0, &[2.0]).1
        );
        assert!(WEIGHTS.merge(&[], None).unwrap().is_empty());
        // Who came nowhere moves nobody, though an outer momentum would.
        let displacement = Merge {
            of_weights: false,
            ..WEIGHTS
        };
        assert!(displacement.merge(&[part(0, &[0.0])], None).unwrap().is_empty());
    }

    #[test]
    fn different_models_are_refused() {
        let parts = [part(1, &[1.0]), part(1, &[1.0, 2.0])];
        assert_eq!(WEIGHTS.merge(&parts, None), Err(PartError::Sizes(4, 8)));
    }
}
