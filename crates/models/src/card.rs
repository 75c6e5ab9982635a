//! Export folders: `model.safetensors` with the weights, or what stands for them; `model.json` with everything needed to
//! use them, but for the file of a tokenizer, which lies beside them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use retort_data::{Audio, Shape, TOKENIZER_FILE, Tokens};
use retort_job::{Architecture, Model};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{ClassifierError, Net, Preprocessing, Spec, WeightsError, weights};

pub const CARD_FILE: &str = "model.json";

/// Version of the card's format that this code writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// The card of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Version of this format.
    pub format: u32,
    pub name: String,
    pub model: Model,
    pub input: Shape,
    pub classes: usize,
    /// One name for each class, or none at all.
    #[serde(default)]
    pub class_names: Vec<String>,
    pub preprocessing: Preprocessing,
    /// How a text becomes `input.width` ids; absent where inputs are numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// How a sound becomes an input; absent where inputs are no sounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<Audio>,
    /// Rows of logits for each sample; absent where there is one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub rows: usize,
    /// What logits are divided by before the softmax; always 1, since only training softens.
    pub temperature: u32,
    /// Numbers that the weights are.
    pub parameters: usize,
    pub dataset: DatasetReference,
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Version of Retort that wrote the folder.
    pub retort: String,
    /// BLAKE3 of [`Card::weights_file`], in hexadecimal. A hand-written card may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_blake3: Option<String>,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(rows: &usize) -> bool {
    *rows == 1
}

/// What a model was trained on; both are empty where nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatasetReference {
    pub name: String,
    pub digest: String,
}

/// The content of an export folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    pub card: Card,
    /// The bytes of [`Card::weights_file`].
    pub weights: Vec<u8>,
    /// The bytes of [`TOKENIZER_FILE`], where [`Card::tokens`] are a tokenizer's. A fleet's versions come without: to
    /// evaluate ids nobody needs it.
    pub tokenizer: Option<Vec<u8>>,
}

/// Why an export folder cannot be written or read.
#[derive(Debug, Error)]
pub enum Error {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no model card", path.display())]
    Card {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{}: {key} is {value}, expected {expected}", path.display())]
    Inconsistent {
        path: PathBuf,
        key: &'static str,
        value: String,
        expected: String,
    },
}

impl Card {
    /// A card for a network of this specification and so many parameters, still without class names, audio and metrics. It
    /// leaves out a projection, which is no part of a model.
    pub fn new(name: impl Into<String>, spec: &Spec, parameters: usize, dataset: DatasetReference) -> Self {
        Self {
            format: FORMAT,
            name: name.into(),
            model: spec.model.clone(),
            input: spec.input,
            classes: spec.classes,
            class_names: Vec::new(),
            preprocessing: spec.preprocessing.clone(),
            tokens: spec.tokens.clone(),
            audio: None,
            rows: spec.rows,
            temperature: 1,
            parameters: parameters - spec.projection_parameters(),
            dataset,
            metrics: BTreeMap::new(),
            retort: env!("CARGO_PKG_VERSION").into(),
            weights_blake3: None,
        }
    }

    /// Name of the file beside the card: weights, a foreign file, or what a server said of its model.
    pub fn weights_file(&self) -> &'static str {
        match self.model.architecture {
            Architecture::Onnx => "model.onnx",
            Architecture::Kserve => "kserve.json",
            _ => "model.safetensors",
        }
    }

    /// What it says about the network.
    pub fn spec(&self) -> Spec {
        Spec {
            model: self.model.clone(),
            input: self.input,
            classes: self.classes,
            preprocessing: self.preprocessing.clone(),
            tokens: self.tokens.clone(),
            rows: self.rows,
            projection: None,
        }
    }

