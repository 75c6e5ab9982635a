//! Weights in this processor's memory, changed where they are.

use burn::tensor::Tensor;

/// Hands `change` the weights and their gradient, `[values]` each, row by row. Weights that nobody else holds stay where they
/// are.
///
/// # Panics
///
/// Unless both are `f32`.
pub fn change<const D: usize>(
    weights: Tensor<D>,
    gradient: Tensor<D>,
    change: impl FnOnce(&mut [f32], &[f32]),
) -> Tensor<D> {
    #[cfg(feature = "libtorch")]
    let (weights, change) = match torch::change(weights, &gradient, change) {
        (weights, None) => return weights,
        (weights, Some(change)) => (weights, change),
    };
    let device = weights.device();
    let (mut weights, gradient) = (weights.into_data(), gradient.into_data());
    change(
        weights.as_mut_slice().expect("weights are f32"),
        gradient.as_slice().expect("gradients are f32"),
    );
    Tensor::from_data(weights, &device)
}

/// Burn's copies of tensors on LibTorch go through fresh memory, which costs more than an optimizer's step.
#[cfg(feature = "libtorch")]
#[expect(unsafe_code, reason = "LibTorch's bindings lend no slices")]
#[expect(
    deprecated,
    reason = "the libtorch backend is deprecated upstream, and the one this project offers"
)]
mod torch {
    use burn::backend::LibTorch;
    use burn::tensor::Tensor;
    use burn_tch::TchTensor;

    /// Gives `change` back where the weights are not on LibTorch, not on the processor, or somebody else's too.
    pub(super) fn change<const D: usize, F: FnOnce(&mut [f32], &[f32])>(
        weights: Tensor<D>,
        gradient: &Tensor<D>,
        change: F,
    ) -> (Tensor<D>, Option<F>) {
        let Ok(mut own) = weights.clone().try_into_primitive::<LibTorch>() else {
            return (weights, Some(change));
        };
        drop(weights);
        let change = match values_mut(&mut own) {
            None => Some(change),
            Some(weights) => {
                let there = gradient.clone().try_into_primitive::<LibTorch>().ok();
                match there.as_ref().and_then(values) {
                    Some(gradient) => change(weights, gradient),
                    None => {
                        let gradient = gradient.to_data();
                        change(weights, gradient.as_slice().expect("gradients are f32"));
                    }
                }
                None
            }
        };
        (Tensor::from_primitive::<LibTorch>(own), change)
    }

    /// A tensor's memory, if it is an `f32` tensor on the processor, in one piece.
    fn values(tensor: &TchTensor) -> Option<&[f32]> {
        let (first, len) = place(tensor)?;
        // SAFETY: see `place`; the tensor is borrowed, and burn writes to no tensor of which there are two.
        Some(unsafe { std::slice::from_raw_parts(first, len) })
    }

    /// The same, if nobody else holds it.
    fn values_mut(tensor: &mut TchTensor) -> Option<&mut [f32]> {
        let (first, len) = place(tensor).filter(|_| tensor.can_mut())?;
        // SAFETY: see `place`; `can_mut` says that no other tensor of burn's has this memory, and PyTorch's graph of the pass
        // that gave the gradient is gone when weights are changed.
        Some(unsafe { std::slice::from_raw_parts_mut(first, len) })
    }

    /// A contiguous tensor on the processor has its `numel` elements of its kind from `data_ptr` on, which LibTorch aligns.
    fn place(tensor: &TchTensor) -> Option<(*mut f32, usize)> {
        let tensor = &tensor.tensor;
        let here = tensor.device() == tch::Device::Cpu && tensor.kind() == tch::Kind::Float;
        let len = tensor.numel();
        (here && tensor.is_contiguous() && len > 0).then(|| (tensor.data_ptr().cast(), len))
    }
}
