use retort_data::Shape;
use retort_data::rng::Rng;
use retort_job::{Architecture, Model, Optimizer, OptimizerKind};
use retort_models::{Choice, Classifier, Device, Net, Preprocessing, Spec};

use super::*;

mod exits;
mod features;
mod rows;

fn spec(architecture: Architecture) -> Spec {
    let mlp = architecture == Architecture::Mlp;
    Spec {
        model: Model {
            hidden: mlp.then(|| vec![12]),
            width: (!mlp).then_some(4),
            dropout: 0.2,
            ..Model::of(architecture)
        },
        input: Shape {
            channels: 1,
            height: 6,
            width: 6,
        },
        classes: 4,
        preprocessing: Preprocessing {
            mean: vec![0.5],
            std: vec![0.3],
        },
        tokens: None,
        rows: 1,
        projection: None,
    }
}

fn trainer(architecture: Architecture, kind: OptimizerKind) -> BurnTrainer {
    let optimizer = Optimizer {
        kind,
        learning_rate: 0.01.into(),
        weight_decay: 0.01,
        momentum: 0.9,
        clip_norm: None,
    };
    BurnTrainer::new(&spec(architecture), optimizer, 7, Choice::Flex).unwrap()
}

/// The same batch for the same number: class c is bright in row c, and every third sample lacks its label.
fn batch(number: u64) -> Batch {
    let mut rng = Rng::keyed(&[number]);
    let samples = 16;
    let classes: Vec<u32> = (0..samples).map(|_| rng.below(4) as u32).collect();
    let mut inputs = Vec::new();
    let mut log_probs = Vec::new();
    for &class in &classes {
        inputs.extend(
            (0..36).map(|i| rng.uniform_f32() * 0.5 + if i / 6 == class as usize { 0.5 } else { 0.0 }),
        );
        log_probs.extend((0..4).map(|c| if c == class { 0.7_f32.ln() } else { 0.1_f32.ln() }));
    }
    Batch {
        inputs,
        samples,
        labels: classes
            .iter()
            .enumerate()
            .map(|(i, &c)| (i % 3 > 0).then_some(c))
            .collect(),
        mixed: Vec::new(),
        counted: None,
        soft: Some(SoftTargets {
            targets: Targets::Dense(log_probs),
            temperature: 2.0,
            loss: Loss::Kd,
            hint: None,
        }),
        alpha: 0.5,
        learning_rate: 0.01,
    }
}

fn train(trainer: &mut BurnTrainer, numbers: std::ops::Range<u64>) -> Vec<StepReport> {
    numbers
        .map(|number| trainer.step(&batch(number)).unwrap())
        .collect()
}

fn dense(soft: &mut SoftTargets) -> &mut Vec<f32> {
    match &mut soft.targets {
        Targets::Dense(log_probs) => log_probs,
        Targets::Sparse(_) => panic!("whole distributions"),
    }
}

const ALL: [(Architecture, OptimizerKind); 10] = [
    (Architecture::Mlp, OptimizerKind::Adam),
    (Architecture::Mlp, OptimizerKind::Sgd),
    (Architecture::Cnn, OptimizerKind::Adam),
    (Architecture::Cnn, OptimizerKind::Sgd),
    (Architecture::Resnet, OptimizerKind::Adam),
    (Architecture::Resnet, OptimizerKind::Sgd),
    (Architecture::Mobilenet, OptimizerKind::Adam),
    (Architecture::Mobilenet, OptimizerKind::Sgd),
    (Architecture::Transformer, OptimizerKind::Adam),
    (Architecture::Transformer, OptimizerKind::Sgd),
];

#[test]
fn a_resumed_trainer_goes_on_bit_for_bit() {
    for (architecture, kind) in ALL {
        let mut whole = trainer(architecture, kind);
        let before = train(&mut whole, 0..5);
        let (weights, state, steps) = (whole.weights(), whole.optimizer_state().unwrap(), whole.steps());
        let after = train(&mut whole, 5..10);

        let mut again = trainer(architecture, kind);
        assert_eq!(train(&mut again, 0..5), before, "{architecture:?} {kind:?}");
        let mut resumed = trainer(architecture, kind);
        train(&mut resumed, 20..22);
        resumed.load_weights(&weights).unwrap();
        resumed.load_optimizer_state(&state).unwrap();
        resumed.set_steps(steps);
        assert_eq!(train(&mut resumed, 5..10), after, "{architecture:?} {kind:?}");
        assert_eq!(resumed.flat(), whole.flat(), "{architecture:?} {kind:?}");
    }
}

