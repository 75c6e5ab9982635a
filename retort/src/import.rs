//! `retort import`: a teacher's folder of an ONNX file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use retort_data::rng::Rng;
use retort_data::{Shape, Tokens};
use retort_job::{Architecture, Gives, Layout, Model, Onnx, Problem};
use retort_models::onnx::{self, Port};
use retort_models::{Card, Classifier, DatasetReference, Device, Export, Preprocessing, Spec};
use serde::Deserialize;

use crate::failure::Failure;

/// Samples that a model must answer with numbers before it is taken: zeros, and noise.
const PROBES: usize = 4;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// The ONNX file.
    model: PathBuf,
    /// TOML file with what the model does not say; MODEL with the extension .toml unless given.
    #[arg(long)]
    card: Option<PathBuf>,
    /// Folder to write to; must be empty or absent.
    #[arg(long)]
    out: PathBuf,
}

/// What an ONNX file does not say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The file's unless given.
    name: Option<String>,
    /// Name of the input; the only one unless given.
    input: Option<String>,
    /// Channels, height and width of a sample, as the data set gives it.
    shape: [usize; 3],
    #[serde(default)]
    layout: Layout,
    /// Preprocessing: `(scale * x - mean) / std`.
    #[serde(default = "Config::scale")]
    scale: f32,
    /// By channel, as `std`; 0 unless given.
    mean: Option<Vec<f32>>,
    /// 1 unless given.
    std: Option<Vec<f32>>,
    /// Name of the tensor to read, which may be an inner one; the only output unless given.
    output: Option<String>,
    gives: Gives,
    classes: Classes,
    /// Of a model of bytes: which ones of a sample; `bytes` or `file-bytes`.
    tokens: Option<Tokens>,
    /// With `tokens`: the number that stands for no byte.
    padding: Option<u32>,
}

/// Names of the classes, in the order of the output.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a list of names, or the path of a file with one a line"
)]
enum Classes {
    Names(Vec<String>),
    File(PathBuf),
}

impl Config {
    fn scale() -> f32 {
        1.0
    }

