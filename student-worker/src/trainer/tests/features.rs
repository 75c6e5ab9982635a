//! A layer learns from a teacher's, beside the answers.

use retort_codec::Features;
use retort_job::FeatureLoss;
use retort_models::Projection;

use super::*;

const TEACHER_CHANNELS: usize = 6;

/// A batch with what a layer of `channels` at `positions` of some teacher holds.
fn hinted(number: u64, loss: FeatureLoss, [channels, positions]: [usize; 2]) -> Batch {
    let mut batch = batch(number);
    let mut rng = Rng::keyed(&[number, 1]);
    let values = (0..batch.samples * channels * positions).map(|_| rng.uniform_f32());
    let hint = Hint {
        layer: "conv2".into(),
        loss,
        weight: 2.0,
        features: Features {
            rows: batch.samples,
            channels,
            positions,
            values: values.collect(),
        },
    };
    batch.soft.as_mut().unwrap().hint = Some(hint);
    batch
}

fn cnn(projection: Option<usize>) -> BurnTrainer {
    let mut spec = spec(Architecture::Cnn);
    spec.model.dropout = 0.0;
    spec.projection = projection.map(|channels| Projection {
        layer: "conv2".into(),
        channels,
    });
    let optimizer = Optimizer {
        kind: OptimizerKind::Adam,
        learning_rate: 0.01.into(),
        weight_decay: 0.0,
        momentum: 0.9,
        clip_norm: None,
    };
    BurnTrainer::new(&spec, optimizer, 7, Choice::Flex).unwrap()
}

fn layer() -> [usize; 2] {
    let (_, layer) = spec(Architecture::Cnn).layer("conv2").unwrap();
    [layer.channels, layer.positions]
}

fn losses() -> [(FeatureLoss, Option<usize>, [usize; 2]); 4] {
    let [channels, positions] = layer();
    [
        (
            FeatureLoss::Hint,
            Some(TEACHER_CHANNELS),
            [TEACHER_CHANNELS, positions],
        ),
        (FeatureLoss::Attention, None, [TEACHER_CHANNELS, positions]),
        (FeatureLoss::Cosine, None, [channels, positions]),
        (FeatureLoss::Relational, None, [3, 2]),
    ]
}

#[test]
fn the_loss_is_alpha_times_weight_times_that_of_the_layers_more() {
    for (loss, projection, sizes) in losses() {
        let batch = hinted(1, loss, sizes);
        let mut plain = batch.clone();
        plain.soft.as_mut().unwrap().hint = None;
        let with = cnn(projection).step(&batch).unwrap();
        let without = cnn(projection).step(&plain).unwrap();
        assert_eq!(without.feature_loss, None);
        let features = with.feature_loss.unwrap();
        assert!(features > 0.01, "{loss:?}: {features}");
        let expected = without.loss + batch.alpha * 2.0 * features;
        assert!(
            (with.loss - expected).abs() < 1e-5,
            "{loss:?}: {} {expected}",
            with.loss
        );
        assert_eq!(
            (with.hard_loss, with.soft_loss),
            (without.hard_loss, without.soft_loss)
        );
    }
}

#[test]
fn the_layer_comes_nearer_to_the_teachers() {
    for (loss, projection, sizes) in losses() {
        let mut trainer = cnn(projection);
        let mut batch = hinted(1, loss, sizes);
        let hint = batch.soft.as_mut().unwrap().hint.as_mut().unwrap();
        hint.weight = 20.0;
        let first = trainer.step(&batch).unwrap().feature_loss.unwrap();
        let last = (0..60)
            .map(|_| trainer.step(&batch).unwrap().feature_loss.unwrap())
            .last()
            .unwrap();
        assert!(last < 0.8 * first, "{loss:?}: {first} to {last}");
    }
}

#[test]
fn layers_that_do_not_fit_are_refused_and_nothing_is_learned() {
    let [channels, positions] = layer();
    for (loss, projection, sizes, text) in [
        (
            FeatureLoss::Hint,
            None,
            [channels + 1, positions],
            "channels of the features",
        ),
        (
            FeatureLoss::Cosine,
            Some(5),
            [channels, positions],
            "channels of the features",
        ),
        (
            FeatureLoss::Attention,
            None,
            [channels, positions + 1],
            "positions of the features",
        ),
    ] {
        let mut trainer = cnn(projection);
        let before = trainer.flat();
        let error = trainer.step(&hinted(1, loss, sizes)).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert_eq!(trainer.flat(), before);
    }
    let mut batch = hinted(1, FeatureLoss::Relational, [2, 2]);
    let hint = batch.soft.as_mut().unwrap().hint.as_mut().unwrap();
    hint.layer = "conv9".into();
    let error = cnn(None).step(&batch).unwrap_err().to_string();
    assert!(error.contains("conv9") && error.contains("conv2"), "{error}");
    hint_of(&mut batch).layer = "conv2".into();
    hint_of(&mut batch).features.values.pop();
    let error = cnn(None).step(&batch).unwrap_err().to_string();
    assert!(error.contains("features: 63 values, expected 64"), "{error}");
}

fn hint_of(batch: &mut Batch) -> &mut Hint {
    batch.soft.as_mut().unwrap().hint.as_mut().unwrap()
}
