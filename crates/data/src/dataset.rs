//! A loaded data set.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigProblem, DatasetConfig, Extent, Source};
use crate::rng::{Rng, key};
use crate::split::{Pixels, Samples, UNLABELLED, labelled, missing, split};
use crate::text::{self, Encoder, TextConfig, Tokens};
use crate::view::{self, Changes};
use crate::wav::{self, Audio};
use crate::{custom, digits, idx, images, mnist1d};

/// Domain of the random numbers of views.
const VIEW: u64 = 4;
/// Domain of what views are mixed with.
const MIXUP: u64 = 5;

/// Why a data set cannot be loaded. All of it is the operator's to mend; trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for what is not there.
    #[error("dataset: {}", join(.0))]
    Config(Vec<ConfigProblem>),
    /// A file is missing or wrong.
    #[error(transparent)]
    Idx(#[from] idx::Error),
    /// A folder of images is incomplete, or a file wrong.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// A folder of sounds is incomplete, or a file wrong.
    #[error(transparent)]
    Wav(#[from] wav::Error),
    /// A text file is missing or wrong.
    #[error(transparent)]
    Text(#[from] text::Error),
    /// What a program read itself is not sound.
    #[error(transparent)]
    Custom(#[from] custom::Error),
}

fn join(problems: &[ConfigProblem]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("; ")
}

/// The sizes of one sample: channels, rows, columns, in this order in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// 1 for grey images and signals.
    pub channels: usize,
    /// Rows; 1 for signals.
    pub height: usize,
    /// Columns, or the length of a signal.
    pub width: usize,
}

impl Shape {
    /// These sizes.
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self {
            channels,
            height,
            width,
        }
    }

    /// Number of values of a sample.
    pub const fn len(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether a sample has no values.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// `1x28x28`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// A part of a data set; they share no samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// What is trained on.
    Train,
    /// Held out from training: measures the gate, chooses settings.
    Validation,
    /// Measures the result, and nothing else.
    Test,
}

/// A data set, split, with the labels of the run. A sample id counts from 0 within its part.
pub struct Dataset {
    name: String,
    shape: Shape,
    class_names: Vec<String>,
    digest: String,
    changes: Changes,
    tokens: Option<Tokens>,
    /// The file of the tokenizer, where there is one.
    tokenizer: Option<Vec<u8>>,
    audio: Option<Audio>,
    /// Sorted ids of training samples.
    labelled: Vec<u32>,
    /// In the order of [`Part`].
    parts: [Samples; 3],
}

/// Reads and splits a data set. `base` is the folder that relative paths start from, `seed` the run's, which only
/// chooses the samples that keep their label.
pub fn load(config: &DatasetConfig, base: &Path, seed: u64) -> Result<Dataset, Error> {
    let problems = config.problems();
    let Some(source) = config.source().filter(|_| problems.is_empty()) else {
        return Err(Error::Config(problems));
    };
    let raw = Raw::read(config, source, base)?;
    let extent = Extent {
        shape: raw.shape,
        pool: raw.pool.len(),
        test: raw.test.len(),
    };
    let sizes = config.fit(source, extent).map_err(Error::Config)?;
    let mut parts = split(&raw.pool, &raw.test, sizes, &raw.files);
    let classes = raw.class_names.len();
    leave_out(&mut parts[0], config, classes)?;
    // Behind the others: which of those are held out or keep their label does not depend on what follows.
    if let Some(more) = raw.unlabelled {
        parts[0].append(more);
    }
    let most = parts[0].labelled();
    let wanted = config.labelled.unwrap_or(most);
    if wanted > most {
        let expected = format!("at most {most}, the training samples of the classes that are left");
        return Err(problem("labelled", wanted.to_string(), expected));
    }
    let (tokens, tokenizer) = raw.encoder.map(Encoder::into_parts).unzip();
    Ok(Dataset {
        name: raw.name,
        shape: raw.shape,
        digest: digest(raw.shape, classes, &parts),
        changes: match source {
            Source::Wav => Changes::in_time(&config.views),
            _ => Changes::in_both_axes(&config.views),
        },
        tokens,
        tokenizer: tokenizer.flatten(),
        audio: raw.audio,
        labelled: labelled(&parts[0].labels, classes, wanted, seed),
        class_names: raw.class_names,
        parts,
    })
}

/// Takes the classes out of the training samples that the job does without.
fn leave_out(train: &mut Samples, config: &DatasetConfig, classes: usize) -> Result<(), Error> {
    let without = &config.without_classes;
    if without.is_empty() {
        return Ok(());
    }
    let value = format!("{without:?}");
    if without.iter().any(|&class| class as usize >= classes) {
        let expected = format!("numbers of classes below {classes}");
        return Err(problem("without_classes", value, expected));
    }
    let rows: Vec<u32> = (0..train.len())
        .filter(|&row| !without.contains(&train.labels[row as usize]))
        .collect();
    if rows.is_empty() {
        let expected = "some class of the training samples to be left".to_owned();
        return Err(problem("without_classes", value, expected));
    }
    *train = train.gather(rows.into_iter());
    Ok(())
}

fn problem(key: &str, value: String, expected: String) -> Error {
    let key = key.to_owned();
    Error::Config(vec![ConfigProblem { key, value, expected }])
}

/// A set as its source has it.
struct Raw {
    name: String,
    shape: Shape,
    class_names: Vec<String>,
    /// All with labels.
    pool: Samples,
    test: Samples,
    /// By sample of the pool: what it was cut from, if samples belong together.
    files: Vec<u32>,
    /// Further training samples, without labels.
    unlabelled: Option<Samples>,
    /// What made the values of a text.
    encoder: Option<Encoder>,
    /// How sounds became values.
    audio: Option<Audio>,
}

impl Raw {
    fn read(config: &DatasetConfig, source: Source, base: &Path) -> Result<Self, Error> {
        // A wrong path was a problem before.
        let local = |path: &Option<String>| Some(base.join(idx::local_path(path.as_deref()?).ok()?));
        let folder = local(&config.path).unwrap_or_else(|| idx::FASHION_MNIST_FOLDER.into());
        let named = |name: &str, extent: Extent, (pool, test): (Samples, Samples)| Self {
            name: name.to_owned(),
            shape: extent.shape,
            class_names: numbers(10),
            pool,
            test,
            files: Vec::new(),
            unlabelled: None,
            encoder: None,
            audio: None,
        };
        let of_folder = |name: &str, class_names: Option<Vec<String>>, folder: idx::Folder| Self {
            name: name.to_owned(),
            shape: folder.shape,
            class_names: class_names.unwrap_or_else(|| numbers(folder.classes)),
            pool: folder.pool,
            test: folder.test,
            files: Vec::new(),
            unlabelled: None,
            encoder: None,
            audio: None,
        };
        Ok(match source {
            Source::Digits => named("digits", digits::EXTENT, digits::load()),
            Source::Mnist1d => named("mnist1d", mnist1d::EXTENT, mnist1d::load()),
            Source::FashionMnist => {
                let names = FASHION.iter().map(|&name| name.to_owned()).collect();
                of_folder("fashion-mnist", Some(names), idx::load_fashion_mnist(&folder)?)
            }
            Source::Idx => of_folder("idx", None, idx::load(&folder)?),
            Source::Images => {
                let images = images::load(&folder, &config.images.clone().unwrap_or_default())?;
                Self {
                    name: "images".to_owned(),
                    shape: images.shape,
                    class_names: images.class_names,
                    pool: images.pool,
                    test: images.test,
                    files: Vec::new(),
                    unlabelled: None,
                    encoder: None,
                    audio: None,
                }
            }
            Source::Wav => {
                let sounds = wav::load(&folder, &config.audio.clone().unwrap_or_default())?;
                Self {
                    name: "wav".to_owned(),
                    shape: sounds.shape,
                    class_names: sounds.class_names,
                    pool: sounds.pool,
                    test: sounds.test,
                    files: sounds.pool_files,
                    unlabelled: None,
                    encoder: None,
                    audio: Some(sounds.audio),
                }
            }
            Source::Text => {
                let mut text = config.text.clone().unwrap_or_default();
                text.tokens = text.tokens.below(base);
                Self::texts(&text, &folder, local(&config.unlabelled).as_deref())?
            }
            Source::Custom => Self::custom(config, local(&config.path).as_deref())?,
        })
    }

    fn custom(config: &DatasetConfig, path: Option<&Path>) -> Result<Self, Error> {
        let Some(custom) = &config.custom else {
            return Err(Error::Config(custom::problem(None).into_iter().collect()));
        };
        let set = custom::load(custom, path)?;
        Ok(Self {
            name: custom.name.clone(),
            shape: set.shape,
            class_names: set.class_names,
            pool: set.pool,
            test: set.test,
            files: Vec::new(),
            unlabelled: Some(set.unlabelled),
            encoder: None,
            audio: None,
        })
    }

    fn texts(config: &TextConfig, path: &Path, more: Option<&Path>) -> Result<Self, Error> {
        let texts = text::load(config, path, more)?;
        Ok(Self {
            name: "text".to_owned(),
            shape: Shape {
                channels: 1,
                height: 1,
                width: config.length as usize,
            },
            class_names: texts.class_names,
            pool: texts.pool,
            test: texts.test,
            files: texts.pages,
            unlabelled: Some(texts.unlabelled),
            encoder: Some(texts.encoder),
            audio: None,
        })
    }
}

const FASHION: [&str; 10] = [
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

fn numbers(classes: usize) -> Vec<String> {
    (0..classes).map(|class| class.to_string()).collect()
}

/// Over all that a sample id means: sizes, contents, labels, and which sample is where.
fn digest(shape: Shape, classes: usize, parts: &[Samples; 3]) -> String {
    let mut hash = blake3::Hasher::new_derive_key("retort data set v1");
    for number in [shape.channels, shape.height, shape.width, classes] {
        hash.update(&(number as u64).to_le_bytes());
    }
    let mut scratch = Vec::new();
    for part in parts {
        hash.update(&u64::from(part.len()).to_le_bytes());
        match &part.pixels {
            Pixels::Bytes { data, white } => {
                hash.update(&[*white]).update(data);
            }
            Pixels::Floats(data) => {
                scratch.clear();
                scratch.extend(data.iter().flat_map(|value| value.to_le_bytes()));
                hash.update(&[0]).update(&scratch);
            }
            Pixels::Tokens(data) => {
                scratch.clear();
                scratch.extend(data.iter().flat_map(|id| id.to_le_bytes()));
                hash.update(&[1]).update(&scratch);
            }
        }
        scratch.clear();
        scratch.extend(part.labels.iter().flat_map(|label| label.to_le_bytes()));
        hash.update(&scratch);
    }
    hash.finalize().to_hex().to_string()
}

impl Dataset {
    /// The known name, or the format.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// One name per class; numbers where there are no better ones.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The sizes of one sample.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How texts became tokens; `None` where samples are numbers. Token ids fill a sample of shape `1x1xL`, those of a
    /// shorter text are followed by padding (id 0).
    pub fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// The file of the tokenizer that made the tokens, if one did: without it nobody can make more.
    pub fn tokenizer(&self) -> Option<&[u8]> {
        self.tokenizer.as_deref()
    }

    /// Number of token ids, padding included; `None` where samples are numbers.
    pub fn vocabulary(&self) -> Option<usize> {
        self.tokens.as_ref().map(Tokens::vocabulary)
    }

    /// BLAKE3 in hexadecimal of contents, labels and split: two workers with the same digest mean the same by a
    /// sample id. Which labels are hidden, the seed and the views do not enter.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How sounds became samples, with their rate; `None` where samples are no sounds.
    pub fn audio(&self) -> Option<&Audio> {
        self.audio.as_ref()
    }

    /// Number of training samples.
    pub fn train_len(&self) -> u32 {
        self.parts[0].len()
    }

    /// The training samples that have a label and keep it, ascending.
    pub fn labelled(&self) -> &[u32] {
        &self.labelled
    }

    /// The label of a training sample, if it has one and keeps it.
    pub fn label(&self, sample: u32) -> Option<u32> {
        let visible = self.labelled.binary_search(&sample).is_ok();
        visible.then(|| self.parts[0].labels[sample as usize])
    }

    /// Mean and standard deviation of the training part's plain values, per channel. The deviation is at least 1e-6,
    /// so that one can divide by it. Goes through all samples: call it once.
    pub fn pixel_stats(&self) -> (Vec<f32>, Vec<f32>) {
        const LEAST_DEVIATION: f64 = 1e-6;
        let train = &self.parts[0];
        let plane = self.shape.height * self.shape.width;
        let channels = self.shape.channels;
        let mut sums = vec![(0.0f64, 0.0f64); channels];
        let mut values = vec![0.0; self.shape.len()];
        for sample in 0..train.len() {
            train.write(sample, &mut values);
            for (sums, plane) in sums.iter_mut().zip(values.chunks_exact(plane)) {
                for value in plane.iter().map(|&value| f64::from(value)) {
                    sums.0 += value;
                    sums.1 += value * value;
                }
            }
        }
        let count = f64::from(train.len()) * plane as f64;
        let stats = sums.into_iter().map(|(sum, squares)| {
            let mean = sum / count;
            let variance = squares / count - mean * mean;
            (mean as f32, variance.max(0.0).sqrt().max(LEAST_DEVIATION) as f32)
        });
        stats.unzip()
    }

    /// A part, with its true labels.
    pub fn split(&self, part: Part) -> SplitRef<'_> {
        SplitRef {
            samples: &self.parts[part as usize],
        }
    }

    /// Writes the view of a training sample that `view_seed` selects: the configured random changes on the plain
    /// values, mixed with those of [`Dataset::mixed_in`], before any model's own preprocessing. A function of sample and
    /// seed, bit for bit, on every machine.
    ///
    /// # Panics
    ///
    /// If there is no such sample, or `out` is not as long as [`Shape::len`] says.
    pub fn view(&self, sample: u32, view_seed: u64, out: &mut [f32]) {
        self.view_alone(sample, view_seed, out);
        if let Some(MixedIn { sample, share }) = self.mixed_in(sample, view_seed) {
            let mut other = vec![0.0; out.len()];
            self.view_alone(sample, key(&[MIXUP, view_seed]), &mut other);
            view::mix_in(&other, share, out);
        }
    }

    /// What else is in the view of a training sample that `view_seed` selects, and how much of it: a function of both.
    /// `None` where views are not mixed. A sample that has a label and keeps it is mixed with such a one, and the others with
    /// each other, so that no label is lost; it may be itself.
    pub fn mixed_in(&self, sample: u32, view_seed: u64) -> Option<MixedIn> {
        let alpha = self.changes.mixup;
        if alpha == 0.0 {
            return None;
        }
        let mut rng = Rng::keyed(&[MIXUP, view_seed, u64::from(sample)]);
        let share = 1.0 - rng.beta(f64::from(alpha)) as f32;
        let labelled = &self.labelled;
        let sample = if labelled.binary_search(&sample).is_ok() {
            labelled[rng.below(labelled.len() as u64) as usize]
        } else {
            let others = self.train_len() - labelled.len() as u32;
            let number = rng.below(u64::from(others)) as u32;
            missing(labelled, number)
        };
        Some(MixedIn { sample, share })
    }

    fn view_alone(&self, sample: u32, view_seed: u64, out: &mut [f32]) {
        if self.changes.is_none() {
            return self.parts[0].write(sample, out);
        }
        let mut plain = vec![0.0; out.len()];
        self.parts[0].write(sample, &mut plain);
        let mut rng = Rng::keyed(&[VIEW, view_seed, u64::from(sample)]);
        if self.tokens.is_some() {
            return view::drop_tokens(self.changes.drop, &mut rng, &plain, out);
        }
        view::apply(&self.changes, self.shape, &mut rng, &plain, out);
    }
}

/// A training sample that is mixed into the view of another one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MixedIn {
    /// Its id.
    pub sample: u32,
    /// Its part of the view, within 0..=1; the rest is the other one's.
    pub share: f32,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("shape", &self.shape)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// One part of a [`Dataset`], as it is: all labels, no views.
#[derive(Clone, Copy)]
pub struct SplitRef<'a> {
    samples: &'a Samples,
}

impl SplitRef<'_> {
    /// Number of samples.
    pub fn len(&self) -> u32 {
        self.samples.len()
    }

    /// Whether the part has no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The true label of a sample.
    ///
    /// # Panics
    ///
    /// If there is no such sample, or it has no label, which happens in the training part only
    /// ([`Dataset::label`] knows).
    pub fn label(&self, sample: u32) -> u32 {
        let label = self.samples.labels[sample as usize];
        assert_ne!(label, UNLABELLED, "sample {sample} has no label");
        label
    }

    /// Writes a sample's plain values: pixels from 0 to 1, the signal of `mnist1d`, a spectrum, or token ids.
    ///
    /// # Panics
    ///
    /// If there is no such sample, or `out` is not as long as [`Shape::len`] says.
    pub fn write(&self, sample: u32, out: &mut [f32]) {
        self.samples.write(sample, out);
    }
}

#[cfg(test)]
mod tests;