#[test]
fn two_trainers_on_two_threads_do_not_disturb_each_other() {
    let run = || {
        let mut trainer = trainer(Architecture::Cnn, OptimizerKind::Adam);
        train(&mut trainer, 0..10);
        trainer.flat()
    };
    let alone = run();
    let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(run)).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), alone);
    }
}

#[test]
fn training_learns_and_an_export_evaluates_exactly_alike() {
    for (architecture, kind) in ALL {
        let mut trainer = trainer(architecture, kind);
        let Batch { inputs, samples, .. } = batch(1000);
        let mut rng = Rng::keyed(&[1000]);
        let labels: Vec<u32> = (0..samples).map(|_| rng.below(4) as u32).collect();
        let held_out = HeldOut::new(inputs, labels);
        let before = trainer.evaluate(&held_out).unwrap();
        train(&mut trainer, 0..60);
        let after = trainer.evaluate(&held_out).unwrap();
        // Sixty steps of plain SGD at this rate are too few for the convolutions.
        let learns = kind == OptimizerKind::Adam;
        assert!(
            !learns || after.loss < before.loss,
            "{architecture:?}: {before:?} {after:?}"
        );
        let mut exported =
            Classifier::from_parts(&spec(architecture), &trainer.weights(), &Device::flex()).unwrap();
        assert_eq!(exported.evaluate(&held_out).unwrap(), after);
    }
}

#[test]
fn weight_decay_spares_biases_and_norms() {
    for kind in [OptimizerKind::Adam, OptimizerKind::Sgd] {
        let mut trainer = trainer(Architecture::Resnet, kind);
        let names = trainer.layout();
        let before = trainer.flat();
        let idle = Batch {
            labels: vec![None; 16],
            soft: None,
            alpha: 0.0,
            ..batch(1)
        };
        trainer.step(&idle).unwrap();
        let (after, mut at) = (trainer.flat(), 0);
        for (name, shape) in names {
            let range = at..at + shape.iter().product::<usize>();
            at = range.end;
            let changed = before[range.clone()] != after[range];
            assert_eq!(changed, name.ends_with(".weight"), "{kind:?} {name}");
        }
    }
}

#[test]
fn a_report_says_what_the_step_consumed() {
    let mut trainer = trainer(Architecture::Mlp, OptimizerKind::Adam);
    let report = trainer
        .step(&Batch {
            alpha: 0.0,
            ..batch(1)
        })
        .unwrap();
    assert_eq!(report.labelled, 10);
    assert_eq!(report.gradient_share, Some(0.0));
    assert!(
        report.kl.is_some_and(|kl| kl > 0.0),
        "computed although it has no weight"
    );
    assert_eq!(report.hard_loss, Some(report.loss));

    let unlabelled = Batch {
        labels: vec![None; 16],
        alpha: 1.0,
        ..batch(1)
    };
    let report = trainer.step(&unlabelled).unwrap();
    assert_eq!(
        (report.labelled, report.hard_loss, report.gradient_share),
        (0, None, Some(1.0))
    );
    assert!(
        (report.loss - 4.0 * report.kl.unwrap()).abs() < 1e-6,
        "alpha T² KL"
    );

    let alone = trainer
        .step(&Batch {
            soft: None,
            alpha: 0.0,
            ..batch(1)
        })
        .unwrap();
    assert_eq!((alone.kl, alone.gradient_share), (None, None));
    assert_eq!(trainer.steps(), 3);
}

#[test]
fn second_labels_count_by_their_share() {
    let labels: Vec<Option<u32>> = (0..16).map(|i| (i != 5).then_some(i % 4)).collect();
    let second: Vec<u32> = (0..16).map(|i| (i / 4 + 1) % 4).collect();
    let step = |labels: &[Option<u32>], mixed: Vec<(u32, f32)>| {
        let mut trainer = trainer(Architecture::Mlp, OptimizerKind::Sgd);
        let batch = Batch {
            labels: labels.to_vec(),
            mixed,
            ..batch(1)
        };
        (trainer.step(&batch).unwrap(), trainer.flat())
    };
    let of = |share: f32| second.iter().map(|&label| (label, share)).collect::<Vec<_>>();
    let (first, weights) = step(&labels, Vec::new());
    let (same, again) = step(&labels, of(0.0));
    assert_eq!(
        (same, &again),
        (first, &weights),
        "a share of nothing changes nothing"
    );
    let others: Vec<Option<u32>> = labels.iter().zip(&second).map(|(l, s)| l.map(|_| *s)).collect();
    let (last, _) = step(&others, Vec::new());
    let (mixed, moved) = step(&labels, of(0.25));
    let expected = 0.75 * first.hard_loss.unwrap() + 0.25 * last.hard_loss.unwrap();
    assert!(
        (mixed.hard_loss.unwrap() - expected).abs() < 1e-6,
        "{mixed:?} {expected}"
    );
    assert_eq!((mixed.labelled, mixed.kl), (15, first.kl));
    assert_ne!(moved, weights);
}

