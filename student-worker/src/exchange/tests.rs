//! Replicas of one model, without a network between them.

use retort_data::Shape;
use retort_data::rng::Rng;
use retort_job::{Architecture, Loss, Model, Optimizer, OptimizerKind};
use retort_models::{Choice, Preprocessing, Spec};
use retort_sync::Part;

use super::*;
use crate::trainer::{Batch, BurnTrainer, SoftTargets, Targets};

const SAMPLES: usize = 24;

fn trainer(kind: OptimizerKind, clip_norm: Option<f64>) -> BurnTrainer {
    let spec = Spec {
        model: Model {
            width: Some(4),
            ..Model::of(Architecture::Cnn)
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
    };
    let optimizer = Optimizer {
        kind,
        learning_rate: 0.01.into(),
        weight_decay: 0.01,
        momentum: 0.9,
        clip_norm,
    };
    BurnTrainer::new(&spec, optimizer, 7, Choice::Flex).unwrap()
}

/// Samples `range` of the batch with this number.
fn batch(number: u64, range: std::ops::Range<usize>) -> Batch {
    let mut rng = Rng::keyed(&[number]);
    let labels: Vec<u32> = (0..SAMPLES).map(|_| rng.below(4) as u32).collect();
    let inputs: Vec<f32> = (0..SAMPLES * 36).map(|_| rng.uniform_f32()).collect();
    let soft = |label: &u32| {
        (0..4)
            .map(|c| if c == *label { 0.7f32.ln() } else { 0.1f32.ln() })
            .collect::<Vec<f32>>()
    };
    Batch {
        inputs: inputs[range.start * 36..range.end * 36].to_vec(),
        samples: range.len(),
        labels: labels[range.clone()].iter().copied().map(Some).collect(),
        mixed: Vec::new(),
        counted: None,
        soft: Some(SoftTargets {
            targets: Targets::Dense(labels[range].iter().flat_map(soft).collect()),
            temperature: 2.0,
            loss: Loss::Kd,
            hint: None,
        }),
        alpha: 0.5,
        learning_rate: 0.01,
    }
}

fn sync(strategy: Strategy, wire: Option<Wire>) -> Sync {
    Sync {
        strategy,
        wire,
        ..Sync::default()
    }
}

/// One replica.
struct Replica {
    trainer: BurnTrainer,
    exchange: Exchange,
}

impl Replica {
    fn new(sync: &Sync, kind: OptimizerKind, clip_norm: Option<f64>) -> Self {
        let trainer = trainer(kind, clip_norm);
        let exchange = Exchange::new(sync, &trainer).unwrap();
        Self { trainer, exchange }
    }

    fn train(&mut self, batch: &Batch) {
        let report = match self.exchange.accumulates() {
            true => self.trainer.accumulate(batch),
            false => self.trainer.step(batch),
        };
        report.unwrap();
    }
}

/// Merges a round as the coordinator does; gives what was sent.
fn close(replicas: &mut [Replica], samples: &[u64], wire: Wire) -> Vec<Outgoing> {
    let sent: Vec<Outgoing> = replicas
        .iter_mut()
        .map(|r| r.exchange.export(&mut r.trainer, true).unwrap())
        .collect();
    assert!(
        sent.iter().all(|s| s.hash == sent[0].hash),
        "they began with the same bits"
    );
    let parts = sent.iter().zip(samples).map(|(s, n)| Part {
        samples: *n,
        bytes: &s.update,
    });
    let merged = retort_sync::mean(parts, wire, Vec::new()).unwrap();
    for r in replicas.iter_mut() {
        r.exchange.import(&mut r.trainer, &merged, 0.01).unwrap();
    }
    let first = replicas[0].trainer.flat();
    assert!(
        replicas.iter().all(|r| r.trainer.flat() == first),
        "and end with the same"
    );
    sent
}

#[test]
fn a_step_of_several_replicas_is_that_of_one_on_the_whole_batch() {
    for (kind, clip) in [
        (OptimizerKind::Adam, None),
        (OptimizerKind::Adamw, Some(0.1)),
        (OptimizerKind::Sgd, None),
    ] {
        // Shares of one, two and four replicas, unequal ones too.
        for cuts in [
            &[0, 24][..],
            &[0, 12, 24],
            &[0, 6, 12, 18, 24],
            &[0, 3, 5, 20, 24],
        ] {
            let sync = sync(Strategy::Step, None);
            let mut alone = trainer(kind, clip);
            let mut replicas: Vec<Replica> = cuts[1..]
                .iter()
                .map(|_| Replica::new(&sync, kind, clip))
                .collect();
            for number in 0..6 {
                alone.step(&batch(number, 0..SAMPLES)).unwrap();
                let shares: Vec<u64> = cuts.windows(2).map(|c| (c[1] - c[0]) as u64).collect();
                for (replica, cut) in replicas.iter_mut().zip(cuts.windows(2)) {
                    // A share may itself be taken in parts.
                    let middle = usize::midpoint(cut[0], cut[1]);
                    for part in [cut[0]..middle, middle..cut[1]]
                        .into_iter()
                        .filter(|p| !p.is_empty())
                    {
                        replica.train(&batch(number, part));
                    }
                }
                close(&mut replicas, &shares, Wire::F32);
            }
            assert_eq!(replicas[0].trainer.steps(), 6);
            let (one, all) = (alone.flat(), replicas[0].trainer.flat());
            let most = one
                .iter()
                .zip(&all)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            let moved = one
                .iter()
                .zip(trainer(kind, clip).flat())
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            // Adam divides by the root of the square: where a gradient is all but 0 its sign is that of the rounding.
            assert!(most < 0.02 * moved, "{kind:?} {cuts:?}: {most} of {moved}");
        }
    }
}

#[test]
fn a_replica_that_joins_goes_on_like_the_one_that_handed_its_state_over() {
    for strategy in [Strategy::Step, Strategy::Diloco] {
        let sync = sync(strategy, None);
        let new = || Replica::new(&sync, OptimizerKind::Adam, None);
        let mut replicas = vec![new(), new()];
        let round = |replicas: &mut Vec<Replica>, number: u64| {
            let share = SAMPLES / replicas.len();
            for (i, r) in replicas.iter_mut().enumerate() {
                r.train(&batch(number, i * share..(i + 1) * share));
            }
            let samples = vec![share as u64; replicas.len()];
            close(replicas, &samples, sync.wire())
        };
        for number in 0..3 {
            round(&mut replicas, number);
        }
        // The state is that of the round's start, whatever was trained since.
        replicas[0].train(&batch(9, 0..8));
        replicas[1].train(&batch(9, 8..16));
        let Replica { trainer, exchange } = &mut replicas[0];
        let state = exchange.export(trainer, true).unwrap().state;
        let mut late = new();
        late.train(&batch(77, 0..24)); // of a state that is given up
        late.exchange.take_over(&mut late.trainer, &state).unwrap();
        late.train(&batch(9, 16..24));
        replicas.push(late);
        close(&mut replicas, &[8; 3], sync.wire());
        for number in 10..13 {
            round(&mut replicas, number);
        }
        let Replica { trainer, exchange } = &mut replicas[0];
        assert!(exchange.take_over(trainer, &state[..state.len() - 5]).is_err());
    }
}

#[test]
fn an_outer_step_sends_half_the_bytes_once_a_round() {
    let sync = sync(Strategy::Diloco, None);
    let mut replicas: Vec<Replica> = (0..2)
        .map(|_| Replica::new(&sync, OptimizerKind::Adam, None))
        .collect();
    let weights = replicas[0].trainer.flat().len();
    let before = replicas[0].trainer.flat();
    for number in 0..4 {
        replicas[0].train(&batch(number, 0..12));
        replicas[1].train(&batch(number, 12..24));
    }
    let ends: Vec<Vec<f32>> = replicas.iter().map(|r| r.trainer.flat()).collect();
    let sent = close(&mut replicas, &[48, 48], Wire::Bf16);
    assert!(sent.iter().all(|s| s.update.len() == 2 * weights));
    // The first step: momentum is the displacement itself, 0.7 (1 + 0.9) of it.
    for (i, now) in replicas[0].trainer.flat().into_iter().enumerate() {
        let (a, b) = (before[i] - ends[0][i], before[i] - ends[1][i]);
        let expected = before[i] - 0.7 * 1.9 * (a + b) / 2.0;
        // Rounded to 8 bits on both ways.
        let bound = 1.33 * (a.abs() + b.abs()) / 256.0 + 1e-6;
        assert!((now - expected).abs() <= bound, "{now} {expected}");
    }
    // A version brings the momentum back.
    let (name, file) = replicas[0].exchange.file().unwrap();
    assert_eq!((name.as_str(), file.len()), (OUTER_FILE, 4 * weights));
    let mut again = Replica::new(&sync, OptimizerKind::Adam, None);
    again.trainer.set_flat(&replicas[0].trainer.flat()).unwrap();
    again.exchange.restored(&mut again.trainer, Some(&file)).unwrap();
    replicas[1] = again;
    replicas[0].train(&batch(5, 0..12));
    close(&mut replicas, &[12, 0], Wire::Bf16);
}

#[test]
fn one_process_exchanges_nothing() {
    let trainer = trainer(OptimizerKind::Adam, None);
    assert!(Exchange::new(&sync(Strategy::None, None), &trainer).is_none());
}
