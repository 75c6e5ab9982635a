//! Networks of depthwise separable convolutions.

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::kernels::group_norm;
use super::layers::{Layer, Taps};
use super::{Init, Spec, window};

/// The first `depth` of the 13 separable convolutions of Howard et al. 2017 (<https://arxiv.org/abs/1704.04861>, table 1)
/// behind a stem: each is a convolution of every channel by itself and one of 1 x 1 over all of them, both with a norm and
/// a ReLU. `width` channels of the stem are 32 in the paper.
///
/// It differs from the paper in two ways. Its norms are over groups, for the reasons that [`super::resnet`] has. And the
/// stem halves only an axis of at least [`LARGE`], as is customary for small images.
#[derive(Module, Debug)]
pub(super) struct Mobilenet {
    stem: Conv2d,
    stem_norm: GroupNorm,
    blocks: Vec<Block>,
}

#[derive(Module, Debug)]
struct Block {
    depthwise: Conv2d,
    norm1: GroupNorm,
    pointwise: Conv2d,
    norm2: GroupNorm,
}

/// Positions along an axis, from which on the stem halves it. Images of 32 x 32 keep theirs.
const LARGE: usize = 64;

/// Channels of each separable convolution as a multiple of the stem's, and whether it halves the extent.
const BLOCKS: [(usize, bool); 13] = [
    (2, false),
    (4, true),
    (4, false),
    (8, true),
    (8, false),
    (16, true),
    (16, false),
    (16, false),
    (16, false),
    (16, false),
    (16, false),
    (32, true),
    (32, false),
];

/// The stem or a block by its sizes.
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

    fn behind(inputs: usize, outputs: usize, stride: [usize; 2], extent: [usize; 2]) -> Self {
        Self {
            inputs,
            outputs,
            stride,
            height: extent[0].div_ceil(stride[0]),
            width: extent[1].div_ceil(stride[1]),
        }
    }
}

/// The stem, and what follows it.
fn plan(spec: &Spec) -> (Plan, Vec<Plan>) {
    let extent = [spec.input.height, spec.input.width];
    let channels = spec.model.width.unwrap_or(1) as usize;
    let stride = extent.map(|side| if side < LARGE { 1 } else { 2 });
    let stem = Plan::behind(spec.input.channels, channels, stride, extent);
    let mut blocks = Vec::new();
    let (mut inputs, mut extent) = (channels, [stem.height, stem.width]);
    for (multiple, halves) in BLOCKS.into_iter().take(spec.model.depth() as usize) {
        let stride = if halves {
            window(2, extent[0], extent[1])
        } else {
            [1, 1]
        };
        let block = Plan::behind(inputs, multiple * channels, stride, extent);
        (inputs, extent) = (block.outputs, [block.height, block.width]);
        blocks.push(block);
    }
    (stem, blocks)
}

fn kernel(spec: &Spec) -> [usize; 2] {
    window(3, spec.input.height, spec.input.width)
}

pub(super) fn layers(spec: &Spec) -> Vec<Layer> {
    let (stem, blocks) = plan(spec);
    let blocks = (1..)
        .zip(&blocks)
        .map(|(number, block)| (format!("block{number}"), block));
    let all = [("stem".to_owned(), &stem)].into_iter().chain(blocks);
    all.map(|(name, plan)| Layer::new(name, plan.outputs, plan.positions()))
        .collect()
}

/// Multiplications of one sample.
pub(super) fn products(spec: &Spec) -> usize {
    let taps: usize = kernel(spec).iter().product();
    let (stem, blocks) = plan(spec);
    let of = |block: &Plan| (taps + block.outputs) * block.inputs * block.positions();
    taps * stem.inputs * stem.outputs * stem.positions() + blocks.iter().map(of).sum::<usize>()
}

impl Mobilenet {
    pub(super) fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        let (stem, blocks) = plan(spec);
        let kernel = kernel(spec);
        Self {
            stem: init.conv([stem.inputs, stem.outputs], kernel, stem.stride, false),
            stem_norm: init.norm(stem.outputs),
            blocks: blocks.iter().map(|plan| Block::new(plan, kernel, init)).collect(),
        }
    }

    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`
    /// - output: `[n, channels, positions]`, the last block's
    pub(super) fn forward(&self, inputs: Tensor<4>, taps: &mut Taps) -> Tensor<3> {
        let mut x = relu(group_norm(&self.stem_norm, self.stem.forward(inputs)));
        taps.offer(0, || x.clone().flatten(2, 3));
        for (number, block) in (1..).zip(&self.blocks) {
            x = block.forward(x);
            taps.offer(number, || x.clone().flatten(2, 3));
        }
        x.flatten(2, 3)
    }
}

impl Block {
    fn new(plan: &Plan, kernel: [usize; 2], init: &mut Init<'_>) -> Self {
        Self {
            depthwise: init.depthwise(plan.inputs, kernel, plan.stride),
            norm1: init.norm(plan.inputs),
            pointwise: init.conv([plan.inputs, plan.outputs], [1, 1], [1, 1], false),
            norm2: init.norm(plan.outputs),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = relu(group_norm(&self.norm1, self.depthwise.forward(x)));
        relu(group_norm(&self.norm2, self.pointwise.forward(x)))
    }
}
