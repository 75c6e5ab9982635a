//! Several teachers as one: what they say together of each sample. Plain data, no tensor.

use std::ops::Range;

use retort_codec::{FLOOR, TopK};
use retort_job::{Combine, Tail, Weights};
use thiserror::Error;

use crate::trainer::{Sparse, Targets};

/// Least entropy, in nats, that a weight is the inverse of: answers that are surer than this are equally sure, since a
/// frame's rounding is all that tells them apart.
const MIN_ENTROPY: f64 = 1e-3;

/// How to mix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) combine: Combine,
    pub(crate) weights: Weights,
    pub(crate) tail: Tail,
    pub(crate) classes: usize,
}

/// One teacher's answer for a block, and its weight in the job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Voice<'a> {
    pub(crate) weight: f64,
    pub(crate) targets: &'a retort_codec::Targets,
}

/// Why answers have no mixture. No retry helps: the job or a server must change.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Error {
    #[error(
        "combine = \"logit\" needs whole distributions and a teacher sent its top {kept} classes: \
         choose combine = \"probability\" or another encoding"
    )]
    LogitOfSparse { kept: usize },
    #[error("some teachers sent whole distributions, others their top {kept} classes, for the same encoding")]
    Encodings { kept: usize },
}

impl Rule {
    /// What the teachers that answered, at least one, say together of `rows` of a block, which have these labels.
    pub(crate) fn mix(
        &self,
        voices: &[Voice<'_>],
        rows: Range<usize>,
        labels: &[Option<u32>],
    ) -> Result<Targets, Error> {
        let weights = self.weights(voices, rows.clone(), labels);
        let (mut dense, mut sparse) = (Vec::new(), Vec::new());
        for (voice, weights) in voices.iter().zip(weights) {
            match voice.targets {
                retort_codec::Targets::Dense(log_probs) => {
                    let values = rows.start * self.classes..rows.end * self.classes;
                    dense.push((weights, &log_probs[values]));
                }
                retort_codec::Targets::TopK(top) => sparse.push(Sparse {
                    weights,
                    top: with_tail(slice(top, rows.clone()), self.tail),
                }),
            }
        }
        match (sparse.first().map(|s| s.top.kept), self.combine) {
            (None, combine) => Ok(Targets::Dense(self.mean(&dense, combine))),
            (Some(kept), _) if !dense.is_empty() => Err(Error::Encodings { kept }),
            (Some(kept), Combine::Logit) => Err(Error::LogitOfSparse { kept }),
            (Some(_), Combine::Probability) => Ok(Targets::Sparse(sparse)),
        }
    }

    /// Of each teacher for each row. The weights of a row sum to 1.
    fn weights(&self, voices: &[Voice<'_>], rows: Range<usize>, labels: &[Option<u32>]) -> Vec<Vec<f32>> {
        if let [_] = voices {
            return vec![vec![1.0; rows.len()]];
        }
        let mut out = vec![Vec::with_capacity(rows.len()); voices.len()];
        for (row, label) in rows.zip(labels) {
            let raw = self.relative(voices, row, *label);
            let total: f64 = raw.iter().sum();
            for (out, weight) in out.iter_mut().zip(raw) {
                out.push((weight / total) as f32);
            }
        }
        out
    }

    /// Of each of several teachers for one row, not all 0; see [`Weights`].
    fn relative(&self, voices: &[Voice<'_>], row: usize, label: Option<u32>) -> Vec<f64> {
        let answers = voices.iter().map(|v| Answer::new(v.targets, row, self.classes));
        match (self.weights, label) {
            (Weights::Static, _) => voices.iter().map(|v| v.weight).collect(),
            (Weights::Uniform, _) | (Weights::LabelCrossEntropy, None) => vec![1.0; voices.len()],
            (Weights::Confidence, _) => answers.zip(voices).map(|(a, v)| v.weight * a.top()).collect(),
            (Weights::LabelCrossEntropy, Some(label)) => {
                let losses: Vec<f64> = answers.map(|a| -a.log_prob(label)).collect();
                let most = losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = losses.iter().map(|l| (l - most).exp()).sum();
                losses.iter().map(|l| 1.0 - (l - most).exp() / total).collect()
            }
            (Weights::InverseEntropy, _) => answers.map(|a| 1.0 / a.entropy().max(MIN_ENTROPY)).collect(),
        }
    }

    /// The weighted mean of whole distributions, as log-probabilities.
    fn mean(&self, parts: &[(Vec<f32>, &[f32])], combine: Combine) -> Vec<f32> {
        if let [(_, only)] = parts {
            return only.to_vec();
        }
        match combine {
            Combine::Probability => {
                let mean = weighted_sum(parts, self.classes, f32::exp);
                mean.into_iter().map(|p| p.ln().max(FLOOR)).collect()
            }
            Combine::Logit => {
                let mean = weighted_sum(parts, self.classes, |log_prob| log_prob);
                let mut out = vec![0.0; mean.len()];
                retort_codec::soften(&mean, self.classes, 1.0, &mut out);
                out
            }
        }
    }
}

/// Of `term` of each value, with a weight for each row.
fn weighted_sum(parts: &[(Vec<f32>, &[f32])], classes: usize, term: impl Fn(f32) -> f32) -> Vec<f32> {
    let mut out = vec![0.0; parts.first().map_or(0, |(_, values)| values.len())];
    for (weights, values) in parts {
        let rows = out.chunks_mut(classes).zip(values.chunks(classes));
        for ((out, values), weight) in rows.zip(weights) {
            for (out, &value) in out.iter_mut().zip(values) {
                *out += weight * term(value);
            }
        }
    }
    out
}

fn slice(top: &TopK, rows: Range<usize>) -> TopK {
    let values = rows.start * top.kept..rows.end * top.kept;
    TopK {
        kept: top.kept,
        ids: top.ids[values.clone()].to_vec(),
        log_probs: top.log_probs[values].to_vec(),
        log_tail: top.log_tail[rows].to_vec(),
    }
}

/// The kept classes with what is made of the others. A tail at the floor has no probability, and with it no part of any
/// loss.
fn with_tail(mut top: TopK, tail: Tail) -> TopK {
    if tail == Tail::Bucket {
        return top;
    }
    for (values, log_tail) in top.log_probs.chunks_mut(top.kept.max(1)).zip(&mut top.log_tail) {
        if tail == Tail::Renormalise {
            let kept: f32 = values.iter().map(|v| v.exp()).sum();
            values.iter_mut().for_each(|v| *v = (*v - kept.ln()).max(FLOOR));
        }
        *log_tail = FLOOR;
    }
    top
}

/// One teacher's answer for one sample.
struct Answer<'a> {
    /// The classes that it names, ascending; `None`: all.
    ids: Option<&'a [u32]>,
    log_probs: &'a [f32],
    /// Of the classes that it does not name, together.
    log_tail: f32,
    left_out: usize,
}

impl<'a> Answer<'a> {
    fn new(targets: &'a retort_codec::Targets, row: usize, classes: usize) -> Self {
        match targets {
            retort_codec::Targets::Dense(log_probs) => Self {
                ids: None,
                log_probs: &log_probs[row * classes..(row + 1) * classes],
                log_tail: FLOOR,
                left_out: 0,
            },
            retort_codec::Targets::TopK(top) => {
                let values = row * top.kept..(row + 1) * top.kept;
                Self {
                    ids: Some(&top.ids[values.clone()]),
                    log_probs: &top.log_probs[values],
                    log_tail: top.log_tail[row],
                    left_out: classes - top.kept,
                }
            }
        }
    }

    /// The largest probability.
    fn top(&self) -> f64 {
        let top = self.log_probs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(top).exp()
    }

    /// In nats; the classes left out count as one.
    fn entropy(&self) -> f64 {
        let tail = (self.left_out > 0).then_some(self.log_tail);
        let all = self.log_probs.iter().copied().chain(tail).map(f64::from);
        all.map(|log_p| -log_p.exp() * log_p).sum()
    }

    /// Of a class; one that is left out has its share of the tail.
    fn log_prob(&self, class: u32) -> f64 {
        let at = self
            .ids
            .map_or(Ok(class as usize), |ids| ids.binary_search(&class));
        match at {
            Ok(at) => f64::from(self.log_probs[at]),
            Err(_) => f64::from(self.log_tail) - (self.left_out as f64).ln(),
        }
    }
}

#[cfg(test)]
mod tests {
    use retort_codec::Targets as Frame;

    use super::*;

    const ALL: [Weights; 5] = [
        Weights::Static,
        Weights::Uniform,
        Weights::Confidence,
        Weights::LabelCrossEntropy,
        Weights::InverseEntropy,
    ];

    fn rule(weights: Weights, combine: Combine) -> Rule {
        Rule {
            combine,
            weights,
            tail: Tail::Bucket,
            classes: 3,
        }
    }

    fn logs(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln().max(FLOOR)).collect()
    }

    fn dense(probabilities: &[f32]) -> Frame {
        Frame::Dense(logs(probabilities))
    }

    /// Rows of one class, its probability and that of the two others.
    fn sparse(rows: &[(u32, f32, f32)]) -> Frame {
        Frame::TopK(TopK {
            kept: 1,
            ids: rows.iter().map(|r| r.0).collect(),
            log_probs: rows.iter().map(|r| r.1.ln()).collect(),
            log_tail: rows.iter().map(|r| r.2.ln()).collect(),
        })
    }

    fn voices<'a>(weights: &[f64], frames: &'a [Frame]) -> Vec<Voice<'a>> {
        let each = weights.iter().zip(frames);
        each.map(|(&weight, targets)| Voice { weight, targets }).collect()
    }

    fn close(found: &[f32], expected: &[f32]) {
        let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-5);
        assert!(
            near && found.len() == expected.len(),
            "{found:?}, expected {expected:?}"
        );
    }

    fn probabilities(targets: Targets) -> Vec<f32> {
        let Targets::Dense(log_probs) = targets else {
            panic!("expected a whole distribution")
        };
        log_probs.iter().map(|l| l.exp()).collect()
    }

    #[test]
    fn a_tail_is_a_class_of_its_own_or_left_out_or_shared_by_the_kept() {
        let frames = [Frame::TopK(TopK {
            kept: 2,
            ids: vec![0, 2, 1, 2],
            log_probs: logs(&[0.5, 0.3, 0.9, 0.1]),
            log_tail: vec![0.2f32.ln(), FLOOR],
        })];
        for (tail, kept, log_tail) in [
            (Tail::Bucket, [0.5, 0.3, 0.9, 0.1], [0.2f32.ln(), FLOOR]),
            (Tail::Drop, [0.5, 0.3, 0.9, 0.1], [FLOOR; 2]),
            (Tail::Renormalise, [0.625, 0.375, 0.9, 0.1], [FLOOR; 2]),
        ] {
            let rule = Rule {
                tail,
                ..rule(Weights::Static, Combine::Probability)
            };
            let mixed = rule.mix(&voices(&[1.0], &frames), 0..2, &[None; 2]).unwrap();
            let Targets::Sparse(teachers) = mixed else {
                panic!("what was cut stays cut");
            };
            let top = &teachers[0].top;
            let found: Vec<f32> = top.log_probs.iter().map(|l| l.exp()).collect();
            close(&found, &kept);
            close(&top.log_tail, &log_tail);
        }
    }

    #[test]
    fn weights_are_those_computed_by_hand() {
        let frames = [dense(&[0.5, 0.25, 0.25]), dense(&[0.2, 0.2, 0.6])];
        let two = voices(&[2.0, 1.0], &frames);
        for (weights, label, expected) in [
            (Weights::Static, None, [2.0 / 3.0, 1.0 / 3.0]),
            (Weights::Uniform, Some(2), [0.5, 0.5]),
            (Weights::Confidence, None, [1.0 / 1.6, 0.6 / 1.6]),
            // exp(CE) is 4 and 5/3.
            (Weights::LabelCrossEntropy, Some(2), [5.0 / 17.0, 12.0 / 17.0]),
            (Weights::LabelCrossEntropy, None, [0.5, 0.5]),
            // Entropies of 1.039721 and 0.950271.
            (Weights::InverseEntropy, None, [0.477524, 0.522476]),
        ] {
            let found = rule(weights, Combine::Probability).weights(&two, 0..1, &[label]);
            close(&found.concat(), &expected);
        }
        // exp(CE) is 2, 4 and 4: (1 - 2/10) / 2, (1 - 4/10) / 2 twice.
        let frames = [
            frames[0].clone(),
            dense(&[0.25, 0.5, 0.25]),
            dense(&[0.25, 0.0, 0.75]),
        ];
        let three = voices(&[1.0; 3], &frames);
        let found = rule(Weights::LabelCrossEntropy, Combine::Logit).weights(&three, 0..1, &[Some(0)]);
        close(&found.concat(), &[0.4, 0.3, 0.3]);
    }

    #[test]
    fn weights_of_cut_answers_take_the_tail_for_one_class_but_share_it_among_labels() {
        let frames = [sparse(&[(0, 0.5, 0.5)]), sparse(&[(1, 0.8, 0.2)])];
        let two = voices(&[1.0, 1.0], &frames);
        for (weights, label, expected) in [
            (Weights::Confidence, None, [5.0 / 13.0, 8.0 / 13.0]),
            // 0.25 to 0.8, 0.25 to 0.1, 0.5 to 0.1.
            (Weights::LabelCrossEntropy, Some(1), [0.25 / 1.05, 0.8 / 1.05]),
            (Weights::LabelCrossEntropy, Some(2), [0.25 / 0.35, 0.1 / 0.35]),
            (Weights::LabelCrossEntropy, Some(0), [0.5 / 0.6, 0.1 / 0.6]),
            // Entropies of 0.693147 and 0.500402.
            (Weights::InverseEntropy, None, [0.419253, 0.580747]),
        ] {
            let found = rule(weights, Combine::Probability).weights(&two, 0..1, &[label]);
            close(&found.concat(), &expected);
        }
    }

    #[test]
    fn weights_sum_to_one_and_a_lone_teacher_has_all() {
        let sure = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let frames = [dense(&sure), dense(&sure), dense(&[1.0 / 3.0; 6])];
        for weights in ALL {
            for label in [None, Some(0), Some(1)] {
                let rule = rule(weights, Combine::Probability);
                let found = rule.weights(&voices(&[0.1, 3.0, 0.7], &frames), 0..2, &[label; 2]);
                for row in 0..2 {
                    let sum: f32 = found.iter().map(|w| w[row]).sum();
                    assert!((sum - 1.0).abs() < 1e-6, "{weights:?} {label:?}: {found:?}");
                    assert!(found.iter().all(|w| w[row] >= 0.0), "{weights:?}: {found:?}");
                }
                let alone = rule.weights(&voices(&[0.1], &frames), 0..2, &[label; 2]);
                assert_eq!(alone, [[1.0; 2]], "{weights:?}");
            }
        }
    }

    #[test]
    fn whole_distributions_mix_by_probability_or_by_logit() {
        // The rows before and after are other batches'.
        let frames = [
            dense(&[1.0, 0.0, 0.0, 0.5, 0.25, 0.25, 0.1, 0.1, 0.8, 1.0, 0.0, 0.0]),
            dense(&[0.0, 1.0, 0.0, 0.2, 0.2, 0.6, 0.1, 0.1, 0.8, 1.0, 0.0, 0.0]),
        ];
        let two = voices(&[3.0, 1.0], &frames);
        let mix = |combine| {
            rule(Weights::Static, combine)
                .mix(&two, 1..3, &[None; 2])
                .unwrap()
        };
        let mean = probabilities(mix(Combine::Probability));
        close(&mean, &[0.425, 0.2375, 0.3375, 0.1, 0.1, 0.8]);

        let geometric = probabilities(mix(Combine::Logit));
        let raw =
            [(0.5, 0.2), (0.25, 0.2), (0.25, 0.6)].map(|(a, b): (f32, f32)| a.powf(0.75) * b.powf(0.25));
        let total: f32 = raw.iter().sum();
        close(
            &geometric,
            &[raw[0] / total, raw[1] / total, raw[2] / total, 0.1, 0.1, 0.8],
        );
    }

    #[test]
    fn mixing_by_logit_is_the_softmax_of_the_mean_logits() {
        let logits = [[2.0, -1.0, 0.5], [-3.0, 0.0, 4.0]];
        let soften = |logits: &[f32]| {
            let mut out = vec![0.0; 3];
            retort_codec::soften(logits, 3, 2.0, &mut out);
            Frame::Dense(out)
        };
        let frames = logits.map(|l| soften(&l));
        let mixed = rule(Weights::Static, Combine::Logit).mix(&voices(&[1.0, 3.0], &frames), 0..1, &[None]);
        let mean: Vec<f32> = (0..3)
            .map(|i| 0.25 * logits[0][i] + 0.75 * logits[1][i])
            .collect();
        let Frame::Dense(expected) = soften(&mean) else {
            panic!()
        };
        let expected: Vec<f32> = expected.iter().map(|l| l.exp()).collect();
        close(&probabilities(mixed.unwrap()), &expected);
    }

    #[test]
    fn cut_distributions_stay_apart_with_weights_for_each_sample() {
        let frames = [
            sparse(&[(2, 0.9, 0.1), (0, 0.5, 0.5), (1, 0.6, 0.4)]),
            sparse(&[(2, 0.9, 0.1), (1, 0.75, 0.25), (1, 0.6, 0.4)]),
        ];
        let two = voices(&[1.0, 1.0], &frames);
        let mixed = rule(Weights::Confidence, Combine::Probability).mix(&two, 1..3, &[None; 2]);
        let Ok(Targets::Sparse(parts)) = mixed else {
            panic!("{mixed:?}")
        };
        close(&parts[0].weights, &[0.4, 0.5]);
        close(&parts[1].weights, &[0.6, 0.5]);
        assert_eq!(
            (parts[0].top.ids.as_slice(), parts[1].top.ids.as_slice()),
            (&[0, 1][..], &[1, 1][..])
        );
        close(&parts[1].top.log_probs, &logs(&[0.75, 0.6]));
        close(&parts[1].top.log_tail, &logs(&[0.25, 0.4]));
    }

    #[test]
    fn a_lone_teacher_is_passed_on_as_it_is() {
        let frame = [dense(&[0.1, 0.2, 0.7])];
        for combine in [Combine::Probability, Combine::Logit] {
            let mixed =
                rule(Weights::LabelCrossEntropy, combine).mix(&voices(&[0.3], &frame), 0..1, &[Some(1)]);
            assert_eq!(mixed, Ok(Targets::Dense(logs(&[0.1, 0.2, 0.7]))));
        }
    }

    #[test]
    fn what_has_no_mixture_is_refused() {
        let frames = [sparse(&[(0, 0.5, 0.5)]), dense(&[0.1, 0.2, 0.7])];
        for combine in [Combine::Probability, Combine::Logit] {
            let mixed = rule(Weights::Static, combine).mix(&voices(&[1.0; 2], &frames), 0..1, &[None]);
            assert_eq!(mixed, Err(Error::Encodings { kept: 1 }));
        }
        let mixed = rule(Weights::Static, Combine::Logit).mix(&voices(&[1.0], &frames), 0..1, &[None]);
        let error = mixed.unwrap_err().to_string();
        assert!(
            error.contains("\"logit\"") && error.contains("top 1 classes"),
            "{error}"
        );
    }
}
