//! The merge of a round: the mean of the replicas' weights, by samples.

use bytes::Bytes;

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

#[cfg(test)]
mod tests {
    use super::*;

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