#[test]
fn a_bad_batch_changes_nothing() {
    let mut trainer = trainer(Architecture::Mlp, OptimizerKind::Adam);
    train(&mut trainer, 0..2);
    let weights = trainer.weights();
    let soft = batch(3).soft.unwrap();
    let with_soft = |change: &dyn Fn(&mut SoftTargets)| {
        let mut soft = soft.clone();
        change(&mut soft);
        Batch {
            soft: Some(soft),
            ..batch(3)
        }
    };
    for (bad, expected) in [
        (
            Batch {
                samples: 0,
                ..batch(3)
            },
            "samples is 0, expected at least 1",
        ),
        (
            Batch {
                inputs: vec![0.0; 3],
                ..batch(3)
            },
            "inputs: 3 values, expected 576",
        ),
        (
            Batch {
                labels: vec![None; 15],
                ..batch(3)
            },
            "labels: 15 values, expected 16",
        ),
        (
            Batch {
                labels: vec![Some(4); 16],
                ..batch(3)
            },
            "label 4 of a model with 4 classes",
        ),
        (
            Batch {
                mixed: vec![(0, 0.5); 15],
                ..batch(3)
            },
            "second labels: 15 values, expected 16",
        ),
        (
            Batch {
                mixed: vec![(4, 0.5); 16],
                ..batch(3)
            },
            "label 4 of a model with 4 classes",
        ),
        (
            Batch {
                mixed: vec![(0, f32::NAN); 16],
                ..batch(3)
            },
            "share of a second label is NaN, expected 0..=1",
        ),
        (
            Batch {
                alpha: 1.5,
                ..batch(3)
            },
            "alpha is 1.5, expected 0..=1",
        ),
        (
            Batch {
                soft: None,
                ..batch(3)
            },
            "step 2 has alpha 0.5 and no soft targets",
        ),
        (
            with_soft(&|s| dense(s).truncate(60)),
            "soft targets: 60 values, expected 64",
        ),
        (
            with_soft(&|s| s.temperature = 0.0),
            "temperature is 0, expected a number greater than 0",
        ),
        (with_soft(&|s| dense(s)[5] = f32::NAN), "loss of step 2 is NaN"),
        (
            Batch {
                inputs: vec![f32::INFINITY; 576],
                ..batch(3)
            },
            "loss of step 2 is NaN",
        ),
    ] {
        assert_eq!(trainer.step(&bad).unwrap_err().to_string(), expected);
    }
    assert_eq!((trainer.weights(), trainer.steps()), (weights, 2));
    train(&mut trainer, 2..4);
}

#[test]
fn foreign_state_is_refused() {
    let mut small = trainer(Architecture::Mlp, OptimizerKind::Adam);
    train(&mut small, 0..2);
    let state = small.optimizer_state().unwrap();
    let mut broken = state.clone();
    *broken.last_mut().unwrap() ^= 1;
    for bytes in [&broken[..], &state[..state.len() - 1], &[], b"x"] {
        assert!(matches!(
            small.load_optimizer_state(bytes),
            Err(Error::OptimizerState)
        ));
    }
    for (architecture, kind) in [ALL[1], ALL[2]] {
        let mut other = trainer(architecture, kind);
        assert!(matches!(
            other.load_optimizer_state(&state),
            Err(Error::OptimizerState)
        ));
    }
    assert!(small.set_flat(&[0.0; 3]).is_err());
    assert!(
        small
            .load_weights(&trainer(Architecture::Cnn, OptimizerKind::Adam).weights())
            .is_err()
    );
}

const LOSSES: [Loss; 5] = [
    Loss::Kd,
    Loss::ReverseKl,
    Loss::Jsd { beta: 0.5 },
    Loss::Mse,
    Loss::Dkd {
        alpha: 1.0,
        beta: 8.0,
    },
];

