//! Transformers that tell what follows at every position.

use burn::optim::{GradientsParams, SgdConfig};

use super::*;
use crate::{Card, DatasetReference};

const MODEL: &str = "architecture = 'transformer'\nwidth = 6\nheads = 2\ndepth = 2";
const CLASSES: usize = 5;
const LENGTH: usize = 9;
/// Between documents; 0 is padding.
const BORDER: f32 = 1.0;

/// Of windows of [`LENGTH`] bytes whose last `rows` positions have a target.
fn decoder(model: &str, rows: usize) -> Spec {
    Spec {
        tokens: Some(Tokens::Bytes {}),
        rows,
        ..fixture(model, [1, 1, LENGTH], CLASSES)
    }
}

fn windows(ids: &[[f32; LENGTH]], device: &Device) -> Tensor<4> {
    let data = TensorData::new(ids.concat(), [ids.len(), 1, 1, LENGTH]);
    Tensor::from_data(data, device)
}

const PACKED: [f32; LENGTH] = [BORDER, 50.0, 51.0, 52.0, BORDER, 60.0, 61.0, 62.0, 63.0];
const ALONE: [[f32; LENGTH]; 2] = [
    [BORDER, 50.0, 51.0, 52.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [BORDER, 60.0, 61.0, 62.0, 63.0, 0.0, 0.0, 0.0, 0.0],
];
/// What follows, by position of the packed window.
const TARGETS: [u32; LENGTH] = [1, 2, 3, 0, 4, 3, 2, 1, 0];

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-5, "{found:?} {expected:?}");
    }
}

/// The sum of the cross entropies of these rows, and the gradient of each weight.
fn loss(net: &Net, ids: &[[f32; LENGTH]], rows: &[i64], device: &Device) -> (f32, Vec<f32>) {
    let rows = Tensor::<1, Int>::from_ints(rows, device);
    let pass = net.pass(windows(ids, device), None, None).unwrap();
    let logits = pass.outputs.clone().select(&rows).logits;
    let labels = Labels::new(&TARGETS.map(Some), device);
    let loss = CrossEntropy.forward_no_reduction(logits, &labels).sum();
    let gradients: GradientsParams = pass.gradients(&loss, net).unwrap();
    let before = net.flat();
    let after = SgdConfig::new().init().step(1.0, net.clone(), gradients).flat();
    let gradient = before.iter().zip(after).map(|(before, after)| before - after);
    (loss.into_scalar::<f32>(), gradient.collect())
}

#[test]
fn documents_of_one_window_have_the_loss_and_gradient_that_each_has_alone() {
    let device = Device::flex().autodiff();
    let net = Net::new(&decoder(MODEL, LENGTH), 5, &device).unwrap();
    let (packed, gradient) = loss(&net, &[PACKED], &[0, 1, 2, 3, 4, 5, 6, 7, 8], &device);
    let rows = [0, 1, 2, 3, 9, 10, 11, 12, 13];
    let (alone, expected) = loss(&net, &ALONE, &rows, &device);
    assert!((packed - alone).abs() < 1e-4, "{packed} {alone}");
    assert!(packed > 1.0);
    assert_close(&gradient, &expected);
    let moved = gradient.iter().filter(|value| value.abs() > 1e-3).count();
    assert!(moved > 100, "{moved}");
}

#[test]
fn what_follows_changes_nothing_before_it() {
    let device = Device::flex();
    for model in [
        MODEL,
        "architecture = 'transformer'\nwidth = 6\nheads = 3\ndepth = 3\nexits = { at = [1] }",
    ] {
        let net = Net::new(&decoder(model, LENGTH), 5, &device).unwrap();
        let of = |ids| values(net.forward(windows(&[ids], &device), None));
        let whole = of(PACKED);
        for changed in 0..LENGTH {
            let mut ids = PACKED;
            ids[changed] = 99.0;
            let found = of(ids);
            assert_eq!(
                found[..changed * CLASSES],
                whole[..changed * CLASSES],
                "{changed}"
            );
            assert_ne!(
                found[changed * CLASSES..],
                whole[changed * CLASSES..],
                "{changed}"
            );
        }
        // The second document does not see the first one, and the first one what it does not begin with.
        let mut ids = PACKED;
        ids[1] = 99.0;
        assert_eq!(of(ids)[4 * CLASSES..], whole[4 * CLASSES..]);
    }
}

#[test]
fn fewer_targets_are_the_last_ones() {
    let device = Device::flex();
    let [all, some] = [LENGTH, 3].map(|rows| {
        let net = Net::new(&decoder(MODEL, rows), 5, &device).unwrap();
        values(net.forward(windows(&[PACKED, ALONE[1]], &device), None))
    });
    assert_eq!((all.len(), some.len()), (2 * LENGTH * CLASSES, 6 * CLASSES));
    let last = all
        .chunks(LENGTH * CLASSES)
        .flat_map(|window| &window[6 * CLASSES..]);
    assert_close(&some, &last.copied().collect::<Vec<_>>());
}

#[test]
fn only_transformers_tell_what_follows_at_every_position_and_a_card_says_so() {
    let spec = decoder(MODEL, 4);
    spec.validate().unwrap();
    let flops = |rows| decoder(MODEL, rows).flops().unwrap();
    assert_eq!(flops(4) - flops(2), 2 * 2 * 6 * CLASSES as u64);
    for (wrong, part) in [
        (
            decoder("architecture = 'mlp'\nhidden = []\nembedding = 2", 4),
            "expected transformer",
        ),
        (decoder(MODEL, 0), "0 rows"),
        (decoder(MODEL, LENGTH + 1), "10 rows"),
        (
            Spec {
                rows: 2,
                ..text_fixture(MODEL, LENGTH, 3)
            },
            "2 rows",
        ),
        (
            Spec {
                rows: 2,
                ..fixture(MODEL, [1, 4, 3], 3)
            },
            "2 rows",
        ),
    ] {
        let error = wrong.validate().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let parameters = Net::new(&spec, 5, &Device::flex()).unwrap().parameters();
    let card = Card::new("m", &spec, parameters, DatasetReference::default());
    let text = serde_json::to_string(&card).unwrap();
    assert!(text.contains("\"rows\":4"), "{text}");
    assert_eq!(serde_json::from_str::<Card>(&text).unwrap().spec(), spec);
    let one = Card::new("m", &text_fixture(MODEL, 9, 3), 1, DatasetReference::default());
    let text = serde_json::to_string(&one).unwrap();
    assert!(
        !text.contains("rows"),
        "cards of classifiers stay as they were: {text}"
    );
    assert_eq!(serde_json::from_str::<Card>(&text).unwrap().rows, 1);
}

#[test]
fn an_evaluation_leaves_out_rows_without_a_target() {
    let device = Device::flex();
    let net = Net::new(&decoder(MODEL, LENGTH), 5, &device).unwrap();
    let mut classifier = Classifier::from(&net);
    let together = classifier.logits(&PACKED, 1).unwrap();
    assert_eq!((together.len(), classifier.rows()), (LENGTH * CLASSES, LENGTH));
    let alone = classifier.logits(&ALONE.concat(), 2).unwrap();
    assert_close(&alone[..4 * CLASSES], &together[..4 * CLASSES]);
    assert_close(
        &alone[LENGTH * CLASSES..][..5 * CLASSES],
        &together[4 * CLASSES..],
    );
}
