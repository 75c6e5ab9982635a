//! Layers for which LibTorch has a kernel that burn does not call.

use burn::nn::GroupNorm;
use burn::tensor::Tensor;

/// Burn's is a dozen operations, each a pass over the tensor; LibTorch's, where the input is on it without burn's autodiff,
/// is one.
///
/// # Shapes
///
/// - x, output: `[n, channels, height, width]`
pub(super) fn group_norm(layer: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "libtorch")]
    if let Some(output) = by_libtorch(layer, &x) {
        return output;
    }
    layer.forward(x)
}

#[cfg(feature = "libtorch")]
#[expect(
    deprecated,
    reason = "the libtorch backend is deprecated upstream, and the one this project offers"
)]
fn by_libtorch(layer: &GroupNorm, x: &Tensor<4>) -> Option<Tensor<4>> {
    use burn::backend::LibTorch;
    use burn::module::Param;
    use burn_tch::TchTensor;

    let x = x.clone().try_into_primitive::<LibTorch>().ok()?;
    let weights = |param: &Option<Param<Tensor<1>>>| {
        let weights = param.as_ref()?.val();
        weights.try_into_primitive::<LibTorch>().ok()
    };
    let (gamma, beta) = (weights(&layer.gamma), weights(&layer.beta));
    let output = x.tensor.group_norm(
        layer.num_groups as i64,
        gamma.as_ref().map(|gamma| &gamma.tensor),
        beta.as_ref().map(|beta| &beta.tensor),
        layer.epsilon,
        true,
    );
    Some(Tensor::from_primitive::<LibTorch>(TchTensor::new(output)))
}
