//! Samples with several targets, some of which do not count.

use retort_data::Tokens;
use retort_models::Evaluation;

use super::*;

const ROWS: usize = 4;
const CLASSES: usize = 5;

fn decoder() -> Spec {
    Spec {
        model: Model {
            width: Some(8),
            depth: Some(1),
            heads: Some(2),
            dropout: 0.0,
            ..spec(Architecture::Transformer).model
        },
        input: Shape {
            channels: 1,
            height: 1,
            width: 6,
        },
        classes: CLASSES,
        preprocessing: Preprocessing::none(1),
        tokens: Some(Tokens::Bytes {}),
        rows: ROWS,
        projection: None,
    }
}

fn new() -> BurnTrainer {
    let optimizer = Optimizer {
        kind: OptimizerKind::Sgd,
        learning_rate: 0.01.into(),
        weight_decay: 0.0,
        momentum: 0.0,
        clip_norm: None,
    };
    BurnTrainer::new(&decoder(), optimizer, 7, Choice::Flex).unwrap()
}

/// Three windows; of the last one two targets lie behind the end of the text.
fn windows(loss: Loss) -> Batch {
    let mut rng = Rng::keyed(&[3]);
    let mut inputs: Vec<f32> = (0..18).map(|_| 40.0 + rng.below(20) as f32).collect();
    inputs[16..].fill(0.0);
    let labels: Vec<Option<u32>> = (0..3 * ROWS)
        .map(|row| Some(row as u32 % CLASSES as u32))
        .collect();
    let logits: Vec<f32> = (0..3 * ROWS * CLASSES).map(|_| 3.0 * rng.uniform_f32()).collect();
    let mut log_probs = vec![0.0; logits.len()];
    retort_codec::soften(&logits, CLASSES, 2.0, &mut log_probs);
    Batch {
        inputs,
        samples: 3,
        labels,
        mixed: Vec::new(),
        counted: Some((0..10).collect()),
        soft: Some(SoftTargets {
            targets: Targets::Dense(log_probs),
            temperature: 2.0,
            loss,
            hint: None,
        }),
        alpha: 0.5,
        learning_rate: 0.01,
    }
}

/// What rows behind the end are told does not matter.
fn with_other_padding(mut batch: Batch) -> Batch {
    batch.labels[10] = None;
    batch.labels[11] = Some(0);
    match batch.soft.as_mut().map(|soft| &mut soft.targets) {
        Some(Targets::Dense(log_probs)) => log_probs[10 * CLASSES..].fill(0.2_f32.ln()),
        Some(Targets::Sparse(teachers)) => {
            for teacher in teachers {
                let kept = teacher.top.kept;
                teacher.top.log_probs[10 * kept..].fill(0.1_f32.ln());
            }
        }
        None => {}
    }
    batch
}

#[test]
fn rows_without_a_target_are_no_part_of_any_loss() {
    let dense = [
        Loss::Kd,
        Loss::ReverseKl,
        Loss::Jsd { beta: 0.5 },
        Loss::Mse,
        Loss::Dkd {
            alpha: 1.0,
            beta: 2.0,
        },
    ];
    let batches = dense.map(windows).into_iter();
    for batch in batches.chain([cut(windows(Loss::Kd), CLASSES, 2, [0.25, 0.75])]) {
        let [mut one, mut other] = [new(), new()];
        let found = one.step(&batch).unwrap();
        assert_eq!(found, other.step(&with_other_padding(batch.clone())).unwrap());
        assert_eq!(one.flat(), other.flat());
        assert_eq!((found.labelled, found.kl.is_some()), (10, true));
        let all = Batch {
            counted: None,
            ..batch
        };
        assert_ne!(new().step(&all).unwrap().kl, found.kl);
    }
}

#[test]
fn losses_are_means_over_the_rows_that_count() {
    let batch = windows(Loss::Kd);
    let mut trainer = new();
    let mut model = Classifier::from_parts(&decoder(), &trainer.weights(), &Device::flex()).unwrap();
    let logits = model.logits(&batch.inputs, 3).unwrap();
    let labels: Vec<u32> = batch.labels.iter().flatten().copied().take(10).collect();
    let expected = Evaluation::new(&logits[..10 * CLASSES], &labels, CLASSES);
    let Some(SoftTargets {
        targets: Targets::Dense(teacher),
        ..
    }) = &batch.soft
    else {
        panic!("dense")
    };
    let mut student = vec![0.0; logits.len()];
    retort_codec::soften(&logits, CLASSES, 2.0, &mut student);
    let terms = teacher.iter().zip(&student).take(10 * CLASSES);
    let kl = terms
        .map(|(p, q)| f64::from(p.exp()) * f64::from(p - q))
        .sum::<f64>()
        / 10.0;
    assert_eq!(batch.labelled_samples(), 3);
    let report = trainer.step(&batch).unwrap();
    assert!((report.hard_loss.unwrap() - expected.loss).abs() < 1e-5);
    assert!((report.kl.unwrap() - kl).abs() < 1e-5);
}

#[test]
fn rows_that_a_batch_does_not_have_are_refused() {
    for counted in [vec![], vec![0, 12], vec![3, 2]] {
        let batch = Batch {
            counted: Some(counted),
            ..windows(Loss::Kd)
        };
        assert!(matches!(new().step(&batch), Err(Error::Range { .. })));
    }
    let mut batch = windows(Loss::Kd);
    batch.labels.truncate(3);
    let error = new().step(&batch).unwrap_err().to_string();
    assert_eq!(error, "labels: 3 values, expected 12");
}