    fn audio_problem(&self) -> Option<(&'static str, String, String)> {
        match self.audio.as_ref()?.shape() {
            Ok(shape) if shape == self.input => None,
            Ok(shape) => Some((
                "audio",
                format!("a front end for samples of {shape}"),
                format!("samples of {}, the input", self.input),
            )),
            Err(error) => Some(("audio", error.to_string(), "a sound front end".into())),
        }
    }

    /// The tokenizer's file in a folder, if the card's tokens are a tokenizer's and it is there.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is another one.
    pub fn tokenizer_in(&self, folder: &Path) -> Result<Option<Vec<u8>>, Error> {
        let path = folder.join(TOKENIZER_FILE);
        let Some(Tokens::Tokenizer { blake3, .. }) = &self.tokens else {
            return Ok(None);
        };
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        let found = digest(&bytes);
        match blake3 {
            Some(named) if *named != found => Err(Error::Inconsistent {
                path: folder.join(CARD_FILE),
                key: "tokens.blake3",
                value: named.clone(),
                expected: format!("{found}, the hash of {TOKENIZER_FILE}"),
            }),
            _ => Ok(Some(bytes)),
        }
    }

    /// The first thing that is wrong with it: key, value, what is expected.
    fn problem(&self) -> Option<(&'static str, String, String)> {
        if self.format == 0 || self.format > FORMAT {
            Some(("format", self.format.to_string(), format!("1..={FORMAT}")))
        } else if self.temperature != 1 {
            Some(("temperature", self.temperature.to_string(), "1".into()))
        } else if !self.class_names.is_empty() && self.class_names.len() != self.classes {
            let names = format!("{} names", self.class_names.len());
            Some(("class_names", names, format!("{}", self.classes)))
        } else if let Some(problem) = self.audio_problem() {
            Some(problem)
        } else if let Some(Tokens::Tokenizer { blake3: None, .. } | Tokens::Tokenizer { ids: None, .. }) =
            &self.tokens
        {
            let expected = format!("its blake3 and its ids, those of {TOKENIZER_FILE}");
            Some(("tokens", "a tokenizer that may be any".into(), expected))
        } else {
            self.spec()
                .validate()
                .err()
                .map(|error| ("model", error.to_string(), "a sound model".into()))
        }
    }
}

impl Export {
    pub fn new(card: Card, weights: Vec<u8>) -> Self {
        Self {
            card,
            weights,
            tokenizer: None,
        }
    }

    /// The model alone, of weights that may come with a projection.
    pub fn without_projection(self) -> Result<Self, WeightsError> {
        if self.card.model.architecture.is_foreign() {
            return Ok(self);
        }
        let Some((weights, parameters)) = weights::without_projection(&self.weights)? else {
            return Ok(self);
        };
        let card = Card {
            parameters,
            weights_blake3: None,
            ..self.card
        };
        Ok(Self {
            card,
            weights,
            ..self
        })
    }

    /// The smaller model that ends at an exit, which is named by where it is. What was measured of the whole is no part of
    /// its card.
    pub fn cut(&self, exit: u32) -> Result<Self, ClassifierError> {
        let net = Net::new(&self.card.spec(), 0, &Device::flex())?;
        let net = net.with_safetensors(&self.weights)?.cut(exit)?;
        let card = Card {
            model: net.spec().model.clone(),
            parameters: net.parameters(),
            metrics: BTreeMap::new(),
            weights_blake3: None,
            ..self.card.clone()
        };
        Ok(Self {
            card,
            weights: net.to_safetensors(),
            tokenizer: self.tokenizer.clone(),
        })
    }

