//! The `[dataset]` part of a job and what can be wrong with it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::custom::{self, Custom};
use crate::dataset::Shape;
use crate::images::Images;
use crate::location::Location;
use crate::store::Size;
use crate::text::TextConfig;
use crate::{digits, idx, mnist1d, wav};

/// Which data set, how much of it, and how training sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// A known set: `digits`, `mnist1d` or `fashion-mnist`. Either this or `format`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The format of a set of your own; wants `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The folder with the files, or of a text set the one file: a path relative to the job file, or a `file://` or
    /// `s3://` URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Further training samples, without labels, with a `format`: of texts a file, whose labels are not read, of `idx` a
    /// file of images, else a folder that files may lie in as deep as they like. A path like `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlabelled: Option<String>,
    /// Training samples that keep their label, chosen by the run's seed and balanced over the classes. Unset: all that
    /// have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labelled: Option<u32>,
    /// Classes, by number, that the training samples lack: validation and test keep theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_classes: Vec<u32>,
    /// Use only this many training samples, beside those that come without a label. Unset: all that validation leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<u32>,
    /// Samples held out from the training part. Unset: 200 of `digits`, 500 of `mnist1d`, else 5,000 but at most a
    /// tenth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<u32>,
    /// Use only this many test samples. Unset: all (300 of `digits`, 1,000 of `mnist1d`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<u32>,
    /// Rows or files that cannot be used and are left out; more are an error. Unset: up to 100, and of ten rows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad_rows: Option<u32>,
    /// Bytes of samples that this process holds; what is more lies in a temporary file. Unset: 4 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Positions per block, the unit of leases: a multiple of the batch size. Unset: one batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_samples: Option<u32>,
    /// How image files become samples. Unset: as they are, in colour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// How `wav` files become samples. Unset: [`wav::Audio::default`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<wav::Audio>,
    /// How text files are read, with `format = "text"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,
    /// Whose set it is, with `format = "custom"`, and parameters that only that program knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Custom>,
    /// Random changes to each training sample. Unset: none.
    #[serde(default)]
    pub views: Views,
}

/// Formats of data sets that Retort does not know by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The four files of MNIST, plain or gzipped, under their usual names.
    Idx,
    /// Image files in folders, one for each class, or in a column of Parquet files.
    Images,
    /// WAV files in folders, one for each class.
    Wav,
    /// Texts: `train.jsonl`, `.csv`, `.tsv` or `.parquet` and perhaps `test.*`, or one such file.
    Text,
    /// What the program brings along.
    Custom,
}

/// Random changes to each training sample, drawn anew from each view seed. The default changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Views {
    /// Move by up to this many pixels along each axis; what comes in is 0. Of `wav`: frames, in time only.
    pub shift: u32,
    /// Mirror left and right, half of the time.
    pub flip: bool,
    /// Cut up to this many pixels off each axis and enlarge the rest to the old size. Of `wav`: frames, in time only, so
    /// that it is spoken more slowly.
    pub crop: u32,
    /// Add Gaussian noise of this standard deviation, in units of pixels from 0 to 1 (of the signal for `mnist1d`, of 80
    /// decibels for `wav`).
    pub noise: f32,
    /// Of `wav`: louder or softer by up to this many decibels (0..=40). Silence stays silence.
    pub gain: f32,
    /// Of a text set: replace each token by padding with this probability.
    pub drop: f32,
    /// Mix each view with that of another training sample, not of a text: `share` of the one and `1 - share` of the other,
    /// with a share from a beta distribution whose parameters are both this (0.05..=4). Labels are mixed alike. Labelled
    /// samples are mixed with labelled ones, the others with each other. Zhang et al., mixup, 2018,
    /// <https://arxiv.org/abs/1710.09412>.
    pub mixup: f32,
}

