//! `retort import`: a teacher's folder of an ONNX file, of PyTorch's weights, of an encoder's folder, or of a model on a server.

mod bert;
mod pytorch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use retort_data::rng::Rng;
use retort_data::{Shape, Tokens};
use retort_job::{Architecture, Foreign, Gives, Kserve, Layout, Model, Problem};
use retort_models::foreign::{Port, Ports};
use retort_models::{Card, Classifier, DatasetReference, Device, Export, Preprocessing, Spec, onnx};
use retort_teacher_server::{classifier, kserve};
use serde::Deserialize;

use crate::failure::Failure;

/// Samples that a model must answer with numbers before it is taken, at least: zeros, and noise.
const PROBES: usize = 4;
/// How far apart the numbers of one sample may be, alone and in company, by their size: of rounding, not of what is
/// computed of others.
const COMPANY: f32 = 1e-2;
/// Samples of one request to a server, unless the card says.
const MAX_BATCH: u32 = 64;
/// What the card may say.
const MOST_BATCH: u32 = 4_096;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// An ONNX file; a safetensors file with a PyTorch model's weights; a folder of Hugging Face's with a BERT (config.json, model.safetensors, tokenizer.json); or
    /// http://HOST:PORT/NAME, a model on a server of the Open Inference Protocol (KServe v2, gRPC).
    model: String,
    /// TOML file with what a file or a server does not say; MODEL (of a server: NAME) with the extension .toml unless
    /// given.
    #[arg(long)]
    card: Option<PathBuf>,
    /// Of a folder: job file whose labelled training samples the classifier is fitted to.
    #[arg(long)]
    job: Option<PathBuf>,
    /// Change one key of the job, such as dataset.text.length=32; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "job")]
    settings: Vec<String>,
    /// Folder to write to; must be empty or absent.
    #[arg(long)]
    out: PathBuf,
    /// Print the model's card as JSON: model.json of the folder.
    #[arg(long)]
    json: bool,
}

