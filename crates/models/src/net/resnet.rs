//! Residual networks for small images.

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::kernels::group_norm;
use super::layers::{Layer, Taps};
use super::{Init, Spec, window};

/// The CIFAR form with 6n + 2 layers: a convolution, three stages of n blocks with `width`, 2 `width` and 4 `width`
/// channels, each later stage at half the extent. There may be fewer stages.
///
/// It differs from He et al. 2016 (<https://arxiv.org/abs/1512.03385>) in two ways. Where a block changes the shape, its
/// shortcut is a 1 x 1 convolution (their option B). And it has group norms (<https://arxiv.org/abs/1803.08494>) where they
/// have batch norms: no running statistics, so that averaging the weights of replicas averages the whole model, and a
/// sample's logits do not depend on what it was batched with.
#[derive(Module, Debug)]
pub(super) struct Resnet {
    stem: Conv2d,
    stem_norm: GroupNorm,
    blocks: Vec<Block>,
    #[module(skip)]
    blocks_per_stage: usize,
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

/// A block by its sizes.
struct Plan {
    inputs: usize,
    outputs: usize,
    stride: [usize; 2],
    /// Of what it puts out.
    height: usize,
    width: usize,
}

impl Plan {
    fn positions(&self) -> usize {
        self.height * self.width
    }

    /// With its shortcut's, where the shape changes.
    fn products(&self, taps: usize) -> usize {
        let shortcut = if self.inputs == self.outputs {
            0
        } else {
            self.inputs
        };
        (taps * (self.inputs + self.outputs) + shortcut) * self.outputs * self.positions()
    }
}

fn plan(spec: &Spec) -> Vec<Plan> {
    let (mut height, mut width) = (spec.input.height, spec.input.width);
    let halving = window(2, height, width);
    let mut channels = spec.model.width.unwrap_or(1) as usize;
    let mut blocks = Vec::new();
    for stage in 0..spec.model.stages() {
        for block in 0..blocks_per_stage(spec) {
            let first = stage > 0 && block == 0;
            let stride = if first { halving } else { [1, 1] };
            let inputs = channels;
            channels *= if first { 2 } else { 1 };
            (height, width) = (height.div_ceil(stride[0]), width.div_ceil(stride[1]));
            blocks.push(Plan {
                inputs,
                outputs: channels,
                stride,
                height,
                width,
            });
        }
    }
    blocks
}

fn blocks_per_stage(spec: &Spec) -> usize {
    ((spec.model.depth() - 2) / (2 * spec.model.stages())) as usize
}

fn kernel(spec: &Spec) -> [usize; 2] {
    window(3, spec.input.height, spec.input.width)
}

pub(super) fn layers(spec: &Spec) -> Vec<Layer> {
    let stem = spec.model.width.unwrap_or(1) as usize;
    let mut layers = vec![Layer::new("stem", stem, spec.input.height * spec.input.width)];
    let plan = plan(spec);
    let last_blocks = plan.chunks(blocks_per_stage(spec)).filter_map(<[Plan]>::last);
    layers.extend(
        last_blocks
            .zip(1..)
            .map(|(block, stage)| Layer::new(format!("stage{stage}"), block.outputs, block.positions())),
    );
    layers
}

/// Multiplications of one sample.
pub(super) fn products(spec: &Spec) -> usize {
    let taps: usize = kernel(spec).iter().product();
    let stem = taps * spec.input_len() * spec.model.width.unwrap_or(1) as usize;
    let blocks: usize = plan(spec).iter().map(|block| block.products(taps)).sum();
    stem + blocks
}

impl Resnet {
    pub(super) fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        let channels = spec.model.width.unwrap_or(1) as usize;
        let stem = init.conv([spec.input.channels, channels], kernel(spec), [1, 1], false);
        let stem_norm = init.norm(channels);
        let mut block = |p: &Plan| Block::new([p.inputs, p.outputs], kernel(spec), p.stride, init);
        Self {
            stem,
            stem_norm,
            blocks: plan(spec).iter().map(&mut block).collect(),
            blocks_per_stage: blocks_per_stage(spec),
        }
    }

    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`
    /// - output: `[n, channels, positions]`, the last stage's
    pub(super) fn forward(&self, inputs: Tensor<4>, taps: &mut Taps) -> Tensor<3> {
        let mut x = relu(group_norm(&self.stem_norm, self.stem.forward(inputs)));
        taps.offer(0, || x.clone().flatten(2, 3));
        for (stage, blocks) in self.blocks.chunks(self.blocks_per_stage).enumerate() {
            x = blocks.iter().fold(x, |x, block| block.forward(x));
            taps.offer(stage + 1, || x.clone().flatten(2, 3));
        }
        x.flatten(2, 3)
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
        let y = relu(group_norm(&self.norm1, self.conv1.forward(x.clone())));
        let y = group_norm(&self.norm2, self.conv2.forward(y));
        let x = match &self.shortcut {
            Some(shortcut) => group_norm(&shortcut.norm, shortcut.conv.forward(x)),
            None => x,
        };
        // The sum may be written over its first operand; the gradient of a convolution needs x.
        relu(y + x)
    }
}