impl Views {
    /// Whether a view is the sample itself.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Half of what lies between the floor and full scale.
const MOST_GAIN: f32 = 40.0;
/// What [`rng::Rng::beta`](crate::rng::Rng::beta) is made for.
const MIXUP: std::ops::RangeInclusive<f32> = 0.05..=4.0;

/// One thing wrong with a [`DatasetConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key within the `[dataset]` table, such as `views.shift`.
    pub key: String,
    /// Its value as written, or `unset`.
    pub value: String,
    /// What it should be, and what to do.
    pub expected: String,
}

/// `labelled = 2000: expected at most 1297, ...`.
impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: expected {}", self.key, self.value, self.expected)
    }
}

/// Where the samples come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Digits,
    Mnist1d,
    FashionMnist,
    Idx,
    Images,
    Wav,
    Text,
    Custom,
}

/// How large a set is before it is split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) shape: Shape,
    /// Samples that training and validation share.
    pub(crate) pool: u32,
    pub(crate) test: u32,
}

/// How many samples each part gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) train: u32,
    pub(crate) validation: u32,
    pub(crate) test: u32,
}

#[derive(Default)]
struct Problems(Vec<ConfigProblem>);

impl Problems {
    fn push(&mut self, key: &str, value: impl fmt::Display, expected: impl Into<String>) {
        self.0.push(ConfigProblem {
            key: key.to_owned(),
            value: value.to_string(),
            expected: expected.into(),
        });
    }
}

impl DatasetConfig {
    /// All that can be found wrong without reading a file; empty if nothing is.
    pub fn problems(&self) -> Vec<ConfigProblem> {
        let mut problems = Problems::default();
        let source = self.check_source(&mut problems);
        self.check_counts(&mut problems);
        self.check_views(source, &mut problems);
        self.check_audio(source, &mut problems);
        self.check_images(source, &mut problems);
        self.check_text(source, &mut problems);
        self.check_custom(source, &mut problems);
        self.check_unlabelled(source, &mut problems);
        if problems.0.is_empty()
            && let Some(source) = source
            && let Some(extent) = source.extent()
            && let Err(misfits) = self.fit(source, extent)
        {
            problems.0.extend(misfits);
        }
        problems.0
    }

    /// The source that `name` or `format` stands for, if exactly one is given and known.
    pub(crate) fn source(&self) -> Option<Source> {
        match (self.name.as_deref(), self.format) {
            (Some("digits"), None) => Some(Source::Digits),
            (Some("mnist1d"), None) => Some(Source::Mnist1d),
            (Some("fashion-mnist"), None) => Some(Source::FashionMnist),
            (None, Some(Format::Idx)) => Some(Source::Idx),
            (None, Some(Format::Images)) => Some(Source::Images),
            (None, Some(Format::Wav)) => Some(Source::Wav),
            (None, Some(Format::Text)) => Some(Source::Text),
            (None, Some(Format::Custom)) => Some(Source::Custom),
            _ => None,
        }
    }

    /// The sizes of the parts, or which keys ask for more than there is.
    pub(crate) fn fit(&self, source: Source, extent: Extent) -> Result<Sizes, Vec<ConfigProblem>> {
        let mut problems = Problems::default();
        let Extent { shape, pool, test } = extent;
        let validation = self.validation.unwrap_or(match source {
            Source::Digits => digits::VALIDATION,
            Source::Mnist1d => mnist1d::VALIDATION,
            _ => idx::VALIDATION.min(pool / 10),
        });
        let left = pool.saturating_sub(validation);
        if left == 0 {
            let expected = format!("less than {pool}, the samples that training shares with it");
            problems.push("validation", validation, expected);
        }
        let train = self.train.unwrap_or(left);
        if train > left {
            let expected =
                format!("at most {left}, what is left of {pool} after {validation} for validation");
            problems.push("train", train, expected);
        }
        let labelled = self.labelled.unwrap_or(train);
        if labelled > train {
            let expected = format!("at most {train}, the training samples; leave it out for all");
            problems.push("labelled", labelled, expected);
        }
        let wanted = self.test.unwrap_or(test);
        if wanted > test {
            let expected = format!("at most {test}, the test samples there are");
            problems.push("test", wanted, expected);
        }
        // The columns of a spectrum stay where they are.
        let (width, what) = match source {
            Source::Wav => (1, "the frames"),
            _ => (shape.width, "the shorter side"),
        };
        let side = [shape.height, width].into_iter().filter(|&side| side > 1).min();
        let side = side.unwrap_or(1) as u64;
        for (key, value) in [("views.shift", self.views.shift), ("views.crop", self.views.crop)] {
            if u64::from(value) >= side && value > 0 {
                let expected = format!("less than {side}, {what} of a {shape} sample");
                problems.push(key, value, expected);
            }
        }
        if !problems.0.is_empty() {
            return Err(problems.0);
        }
        Ok(Sizes {
            train,
            validation,
            test: wanted,
        })
    }

