//! Adam where the memory is the processor's.

use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource, join_path};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use retort_models::host;

/// PyTorch's, as are the defaults below.
pub(super) const EPSILON: f32 = 1e-8;
const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;

/// Values that one thread updates at a time: 64 KiB of each of the four arrays, which a core's cache holds.
const CHUNK: usize = 16_384;

/// Adam (Kingma and Ba 2014, <https://arxiv.org/abs/1412.6980>) in one pass over weights, gradient and moments. Burn's is
/// made of tensor operations, a dozen passes that each go through memory; it computes the same, in the same order.
#[derive(Clone)]
pub(super) struct Adam {
    /// Times the weights, added to the gradient.
    pub(super) penalty: f32,
    /// Taken off the weights instead, times the learning rate: AdamW (Loshchilov and Hutter 2017,
    /// <https://arxiv.org/abs/1711.05101>).
    pub(super) decay: f32,
}

/// Steps and moments of one weight tensor. Its record is the one of burn's Adam, so that a run may go on on another device.
#[derive(Clone)]
pub(super) struct State {
    time: usize,
    moment_1: TensorData,
    moment_2: TensorData,
}

/// What a step multiplies with.
#[derive(Clone, Copy)]
struct Factors {
    penalty: f32,
    /// What the decay leaves of a weight.
    keep: f32,
    /// Of the first moment.
    correction: f32,
    /// Added to the root of the second moment.
    epsilon: f32,
    rate: f32,
}

impl Optimizer for Adam {
    type State<const D: usize> = State;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        weights: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<State>,
    ) -> (Tensor<D>, Option<State>) {
        let mut state = state.unwrap_or_else(|| State {
            time: 0,
            moment_1: TensorData::zeros::<f32, _>(gradient.shape()),
            moment_2: TensorData::zeros::<f32, _>(gradient.shape()),
        });
        state.time += 1;
        let time = i32::try_from(state.time).unwrap_or(i32::MAX); // by then the powers are 0
        let root = (1.0 - BETA_2.powi(time)).sqrt();
        let factors = Factors {
            penalty: self.penalty,
            keep: (1.0 - rate * f64::from(self.decay)) as f32,
            correction: root / (1.0 - BETA_1.powi(time)),
            epsilon: EPSILON * root,
            rate: rate as f32,
        };
        let moments = [values(&mut state.moment_1), values(&mut state.moment_2)];
        let weights = host::change(weights, gradient, |weights, gradient| {
            update(weights, gradient, moments, factors);
        });
        (weights, Some(state))
    }

    /// It stays with the processor.
    fn to_device<const D: usize>(state: State, _: &Device) -> State {
        state
    }
}

fn values(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("moments are f32")
}

fn update(weights: &mut [f32], gradient: &[f32], [moments_1, moments_2]: [&mut [f32]; 2], factors: Factors) {
    let chunks = weights.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(
        moments_1
            .par_chunks_mut(CHUNK)
            .zip(moments_2.par_chunks_mut(CHUNK)),
    );
    chunks.for_each(|((weights, gradient), (moments_1, moments_2))| {
        let moments = moments_1.iter_mut().zip(moments_2);
        for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(moments) {
            let g = g + factors.penalty * *w;
            *m = *m * BETA_1 + g * (1.0 - BETA_1);
            *v = *v * BETA_2 + g * g * (1.0 - BETA_2);
            let direction = *m * factors.correction / (v.sqrt() + factors.epsilon);
            *w = *w * factors.keep - direction * factors.rate;
        }
    });
}

const MOMENTUM: &str = "momentum";
const TIME: &str = "time";
const MOMENT_1: &str = "moment_1";
const MOMENT_2: &str = "moment_2";

