//! Exits learn, from labels and from the last classifier.

use ::burn::tensor::{Tensor, TensorData};
use retort_job::Exits;

use super::*;

fn with_exits(alpha: f64, feature_weight: f64) -> Spec {
    let mut spec = spec(Architecture::Cnn);
    spec.model.dropout = 0.0;
    spec.model.exits = Some(Exits {
        at: vec![1, 2],
        alpha,
        temperature: 3.0,
        feature_weight,
    });
    spec
}

fn trainer_of(spec: &Spec) -> BurnTrainer {
    let optimizer = Optimizer {
        kind: OptimizerKind::Adam,
        learning_rate: 0.01.into(),
        weight_decay: 0.0,
        momentum: 0.9,
        clip_norm: None,
    };
    BurnTrainer::new(spec, optimizer, 7, Choice::Flex).unwrap()
}

fn alone(batch: Batch) -> Batch {
    Batch {
        soft: None,
        alpha: 0.0,
        ..batch
    }
}

/// Weights by name.
fn weights(trainer: &BurnTrainer) -> Vec<(String, Vec<f32>)> {
    let (flat, mut at) = (trainer.flat(), 0);
    let named = trainer.layout().into_iter().map(|(name, shape)| {
        let range = at..at + shape.iter().product::<usize>();
        at = range.end;
        (name, flat[range].to_vec())
    });
    named.collect()
}

fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|z| (z / temperature).exp()).sum();
    logits.iter().map(|z| z / temperature - sum.ln()).collect()
}

#[test]
fn the_loss_is_that_of_every_exit_beside_the_last() {
    let (alpha, feature_weight) = (0.3, 0.5);
    let spec = with_exits(alpha, feature_weight);
    let mut trainer = trainer_of(&spec);
    let batch = alone(batch(1));
    let shape = spec.input;
    let net = Net::new(&spec, 7, &Device::flex()).unwrap();
    let dims = [batch.samples, shape.channels, shape.height, shape.width];
    let data = TensorData::new(batch.inputs.clone(), dims);
    let inputs = Tensor::<4>::from_data(data, &Device::flex());
    let outputs = net.forward_all(inputs, None, None).unwrap();
    let read = |t: Tensor<2>| -> Vec<f64> {
        let values = t.try_into_vec_as::<f32>().unwrap();
        values.into_iter().map(f64::from).collect()
    };
    let hard = |logits: &[f64]| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (row, label) in logits.chunks(4).zip(&batch.labels) {
            if let Some(label) = label {
                sum -= log_softmax(row, 1.0)[*label as usize];
                count += 1.0;
            }
        }
        sum / count
    };
    let last = read(outputs.logits);
    let pooled = read(outputs.pooled);
    let mut expected = hard(&last);
    for exit in outputs.exits {
        let exit = read(exit);
        let kl: f64 = last
            .chunks(4)
            .zip(exit.chunks(4))
            .map(|(p, q)| {
                let (p, q) = (log_softmax(p, 3.0), log_softmax(q, 3.0));
                p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
            })
            .sum();
        expected += (1.0 - alpha) * hard(&exit) + alpha * 9.0 * kl / batch.samples as f64;
    }
    for hint in outputs.hints {
        let squares: f64 = read(hint).iter().zip(&pooled).map(|(h, p)| (h - p).powi(2)).sum();
        expected += feature_weight * squares / pooled.len() as f64;
    }
    let report = trainer.step(&batch).unwrap();
    assert!(
        (report.loss - expected).abs() < 1e-5,
        "{} {expected}",
        report.loss
    );
    assert!((report.hard_loss.unwrap() - hard(&last)).abs() < 1e-5);
}

#[test]
fn the_last_classifier_teaches_and_does_not_learn_from_its_exits() {
    let last_moves = |batch: &Batch| {
        let mut trainer = trainer_of(&with_exits(1.0, 1.0));
        let before = weights(&trainer);
        trainer.step(batch).unwrap();
        let moved: Vec<String> = before
            .into_iter()
            .zip(weights(&trainer))
            .filter(|(before, after)| before != after)
            .map(|((name, _), _)| name)
            .collect();
        moved
    };
    let unlabelled = alone(Batch {
        labels: vec![None; 16],
        ..batch(1)
    });
    let moved = last_moves(&unlabelled);
    let has = |name: &str| moved.iter().any(|moved| moved == name);
    for name in [
        "convolutions.0.weight",
        "convolutions.1.weight",
        "exits.0.classifier.weight",
        "exits.1.hint.bias",
    ] {
        assert!(has(name), "{name} learns from unlabelled samples: {moved:?}");
    }
    for name in ["convolutions.2.weight", "classifier.weight", "classifier.bias"] {
        assert!(!has(name), "{name} has nobody to learn from: {moved:?}");
    }
    assert!(last_moves(&alone(batch(1))).contains(&"classifier.weight".to_owned()));
}

#[test]
fn every_exit_learns_and_stands_alone() {
    let spec = with_exits(0.3, 0.1);
    let mut trainer = trainer_of(&spec);
    let Batch { inputs, .. } = batch(1000);
    let mut rng = Rng::keyed(&[1000]);
    let labels: Vec<u32> = (0..16).map(|_| rng.below(4) as u32).collect();
    let held_out = HeldOut::new(inputs, labels);
    let evaluate = |trainer: &BurnTrainer| {
        let net = Net::new(&spec, 0, &Device::flex()).unwrap();
        let net = net.with_safetensors(&trainer.weights()).unwrap();
        [1, 2].map(|exit| {
            let cut = net.cut(exit).unwrap();
            Classifier::from(&cut).evaluate(&held_out).unwrap().loss
        })
    };
    let before = evaluate(&trainer);
    for number in 0..80 {
        trainer.step(&alone(batch(number))).unwrap();
    }
    let after = evaluate(&trainer);
    for (before, after) in before.iter().zip(after) {
        assert!(after < 0.9 * before, "{before} {after}");
    }
}
