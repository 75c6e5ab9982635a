//! What a model's configuration must satisfy.

use super::{Architecture, Exits, Model};

/// Bounds that keep a typing error from asking for terabytes.
const MAX_UNITS: u32 = 65_536;
const MAX_HIDDEN_LAYERS: usize = 64;
const MAX_WIDTH: u32 = 1024;
const MAX_CNN_DEPTH: u32 = 6;
const MAX_RESNET_DEPTH: u32 = 200;
/// Those of the paper.
const MAX_MOBILENET_DEPTH: u32 = 13;
const MAX_STAGES: u32 = 3;
const MAX_BLOCKS: u32 = 64;
const MAX_HEADS: u32 = 64;
const MAX_REQUEST: u32 = 4_096;

/// Key, value, what is expected.
type Problem = (String, String, String);

impl Model {
    /// What is wrong with it, as (key, value, what is expected); empty if a network can be built from it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.unused();
        match self.architecture {
            Architecture::Mlp => {
                if self.embedding.is_some() {
                    self.check_embedding(&mut problems);
                }
                self.check_hidden(&mut problems);
            }
            Architecture::EmbeddingBag => {
                self.check_embedding(&mut problems);
                self.check_hidden(&mut problems);
            }
            Architecture::Cnn => {
                if self.embedding.is_some() {
                    self.check_embedding(&mut problems);
                }
                self.check_width(&mut problems);
                whole(&mut problems, "depth", self.depth(), MAX_CNN_DEPTH, "layers");
            }
            Architecture::Resnet => {
                self.check_width(&mut problems);
                self.check_stages(&mut problems);
            }
            Architecture::Mobilenet => {
                self.check_width(&mut problems);
                let unit = "separable convolutions";
                whole(&mut problems, "depth", self.depth(), MAX_MOBILENET_DEPTH, unit);
            }
            Architecture::Transformer => {
                self.check_width(&mut problems);
                whole(&mut problems, "depth", self.depth(), MAX_BLOCKS, "blocks");
                self.check_heads(&mut problems);
            }
            Architecture::Bert => {
                self.check_width(&mut problems);
                whole(&mut problems, "depth", self.depth(), MAX_BLOCKS, "blocks");
                self.check_heads(&mut problems);
                self.check_perceptron(&mut problems);
            }
            Architecture::Onnx => self.check_foreign("onnx", self.onnx.is_some(), &mut problems),
            Architecture::Kserve => self.check_kserve(&mut problems),
            Architecture::Custom => self.check_custom(&mut problems),
        }
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(problem("dropout", self.dropout, "at least 0 and less than 1"));
        }
        if let Some(exits) = &self.exits {
            self.check_exits(exits, &mut problems);
        }
        problems
    }

    /// Keys that belong to other architectures.
    fn unused(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let of = |architectures: &[Architecture]| architectures.contains(&self.architecture);
        let bag = of(&[Architecture::EmbeddingBag]);
        let unused = "absent: only an embedding-bag, and an mlp or a cnn of tokens, have embeddings of their own width";
        let embedding = self
            .embedding
            .filter(|_| !bag && !of(&[Architecture::Mlp, Architecture::Cnn]));
        problems.extend(embedding.map(|n| problem("embedding", n, unused)));
        let perceptron = of(&[Architecture::Mlp, Architecture::EmbeddingBag]);
        let hides = perceptron || of(&[Architecture::Bert]);
        if let Some(hidden) = self.hidden.as_ref().filter(|_| !hides) {
            let unused = "absent: only an mlp, an embedding-bag and a bert have hidden layers";
            problems.push(problem("hidden", format!("{hidden:?}"), unused));
        }
        let unused = if bag {
            "absent: an embedding-bag has its sizes in `embedding` and `hidden`"
        } else {
            "absent: an mlp has its sizes in `hidden`"
        };
        for (key, value) in [("width", self.width), ("depth", self.depth)] {
            problems.extend(value.filter(|_| perceptron).map(|n| problem(key, n, unused)));
        }
        let resnet = of(&[Architecture::Resnet]);
        let unused = "absent: only a resnet has stages";
        problems.extend(
            self.stages
                .filter(|_| !resnet)
                .map(|n| problem("stages", n, unused)),
        );
        let transformer = of(&[Architecture::Transformer, Architecture::Bert]);
        let unused = "absent: only a transformer and a bert have heads";
        problems.extend(
            self.heads
                .filter(|_| !transformer)
                .map(|n| problem("heads", n, unused)),
        );
        if self.onnx.is_some() && !of(&[Architecture::Onnx]) {
            problems.push(problem("onnx", "given", "absent: only an onnx model has it"));
        }
        if self.kserve.is_some() && !of(&[Architecture::Kserve]) {
            problems.push(problem("kserve", "given", "absent: only a kserve model has it"));
        }
        if self.custom.is_some() && !of(&[Architecture::Custom]) {
            problems.push(problem("custom", "given", "absent: only a custom model has it"));
        }
        problems
    }

    /// What its parameters must be, its program says.
    fn check_custom(&self, problems: &mut Vec<Problem>) {
        if self.custom.is_none() {
            let expected = "{ name = \"...\" } and the parameters of that architecture";
            problems.push(problem("custom", "(absent)", expected));
        }
        let unused = "absent: the sizes of a custom model are parameters of its own, in `custom`";
        let sizes = [("width", self.width), ("depth", self.depth)];
        let sizes = sizes.into_iter();
        problems.extend(sizes.filter_map(|(key, n)| Some(problem(key, n?, unused))));
    }

    fn check_kserve(&self, problems: &mut Vec<Problem>) {
        self.check_foreign("kserve", self.kserve.is_some(), problems);
        if let Some(kserve) = &self.kserve {
            whole(
                problems,
                "kserve.max_batch",
                kserve.max_batch,
                MAX_REQUEST,
                "samples of one request",
            );
        }
    }

    /// `key`: the table that says how it is used.
    fn check_foreign(&self, key: &str, given: bool, problems: &mut Vec<Problem>) {
        if !given {
            let expected = "input, layout, output and what it gives";
            problems.push(problem(key, "(absent)", expected));
        }
        let unused = "absent: the model has its sizes";
        let sizes = [("width", self.width), ("depth", self.depth)];
        problems.extend(
            sizes
                .into_iter()
                .filter_map(|(key, n)| Some(problem(key, n?, unused))),
        );
    }

    fn check_embedding(&self, problems: &mut Vec<Problem>) {
        const UNIT: &str = "numbers for a token";
        match self.embedding {
            None => problems.push(problem(
                "embedding",
                "(absent)",
                &format!("1..={MAX_WIDTH} {UNIT}"),
            )),
            Some(embedding) => whole(problems, "embedding", embedding, MAX_WIDTH, UNIT),
        }
    }

    fn check_hidden(&self, problems: &mut Vec<Problem>) {
        match &self.hidden {
            None if self.architecture == Architecture::EmbeddingBag => {}
            None => problems.push(problem("hidden", "(absent)", "a list of layer sizes, like [128]")),
            Some(hidden) if hidden.len() > MAX_HIDDEN_LAYERS => {
                let expected = format!("at most {MAX_HIDDEN_LAYERS} layers");
                problems.push(problem("hidden", format!("{} layers", hidden.len()), &expected));
            }
            Some(hidden) => {
                for (i, &units) in hidden.iter().enumerate() {
                    whole(problems, &format!("hidden.{i}"), units, MAX_UNITS, "units");
                }
            }
        }
    }

    /// Of a `bert`'s blocks.
    fn check_perceptron(&self, problems: &mut Vec<Problem>) {
        match self.hidden.as_deref() {
            None => {}
            Some(&[units]) => whole(problems, "hidden.0", units, MAX_UNITS, "units"),
            Some(hidden) => {
                let expected = "one number: units of each block's perceptron";
                problems.push(problem("hidden", format!("{hidden:?}"), expected));
            }
        }
    }

    fn check_width(&self, problems: &mut Vec<Problem>) {
        let unit = if matches!(self.architecture, Architecture::Transformer | Architecture::Bert) {
            "numbers for a token"
        } else {
            "channels"
        };
        match self.width {
            None => problems.push(problem("width", "(absent)", &format!("1..={MAX_WIDTH} {unit}"))),
            Some(width) => whole(problems, "width", width, MAX_WIDTH, unit),
        }
    }

    fn check_stages(&self, problems: &mut Vec<Problem>) {
        let stages = self.stages();
        whole(problems, "stages", stages, MAX_STAGES, "stages");
        if !(1..=MAX_STAGES).contains(&stages) {
            return;
        }
        let (depth, step) = (self.depth(), 2 * stages);
        if !(step + 2..=MAX_RESNET_DEPTH).contains(&depth) || depth % step != 2 % step {
            let [first, second, third] = [1, 2, 3].map(|n| step * n + 2);
            let expected = format!("{step}n + 2 layers: {first}, {second}, {third}, ..., {MAX_RESNET_DEPTH}");
            problems.push(problem("depth", depth, &expected));
        }
    }

    fn check_heads(&self, problems: &mut Vec<Problem>) {
        let heads = self.heads();
        whole(problems, "heads", heads, MAX_HEADS, "heads");
        if let Some(width) = self.width.filter(|width| heads > 0 && width % heads != 0) {
            let expected = format!("a multiple of model.heads ({heads})");
            problems.push(problem("width", width, &expected));
        }
    }

    fn check_exits(&self, exits: &Exits, problems: &mut Vec<Problem>) {
        let segments = self.segments();
        let text = format!("{:?}", exits.at);
        let none = [
            Architecture::Mlp,
            Architecture::EmbeddingBag,
            Architecture::Custom,
        ];
        if none.contains(&self.architecture) {
            let expected = "absent: only a cnn, a resnet, a mobilenet, a transformer and a bert have exits";
            problems.push(problem("exits.at", text, expected));
        } else if segments < 2 {
            let expected = format!("a model of at least 2 parts, and this one has {segments}");
            problems.push(problem("exits.at", text, &expected));
        } else if exits.at.is_empty()
            || !exits.at.is_sorted_by(|a, b| a < b)
            || exits.at.iter().any(|at| !(1..segments).contains(at))
        {
            let expected = format!("at least one, ascending, each within 1..={}", segments - 1);
            problems.push(problem("exits.at", text, &expected));
        }
        if !(0.0..=1.0).contains(&exits.alpha) {
            problems.push(problem("exits.alpha", exits.alpha, "at least 0 and at most 1"));
        }
        if !(1e-3..=1e4).contains(&exits.temperature) {
            let expected = "a finite number, 0.001 <= T <= 10000";
            problems.push(problem("exits.temperature", exits.temperature, expected));
        }
        if !(exits.feature_weight.is_finite() && exits.feature_weight >= 0.0) {
            let expected = "a finite number >= 0";
            problems.push(problem("exits.feature_weight", exits.feature_weight, expected));
        }
    }
}

