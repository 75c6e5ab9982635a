//! Gradients as numbers: the whole gradient in one vector, in the order of a network's weights.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use retort_models::{Net, WeightsError};

/// The gradient of all weights; 0 for a weight that has none.
pub(super) fn flat(gradients: &GradientsParams, net: &Net) -> Vec<f32> {
    net.clone().map(&mut Take { gradients }).flat()
}

/// The inverse of [`flat`].
pub(super) fn unflat(flat: &[f32], net: &Net) -> Result<GradientsParams, WeightsError> {
    let mut give = Give {
        gradients: GradientsParams::new(),
    };
    net.clone().with_flat(flat)?.visit(&mut give);
    Ok(give.gradients)
}

/// Puts a gradient into each weight's place.
struct Take<'a> {
    gradients: &'a GradientsParams,
}

impl ModuleMapper for Take<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        param.map(|weight| {
            let weight = weight.without_autodiff();
            match self.gradients.get::<D>(id) {
                Some(gradient) => gradient.without_autodiff(),
                None => weight.zeros_like(),
            }
        })
    }
}

struct Give {
    gradients: GradientsParams,
}

impl ModuleVisitor for Give {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.gradients.register(param.id, param.val().without_autodiff());
    }
}