/// What a model does not say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The file's, or the one on the server, unless given.
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
    /// Name of the tensor to read, of a file perhaps an inner one; the only output unless given.
    output: Option<String>,
    gives: Gives,
    classes: Classes,
    /// Of a model of bytes: which ones of a sample; `bytes` or `file-bytes`.
    tokens: Option<Tokens>,
    /// With `tokens`: the number that stands for no byte.
    padding: Option<u32>,
    /// Of a server: the version that must answer; the only one unless given.
    version: Option<String>,
    /// Of a server: samples of one request, at most.
    max_batch: Option<u32>,
    /// Of a server: numbers that the weights are, for reports; 0 unless given.
    parameters: Option<usize>,
    /// Of a safetensors file: the network of ours that its weights are those of.
    model: Option<Model>,
    /// Of a safetensors file: beginnings of our weights' names, and what stands in their place there.
    #[serde(default)]
    names: BTreeMap<String, String>,
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

    fn read(file: &Path, place: &Place) -> Result<Self, Failure> {
        let text =
            std::fs::read_to_string(file).map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
        let config: Self =
            toml::from_str(&text).map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
        let problems = config.problems(place);
        if problems.is_empty() {
            Ok(config)
        } else {
            let file = file.to_owned();
            Err(Failure::input(retort_job::Error::Invalid { file, problems }))
        }
    }

    fn problems(&self, place: &Place) -> Vec<Problem> {
        let mut problems = self.check_server(matches!(place, Place::Server { .. }));
        self.check_weights(place.weights().is_some(), &mut problems);
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

    fn check_server(&self, served: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let fine = 1..=MOST_BATCH;
        if let Some(batch) = self.max_batch.filter(|batch| served && !fine.contains(batch)) {
            problems.push(Problem::new(
                "max_batch",
                batch,
                format!("1..={MOST_BATCH} samples"),
            ));
        }
        let given = [
            ("version", self.version.clone()),
            ("max_batch", self.max_batch.map(|n| n.to_string())),
            ("parameters", self.parameters.map(|n| n.to_string())),
        ];
        for (key, value) in given {
            if let Some(value) = value.filter(|_| !served) {
                let expected = "absent: only of a model on a server, http://HOST:PORT/NAME";
                problems.push(Problem::new(key, value, expected));
            }
        }
        problems
    }

    /// Of a network of ours we know what it takes and gives, and of another one nothing but that.
    fn check_weights(&self, ours: bool, problems: &mut Vec<Problem>) {
        if !ours {
            let expected = "absent: only of weights for a network of ours, a file that ends in .safetensors";
            let given = [
                ("model", self.model.as_ref().map(|m| m.architecture.to_string())),
                ("names", self.names.keys().next().cloned()),
            ];
            let given = given.into_iter().filter_map(|(key, value)| Some((key, value?)));
            problems.extend(given.map(|(key, value)| Problem::new(key, value, expected)));
            return;
        }
        if self.model.is_none() {
            let expected = "the network of ours that these are the weights of, as a job has it";
            problems.push(Problem::new("model", "(absent)", expected));
        }
        if self.gives == Gives::Probabilities {
            let expected = "\"logits\", which is what a network of ours gives";
            problems.push(Problem::new("gives", "\"probabilities\"", expected));
        }
        let expected = "absent: known of a network of ours";
        let given = [
            (
                "layout",
                (self.layout != Layout::Nchw).then(|| format!("{:?}", self.layout).to_lowercase()),
            ),
            ("input", self.input.clone()),
            ("output", self.output.clone()),
            ("tokens", self.tokens.as_ref().map(|tokens| format!("{tokens:?}"))),
        ];
        let given = given.into_iter().filter_map(|(key, value)| Some((key, value?)));
        problems.extend(given.map(|(key, value)| Problem::new(key, value, expected)));
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

    /// Of one row of logits a sample.
    fn spec(&self, model: Model, classes: usize) -> Spec {
        let [channels, height, width] = self.shape;
        Spec {
            model,
            input: Shape {
                channels,
                height,
                width,
            },
            classes,
            preprocessing: self.preprocessing(),
            tokens: self.tokens.clone(),
            rows: 1,
            projection: None,
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

/// Where a model is.
enum Place {
    /// ONNX, or the [weights](Place::weights) of a network of ours.
    File(PathBuf),
    /// `http://host:port`, and its name there.
    Server { endpoint: String, name: String },
}

impl Place {
    fn parse(model: &str) -> Result<Self, Failure> {
        let refused = |expected: &str| Failure::input(format!("{model}: expected {expected}"));
        if model.starts_with("https://") {
            return Err(refused("http://: nothing is encrypted yet"));
        }
        let Some(rest) = model.strip_prefix("http://") else {
            return Ok(Self::File(model.into()));
        };
        match rest.split_once('/') {
            Some((host, name)) if !host.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Server {
                    endpoint: format!("http://{host}"),
                    name: name.to_owned(),
                })
            }
            _ => Err(refused(
                "http://HOST:PORT/NAME, NAME being the model's on that server",
            )),
        }
    }

    /// The file, if it holds weights alone.
    fn weights(&self) -> Option<&Path> {
        match self {
            Self::File(file) if file.extension().is_some_and(|e| e == "safetensors") => Some(file),
            Self::File(_) | Self::Server { .. } => None,
        }
    }

    /// Where what the model does not say stands, unless that is said.
    fn card(&self) -> PathBuf {
        match self {
            Self::File(file) => file.with_extension("toml"),
            Self::Server { name, .. } => format!("{name}.toml").into(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(file) => file
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            Self::Server { name, .. } => name.clone(),
        }
    }

    /// What the model takes and gives, the file that stands for its weights, and the version that was found.
    fn look(&self, config: &Config) -> Result<(Ports, Vec<u8>, String), String> {
        match self {
            Self::File(file) => {
                let bytes = std::fs::read(file).map_err(|e| e.to_string())?;
                let ports = onnx::ports(&bytes).map_err(|e| e.to_string())?;
                Ok((ports, bytes, String::new()))
            }
            Self::Server { endpoint, name } => {
                let said = kserve::inspect(endpoint, name, config.version.as_deref());
                let said = said.map_err(|e| e.to_string())?;
                let mut bytes = serde_json::to_vec_pretty(&said).map_err(|e| e.to_string())?;
                bytes.push(b'\n');
                Ok((said.ports(), bytes, said.version))
            }
        }
    }

    fn model(&self, ports: Foreign, config: &Config, version: String) -> Model {
        match self {
            Self::File(_) => Model {
                onnx: Some(ports),
                ..Model::of(Architecture::Onnx)
            },
            Self::Server { endpoint, name } => Model {
                kserve: Some(Kserve {
                    endpoint: endpoint.clone(),
                    model: name.clone(),
                    version,
                    max_batch: config.max_batch.unwrap_or(MAX_BATCH),
                    ports,
                }),
                ..Model::of(Architecture::Kserve)
            },
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(args: &Args) -> Result<(), Failure> {
    if std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::input(format!(
            "--out {}: expected an empty or absent folder",
            args.out.display()
        )));
    }
    let (export, more) = if Path::new(&args.model).is_dir() {
        bert::import(args)?
    } else {
        import(args)?
    };
    let Export { card, .. } = &export;
    export
        .save(&args.out)
        .map_err(|e| Failure::input(format!("--out: {e}")))?;
    if args.json {
        println!("{:#}", serde_json::to_value(card).map_err(anyhow::Error::from)?);
        return Ok(());
    }
    let size = match &card.model.kserve {
        Some(kserve) if !kserve.version.is_empty() => format!("version {}", kserve.version),
        Some(_) => "no version".to_owned(),
        None => format!("{} parameters", card.parameters),
    };
    println!(
        "{}: {} of {}, {} classes, {size}{more}",
        args.out.display(),
        card.name,
        args.model,
        card.classes,
    );
    Ok(())
}

/// The content of the folder for an ONNX file, checked, and what else to say of it.
fn import(args: &Args) -> Result<(Export, String), Failure> {
    if let Some(job) = &args.job {
        return Err(Failure::input(format!(
            "--job {}: expected no job, a file or a model on a server is a classifier already",
            job.display()
        )));
    }
    let refused = |e: &dyn ToString| Failure::input(format!("{}: {}", args.model, e.to_string()));
    let place = Place::parse(&args.model)?;
    if let Place::File(file) = &place {
        // Before its card, which nobody misses where there is no model.
        std::fs::metadata(file).map_err(|e| refused(&e))?;
    }
    let file = args.card.clone().unwrap_or_else(|| place.card());
    let config = Config::read(&file, &place)?;
    let class_names = config.class_names(&file)?;
    if let Some(weights) = place.weights() {
        let name = config.name.clone().unwrap_or_else(|| place.name());
        return pytorch::import(weights, &config, (name, class_names));
    }
    let (ports, bytes, version) = place.look(&config).map_err(|e| refused(&e))?;
    let only = |key: &str, named: &Option<String>, ports: &[Port]| match (named, ports) {
        (Some(name), _) => Ok(name.clone()),
        (None, [port]) => Ok(port.name.clone()),
        (None, ports) => {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            let problem = Problem::new(key, "(absent)", format!("one of {names:?}"));
            Err(Failure::input(format!("{}: {problem}", file.display())))
        }
    };
    let ports = Foreign {
        input: only("input", &config.input, &ports.inputs)?,
        layout: config.layout,
        output: only("output", &config.output, &ports.outputs)?,
        gives: config.gives,
        padding: config.padding,
    };
    let spec = config.spec(place.model(ports, &config, version), class_names.len());
    let mut classifier = classifier(&spec, &bytes, &Device::flex()).map_err(|e| refused(&e))?;
    probe(&mut classifier).map_err(|e| refused(&e))?;
    let parameters = config.parameters.unwrap_or_else(|| classifier.parameters());
    let name = config.name.unwrap_or_else(|| place.name());
    let card = Card::new(name, &spec, parameters, DatasetReference::default());
    let gives = match config.gives {
        Gives::Probabilities => {
            "; it gives probabilities, whose logarithms serve as logits (0 as the smallest normal f32: -87.3)"
        }
        Gives::Logits => "",
    };
    let export = Export::new(Card { class_names, ..card }, bytes);
    Ok((export, gives.to_owned()))
}

/// As many samples as it may be asked for at once must have finite numbers, and each one's must be its own.
fn probe(classifier: &mut Classifier) -> Result<(), String> {
    let spec = classifier.spec();
    let (len, classes) = (spec.input_len(), spec.classes);
    let most = spec
        .model
        .kserve
        .as_ref()
        .map_or(0, |kserve| kserve.max_batch as usize);
    let samples = PROBES.max(most);
    let mut noise = Rng::new(1);
    let ids = spec.tokens.as_ref().map(Tokens::vocabulary);
    let value = |i| match ids {
        _ if i < len => 0.0,
        Some(ids) => (noise.uniform_f32() * ids as f32).floor(),
        None => noise.uniform_f32(),
    };
    let inputs: Vec<f32> = (0..samples * len).map(value).collect();
    let logits = classifier.logits(&inputs, samples).map_err(|e| e.to_string())?;
    if let Some(value) = logits.iter().find(|value| !value.is_finite()) {
        return Err(format!(
            "its output for zeros or noise from 0 to 1 holds {value}, expected finite numbers"
        ));
    }
    let alone = classifier
        .logits(&inputs[len..2 * len], 1)
        .map_err(|e| e.to_string())?;
    let apart = |(a, b): (&f32, &f32)| (a - b).abs() > COMPANY * (1.0 + a.abs());
    let together = &logits[classes..2 * classes];
    match alone.iter().zip(together).find(|pair| apart(*pair)) {
        None => Ok(()),
        Some((alone, together)) => Err(format!(
            "one sample's output is {alone} alone and {together} among {samples}, expected the same: max_batch = 1 asks \
             for each by itself"
        )),
    }
}
