//! Convolutions of each channel by itself, and what is made of them.

use burn::optim::SgdConfig;

use super::*;

/// Channels, extent, kernel, stride.
type Case = (usize, [usize; 2], [usize; 2], [usize; 2]);

const CASES: [Case; 7] = [
    (3, [6, 6], [3, 3], [1, 1]),
    (3, [6, 6], [3, 3], [2, 2]),
    (2, [7, 5], [3, 3], [2, 2]),
    (5, [4, 9], [3, 3], [2, 1]),
    (4, [1, 9], [1, 3], [1, 2]),
    (2, [2, 2], [3, 3], [2, 2]),
    (1, [5, 5], [3, 3], [2, 2]),
];

/// Every product of a depthwise convolution with zeros beyond the border: place of the output, the input and the weight.
fn products(case: &Case, samples: usize, mut each: impl FnMut(usize, usize, usize)) {
    let (channels, [height, width], kernel, stride) = *case;
    let [rows, columns] = [height.div_ceil(stride[0]), width.div_ceil(stride[1])];
    for plane in 0..samples * channels {
        for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
            for (i, j) in (0..kernel[0]).flat_map(|i| (0..kernel[1]).map(move |j| (i, j))) {
                let row = (y * stride[0] + i).wrapping_sub(kernel[0] / 2);
                let column = (x * stride[1] + j).wrapping_sub(kernel[1] / 2);
                if row < height && column < width {
                    each(
                        (plane * rows + y) * columns + x,
                        (plane * height + row) * width + column,
                        (plane % channels * kernel[0] + i) * kernel[1] + j,
                    );
                }
            }
        }
    }
}

fn plain<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().unwrap()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (f64::from(*found) - expected).abs() < 1e-5,
            "{what}: {found} {expected}"
        );
    }
}

#[test]
fn a_depthwise_convolution_and_its_gradients_are_those_of_loops() {
    const SAMPLES: usize = 3;
    let device = Device::flex().autodiff();
    for case in CASES {
        let (channels, [height, width], kernel, stride) = case;
        let layer = Init::new(3, &device).depthwise(channels, kernel, stride);
        let weights = plain(layer.weight.val());
        let mut rng = Rng::new(1);
        let mut draw = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.uniform_f32() - 0.5).collect() };
        let inputs = draw(SAMPLES * channels * height * width);
        let x = TensorData::new(inputs.clone(), [SAMPLES, channels, height, width]);
        let x = Tensor::<4>::from_data(x, &device).require_grad();
        let y = layer.forward(x.clone());
        let dims = y.dims();
        let outward = draw(dims.iter().product());
        let by = Tensor::<4>::from_data(TensorData::new(outward.clone(), dims), &device);
        let gradients = (y.clone() * by).sum().backward();

        let mut expected = [outward.len(), inputs.len(), weights.len()].map(|len| vec![0f64; len]);
        products(&case, SAMPLES, |output, input, weight| {
            expected[0][output] += f64::from(inputs[input]) * f64::from(weights[weight]);
            expected[1][input] += f64::from(outward[output]) * f64::from(weights[weight]);
            expected[2][weight] += f64::from(outward[output]) * f64::from(inputs[input]);
        });
        assert_close(&plain(y), &expected[0], &format!("output of {case:?}"));
        let found = plain(x.grad(&gradients).unwrap());
        assert_close(
            &found,
            &expected[1],
            &format!("gradient by the input of {case:?}"),
        );
        let found = plain(layer.weight.val().grad(&gradients).unwrap());
        assert_close(
            &found,
            &expected[2],
            &format!("gradient by the weights of {case:?}"),
        );
    }
}

/// Of the sum of squares of all logits.
fn loss(net: &Net, inputs: &Tensor<4>) -> f64 {
    let logits = values(net.forward(inputs.clone(), None));
    logits.into_iter().map(|z| f64::from(z).powi(2)).sum()
}

#[test]
fn gradients_of_every_weight_agree_with_finite_differences() {
    // A step crosses kinks of ReLUs, and a short one is drowned by rounding: one of these must agree.
    const STEPS: [f32; 3] = [1e-3, 3e-4, 1e-4];
    let device = Device::flex().autodiff();
    for input in [[2, 7, 6], [1, 1, 70]] {
        let spec = fixture("architecture = 'mobilenet'\nwidth = 3\ndepth = 4", input, 3);
        let net = Net::new(&spec, 5, &device).unwrap();
        let inputs = random(&spec, 4, 1, &device);
        let pass = net.pass(inputs.clone(), None, None).unwrap();
        let sum = pass.outputs.logits.clone().powi_scalar(2).sum();
        let gradients = pass.gradients(&sum, &net).unwrap();
        let start = net.flat();
        let after = SgdConfig::new().init().step(1.0, net.clone(), gradients).flat();
        let gradient: Vec<f32> = start
            .iter()
            .zip(after)
            .map(|(before, after)| before - after)
            .collect();
        let mut from = 0;
        for (name, shape) in net.layout() {
            let range = from..from + shape.iter().product::<usize>();
            from = range.end;
            // Along its own gradient a loss grows fastest, and by the gradient's length.
            let length = gradient[range.clone()].iter().map(|g| g * g).sum::<f32>().sqrt();
            let moved = |step: f32| {
                let mut flat = start.clone();
                for at in range.clone() {
                    flat[at] += step * gradient[at] / length;
                }
                loss(&net.clone().with_flat(&flat).unwrap(), &inputs)
            };
            let found = STEPS.map(|step| (moved(step) - moved(-step)) / f64::from(2.0 * step));
            let expected = f64::from(length);
            let agrees = |found: &f64| (found - expected).abs() < 0.02 * expected + 3e-3;
            assert!(
                expected > 0.0 && found.iter().any(agrees),
                "{name}: {found:?}, expected {expected}"
            );
        }
        assert_eq!(from, start.len());
    }
}

#[test]
fn its_sizes_are_those_of_the_paper() {
    let spec = fixture(
        "architecture = 'mobilenet'\nwidth = 32\ndepth = 13",
        [3, 224, 224],
        1_000,
    );
    let extents: Vec<(usize, usize)> = spec.layers().iter().map(|l| (l.channels, l.positions)).collect();
    let square = |channels, side: usize| (channels, side * side);
    let mut expected = vec![square(32, 112), square(64, 112), square(128, 56), square(128, 56)];
    expected.extend([square(256, 28), square(256, 28), square(512, 14)]);
    expected.extend([square(512, 14); 5]);
    expected.extend([square(1024, 7); 2]);
    assert_eq!(extents, expected);
    // Table 8 says 569 million multiplications and 4.2 million parameters.
    let products = spec.flops().unwrap() / 2;
    assert!((567_000_000..571_000_000).contains(&products), "{products}");
    let net = Net::new(&spec, 0, &Device::flex()).unwrap();
    assert!(
        (4_200_000..4_260_000).contains(&net.parameters()),
        "{}",
        net.parameters()
    );
}
