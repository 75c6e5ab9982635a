//! A loaded data set.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{ConfigProblem, DatasetConfig, Extent, Source};
use crate::held_out::SplitRef;
use crate::location::Location;
use crate::quarantine::{BadRows, Intake, TooMany};
use crate::rng::{Rng, key};
use crate::split::{Samples, Set, labelled, missing, split};
use crate::store::{self, Store};
use crate::text::{self, Encoder, Tokens};
use crate::view::{self, Changes};
use crate::wav::{self, Audio};
use crate::{custom, digits, idx, images, mnist1d};

/// Domain of the random numbers of views.
const VIEW: u64 = 4;
/// Domain of what views are mixed with.
const MIXUP: u64 = 5;
/// Bytes of samples that memory holds where the job does not say.
const MEMORY: u64 = 4 << 30;

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
    /// There is no room for its samples.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// More rows cannot be used than the job lets go.
    #[error(transparent)]
    BadRows(#[from] TooMany),
    /// Something is wrong with a set of which rows were left out: it may come of that.
    #[error("{bad}")]
    AfterBadRows {
        /// What was left out.
        bad: BadRows,
        /// What is wrong.
        source: Box<Error>,
    },
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
    /// Classes are tokens that come next.
    tells_next: bool,
    /// Sorted ids of training samples.
    labelled: Vec<u32>,
    store: Store,
    /// In the order of [`Part`].
    parts: [Samples; 3],
    bad: BadRows,
}

/// Reads and splits a data set. `base` is the folder that relative paths start from, `seed` the run's, which only
/// chooses the samples that keep their label.
pub fn load(config: &DatasetConfig, base: &Path, seed: u64) -> Result<Dataset, Error> {
    let problems = config.problems();
    let Some(source) = config.source().filter(|_| problems.is_empty()) else {
        return Err(Error::Config(problems));
    };
    let mut intake = Intake::new(config.bad_rows, config.memory.map_or(MEMORY, |size| size.0));
    let raw = Raw::read(config, source, base, &mut intake);
    let (raw, bad) = intake.bad.judge(raw)?;
    let Raw {
        name,
        set,
        encoder,
        audio,
    } = raw;
    let extent = Extent {
        shape: set.shape,
        pool: set.pool.len(),
        test: set.test.len(),
    };
    let sizes = config.fit(source, extent).map_err(Error::Config)?;
    let mut parts = split(&set.pool, &set.test, sizes, &set.files);
    let classes = set.class_names.len();
    leave_out(&mut parts[0], config, classes)?;
    // Behind the others: which of those are held out or keep their label does not depend on what follows.
    parts[0].append(set.unlabelled);
    let most = parts[0].labelled();
    let wanted = config.labelled.unwrap_or(most);
    if wanted > most {
        let expected = format!("at most {most}, the training samples of the classes that are left");
        return Err(problem("labelled", wanted.to_string(), expected));
    }
    let (tokens, tokenizer) = encoder.map(Encoder::into_parts).unzip();
    Ok(Dataset {
        name,
        shape: set.shape,
        digest: digest(set.shape, classes, &set.store, &parts),
        changes: match source {
            Source::Wav => Changes::in_time(&config.views),
            _ => Changes::in_both_axes(&config.views),
        },
        tokens,
        tokenizer: tokenizer.flatten(),
        audio,
        tells_next: config.text.as_ref().is_some_and(|text| text.next.is_some()),
        labelled: match parts[0].targets_each() {
            1 => labelled(&parts[0].labels, classes, wanted, seed),
            // There is no class to balance.
            _ => labelled(&vec![0; parts[0].len() as usize], 1, wanted, seed),
        },
        class_names: set.class_names,
        store: set.store,
        parts,
        bad,
    })
}

