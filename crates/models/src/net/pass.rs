//! A training step's way through a network and back.

#[cfg(feature = "libtorch")]
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use retort_data::rng::Rng;

use super::{Net, Outputs, SpecError};

/// A forward pass that can be gone back.
///
/// On LibTorch the network is differentiated by PyTorch: burn has one gradient for all its backends, of a convolution two
/// more convolutions with exchanged axes, of a norm those of its dozen operations, where PyTorch has a kernel for each. What
/// is computed of the outputs is burn's everywhere, so that there is one code for every loss.
pub struct Pass {
    pub outputs: Outputs,
    #[cfg(feature = "libtorch")]
    torch: Option<torch::Graph>,
}

/// The outputs' gradients did not find their way back.
#[derive(Debug, thiserror::Error)]
#[error("PyTorch cannot differentiate this network: {0}")]
pub struct PassError(String);

impl Net {
    /// [`Net::forward_all`] of inputs on a device with autodiff, with the way back.
    ///
    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`
    pub fn pass(
        &self,
        inputs: Tensor<4>,
        noise: Option<&mut Rng>,
        tap: Option<&str>,
    ) -> Result<Pass, SpecError> {
        #[cfg(feature = "libtorch")]
        if let Some(inputs) = torch::inner(&inputs) {
            let net = self.clone().map(&mut torch::Leaves);
            let mut graph = torch::Graph::default();
            let outputs = graph.lift(net.forward_all(inputs, noise, tap)?);
            let torch = Some(graph.of(net));
            return Ok(Pass { outputs, torch });
        }
        Ok(Pass {
            outputs: self.forward_all(inputs, noise, tap)?,
            #[cfg(feature = "libtorch")]
            torch: None,
        })
    }
}

impl Pass {
    /// The gradient by each weight of the network that it is a pass of, of a loss `[1]` that was computed of its outputs.
    pub fn gradients(self, loss: &Tensor<1>, net: &Net) -> Result<GradientsParams, PassError> {
        let gradients = loss.backward();
        #[cfg(feature = "libtorch")]
        if let Some(graph) = self.torch {
            return graph.back(&gradients);
        }
        Ok(GradientsParams::from_grads(gradients, net))
    }
}

#[cfg(feature = "libtorch")]
#[expect(
    deprecated,
    reason = "the libtorch backend is deprecated upstream, and the one this project offers"
)]
mod torch {
    use burn::backend::{Autodiff, LibTorch};
    use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
    use burn::optim::GradientsParams;
    use burn::tensor::{Gradients, Tensor};
    use burn_tch::TchTensor;

    use super::{Net, Outputs, PassError};

    /// Without burn's autodiff; `None` where it is not on LibTorch with it.
    pub(super) fn inner<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
        let x = x.clone().try_into_primitive::<Autodiff<LibTorch>>().ok()?;
        Some(Tensor::from_primitive::<LibTorch>(x.into_primitive()))
    }

    /// Makes of each weight one of which PyTorch finds the gradient. It shares the memory.
    pub(super) struct Leaves;

    impl ModuleMapper for Leaves {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Ok(weights) = param.val().try_into_primitive::<Autodiff<LibTorch>>() else {
                return param;
            };
            let weights = weights.into_primitive();
            let leaf = TchTensor {
                tensor: weights.tensor.detach().set_requires_grad(true),
                storage: weights.storage,
            };
            Param::initialized(param.id, Tensor::from_primitive::<LibTorch>(leaf))
        }
    }

    /// PyTorch's graph, by its ends.
    #[derive(Default)]
    pub(super) struct Graph {
        net: Option<Net>,
        outputs: Vec<Output>,
    }

    /// An output, and the gradient that burn found for it.
    struct Output {
        tensor: tch::Tensor,
        gradient: Box<dyn Fn(&Gradients) -> Option<Tensor<1>> + Send>,
    }

    impl Graph {
        /// The same outputs as burn's, that losses are computed of.
        pub(super) fn lift(&mut self, outputs: Outputs) -> Outputs {
            Outputs {
                logits: self.output(outputs.logits),
                pooled: self.output(outputs.pooled),
                exits: outputs.exits.into_iter().map(|exit| self.output(exit)).collect(),
                hints: outputs.hints.into_iter().map(|hint| self.output(hint)).collect(),
                features: outputs.features.map(|features| self.output(features)),
            }
        }

        fn output<const D: usize>(&mut self, output: Tensor<D>) -> Tensor<D> {
            let Ok(output) = output.clone().try_into_primitive::<LibTorch>() else {
                return output;
            };
            let plain = TchTensor::new(output.tensor.detach());
            let plain = Tensor::<D>::from_primitive::<LibTorch>(plain);
            let start = plain.autodiff().require_grad();
            let own = start.clone();
            self.outputs.push(Output {
                tensor: output.tensor,
                gradient: Box::new(move |gradients| Some(own.grad(gradients)?.flatten(0, D - 1))),
            });
            start
        }

        pub(super) fn of(self, net: Net) -> Self {
            let net = Some(net);
            Self { net, ..self }
        }

        pub(super) fn back(self, gradients: &Gradients) -> Result<GradientsParams, PassError> {
            let mut found = GradientsParams::new();
            let Some(net) = self.net else { return Ok(found) };
            // PyTorch's engine starts from ones: of these products that makes it start from the outputs' gradients.
            let products = self
                .outputs
                .into_iter()
                .filter_map(|Output { tensor, gradient }| {
                    let gradient = gradient(gradients)?.try_into_primitive::<LibTorch>().ok()?;
                    Some(tensor.reshape([-1]).dot(&gradient.tensor))
                });
            let products: Vec<tch::Tensor> = products.collect();
            let mut weights = Weights(Vec::new());
            net.visit(&mut weights);
            let gradients = tch::Tensor::f_run_backward(&products, &weights.0, false, false);
            // Behind the first line comes a stack.
            let first =
                |error: tch::TchError| error.to_string().lines().next().unwrap_or_default().to_owned();
            let gradients = gradients.map_err(|error| PassError(first(error)))?;
            net.visit(&mut Register {
                gradients: gradients.into_iter(),
                found: &mut found,
            });
            Ok(found)
        }
    }

    struct Weights(Vec<tch::Tensor>);

    impl ModuleVisitor for Weights {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Ok(weights) = param.val().try_into_primitive::<LibTorch>() {
                self.0.push(weights.tensor);
            }
        }
    }

    /// Hands each weight its gradient, in the order of [`Weights`]; weights that nothing was computed with have none.
    struct Register<'a> {
        gradients: std::vec::IntoIter<tch::Tensor>,
        found: &'a mut GradientsParams,
    }

    impl ModuleVisitor for Register<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.next().filter(tch::Tensor::defined) {
                let gradient = Tensor::<D>::from_primitive::<LibTorch>(TchTensor::new(gradient));
                self.found.register(param.id, gradient);
            }
        }
    }
}