impl RecordState for State {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        let prefix = join_path(prefix, MOMENTUM);
        out.push_scalar(&prefix, TIME, self.time.into());
        out.push_tensor(&prefix, MOMENT_1, self.moment_1.clone());
        out.push_tensor(&prefix, MOMENT_2, self.moment_2.clone());
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, _: &Device) -> Option<Self> {
        let prefix = join_path(prefix, MOMENTUM);
        Some(Self {
            time: source.take_scalar(&prefix, TIME)?.try_into().ok()?,
            moment_1: source.take_tensor(&prefix, MOMENT_1)?,
            moment_2: source.take_tensor(&prefix, MOMENT_2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::decay::WeightDecayConfig;
    use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer};

    use super::*;

    /// Larger than a chunk, and no multiple of it.
    fn linear(device: &Device) -> Linear {
        LinearConfig::new(173, 191).init(device)
    }

    fn steps(optimizer: &mut ModuleOptimizer, mut net: Linear, from: usize, to: usize) -> Linear {
        let device = net.weight.val().device();
        for step in from..to {
            let inputs: Vec<f32> = (0..2 * 173)
                .map(|i| ((i + 7 * step) as f32 * 0.37).sin())
                .collect();
            let inputs = Tensor::<2>::from_data(TensorData::new(inputs, [2, 173]), &device);
            let gradients = net.forward(inputs).powi_scalar(2).sum().backward();
            let gradients = GradientsParams::from_grads(gradients, &net);
            net = optimizer.step(0.01, net, gradients);
        }
        net
    }

    #[cfg(feature = "libtorch")]
    fn at(net: &Linear, device: &Device) -> Linear {
        let weight = Tensor::<2>::from_data(net.weight.val().to_data(), device).require_grad();
        let bias = net.bias.as_ref().expect("a bias").val().to_data();
        let bias = Tensor::<1>::from_data(bias, device).require_grad();
        Linear {
            weight: burn::module::Param::from_tensor(weight),
            bias: Some(burn::module::Param::from_tensor(bias)),
        }
    }

    fn weights(net: &Linear) -> Vec<f32> {
        net.weight.val().try_into_vec_as().unwrap()
    }

    fn burn(penalty: f32) -> ModuleOptimizer {
        let decay = (penalty > 0.0).then_some(WeightDecayConfig { penalty });
        AdamConfig::new()
            .with_epsilon(EPSILON)
            .with_weight_decay(decay)
            .init()
    }

    #[test]
    fn it_computes_what_burn_computes() {
        let device = Device::flex().autodiff();
        for penalty in [0.0, 0.03] {
            let net = linear(&device);
            let expected = steps(&mut burn(penalty), net.clone(), 0, 5);
            let mut ours = ModuleOptimizer::from(Adam { penalty, decay: 0.0 });
            let found = steps(&mut ours, net.clone(), 0, 5);
            assert_eq!(weights(&found), weights(&expected), "penalty {penalty}");
            assert_ne!(weights(&found), weights(&net));
        }
    }

    #[cfg(feature = "libtorch")]
    #[expect(deprecated, reason = "the libtorch backend is deprecated upstream")]
    #[test]
    fn on_libtorch_it_is_the_same_and_weights_that_others_hold_stay() {
        let adam = || {
            ModuleOptimizer::from(Adam {
                penalty: 0.01,
                decay: 0.0,
            })
        };
        let start = linear(&Device::flex().autodiff());
        let expected = weights(&steps(&mut adam(), start.clone(), 0, 5));
        let net = at(&start, &Device::libtorch().autodiff());
        let held = net.clone();
        let before = weights(&held);
        let found = weights(&steps(&mut adam(), net, 0, 5));
        assert_eq!(weights(&held), before);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn decay_is_taken_off_the_weights() {
        let device = Device::flex().autodiff();
        let net = linear(&device);
        let config = AdamWConfig::new().with_epsilon(EPSILON).with_weight_decay(0.1);
        let expected = weights(&steps(&mut config.init(), net.clone(), 0, 5));
        let ours = Adam {
            penalty: 0.0,
            decay: 0.1,
        };
        let found = weights(&steps(&mut ModuleOptimizer::from(ours), net, 0, 5));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    /// Each takes the other's state and goes on as if it were its own.
    #[test]
    fn its_record_is_that_of_burns() {
        let device = Device::flex().autodiff();
        let ours = || {
            ModuleOptimizer::from(Adam {
                penalty: 0.0,
                decay: 0.0,
            })
        };
        for (mut first, mut second) in [(ours(), burn(0.0)), (burn(0.0), ours())] {
            let net = steps(&mut first, linear(&device), 0, 3);
            second = second.from_bytes(first.into_bytes().unwrap()).unwrap();
            let stayed = steps(&mut first, net.clone(), 3, 6);
            let moved = steps(&mut second, net, 3, 6);
            assert_eq!(weights(&moved), weights(&stayed));
            assert_eq!(moved.num_params(), 173 * 191 + 191);
        }
    }
}