    fn check_source(&self, problems: &mut Problems) -> Option<Source> {
        const NAMES: &str = "\"digits\", \"mnist1d\" or \"fashion-mnist\"";
        let source = self.source();
        match (&self.name, self.format) {
            (Some(name), None) if source.is_none() => {
                let expected = format!("{NAMES}; for files of your own set format and path");
                problems.push("name", format_args!("{name:?}"), expected);
            }
            (Some(name), Some(_)) => problems.push(
                "name",
                format_args!("{name:?}"),
                "either name or format, not both: remove one",
            ),
            (None, None) => problems.push("name", "unset", format!("{NAMES}, or format and path")),
            _ => {}
        }
        match (&self.path, source) {
            (None, Some(Source::Idx)) => problems.push(
                "path",
                "unset",
                "the folder that holds train-images-idx3-ubyte and the other three files",
            ),
            (None, Some(Source::Images | Source::Wav)) => problems.push(
                "path",
                "unset",
                "the folder that holds a folder for each class, or train and test with these",
            ),
            (None, Some(Source::Text)) => problems.push(
                "path",
                "unset",
                "the folder that holds train.jsonl, .csv, .tsv or .parquet (with text.next train.txt and test.txt), or one \
                 such file",
            ),
            (Some(path), Some(Source::Digits | Source::Mnist1d)) => problems.push(
                "path",
                format_args!("{path:?}"),
                "no path: this set is part of the program",
            ),
            (Some(path), _) => {
                if let Err(expected) = path.parse::<Location>() {
                    problems.push("path", format_args!("{path:?}"), expected);
                }
            }
            (None, _) => {}
        }
        source
    }

    fn check_counts(&self, problems: &mut Problems) {
        for (key, value) in [
            ("labelled", self.labelled),
            ("train", self.train),
            ("test", self.test),
            ("block_samples", self.block_samples),
        ] {
            if value == Some(0) {
                problems.push(key, 0, "at least 1, or leave it out");
            }
        }
    }

    fn check_views(&self, source: Option<Source>, problems: &mut Problems) {
        let reason = match source {
            Some(Source::Digits) => Some("false: a mirrored digit is not that digit"),
            Some(Source::Mnist1d) => Some("false: a mirrored signal is of no class"),
            Some(Source::Wav) => Some("false: a mirrored spectrum is no sound"),
            _ => None,
        };
        if let Some(expected) = reason.filter(|_| self.views.flip) {
            problems.push("views.flip", true, expected);
        }
        let noise = self.views.noise;
        if !noise.is_finite() || noise < 0.0 {
            problems.push("views.noise", noise, "a finite number of at least 0");
        }
        let gain = self.views.gain;
        if gain != 0.0 && source.is_some_and(|source| source != Source::Wav) {
            problems.push(
                "views.gain",
                gain,
                "0: only what format = \"wav\" reads has decibels",
            );
        } else if !(0.0..=MOST_GAIN).contains(&gain) {
            problems.push("views.gain", gain, format!("0 to {MOST_GAIN} decibels"));
        }
        let mixup = self.views.mixup;
        if mixup != 0.0 && !MIXUP.contains(&mixup) {
            let expected = format!("0 (off), or {} to {}", MIXUP.start(), MIXUP.end());
            problems.push("views.mixup", mixup, expected);
        }
    }

