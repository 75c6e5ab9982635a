//! Transformer encoders.

use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::module::embedding;
use retort_job::Architecture;

use super::init::EPSILON;
use super::layers::{Layer, Taps};
use super::{Dropout, Init, Spec, causal, tokens};

/// How much wider the perceptron inside a block is than a token, unless the model says.
const EXPANSION: usize = 4;

/// An encoder of `depth` blocks over tokens of `width` numbers: a linear embedding, learned positions, and in each block
/// attention with `heads` heads and a perceptron with GELU, each behind a layer norm and added to its input.
///
/// The tokens of an image are its rows, all channels of one side by side. A signal (height 1) is cut into pieces of equal
/// length: the greatest divisor of its length that is not above the length's square root (40 samples: 8 tokens of 5). Of a
/// text its own tokens have vectors, and padding gets no attention.
///
/// Of windows with several targets it is a decoder: a token sees itself and those before it of its document, whose positions
/// begin anew.
///
/// References: Vaswani et al., Attention Is All You Need, 2017, <https://arxiv.org/abs/1706.03762>; the norm comes first as
/// in Xiong et al. 2020, <https://arxiv.org/abs/2002.04745>, which trains without a warm-up.
///
/// A `bert` is the encoder of Devlin et al., BERT, 2018, <https://arxiv.org/abs/1810.04805>: its norms come behind each sum,
/// the first one behind that of vectors and positions, and none before the classifier. Of its two token types a single text
/// has the first only, whose vector is part of the positions.
#[derive(Module, Debug)]
pub(super) struct Transformer {
    embedding: Embed,
    positions: Param<Tensor<2>>,
    /// Of a `bert`.
    embedding_norm: Option<LayerNorm>,
    blocks: Vec<Block>,
    #[module(skip)]
    decodes: bool,
    #[module(skip)]
    border: Option<u16>,
}

/// From what an input has to the numbers of a token.
#[derive(Module, Debug)]
enum Embed {
    Values(Linear),
    Ids(Embedding),
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    /// Queries, keys and values side by side. Without bias but in a `bert`, which has them from elsewhere: a softmax does not
    /// see that of the keys, so that its gradient would be rounding errors, and that of the values is in `out`.
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    #[module(skip)]
    heads: usize,
    /// Behind each sum, as in a `bert`, or before attention and perceptron.
    #[module(skip)]
    norms_last: bool,
}

/// Added to the scores of padding, beside which scores are nothing: where all is padding, all get the same attention.
const MASKED: f64 = -1e9;

/// Of the norms of a `bert`, as it was trained.
pub(crate) const BERT_EPSILON: f64 = 1e-12;

fn is_bert(spec: &Spec) -> bool {
    spec.model.architecture == Architecture::Bert
}

/// Units of the perceptron in a block.
fn units(spec: &Spec) -> usize {
    let given = spec.model.hidden.as_ref().and_then(|hidden| hidden.first());
    given.map_or(EXPANSION * width(spec), |&units| units as usize)
}

/// Tokens of a sample, and values of each channel in one.
fn pieces(spec: &Spec) -> [usize; 2] {
    let (height, width) = (spec.input.height, spec.input.width);
    if spec.tokens.is_some() {
        return [width, 1];
    }
    if height > 1 {
        return [height, width];
    }
    let most = width.isqrt();
    let piece = (1..=most).rev().find(|piece| width.is_multiple_of(*piece));
    let piece = piece.unwrap_or(1);
    [width / piece, piece]
}

fn width(spec: &Spec) -> usize {
    spec.model.width.unwrap_or(1) as usize
}

pub(super) fn layers(spec: &Spec) -> Vec<Layer> {
    let [tokens, _] = pieces(spec);
    (1..=spec.model.depth())
        .map(|block| Layer::new(format!("block{block}"), width(spec), tokens))
        .collect()
}

/// Multiplications of one sample.
pub(super) fn products(spec: &Spec) -> usize {
    let ([tokens, piece], width) = (pieces(spec), width(spec));
    let embedding = match spec.tokens {
        Some(_) => 0,
        None => spec.input.channels * piece * width,
    };
    // Queries, keys, values and the way out; queries by keys, and weights by values; both layers of the perceptron.
    let block = 4 * width * width + 2 * tokens * width + 2 * units(spec) * width;
    tokens * (embedding + spec.model.depth() as usize * block)
}