fn whole(problems: &mut Vec<Problem>, key: &str, value: u32, most: u32, unit: &str) {
    if !(1..=most).contains(&value) {
        problems.push(problem(key, value, &format!("1..={most} {unit}")));
    }
}

fn problem(key: &str, value: impl ToString, expected: &str) -> Problem {
    (key.into(), value.to_string(), expected.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let model: Model = toml::from_str(text).unwrap();
        model.problems().into_iter().map(|(key, ..)| key).collect()
    }

    #[test]
    fn sound_models_have_no_problems() {
        for text in [
            "architecture = 'mlp'\nhidden = []",
            "architecture = 'mlp'\nhidden = [8]\nembedding = 4",
            "architecture = 'mlp'\nhidden = [32, 16]\ndropout = 0.5",
            "architecture = 'cnn'\nwidth = 8",
            "architecture = 'cnn'\nwidth = 1\ndepth = 6\nembedding = 2",
            "architecture = 'resnet'\nwidth = 16\ndepth = 200",
            "architecture = 'resnet'\nwidth = 16\nstages = 1\ndepth = 4",
            "architecture = 'resnet'\nwidth = 16\nstages = 2\nexits = { at = [1] }",
            "architecture = 'mobilenet'\nwidth = 8",
            "architecture = 'mobilenet'\nwidth = 1\ndepth = 13\nexits = { at = [1, 12] }",
            "architecture = 'embedding-bag'\nembedding = 8",
            "architecture = 'embedding-bag'\nembedding = 1024\nhidden = [9, 5]\ndropout = 0.1",
            "architecture = 'transformer'\nwidth = 8",
            "architecture = 'bert'\nwidth = 8\nhidden = [9]\nexits = { at = [1] }",
            "architecture = 'transformer'\nwidth = 9\nheads = 3\ndepth = 64\nexits = { at = [1, 5, 63] }",
            "architecture = 'cnn'\nwidth = 8\nexits = { at = [1, 2], alpha = 1.0, temperature = 1, feature_weight = 2 }",
            "architecture = 'onnx'\nonnx = { input = 'x', layout = 'nchw', output = 'y', gives = 'logits' }",
        ] {
            assert_eq!(keys(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn every_unsound_key_is_named() {
        for (text, expected) in [
            (
                "architecture = 'mlp'\nwidth = 8\ndepth = 2",
                vec!["width", "depth", "hidden"],
            ),
            (
                "architecture = 'mlp'\nhidden = [0, 8, 65537]",
                vec!["hidden.0", "hidden.2"],
            ),
            (
                "architecture = 'cnn'\ndepth = 7\nhidden = [3]\nstages = 1\nheads = 1",
                vec!["hidden", "stages", "heads", "width", "depth"],
            ),
            ("architecture = 'cnn'\nwidth = 0", vec!["width"]),
            ("architecture = 'resnet'\nwidth = 8\ndepth = 10", vec!["depth"]),
            (
                "architecture = 'resnet'\nwidth = 8\nstages = 2\ndepth = 8",
                vec!["depth"],
            ),
            (
                "architecture = 'resnet'\nwidth = 8\nstages = 1\ndepth = 2",
                vec!["depth"],
            ),
            ("architecture = 'resnet'\nwidth = 8\nstages = 4", vec!["stages"]),
            ("architecture = 'resnet'\nwidth = 8\nstages = 0", vec!["stages"]),
            (
                "architecture = 'mobilenet'\ndepth = 14\nstages = 2\nexits = { at = [14] }",
                vec!["stages", "width", "depth", "exits.at"],
            ),
            ("architecture = 'transformer'\nwidth = 10", vec!["width"]),
            (
                "architecture = 'transformer'\nwidth = 10\nheads = 0",
                vec!["heads"],
            ),
            (
                "architecture = 'transformer'\nwidth = 0\ndepth = 0",
                vec!["width", "depth"],
            ),
            (
                "architecture = 'mlp'\nhidden = [4]\nexits = { at = [1] }",
                vec!["exits.at"],
            ),
            (
                "architecture = 'cnn'\nwidth = 1\nexits = { at = [] }",
                vec!["exits.at"],
            ),
            (
                "architecture = 'cnn'\nwidth = 1\nexits = { at = [0] }",
                vec!["exits.at"],
            ),
            (
                "architecture = 'cnn'\nwidth = 1\nexits = { at = [3] }",
                vec!["exits.at"],
            ),
            (
                "architecture = 'cnn'\nwidth = 1\nexits = { at = [2, 1] }",
                vec!["exits.at"],
            ),
            (
                "architecture = 'cnn'\nwidth = 1\nexits = { at = [1, 1] }",
                vec!["exits.at"],
            ),
            (
                "architecture = 'cnn'\nwidth = 1\ndepth = 1\nexits = { at = [1] }",
                vec!["exits.at"],
            ),
            (
                "architecture = 'resnet'\nwidth = 1\nexits = { at = [3] }",
                vec!["exits.at"],
            ),
            (
                "architecture = 'cnn'\nwidth = 1\nexits = { at = [1], alpha = 1.1, temperature = 0, feature_weight = -1 }",
                vec!["exits.alpha", "exits.temperature", "exits.feature_weight"],
            ),
            (
                "architecture = 'onnx'\nhidden = [2]\nwidth = 8\nexits = { at = [1] }",
                vec!["hidden", "onnx", "width", "exits.at"],
            ),
            (
                "architecture = 'mlp'\nhidden = []\nonnx = { input = 'x', layout = 'flat', output = 'y', gives = 'logits' }",
                vec!["onnx"],
            ),
            (
                "architecture = 'bert'\nwidth = 8\nhidden = [8, 8]",
                vec!["hidden"],
            ),
            (
                "architecture = 'bert'\nwidth = 6\nhidden = [0]\nstages = 1",
                vec!["stages", "width", "hidden.0"],
            ),
            (
                "architecture = 'transformer'\nwidth = 8\nembedding = 8",
                vec!["embedding"],
            ),
            (
                "architecture = 'embedding-bag'\nhidden = [0]",
                vec!["embedding", "hidden.0"],
            ),
            (
                "architecture = 'embedding-bag'\nembedding = 1025\nwidth = 1\ndepth = 1\nheads = 1\nexits = { at = [1] }",
                vec!["width", "depth", "heads", "embedding", "exits.at"],
            ),
            (
                "architecture = 'mlp'\nhidden = []\ndropout = 1.0",
                vec!["dropout"],
            ),
            (
                "architecture = 'mlp'\nhidden = []\ndropout = nan",
                vec!["dropout"],
            ),
        ] {
            assert_eq!(keys(text), expected, "{text}");
        }
    }
}