    fn check_audio(&self, source: Option<Source>, problems: &mut Problems) {
        match &self.audio {
            Some(audio) if source == Some(Source::Wav) => problems.0.extend(audio.problems()),
            Some(_) if source.is_some() => {
                problems.push(
                    "audio",
                    "{ ... }",
                    "no such table: it belongs to format = \"wav\"",
                );
            }
            _ => {}
        }
    }

    fn check_images(&self, source: Option<Source>, problems: &mut Problems) {
        match (&self.images, source) {
            (Some(images), Some(Source::Images)) => problems.0.extend(images.problems()),
            (Some(_), Some(_)) => {
                problems.push("images", "a table", "absent: only format = \"images\" has it");
            }
            _ => {}
        }
    }

    fn check_custom(&self, source: Option<Source>, problems: &mut Problems) {
        match (&self.custom, source) {
            (custom, Some(Source::Custom)) => problems.0.extend(custom::problem(custom.as_ref())),
            (Some(_), Some(_)) => {
                problems.push("custom", "a table", "absent: only format = \"custom\" has it");
            }
            _ => {}
        }
    }

    fn check_text(&self, source: Option<Source>, problems: &mut Problems) {
        const ONLY: &str = "absent: only format = \"text\" has it";
        let Some(source) = source else { return };
        let Views {
            shift,
            flip,
            crop,
            noise,
            gain: _,
            drop,
            mixup,
        } = self.views;
        if !(0.0..1.0).contains(&drop) {
            problems.push("views.drop", drop, "at least 0 and less than 1");
        }
        if source != Source::Text {
            if drop > 0.0 {
                problems.push(
                    "views.drop",
                    drop,
                    "0: there are no tokens to drop in what is no text",
                );
            }
            if self.text.is_some() {
                problems.push("text", "a table", ONLY);
            }
            return;
        }
        for (key, on, value) in [
            ("views.shift", shift > 0, shift.to_string()),
            ("views.flip", flip, flip.to_string()),
            ("views.crop", crop > 0, crop.to_string()),
            ("views.noise", noise > 0.0, noise.to_string()),
            ("views.mixup", mixup != 0.0, mixup.to_string()),
        ] {
            if on {
                let expected = "absent: tokens are no pixels, they can be dropped (views.drop)";
                problems.push(key, value, expected);
            }
        }
        for (key, value, expected) in self.text.clone().unwrap_or_default().problems() {
            problems.push(&format!("text.{key}"), value, expected);
        }
    }

    fn check_unlabelled(&self, source: Option<Source>, problems: &mut Problems) {
        let (Some(path), Some(source)) = (&self.unlabelled, source) else {
            return;
        };
        let next = self.text.as_ref().is_some_and(|text| text.next.is_some());
        let expected = match source {
            Source::Digits | Source::Mnist1d | Source::FashionMnist => {
                Some("absent: a set with a name has its samples, use format for files of your own".to_owned())
            }
            Source::Custom => Some("absent: the program that brings the set reads all of it".to_owned()),
            Source::Text if next => Some("absent: with text.next every sample has a label".to_owned()),
            Source::Idx | Source::Images | Source::Wav | Source::Text => path.parse::<Location>().err(),
        };
        if let Some(expected) = expected {
            problems.push("unlabelled", format_args!("{path:?}"), expected);
        }
    }
}

impl Source {
    /// The sizes of a set that is known without reading it.
    fn extent(self) -> Option<Extent> {
        match self {
            Self::Digits => Some(digits::EXTENT),
            Self::Mnist1d => Some(mnist1d::EXTENT),
            Self::FashionMnist => Some(idx::FASHION_MNIST),
            Self::Idx | Self::Images | Self::Wav | Self::Text | Self::Custom => None,
        }
    }
}

#[cfg(test)]
mod tests;