    /// Writes the folder. Each file appears whole or not at all; the card comes last and names the weights by their hash,
    /// so that a folder with old and new halves is noticed.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let card = Card {
            weights_blake3: Some(digest(&self.weights)),
            ..self.card.clone()
        };
        let path = folder.join(CARD_FILE);
        let mut text = serde_json::to_vec_pretty(&card).map_err(|source| Error::Card {
            path: path.clone(),
            source,
        })?;
        text.push(b'\n');
        if let Some(tokenizer) = &self.tokenizer {
            replace(&folder.join(TOKENIZER_FILE), tokenizer)?;
        }
        replace(&folder.join(card.weights_file()), &self.weights)?;
        replace(&path, &text)?;
        // Makes the renames durable too.
        File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(io_error("sync", folder))
    }

    /// Reads a folder, and refuses one whose card and weights do not belong together.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let read = |path: &Path| fs::read(path).map_err(io_error("read", path));
        let path = folder.join(CARD_FILE);
        let card: Card = serde_json::from_slice(&read(&path)?).map_err(|source| Error::Card {
            path: path.clone(),
            source,
        })?;
        let inconsistent = |(key, value, expected)| Error::Inconsistent {
            path: path.clone(),
            key,
            value,
            expected,
        };
        if let Some(problem) = card.problem() {
            return Err(inconsistent(problem));
        }
        let file = card.weights_file();
        let weights = read(&folder.join(file))?;
        let found = digest(&weights);
        match &card.weights_blake3 {
            Some(named) if *named != found => {
                let expected = format!("{found}, the hash of {file}");
                Err(inconsistent(("weights_blake3", named.clone(), expected)))
            }
            _ => Ok(Self {
                tokenizer: card.tokenizer_in(folder)?,
                card,
                weights,
            }),
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        action,
        path: path.into(),
        source,
    }
}

