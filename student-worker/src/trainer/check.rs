//! What a step refuses before it computes anything.

use retort_job::Loss;
use retort_models::Spec;

use super::{Batch, Error, Hint, SoftTargets, Sparse, Targets};

/// How far from 1 the weights of a row may sum: far above the rounding of a sum of f32.
const WEIGHT_TOLERANCE: f32 = 1e-4;

/// Refuses a batch that is none for this network.
pub(super) fn batch(batch: &Batch, spec: &Spec, step: u64) -> Result<(), Error> {
    let rows = batch.samples * spec.rows;
    if batch.samples == 0 {
        return Err(Error::Range {
            what: "samples",
            value: 0.0,
            expected: "at least 1",
        });
    }
    size("inputs", batch.inputs.len(), batch.samples * spec.input_len())?;
    size("labels", batch.labels.len(), rows)?;
    if let Some(counted) = &batch.counted
        && (!counted.is_sorted_by(|a, b| a < b) || counted.last().is_none_or(|&row| row >= rows))
    {
        return Err(Error::Range {
            what: "last row that counts",
            value: counted.last().map_or(f64::NAN, |&row| row as f64),
            expected: "ascending rows of the batch, at least one",
        });
    }
    if !batch.mixed.is_empty() {
        size("second labels", batch.mixed.len(), rows)?;
    }
    let second = batch.mixed.iter().map(|(label, _)| label);
    let mut all = batch.labels.iter().flatten().chain(second);
    if let Some(&label) = all.find(|&&label| label as usize >= spec.classes) {
        let classes = spec.classes;
        return Err(Error::Label { label, classes });
    }
    if let Some((_, share)) = batch.mixed.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
        return Err(Error::Range {
            what: "share of a second label",
            value: f64::from(*share),
            expected: "0..=1",
        });
    }
    if !(0.0..=1.0).contains(&batch.alpha) {
        return Err(Error::Range {
            what: "alpha",
            value: batch.alpha,
            expected: "0..=1",
        });
    }
    if !(batch.learning_rate.is_finite() && batch.learning_rate >= 0.0) {
        return Err(Error::Range {
            what: "learning rate",
            value: batch.learning_rate,
            expected: "a finite number, at least 0",
        });
    }
    match &batch.soft {
        Some(soft) => of_soft(batch, soft, spec, step),
        None if batch.alpha > 0.0 => Err(Error::MissingSoftTargets {
            step,
            alpha: batch.alpha,
        }),
        None => Ok(()),
    }
}

fn of_soft(batch: &Batch, soft: &SoftTargets, spec: &Spec, step: u64) -> Result<(), Error> {
    of_targets(&soft.targets, batch.labels.len(), spec.classes)?;
    if let Some(hint) = &soft.hint {
        of_hint(hint, batch.samples, spec)?;
    }
    let unlabelled = batch.counted_rows().find(|&row| batch.labels[row].is_none());
    if let (Loss::Dkd { .. }, Some(row)) = (soft.loss, unlabelled) {
        return Err(Error::MissingLabel {
            step,
            row,
            loss: soft.loss.name(),
        });
    }
    let value = f64::from(soft.temperature);
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(Error::Range {
            what: "temperature",
            value,
            expected: "a number greater than 0",
        })
    }
}

/// Sizes, by what the loss compares.
fn of_hint(hint: &Hint, samples: usize, spec: &Spec) -> Result<(), Error> {
    let (_, layer) = spec.layer(&hint.layer)?;
    let projection = spec.projection.as_ref().filter(|p| p.layer == hint.layer);
    let channels = projection.map_or(layer.channels, |p| p.channels);
    let teacher = &hint.features;
    size("features", teacher.rows, samples)?;
    size(
        "features",
        teacher.values.len(),
        samples * teacher.channels * teacher.positions,
    )?;
    if hint.loss.by_channel() {
        size("channels of the features", teacher.channels, channels)?;
    }
    if hint.loss.by_position() {
        size("positions of the features", teacher.positions, layer.positions)?;
    }
    if hint.weight.is_finite() && hint.weight >= 0.0 {
        Ok(())
    } else {
        Err(Error::Range {
            what: "weight of the features",
            value: hint.weight,
            expected: "a finite number, at least 0",
        })
    }
}

/// Sizes, kept classes and weights; whether the numbers are distributions is the codec's business.
fn of_targets(targets: &Targets, rows: usize, classes: usize) -> Result<(), Error> {
    let teachers = match targets {
        Targets::Dense(log_probs) => return size("soft targets", log_probs.len(), rows * classes),
        Targets::Sparse(teachers) => teachers,
    };
    for Sparse { weights, top } in teachers {
        if !(1..=classes).contains(&top.kept) {
            return Err(Error::Range {
                what: "kept",
                value: top.kept as f64,
                expected: "at least 1 and at most the classes",
            });
        }
        size("weights", weights.len(), rows)?;
        size("kept classes", top.ids.len(), rows * top.kept)?;
        size("soft targets", top.log_probs.len(), rows * top.kept)?;
        size("tails", top.log_tail.len(), rows)?;
        for (row, ids) in top.ids.chunks(top.kept).enumerate() {
            if !ids.is_sorted_by(|a, b| a < b) || ids.last().is_some_and(|&id| id as usize >= classes) {
                return Err(Error::Kept {
                    row,
                    ids: ids.to_vec(),
                    classes,
                });
            }
        }
    }
    for row in 0..rows {
        let sum = teachers.iter().fold(0.0, |sum, t| sum + t.weights[row]);
        let whole = (sum - 1.0).abs() <= WEIGHT_TOLERANCE; // false of NaN
        if !whole {
            return Err(Error::Range {
                what: "sum of weights",
                value: f64::from(sum),
                expected: "1",
            });
        }
    }
    Ok(())
}

fn size(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Size {
            what,
            found,
            expected,
        })
    }
}