/// Fully labelled, the soft loss alone.
fn soft(number: u64, loss: Loss) -> Batch {
    let mut batch = batch(number);
    batch.labels = batch.labels.into_iter().map(|l| Some(l.unwrap_or(0))).collect();
    batch.soft.as_mut().unwrap().loss = loss;
    batch.alpha = 1.0;
    batch
}

#[test]
fn each_soft_loss_trains_and_brings_the_student_nearer_to_its_teacher() {
    for loss in LOSSES {
        let mut trainer = trainer(Architecture::Mlp, OptimizerKind::Adam);
        let reports: Vec<StepReport> = (0..80)
            .map(|i| trainer.step(&soft(i % 4, loss)).unwrap())
            .collect();
        let mean = |range: std::ops::Range<usize>, of: &dyn Fn(&StepReport) -> f64| {
            reports[range].iter().map(of).sum::<f64>() / 8.0
        };
        let minimised = |r: &StepReport| r.soft_loss.unwrap();
        let (before, after) = (mean(0..8, &minimised), mean(72..80, &minimised));
        assert!(after < 0.7 * before, "{loss:?}: {before} {after}");
        let kl = |r: &StepReport| r.kl.unwrap();
        let (before, after) = (mean(0..8, &kl), mean(72..80, &kl));
        assert!(after < before, "{loss:?}: {before} {after}");
        for report in &reports {
            assert_eq!(
                (report.loss, report.gradient_share),
                (report.soft_loss.unwrap(), Some(1.0))
            );
        }
    }
}

#[test]
fn the_divergence_and_the_hard_loss_do_not_depend_on_the_soft_loss() {
    let report = |loss| {
        let mut batch = soft(1, loss);
        batch.alpha = 0.5;
        trainer(Architecture::Mlp, OptimizerKind::Adam)
            .step(&batch)
            .unwrap()
    };
    let kd = report(Loss::Kd);
    for loss in LOSSES {
        let found = report(loss);
        assert_eq!((found.kl, found.hard_loss), (kd.kl, kd.hard_loss), "{loss:?}");
        let total = 0.5 * found.hard_loss.unwrap() + 0.5 * found.soft_loss.unwrap();
        assert!((found.loss - total).abs() < 1e-5, "{loss:?}: {found:?}");
        assert!(
            found
                .gradient_share
                .is_some_and(|share| share > 0.0 && share < 1.0),
            "{loss:?}"
        );
    }
}

#[test]
fn a_student_that_equals_its_teacher_does_not_move() {
    let mut spec = spec(Architecture::Mlp);
    spec.model.dropout = 0.0;
    let optimizer = Optimizer {
        kind: OptimizerKind::Sgd,
        learning_rate: 1.0.into(),
        weight_decay: 0.0,
        momentum: 0.9,
        clip_norm: None,
    };
    for loss in LOSSES {
        let mut trainer = BurnTrainer::new(&spec, optimizer.clone(), 7, Choice::Flex).unwrap();
        let before = trainer.flat();
        let mut own = soft(1, loss);
        own.learning_rate = 1.0;
        let mut model = Classifier::from_parts(&spec, &trainer.weights(), &Device::flex()).unwrap();
        let logits = model.logits(&own.inputs, own.samples).unwrap();
        let mut rows = vec![0.0; logits.len()];
        retort_codec::soften(&logits, 4, 2.0, &mut rows);
        *dense(own.soft.as_mut().unwrap()) = rows;
        let report = trainer.step(&own).unwrap();
        assert!(report.soft_loss.unwrap().abs() < 1e-5, "{loss:?}: {report:?}");
        let pairs = before.into_iter().zip(trainer.flat());
        let moved = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved < 1e-5, "{loss:?}: {moved}");
    }
}

#[test]
fn a_batch_that_a_soft_loss_can_not_use_is_refused_and_changes_nothing() {
    let mut trainer = trainer(Architecture::Mlp, OptimizerKind::Adam);
    let weights = trainer.weights();
    let dkd = LOSSES[4];
    let mut unlabelled = soft(1, dkd);
    unlabelled.labels[5] = None;
    let error = trainer.step(&unlabelled).unwrap_err().to_string();
    assert_eq!(error, "step 0 has loss \"dkd\" and no label of row 5");
    for loss in LOSSES {
        let found = trainer.step(&cut(soft(1, loss), 4, 2, [0.5, 0.5]));
        match loss {
            Loss::Mse | Loss::Dkd { .. } => {
                let error = found.unwrap_err().to_string();
                assert!(
                    error.contains("needs all classes") && error.contains(loss.name()),
                    "{error}"
                );
            }
            Loss::Kd | Loss::ReverseKl | Loss::Jsd { .. } => {
                found.unwrap();
                trainer.load_weights(&weights).unwrap();
            }
        }
    }
    assert_eq!((trainer.weights(), trainer.steps()), (weights, 3));
}

