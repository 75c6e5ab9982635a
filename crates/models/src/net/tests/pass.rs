use burn::optim::{GradientsParams, SgdConfig};

use super::*;

/// Logits, and the weights less the gradient of a loss of all outputs.
fn step(spec: &Spec, device: &Device) -> [Vec<f32>; 2] {
    step_of(Net::new(spec, 5, device).unwrap(), spec, device)
}

fn step_of(net: Net, spec: &Spec, device: &Device) -> [Vec<f32>; 2] {
    let last = spec.layers().last().map(|layer| layer.name.clone());
    let mut noise = Rng::new(3);
    let pass = net
        .pass(random(spec, 4, 1, device), Some(&mut noise), last.as_deref())
        .unwrap();
    let Outputs {
        logits,
        pooled,
        exits,
        hints,
        features,
    } = pass.outputs.clone();
    let by_class = Tensor::<2>::from_floats([[1.0, -2.0, 0.5]], device);
    let mut loss = (logits.clone() * by_class).sum() + pooled.powi_scalar(2).sum();
    for output in exits.into_iter().chain(hints) {
        loss = loss + output.powi_scalar(2).sum();
    }
    if let Some(features) = features {
        loss = loss + features.powi_scalar(2).mean();
    }
    let gradients = pass.gradients(&loss, &net).unwrap();
    let net = SgdConfig::new().init().step(0.1, net, gradients);
    [values(logits), net.flat()]
}

#[test]
fn on_flex_it_is_a_forward_and_a_backward_pass() {
    let device = Device::flex().autodiff();
    let spec = fixture(MODELS[5], [1, 8, 8], 3);
    let net = Net::new(&spec, 5, &device).unwrap();
    let gradients = |pass: bool| {
        let inputs = random(&spec, 4, 1, &device);
        let gradients = if pass {
            let pass = net.pass(inputs, None, None).unwrap();
            let loss = pass.outputs.logits.clone().powi_scalar(2).sum();
            pass.gradients(&loss, &net).unwrap()
        } else {
            let loss = net.forward(inputs, None).powi_scalar(2).sum();
            GradientsParams::from_grads(loss.backward(), &net)
        };
        SgdConfig::new().init().step(0.1, net.clone(), gradients).flat()
    };
    assert_eq!(gradients(true), gradients(false));
    assert_eq!(step(&spec, &device), step(&spec, &device));
}

#[cfg(feature = "libtorch")]
mod libtorch {
    #![expect(deprecated, reason = "the libtorch backend is deprecated upstream")]

    use super::*;

    /// Times that a rounding of each weight may be felt, since values on the way are rounded too: 3 are seen.
    const ROUNDINGS: f32 = 8.0;

    /// Of two results of a network, the largest difference.
    fn apart(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        // Not `max`, which passes over NaN.
        differences.fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
    }

    #[test]
    fn gradients_are_those_of_flex() {
        let texts = TEXT_MODELS.into_iter().chain(SIGNALS);
        let texts = texts.map(|model| text_fixture(model, 12, 3));
        let images = MODELS
            .iter()
            .flat_map(|model| [[1, 8, 8], [1, 1, 40], [3, 9, 7]].map(|input| fixture(model, input, 3)));
        let windows = text_fixture(TEXT_MODELS[3], 12, 3);
        let windows = Spec {
            tokens: Some(Tokens::Bytes {}),
            rows: 5,
            ..windows
        };
        let mut wrong = Vec::new();
        for spec in texts.chain(images).chain([windows]) {
            let flex = Device::flex().autodiff();
            let expected = step(&spec, &flex);
            let found = step(&spec, &Device::libtorch().autodiff());
            // What f32 leaves open: the same with each weight one rounding up or down.
            let net = Net::new(&spec, 5, &flex).unwrap();
            let mut rng = Rng::new(7);
            let mut rounded = |w: f32| w * (1.0 + f32::EPSILON * (2.0 * rng.uniform_f32().round() - 1.0));
            let nudged: Vec<f32> = net.flat().into_iter().map(&mut rounded).collect();
            let nudged = step_of(net.with_flat(&nudged).unwrap(), &spec, &flex);
            for (what, of) in ["logits", "gradients"].into_iter().zip(0..) {
                let (expected, found): (&[f32], &[f32]) = (&expected[of], &found[of]);
                let (off, open) = (apart(expected, found), apart(expected, &nudged[of]));
                let row = format!(
                    "{what} {off:.1e} apart, {open:.1e} by a rounding, largest {:.1e}: {:?} of {:?}",
                    apart(expected, &vec![0.0; expected.len()]),
                    spec.model,
                    spec.input
                );
                if off.is_nan() || off > ROUNDINGS * open + 1e-6 {
                    wrong.push(row);
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Between the two ways other passes use the same weights.
    #[test]
    fn passes_do_not_disturb_each_other() {
        let device = Device::libtorch().autodiff();
        let spec = fixture(MODELS[5], [1, 8, 8], 3);
        let net = Net::new(&spec, 5, &device).unwrap();
        let start = |seed| net.pass(random(&spec, 4, seed, &device), None, None).unwrap();
        let back = |pass: Pass| {
            let loss = pass.outputs.logits.clone().sum();
            let gradients = pass.gradients(&loss, &net).unwrap();
            SgdConfig::new().init().step(0.1, net.clone(), gradients).flat()
        };
        let alone = back(start(1));
        let passes = [start(2), start(1), start(3)];
        let together = passes.map(back);
        assert_eq!(together[1], alone);
        assert_ne!(together[0], alone);
    }
}
