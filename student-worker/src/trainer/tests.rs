use retort_data::Shape;
use retort_data::rng::Rng;
use retort_job::{Architecture, Model, Optimizer, OptimizerKind};
use retort_models::{Choice, Classifier, Device, Net, Preprocessing, Spec};

use super::*;

mod exits;

fn spec(architecture: Architecture) -> Spec {
    let mlp = architecture == Architecture::Mlp;
    Spec {
        model: Model {
            architecture,
            hidden: mlp.then(|| vec![12]),
            width: (!mlp).then_some(4),
            depth: None,
            stages: None,
            heads: None,
            dropout: 0.2,
            exits: None,
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
        projection: None,
    }
}

fn trainer(architecture: Architecture, kind: OptimizerKind) -> BurnTrainer {
    let optimizer = Optimizer {
        kind,
        learning_rate: 0.01,
        weight_decay: 0.01,
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
        soft: Some(SoftTargets {
            targets: Targets::Dense(log_probs),
            temperature: 2.0,
        }),
        alpha: 0.5,
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

const ALL: [(Architecture, OptimizerKind); 8] = [
    (Architecture::Mlp, OptimizerKind::Adam),
    (Architecture::Mlp, OptimizerKind::Sgd),
    (Architecture::Cnn, OptimizerKind::Adam),
    (Architecture::Cnn, OptimizerKind::Sgd),
    (Architecture::Resnet, OptimizerKind::Adam),
    (Architecture::Resnet, OptimizerKind::Sgd),
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
        let before = trainer.evaluate(&inputs, &labels).unwrap();
        train(&mut trainer, 0..60);
        let after = trainer.evaluate(&inputs, &labels).unwrap();
        // Sixty steps of plain SGD at this rate are too few for the convolutions.
        let learns = kind == OptimizerKind::Adam;
        assert!(
            !learns || after.loss < before.loss,
            "{architecture:?}: {before:?} {after:?}"
        );
        let mut exported =
            Classifier::from_parts(&spec(architecture), &trainer.weights(), &Device::flex()).unwrap();
        assert_eq!(exported.evaluate(&inputs, &labels).unwrap(), after);
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
        weights: vec![weight; batch.samples],
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
        learning_rate: 0.01,
        weight_decay: 0.0,
    };
    let spec = Spec {
        classes: CLASSES,
        ..spec(Architecture::Mlp)
    };
    let mut trainer = BurnTrainer::new(&spec, optimizer, 7, Choice::Flex).unwrap();
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
            "kept classes [3, 1] of sample 1, expected ascending numbers below 4",
        ),
        (
            &|t| t[0].top.ids[2..4].copy_from_slice(&[1, 4]),
            "kept classes [1, 4] of sample 1, expected ascending numbers below 4",
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