/// The batch with its soft targets cut to the `kept` best classes, as two teachers with these weights say them.
fn cut(mut batch: Batch, classes: usize, kept: usize, weights: [f32; 2]) -> Batch {
    let soft = batch.soft.as_mut().unwrap();
    let mut top = TopK {
        kept,
        ..TopK::default()
    };
    for row in dense(soft).chunks(classes) {
        let mut ids: Vec<u32> = (0..classes as u32).collect();
        ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        let rest: f32 = ids.split_off(kept).iter().map(|&id| row[id as usize].exp()).sum();
        ids.sort_unstable();
        top.log_probs.extend(ids.iter().map(|&id| row[id as usize]));
        top.ids.extend(ids);
        top.log_tail.push(rest.ln().max(retort_codec::FLOOR));
    }
    let teacher = |weight| Sparse {
        weights: vec![weight; batch.labels.len()],
        top: top.clone(),
    };
    soft.targets = Targets::Sparse(weights.map(teacher).into());
    batch
}

#[test]
fn a_step_with_all_classes_kept_is_the_step_with_whole_distributions() {
    for (architecture, kind) in ALL {
        let (mut whole, mut kept) = (trainer(architecture, kind), trainer(architecture, kind));
        for number in 0..3 {
            let expected = whole.step(&batch(number)).unwrap();
            let found = kept.step(&cut(batch(number), 4, 4, [0.25, 0.75])).unwrap();
            for (found, expected) in [
                (found.loss, expected.loss),
                (found.kl.unwrap(), expected.kl.unwrap()),
                (found.gradient_share.unwrap(), expected.gradient_share.unwrap()),
            ] {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{architecture:?} {kind:?}: {found}, {expected}"
                );
            }
        }
        let pairs = whole.flat().into_iter().zip(kept.flat());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{architecture:?} {kind:?}: {worst}");
    }
}

#[test]
fn steps_on_a_few_classes_bring_the_student_nearer_to_all_of_them() {
    const CLASSES: usize = 10;
    let optimizer = Optimizer {
        kind: OptimizerKind::Adam,
        learning_rate: 0.01.into(),
        weight_decay: 0.0,
        momentum: 0.9,
        clip_norm: None,
    };
    let spec = Spec {
        classes: CLASSES,
        ..spec(Architecture::Mlp)
    };
    let mut trainer = BurnTrainer::new(&spec, optimizer.clone(), 7, Choice::Flex).unwrap();
    let whole = || {
        let mut batch = batch(1);
        let row = [0.5_f64, 0.2, 0.1, 0.05, 0.05, 0.02, 0.02, 0.02, 0.02, 0.02];
        let rows = (0..batch.samples).flat_map(|i| (0..CLASSES).map(move |c| row[(c + i) % CLASSES].ln()));
        *dense(batch.soft.as_mut().unwrap()) = rows.map(|l| l as f32).collect();
        batch.labels = vec![None; batch.samples];
        batch.alpha = 1.0;
        batch
    };
    let before = trainer.step(&whole()).unwrap();
    let sparse = cut(whole(), CLASSES, 3, [0.5, 0.5]);
    let kls: Vec<f64> = (0..60)
        .map(|_| trainer.step(&sparse).unwrap().kl.unwrap())
        .collect();
    let after = trainer.step(&whole()).unwrap();
    assert!(kls[0] <= before.kl.unwrap(), "{} > {before:?}", kls[0]);
    assert!(kls[59] < 0.7 * kls[0], "{kls:?}");
    assert!(after.kl < before.kl, "{before:?} {after:?}");
}