/// Takes the classes out of the training samples that the job does without.
fn leave_out(train: &mut Samples, config: &DatasetConfig, classes: usize) -> Result<(), Error> {
    let without = &config.without_classes;
    if without.is_empty() {
        return Ok(());
    }
    let value = format!("{without:?}");
    if train.targets_each() > 1 {
        let expected = "absent: every sample of text.next has several targets".to_owned();
        return Err(problem("without_classes", value, expected));
    }
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

/// The path of this machine that the value of `key` stands for.
fn local(key: &str, path: Option<&str>, base: &Path) -> Result<Option<PathBuf>, Error> {
    const HERE: &str =
        "a path of this machine: this build reads no object stores (build it with --features object-store)";
    let Some(path) = path else { return Ok(None) };
    let expected = match path.parse() {
        Ok(Location::Local(local)) => return Ok(Some(base.join(local))),
        Ok(Location::S3 { .. }) => HERE.to_owned(),
        Err(expected) => expected,
    };
    Err(problem(key, format!("{path:?}"), expected))
}

/// A set with what the job calls it.
struct Raw {
    name: String,
    set: Set,
    /// What made the values of a text.
    encoder: Option<Encoder>,
    /// How sounds became values.
    audio: Option<Audio>,
}

impl Raw {
    fn read(config: &DatasetConfig, source: Source, base: &Path, intake: &mut Intake) -> Result<Self, Error> {
        let path = local("path", config.path.as_deref(), base)?;
        let folder = path.as_deref().unwrap_or(Path::new(idx::FASHION_MNIST_FOLDER));
        let more = local("unlabelled", config.unlabelled.as_deref(), base)?;
        let more = more.as_deref();
        let (mut encoder, mut audio) = (None, None);
        let (name, set) = match source {
            Source::Digits => ("digits", digits::load(intake)?),
            Source::Mnist1d => ("mnist1d", mnist1d::load(intake)?),
            Source::FashionMnist => {
                let mut set = idx::load_fashion_mnist(folder, intake)?;
                set.class_names = FASHION.iter().map(|&name| name.to_owned()).collect();
                ("fashion-mnist", set)
            }
            Source::Idx => ("idx", idx::load(folder, more, intake)?),
            Source::Images => {
                let config = config.images.clone().unwrap_or_default();
                ("images", images::load(folder, more, &config, intake)?)
            }
            Source::Wav => {
                let config = config.audio.clone().unwrap_or_default();
                let (set, front_end) = wav::load(folder, more, &config, intake)?;
                audio = Some(front_end);
                ("wav", set)
            }
            Source::Text => {
                let mut config = config.text.clone().unwrap_or_default();
                if let Some(path) = config.tokens.path_mut()
                    && let Some(local) = local("text.tokens.path", Some(path), base)?
                {
                    *path = local.display().to_string();
                }
                let (set, made_by) = text::load(&config, folder, more, intake)?;
                encoder = Some(made_by);
                ("text", set)
            }
            Source::Custom => {
                let Some(custom) = &config.custom else {
                    return Err(Error::Config(custom::problem(None).into_iter().collect()));
                };
                let set = custom::load(custom, path.as_deref(), intake)?;
                (custom.name.as_str(), set)
            }
        };
        let name = name.to_owned();
        Ok(Self {
            name,
            set,
            encoder,
            audio,
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

/// Names of classes that have no better ones.
pub(crate) fn numbers(classes: usize) -> Vec<String> {
    (0..classes).map(|class| class.to_string()).collect()
}

/// Over all that a sample id means: sizes, contents, labels, and which sample is where.
fn digest(shape: Shape, classes: usize, store: &Store, parts: &[Samples; 3]) -> String {
    /// Bytes that are hashed at once, since a single short sample is slow.
    const AT_ONCE: usize = 1 << 16;
    let mut hash = blake3::Hasher::new_derive_key("retort data set v1");
    for number in [shape.channels, shape.height, shape.width, classes] {
        hash.update(&(number as u64).to_le_bytes());
    }
    let targets = parts[0].targets_each();
    if targets > 1 {
        hash.update(&(targets as u64).to_le_bytes());
    }
    let mut waiting = Vec::new();
    for part in parts {
        hash.update(&u64::from(part.len()).to_le_bytes());
        hash.update(&[store.mark()]);
        for &row in &part.rows {
            store.with(row, |record| waiting.extend_from_slice(record));
            if waiting.len() >= AT_ONCE {
                hash.update(&waiting);
                waiting.clear();
            }
        }
        hash.update(&waiting);
        waiting.clear();
        for labels in part.labels.chunks(AT_ONCE) {
            waiting.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
            hash.update(&waiting);
            waiting.clear();
        }
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

    /// Targets of each sample: rows of logits that a model gives for it. More than 1 where each of its last positions has
    /// what comes next for a target (`text.next`).
    pub fn rows(&self) -> usize {
        self.parts[0].targets_each()
    }

    /// Whether it is for a language model: classes are the tokens that may come next.
    pub fn tells_next(&self) -> bool {
        self.tells_next
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

    /// Training samples that come without a label.
    pub fn unlabelled(&self) -> u32 {
        self.parts[0].len() - self.parts[0].labelled()
    }

    /// What was left out because it cannot be used. It is no part of the digest but by its absence.
    pub fn bad_rows(&self) -> &BadRows {
        &self.bad
    }

    /// The training samples that have a label and keep it, ascending.
    pub fn labelled(&self) -> &[u32] {
        &self.labelled
    }

    /// The rows of a training sample that have a target, ascending, and the label of each, if the sample has labels and
    /// keeps them. The other rows, behind the end of a text, are no part of any loss.
    pub fn targets(&self, sample: u32) -> impl Iterator<Item = (usize, Option<u32>)> + '_ {
        let visible = self.labelled.binary_search(&sample).is_ok();
        let targets = self.parts[0].targets(sample);
        targets.map(move |(row, label)| (row, visible.then_some(label)))
    }

    /// The label of a training sample's first target, if it has one and keeps it.
    pub fn label(&self, sample: u32) -> Option<u32> {
        self.targets(sample).next()?.1
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
            self.store.read(train.rows[sample as usize], &mut values);
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
            store: &self.store,
            samples: &self.parts[part as usize],
        }
    }

    /// Writes the view of a training sample that `view_seed` selects: the configured random changes on the plain
    /// values, mixed with those of [`Dataset::mixed_in`], before any model's own preprocessing. A function of sample and
    /// seed, bit for bit, on every machine.
    ///
    /// # Panics
    ///
    /// If there is no such sample, `out` is not as long as [`Shape::len`] says, or samples lie in a file
    /// (`dataset.memory`) and the disk fails.
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
        let row = self.parts[0].rows[sample as usize];
        if self.changes.is_none() {
            return self.store.read(row, out);
        }
        let mut plain = vec![0.0; out.len()];
        self.store.read(row, &mut plain);
        let mut rng = Rng::keyed(&[VIEW, view_seed, u64::from(sample)]);
        if self.tokens.is_some() {
            let border = self.tokens.as_ref().and_then(Tokens::border);
            return view::drop_tokens(self.changes.drop, border, &mut rng, (&plain, out));
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

#[cfg(test)]
pub(crate) mod tests;