impl Transformer {
    pub(super) fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        let ([tokens, piece], width) = (pieces(spec), width(spec));
        Self {
            embedding: match spec.tokens {
                Some(_) => Embed::Ids(init.embedding(spec.vocabulary(), width)),
                None => Embed::Values(init.linear(spec.input.channels * piece, width)),
            },
            positions: init.uniform([tokens, width], width),
            embedding_norm: is_bert(spec).then(|| init.layer_norm_with(width, BERT_EPSILON)),
            blocks: (0..spec.model.depth()).map(|_| Block::new(spec, init)).collect(),
            decodes: spec.rows > 1,
            border: spec.border(),
        }
    }

    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`
    /// - mask: `[n, 1, tokens]` where they are ids
    /// - output: `[n, channels, positions]`: numbers of a token, tokens; the last block's
    pub(super) fn forward(
        &self,
        inputs: Tensor<4>,
        mask: Option<&Tensor<3>>,
        dropout: &mut Dropout<'_>,
        taps: &mut Taps,
    ) -> Tensor<3> {
        let [samples, channels, height, width] = inputs.dims();
        let seen = self.decodes.then(|| causal::seen(&inputs, self.border));
        let embedded = match &self.embedding {
            Embed::Ids(embedding) => tokens::embed(embedding, inputs),
            Embed::Values(linear) => {
                let [tokens, _] = self.positions.val().dims();
                let piece = height * width / tokens;
                let x = inputs.reshape([samples, channels, tokens, piece]);
                linear.forward(x.swap_dims(1, 2).flatten::<3>(2, 3))
            }
        };
        let positions = self.positions.val();
        let positions = match &seen {
            Some(seen) => embedding(positions, causal::places(seen)),
            None => positions.unsqueeze(),
        };
        let mut x = embedded + positions;
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(x);
        }
        // `[n, 1 (of the heads), 1 or tokens (of the queries), tokens]`
        let unseen = seen.as_ref().or(mask);
        let unseen = unseen.map(|seen| ((seen.clone() * -1.0 + 1.0) * MASKED).unsqueeze_dim::<4>(1));
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, unseen.as_ref(), dropout);
            taps.offer(layer, || {
                let output = x.clone().swap_dims(1, 2);
                match mask {
                    Some(mask) => output * mask.clone(),
                    None => output,
                }
            });
        }
        x.swap_dims(1, 2)
    }
}

impl Block {
    fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        let (width, units, bert) = (width(spec), units(spec), is_bert(spec));
        let epsilon = if bert { BERT_EPSILON } else { EPSILON };
        Self {
            norm1: init.layer_norm_with(width, epsilon),
            qkv: if bert {
                init.linear(width, 3 * width)
            } else {
                init.linear_without_bias(width, 3 * width)
            },
            out: init.linear(width, width),
            norm2: init.layer_norm_with(width, epsilon),
            up: init.linear(width, units),
            down: init.linear(units, width),
            heads: spec.model.heads() as usize,
            norms_last: bert,
        }
    }

    /// # Shapes
    ///
    /// - x, output: `[n, tokens, width]`
    /// - unseen: `[n, 1, 1 or tokens, tokens]`, what is added to the scores of a token's key, by query if they differ
    fn forward(&self, x: Tensor<3>, unseen: Option<&Tensor<4>>, dropout: &mut Dropout<'_>) -> Tensor<3> {
        // A sum may be written over its first operand; the gradients of a norm and of a product need x.
        if self.norms_last {
            let attended = self.attend(x.clone(), unseen);
            let x = self.norm1.forward(dropout.apply(attended) + x);
            let y = self.perceptron(x.clone());
            return self.norm2.forward(dropout.apply(y) + x);
        }
        let attended = self.attend(self.norm1.forward(x.clone()), unseen);
        let x = dropout.apply(attended) + x;
        let y = self.perceptron(self.norm2.forward(x.clone()));
        dropout.apply(y) + x
    }

    fn perceptron(&self, x: Tensor<3>) -> Tensor<3> {
        self.down.forward(gelu(self.up.forward(x)))
    }

    /// Every token a mean of the values of all tokens that it sees, weighted by how well their keys match its query, head by head.
    fn attend(&self, x: Tensor<3>, unseen: Option<&Tensor<4>>) -> Tensor<3> {
        let [samples, tokens, width] = x.dims();
        let size = width / self.heads;
        let by_head = |x: Tensor<3>| x.reshape([samples, tokens, self.heads, size]).swap_dims(1, 2);
        let qkv = self.qkv.forward(x);
        let part = |i: usize| by_head(qkv.clone().narrow(2, i * width, width));
        let (queries, keys, values) = (part(0), part(1), part(2));
        let mut scores = queries.matmul(keys.transpose()) / (size as f64).sqrt();
        if let Some(unseen) = unseen {
            scores = scores + unseen.clone();
        }
        let mixed = softmax(scores, 3).matmul(values);
        let mixed = mixed.swap_dims(1, 2).reshape([samples, tokens, width]);
        self.out.forward(mixed)
    }
}
