//! Residual networks for small images.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear};
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::{Dropout, Init, Spec, global_average, window};

/// The CIFAR form with 6n + 2 layers: a convolution, three stages of n blocks with `width`, 2 `width` and 4 `width`
/// channels, the later two at half the extent, a global average and a linear classifier.
///
/// It differs from He et al. 2016 (<https://arxiv.org/abs/1512.03385>) in two ways. Where a block changes the shape, its
/// shortcut is a 1 x 1 convolution (their option B). And it has group norms (<https://arxiv.org/abs/1803.08494>) where they
/// have batch norms: no running statistics, so that averaging the weights of replicas averages the whole model, and a
/// sample's logits do not depend on what it was batched with.
#[derive(Module, Debug)]
pub(crate) struct Resnet {
    stem: Conv2d,
    stem_norm: GroupNorm,
    blocks: Vec<Block>,
    pub(super) classifier: Linear,
}

#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    norm1: GroupNorm,
    conv2: Conv2d,
    norm2: GroupNorm,
    shortcut: Option<Shortcut>,
}

#[derive(Module, Debug)]
struct Shortcut {
    conv: Conv2d,
    norm: GroupNorm,
}

impl Resnet {
    pub(super) fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        let (height, width) = (spec.input.height, spec.input.width);
        let kernel = window(3, height, width);
        let mut channels = spec.model.width.unwrap_or(1) as usize;
        let stem = init.conv([spec.input.channels, channels], kernel, [1, 1], false);
        let stem_norm = init.norm(channels);
        let blocks_per_stage = (spec.model.depth() - 2) / 6;
        let mut blocks = Vec::new();
        for stage in 0..3 {
            for block in 0..blocks_per_stage {
                if stage > 0 && block == 0 {
                    let stride = window(2, height, width);
                    blocks.push(Block::new([channels, 2 * channels], kernel, stride, init));
                    channels *= 2;
                } else {
                    blocks.push(Block::new([channels, channels], kernel, [1, 1], init));
                }
            }
        }
        Self {
            stem,
            stem_norm,
            blocks,
            classifier: init.linear(channels, spec.classes),
        }
    }

    pub(super) fn forward(&self, inputs: Tensor<4>, mut dropout: Dropout<'_>) -> Tensor<2> {
        let x = relu(self.stem_norm.forward(self.stem.forward(inputs)));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        self.classifier.forward(dropout.apply(global_average(x)))
    }
}

impl Block {
    fn new(channels: [usize; 2], kernel: [usize; 2], stride: [usize; 2], init: &mut Init<'_>) -> Self {
        let [inputs, outputs] = channels;
        Self {
            conv1: init.conv(channels, kernel, stride, false),
            norm1: init.norm(outputs),
            conv2: init.conv([outputs, outputs], kernel, [1, 1], false),
            norm2: init.norm(outputs),
            shortcut: (inputs != outputs).then(|| Shortcut {
                conv: init.conv(channels, [1, 1], stride, false),
                norm: init.norm(outputs),
            }),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = relu(self.norm1.forward(self.conv1.forward(x.clone())));
        let y = self.norm2.forward(self.conv2.forward(y));
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.norm.forward(shortcut.conv.forward(x)),
            None => x,
        };
        relu(x + y)
    }
}