#[test]
fn broken_cut_targets_change_nothing() {
    let mut trainer = trainer(Architecture::Mlp, OptimizerKind::Adam);
    let weights = trainer.weights();
    let good = cut(batch(3), 4, 2, [0.25, 0.75]);
    type Change<'a> = &'a dyn Fn(&mut Vec<Sparse>);
    let changes: [(Change<'_>, &str); 9] = [
        (&|t| t.clear(), "sum of weights is 0, expected 1"),
        (
            &|t| t[0].top.kept = 5,
            "kept is 5, expected at least 1 and at most the classes",
        ),
        (
            &|t| t[1].top.kept = 0,
            "kept is 0, expected at least 1 and at most the classes",
        ),
        (&|t| t[0].weights.truncate(3), "weights: 3 values, expected 16"),
        (
            &|t| t[1].top.ids.truncate(30),
            "kept classes: 30 values, expected 32",
        ),
        (&|t| t[1].top.log_tail.truncate(1), "tails: 1 values, expected 16"),
        (
            &|t| t[0].top.ids[2..4].copy_from_slice(&[3, 1]),
            "kept classes [3, 1] of row 1, expected ascending numbers below 4",
        ),
        (
            &|t| t[0].top.ids[2..4].copy_from_slice(&[1, 4]),
            "kept classes [1, 4] of row 1, expected ascending numbers below 4",
        ),
        (&|t| t[0].weights[5] = 0.5, "sum of weights is 1.25, expected 1"),
    ];
    for (change, expected) in changes {
        let mut bad = good.clone();
        let Some(Targets::Sparse(teachers)) = bad.soft.as_mut().map(|s| &mut s.targets) else {
            panic!("cut distributions")
        };
        change(teachers);
        assert_eq!(trainer.step(&bad).unwrap_err().to_string(), expected);
    }
    assert_eq!((trainer.weights(), trainer.steps()), (weights, 0));
    trainer.step(&good).unwrap();
}

fn step_with(change: impl Fn(&mut Optimizer), learning_rate: f64) -> Vec<f32> {
    let mut optimizer = Optimizer {
        kind: OptimizerKind::Sgd,
        learning_rate: 0.01.into(),
        weight_decay: 0.0,
        momentum: 0.0,
        clip_norm: None,
    };
    change(&mut optimizer);
    let mut trainer = BurnTrainer::new(&spec(Architecture::Mlp), optimizer, 7, Choice::Flex).unwrap();
    let before = trainer.flat();
    let batch = Batch {
        learning_rate,
        ..batch(1)
    };
    trainer.step(&batch).unwrap();
    before.iter().zip(trainer.flat()).map(|(a, b)| a - b).collect()
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt()
}

#[test]
fn a_long_gradient_is_scaled_as_a_whole_and_a_short_one_left_alone() {
    let free = step_with(|_| (), 1.0);
    let clipped = step_with(|o| o.clip_norm = Some(0.01), 1.0);
    assert!(norm(&free) > 0.02, "{}", norm(&free));
    assert!((norm(&clipped) - 0.01).abs() < 1e-5, "{}", norm(&clipped));
    let ratio = norm(&free) / 0.01;
    for (free, clipped) in free.iter().zip(&clipped) {
        assert!((free - clipped * ratio).abs() < 1e-4, "{free} {clipped}");
    }
    assert_eq!(step_with(|o| o.clip_norm = Some(1e3), 1.0), free);
}

#[test]
fn the_learning_rate_is_the_batchs() {
    let whole = step_with(|_| (), 0.5);
    let half = step_with(|_| (), 0.25);
    let pairs = whole.iter().zip(&half);
    assert!(pairs.clone().all(|(w, h)| (w - 2.0 * h).abs() < 1e-6));
    assert!(norm(&half) > 0.0 && norm(&step_with(|_| (), 0.0)) == 0.0);
}

#[test]
fn decoupled_decay_shrinks_weights_whatever_their_gradient() {
    let adamw = |weight_decay| {
        step_with(
            |o| {
                o.kind = OptimizerKind::Adamw;
                o.weight_decay = weight_decay;
            },
            0.01,
        )
    };
    let trainer = trainer(Architecture::Mlp, OptimizerKind::Adam);
    let (free, decayed) = (adamw(0.0), adamw(0.1));
    let (weights, layout) = (trainer.flat(), trainer.layout());
    let mut at = 0;
    for (name, shape) in layout {
        for i in at..at + shape.iter().product::<usize>() {
            let more = decayed[i] - free[i];
            let expected = if name.ends_with(".weight") {
                0.01 * 0.1 * weights[i]
            } else {
                0.0
            };
            assert!((more - expected).abs() < 1e-6, "{name}: {more} {expected}");
        }
        at += shape.iter().product::<usize>();
    }
}