    fn read(file: &Path) -> Result<Self, Failure> {
        let text =
            std::fs::read_to_string(file).map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
        let config: Self =
            toml::from_str(&text).map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
        let problems = config.problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            let file = file.to_owned();
            Err(Failure::input(retort_job::Error::Invalid { file, problems }))
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let [channels, height, width] = self.shape;
        if channels * height * width == 0 {
            let value = format!("{:?}", self.shape);
            problems.push(Problem::new(
                "shape",
                value,
                "[channels, height, width], each at least 1",
            ));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            problems.push(Problem::new("scale", self.scale, "a finite number > 0"));
        }
        self.check_tokens(&mut problems);
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            let Some(values) = values else { continue };
            let sound = |v: &f32| v.is_finite() && (key == "mean" || *v > 0.0);
            if values.len() != channels || !values.iter().all(sound) {
                let bound = if key == "std" { " > 0" } else { "" };
                let expected = format!("{channels} finite numbers{bound}, one for each channel");
                problems.push(Problem::new(key, format!("{values:?}"), expected));
            }
        }
        problems
    }

    fn check_tokens(&self, problems: &mut Vec<Problem>) {
        let Some(tokens) = &self.tokens else {
            if let Some(padding) = self.padding {
                let expected = "absent: only bytes (tokens) are padded";
                problems.push(Problem::new("padding", padding, expected));
            }
            return;
        };
        if !matches!(tokens, Tokens::Bytes {} | Tokens::FileBytes {}) {
            let expected = "kind = \"bytes\" or \"file-bytes\": other ids are of this program alone";
            problems.push(Problem::new("tokens", format!("{tokens:?}"), expected));
        }
        if self.padding.is_none() {
            let expected = "the number that the model takes where there is no byte";
            problems.push(Problem::new("padding", "(absent)", expected));
        }
        let [channels, height, _] = self.shape;
        if (channels, height) != (1, 1) {
            let expected = "[1, 1, length], since these are bytes";
            problems.push(Problem::new("shape", format!("{:?}", self.shape), expected));
        }
        if self.scale != 1.0 || self.mean.is_some() || self.std.is_some() {
            let expected = "absent, like mean and std: bytes are not scaled";
            problems.push(Problem::new("scale", self.scale, expected));
        }
    }

    /// The preprocessing as a card has it, without a scale: `(x - mean / scale) / (std / scale)`.
    fn preprocessing(&self) -> Preprocessing {
        let none = Preprocessing::none(self.shape[0]);
        let scaled = |values: Option<&Vec<f32>>, otherwise: Vec<f32>| {
            let values = values.cloned().unwrap_or(otherwise);
            values.into_iter().map(|v| v / self.scale).collect()
        };
        Preprocessing {
            mean: scaled(self.mean.as_ref(), none.mean),
            std: scaled(self.std.as_ref(), none.std),
        }
    }

    fn class_names(&self, file: &Path) -> Result<Vec<String>, Failure> {
        let names: Vec<String> = match &self.classes {
            Classes::Names(names) => names.clone(),
            Classes::File(path) => {
                let path = file.parent().unwrap_or(Path::new(".")).join(path);
                let text = std::fs::read_to_string(&path).map_err(|e| {
                    Failure::input(format!("{}: classes: {}: {e}", file.display(), path.display()))
                })?;
                text.lines().map(|line| line.trim().to_owned()).collect()
            }
        };
        let mut seen = BTreeSet::new();
        let problem = if names.is_empty() {
            Some(("no names".to_owned(), "one for each class"))
        } else {
            let twice = names.iter().find(|name| name.is_empty() || !seen.insert(*name));
            twice.map(|name| (format!("{name:?}"), "names that are not empty, each once"))
        };
        match problem {
            None => Ok(names),
            Some((value, expected)) => Err(Failure::input(retort_job::Error::Invalid {
                file: file.to_owned(),
                problems: vec![Problem::new("classes", value, expected)],
            })),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(args: &Args) -> Result<(), Failure> {
    let export = import(args)?;
    let Export { card, .. } = &export;
    export
        .save(&args.out)
        .map_err(|e| Failure::input(format!("--out: {e}")))?;
    let gives = match card.model.onnx.as_ref().map(|onnx| onnx.gives) {
        Some(Gives::Probabilities) => {
            "; it gives probabilities, whose logarithms serve as logits (0 as the smallest normal f32: -87.3)"
        }
        _ => "",
    };
    println!(
        "{}: {} of {}, {} classes, {} parameters{gives}",
        args.out.display(),
        card.name,
        args.model.display(),
        card.classes,
        card.parameters
    );
    Ok(())
}

/// The folder's content, checked.
fn import(args: &Args) -> Result<Export, Failure> {
    if std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::input(format!(
            "--out {}: expected an empty or absent folder",
            args.out.display()
        )));
    }
    let refused = |e: &dyn ToString| Failure::input(format!("{}: {}", args.model.display(), e.to_string()));
    let file = args
        .card
        .clone()
        .unwrap_or_else(|| args.model.with_extension("toml"));
    let bytes = std::fs::read(&args.model).map_err(|e| refused(&e))?;
    let config = Config::read(&file)?;
    let class_names = config.class_names(&file)?;
    let ports = onnx::ports(&bytes).map_err(|e| refused(&e))?;
    let only = |key: &str, named: &Option<String>, ports: &[Port]| match (named, ports) {
        (Some(name), _) => Ok(name.clone()),
        (None, [port]) => Ok(port.name.clone()),
        (None, ports) => {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            let problem = Problem::new(key, "(absent)", format!("one of {names:?}"));
            Err(Failure::input(format!("{}: {problem}", file.display())))
        }
    };
    let model = Model {
        architecture: Architecture::Onnx,
        embedding: None,
        hidden: None,
        width: None,
        depth: None,
        stages: None,
        heads: None,
        dropout: 0.0,
        exits: None,
        onnx: Some(Onnx {
            input: only("input", &config.input, &ports.inputs)?,
            layout: config.layout,
            output: only("output", &config.output, &ports.outputs)?,
            gives: config.gives,
            padding: config.padding,
        }),
    };
    let [channels, height, width] = config.shape;
    let spec = Spec {
        model,
        input: Shape {
            channels,
            height,
            width,
        },
        classes: class_names.len(),
        preprocessing: config.preprocessing(),
        tokens: config.tokens.clone(),
        projection: None,
    };
    let mut classifier = Classifier::from_parts(&spec, &bytes, &Device::flex()).map_err(|e| refused(&e))?;
    probe(&mut classifier).map_err(|e| refused(&e))?;
    let stem = args
        .model
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let name = config.name.or(stem).unwrap_or_default();
    let card = Card::new(name, &spec, classifier.parameters(), DatasetReference::default());
    Ok(Export {
        card: Card { class_names, ..card },
        weights: bytes,
    })
}

fn probe(classifier: &mut Classifier) -> Result<(), String> {
    let len = classifier.spec().input_len();
    let mut noise = Rng::new(1);
    let ids = classifier.spec().tokens.as_ref().map(Tokens::vocabulary);
    let value = |i| match ids {
        _ if i < len => 0.0,
        Some(ids) => (noise.uniform_f32() * ids as f32).floor(),
        None => noise.uniform_f32(),
    };
    let inputs: Vec<f32> = (0..PROBES * len).map(value).collect();
    let logits = classifier.logits(&inputs, PROBES).map_err(|e| e.to_string())?;
    match logits.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(format!(
            "its output for zeros or noise from 0 to 1 holds {value}, expected finite numbers"
        )),
    }
}
