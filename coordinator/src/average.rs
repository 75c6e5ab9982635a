//! The merge of a round: the mean of the replicas' weights, by samples.

use bytes::Bytes;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

/// One replica's weights.
#[derive(Debug, Clone)]
pub(crate) struct Weighted {
    pub(crate) samples: u64,
    /// Little-endian f32.
    pub(crate) weights: Bytes,
}

/// Replicas of one group sent models of different sizes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("contributions of {0} and {1} bytes are not of one model")]
pub(crate) struct SizesDiffer(usize, usize);

/// Sample-weighted mean, accumulated in f32 in the order given, so that it is the same everywhere.
/// Where only one replica trained, its weights are returned untouched.
pub(crate) fn average(parts: &[Weighted]) -> Result<Bytes, SizesDiffer> {
    let with_weights: Vec<&Weighted> = parts.iter().filter(|p| !p.weights.is_empty()).collect();
    let Some(first) = with_weights.first() else {
        return Ok(Bytes::new());
    };
    if let Some(other) = with_weights
        .iter()
        .find(|p| p.weights.len() != first.weights.len())
    {
        return Err(SizesDiffer(first.weights.len(), other.weights.len()));
    }
    let trained: Vec<&&Weighted> = with_weights.iter().filter(|p| p.samples > 0).collect();
    match trained.as_slice() {
        [] => return Ok(first.weights.clone()),
        [only] => return Ok(only.weights.clone()),
        _ => {}
    }
    let total: u64 = trained.iter().map(|p| p.samples).sum();
    let mut sum = vec![0f32; first.weights.len() / 4];
    for part in trained {
        let share = (part.samples as f64 / total as f64) as f32;
        for (s, bytes) in sum.iter_mut().zip(part.weights.chunks_exact(4)) {
            *s += share * f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    Ok(sum
        .iter()
        .flat_map(|s| s.to_le_bytes())
        .collect::<Vec<u8>>()
        .into())
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

    fn part(samples: u64, values: &[f32]) -> Weighted {
        Weighted {
            samples,
            weights: values
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect::<Vec<u8>>()
                .into(),
        }
    }

    #[test]
    fn weights_count_by_samples() {
        let mean = average(&[part(1, &[1.0, 0.0]), part(3, &[5.0, 8.0])]).unwrap();
        assert_eq!(mean, part(0, &[4.0, 6.0]).weights);
    }

    #[test]
    fn a_single_trained_replica_passes_untouched() {
        let odd = part(7, &[0.1, -1e-30]);
        let merged = average(&[part(0, &[9.0, 9.0]), odd.clone(), part(0, &[])]).unwrap();
        assert_eq!(merged, odd.weights);
        assert_eq!(average(&[part(0, &[2.0])]).unwrap(), part(0, &[2.0]).weights);
        assert!(average(&[]).unwrap().is_empty());
    }

    #[test]
    fn different_models_are_refused() {
        assert_eq!(
            average(&[part(1, &[1.0]), part(1, &[1.0, 2.0])]),
            Err(SizesDiffer(4, 8))
        );
    }
}