/// Writes beside `path`, flushes to disk, and renames over it.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| {
        // Best effort: the failure to report is the first one.
        let _ = fs::remove_file(&draft);
        io_error("write", path)(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Classifier;

    fn export() -> Export {
        let spec = crate::net::fixture("architecture = 'mlp'\nhidden = [4]", [1, 2, 3], 5);
        let net = Net::new(&spec, 1, &Device::flex()).unwrap();
        let dataset = DatasetReference {
            name: "digits".into(),
            digest: "00".into(),
        };
        let mut card = Card::new("small", &spec, net.parameters(), dataset);
        card.metrics
            .insert("test_accuracy".into(), 0.123_456_789_012_345_67);
        Export::new(card, net.to_safetensors())
    }

    #[test]
    fn a_folder_round_trips_and_leaves_nothing_else_behind() {
        let folder = tempfile::tempdir().unwrap();
        let export = export();
        for _ in 0..2 {
            export.save(folder.path()).unwrap();
        }
        let mut loaded = Export::load(folder.path()).unwrap();
        assert!(loaded.card.weights_blake3.take().is_some());
        assert_eq!(loaded, export);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        let classifier = Classifier::load(folder.path(), &Device::flex()).unwrap();
        assert_eq!(classifier.spec(), &export.card.spec());
    }

    #[test]
    fn an_onnx_file_is_kept_as_it_came_and_is_no_network() {
        let folder = tempfile::tempdir().unwrap();
        let model =
            "architecture = 'onnx'\nonnx = { input = 'x', layout = 'nhwc', output = 'y', gives = 'logits' }";
        let spec = crate::net::fixture(model, [3, 2, 2], 5);
        let card = Card::new("foreign", &spec, 7, DatasetReference::default());
        let export = Export::new(card, b"not read".to_vec());
        export.save(folder.path()).unwrap();
        let file = folder.path().join("model.onnx");
        assert_eq!(fs::read(&file).unwrap(), export.weights);
        let mut loaded = Export::load(folder.path()).unwrap();
        assert!(loaded.card.weights_blake3.take().is_some());
        assert_eq!(loaded.without_projection().unwrap(), export);
        assert_eq!((spec.flops(), spec.layers().len()), (None, 0));
        let device = Device::flex();
        for message in [
            Net::new(&spec, 0, &device).unwrap_err().to_string(),
            spec.layer("y").unwrap_err().to_string(),
            export.cut(1).unwrap_err().to_string(),
        ] {
            assert!(message.contains("ONNX"), "{message}");
        }
        let refused = Classifier::load(folder.path(), &device).unwrap_err().to_string();
        let expected = if cfg!(feature = "onnx") {
            "not a readable ONNX file"
        } else {
            "--features onnx"
        };
        assert!(refused.contains(expected), "{refused}");
        fs::write(file, b"other").unwrap();
        let message = Export::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains("the hash of model.onnx"), "{message}");
    }

    #[test]
    fn a_tokenizer_lies_beside_the_card_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let plain = export();
        let mut card = Card {
            model: toml::from_str("architecture = 'embedding-bag'\nembedding = 2").unwrap(),
            ..plain.card
        };
        card.input.height = 1;
        let file = b"any words".to_vec();
        let tokens = |blake3, ids| {
            let path = TOKENIZER_FILE.into();
            let border = None;
            Some(Tokens::Tokenizer {
                path,
                blake3,
                ids,
                border,
            })
        };
        card.tokens = tokens(Some(digest(&file)), Some(4));
        let net = Net::new(&card.spec(), 1, &Device::flex()).unwrap();
        let export = Export {
            tokenizer: Some(file.clone()),
            ..Export::new(card, net.to_safetensors())
        };
        export.save(folder.path()).unwrap();
        let path = folder.path().join(TOKENIZER_FILE);
        assert_eq!(fs::read(&path).unwrap(), file);
        assert_eq!(Export::load(folder.path()).unwrap().tokenizer, Some(file));
        fs::write(&path, b"other words").unwrap();
        let message = Export::load(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("tokens.blake3") && message.contains("the hash of tokenizer.json"),
            "{message}"
        );
        // Whoever evaluates ids does without.
        fs::remove_file(&path).unwrap();
        assert_eq!(Export::load(folder.path()).unwrap().tokenizer, None);
        let mut unsaid = export;
        unsaid.card.tokens = tokens(None, Some(4));
        unsaid.save(folder.path()).unwrap();
        let message = Export::load(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("tokens is a tokenizer that may be any"),
            "{message}"
        );
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Export::load(folder.path()).unwrap_err();
        assert!(missing.to_string().ends_with("model.json"), "{missing}");
        let export = export();
        let refused = |change: &dyn Fn(&mut Export)| {
            let mut export = export.clone();
            change(&mut export);
            export.save(folder.path()).unwrap();
            let error = Classifier::load(folder.path(), &Device::flex()).unwrap_err();
            format!("{:#}", anyhow::Error::from(error))
        };
        for (change, expected) in [
            (
                (&|e: &mut Export| e.card.format = 9) as &dyn Fn(&mut Export),
                "format is 9, expected 1..=1",
            ),
            (&|e| e.card.temperature = 4, "temperature is 4, expected 1"),
            (
                &|e| e.card.class_names = vec!["a".into()],
                "class_names is 1 names, expected 5",
            ),
            (&|e| e.card.model.hidden = None, "model.hidden is (absent)"),
            (
                &|e| {
                    e.card.audio = Some(Audio {
                        rate: Some(8_000),
                        ..Audio::default()
                    })
                },
                "audio is a front end for samples of 1x98x32, expected samples of 1x2x3",
            ),
            (
                &|e| e.card.audio = Some(Audio::default()),
                "audio is audio.rate = unset: expected the rate",
            ),
            (&|e| e.card.classes = 4, "classifier.bias is [5], expected [4]"),
            (&|e| e.card.parameters = 4, "parameters is 4, expected 53"),
            (&|e| e.weights.truncate(100), "not a safetensors file"),
        ] {
            let message = refused(change);
            assert!(message.contains(expected), "{message}");
        }
        export.save(folder.path()).unwrap();
        fs::write(folder.path().join(export.card.weights_file()), b"other").unwrap();
        let message = Export::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains("weights_blake3"), "{message}");
    }
}
