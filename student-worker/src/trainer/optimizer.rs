//! Optimizers as the job names them, and clipping by the norm of the whole gradient.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::Tensor;
use retort_job::{Optimizer, OptimizerKind};
use retort_models::{Choice, Net};

use super::adam::{Adam, EPSILON};

/// Added to a norm that is divided by, as PyTorch's `clip_grad_norm_` does.
const TINY: f32 = 1e-6;

/// An optimizer without state, with PyTorch's defaults, which are not burn's: Adam's epsilon, and momentum that is not
/// damped. Weight decay leaves biases and norms alone.
pub(super) fn fresh(config: &Optimizer, device: Choice) -> ModuleOptimizer {
    if device.on_host()
        && let Some(adam) = host_adam(config)
    {
        let undecayed = Adam {
            penalty: 0.0,
            decay: 0.0,
        };
        return ModuleOptimizer::from(adam).with_group(undecayed_weights(), undecayed, None);
    }
    let decay = (config.weight_decay > 0.0).then_some(WeightDecayConfig {
        penalty: config.weight_decay as f32,
    });
    match config.kind {
        OptimizerKind::Adam => {
            let adam = AdamConfig::new().with_epsilon(EPSILON);
            let optimizer = ModuleOptimizer::from(adam.clone().with_weight_decay(decay).build());
            optimizer.with_group(undecayed_weights(), adam.build(), None)
        }
        OptimizerKind::Adamw => {
            let adam = AdamWConfig::new().with_epsilon(EPSILON);
            let decayed = adam.clone().with_weight_decay(config.weight_decay as f32);
            let optimizer = ModuleOptimizer::from(decayed.build());
            optimizer.with_group(undecayed_weights(), adam.with_weight_decay(0.0).build(), None)
        }
        OptimizerKind::Sgd => {
            let momentum = (config.momentum > 0.0).then_some(MomentumConfig {
                momentum: config.momentum,
                dampening: 0.0,
                nesterov: false,
            });
            let sgd = SgdConfig::new().with_momentum(momentum);
            let optimizer = ModuleOptimizer::from(sgd.clone().with_weight_decay(decay).build());
            optimizer.with_group(undecayed_weights(), sgd.build(), None)
        }
    }
}

fn undecayed_weights() -> ParamGroup {
    ParamGroup::from_any_predicates(vec![".bias", ".gamma", ".beta"])
}

fn host_adam(config: &Optimizer) -> Option<Adam> {
    let decay = config.weight_decay as f32;
    match config.kind {
        OptimizerKind::Adam => Some(Adam {
            penalty: decay,
            decay: 0.0,
        }),
        OptimizerKind::Adamw => Some(Adam { penalty: 0.0, decay }),
        OptimizerKind::Sgd => None,
    }
}

/// Scales the whole gradient down to this norm where it is longer (Pascanu, Mikolov and Bengio 2013,
/// <https://arxiv.org/abs/1211.5063>). Nothing is read back from the device.
pub(super) fn clip(mut gradients: GradientsParams, net: &Net, most: f64) -> GradientsParams {
    let mut squares = Squares {
        gradients: &gradients,
        sum: None,
    };
    net.visit(&mut squares);
    let Some(sum) = squares.sum else {
        return gradients;
    };
    let factor = ((sum.sqrt() + TINY).recip() * most).clamp_max(1.0);
    net.visit(&mut Scale {
        gradients: &mut gradients,
        factor,
    });
    gradients
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.get::<D>(param.id) else {
            return;
        };
        let own = gradient.powi_scalar(2).sum();
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum + own,
            None => own,
        });
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let scaled = gradient * self.factor.clone().reshape([1; D]);
            self.gradients.register(param.id, scaled);
        }
    }
}
