//! Folders of WAV files, as log-mel spectra: what is heard when is a picture of one channel, a row for each frame and a
//! column for each mel filter, the lowest first.
//!
//! Everything from the samples on is computed with additions, multiplications, divisions and the pure-Rust `libm`, so
//! that all workers get the same bits and with them the same digest.

mod error;
mod fft;
pub(crate) mod mel;
mod resample;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::error::Error;
use self::error::Fault;
use self::mel::FrontEnd;
use self::resample::Resampler;
use crate::config::ConfigProblem;
use crate::dataset::Shape;
use crate::folder::{self, File};
use crate::quarantine::{Intake, Quarantine, with_sources};
use crate::split::{Samples, Set};
use crate::store::{Form, Writer};

/// Samples a second, in Hz: below there is no speech, above nothing records.
const RATES: RangeInclusive<u32> = 2_000..=192_000;
/// Of a sample. A minute is a picture of 6,000 frames with the usual hop.
const MOST_SECONDS: f64 = 60.0;
const MELS: RangeInclusive<u32> = 1..=256;
/// Long enough for a few samples at the lowest rate, and short enough for two frames in most words.
const WINDOW_MS: RangeInclusive<u32> = 5..=200;

/// The `[dataset.audio]` table: how sounds become samples of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audio {
    /// Samples a second in Hz (2,000..=192,000); files of another rate are resampled. Unset: the rate of the first file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Length of a sample of the data set, up to 60 s.
    pub seconds: f64,
    /// What becomes of a file of another length.
    pub windows: Windows,
    /// Mel filters, the width of a sample (1..=256, fewer where the spectrum is coarse).
    pub mels: u32,
    /// Length of a frame (5..=200 ms).
    pub window_ms: u32,
    /// From one frame to the next (1 ms to `window_ms`).
    pub hop_ms: u32,
}

/// Which parts of a file are samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Windows {
    /// One: the first `seconds`, with silence behind a shorter file.
    First,
    /// All of `seconds` one after the other, without the remainder and without those that are silent throughout (an empty
    /// file has none). A shorter file is one, with silence behind it. All of a file are in the same part of the data set.
    All,
}

impl Default for Audio {
    fn default() -> Self {
        Self {
            rate: None,
            seconds: 1.0,
            windows: Windows::First,
            mels: 32,
            window_ms: 25,
            hop_ms: 10,
        }
    }
}

impl Audio {
    /// What is wrong with it, keys within the `[dataset]` table.
    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let within =
            |range: &RangeInclusive<u32>, unit: &str| format!("{} to {}{unit}", range.start(), range.end());
        let hops = 1..=self.window_ms;
        let rate = self.rate.unwrap_or(*RATES.start());
        let mut problems = Vec::new();
        for (key, value, range, unit) in [
            ("rate", rate, &RATES, " Hz"),
            ("mels", self.mels, &MELS, ""),
            ("window_ms", self.window_ms, &WINDOW_MS, ""),
            ("hop_ms", self.hop_ms, &hops, ", the length of a window"),
        ] {
            if !range.contains(&value) {
                problems.push((key, value.to_string(), within(range, unit)));
            }
        }
        let least = f64::from(self.window_ms) / 1_000.0;
        if !(least..=MOST_SECONDS).contains(&self.seconds) {
            let expected = format!("{least} (a window) to {MOST_SECONDS}");
            problems.push(("seconds", self.seconds.to_string(), expected));
        }
        let problem = |(key, value, expected)| ConfigProblem {
            key: format!("audio.{key}"),
            value,
            expected,
        };
        problems.into_iter().map(problem).collect()
    }

    /// The samples that a data set of this front end would read of a file, one unless `windows` are all.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or of which there is nothing to hear; a front end that has no [`Audio::shape`].
    pub fn samples_of(&self, file: &Path) -> Result<Vec<Vec<f32>>, Error> {
        let samples = self.reader()?.windows(file).map_err(|fault| Error::File {
            file: file.to_owned(),
            reason: with_sources(&fault),
        })?;
        if samples.is_empty() {
            return Err(Error::Silent {
                file: file.to_owned(),
            });
        }
        Ok(samples)
    }

    /// Whether samples of both mean the same. Windows only choose which there are.
    pub fn hears_like(&self, other: &Self) -> bool {
        let windows = other.windows;
        Self {
            windows,
            ..self.clone()
        } == *other
    }

    /// The shape of a sample.
    ///
    /// # Errors
    ///
    /// A front end that cannot be, or has no rate.
    pub fn shape(&self) -> Result<Shape, Error> {
        Ok(self.reader()?.shape)
    }

    fn reader(&self) -> Result<Reader, Error> {
        let unset = ConfigProblem {
            key: "audio.rate".to_owned(),
            value: "unset".to_owned(),
            expected: "the rate of the data set".to_owned(),
        };
        match (self.rate, self.problems().into_iter().next()) {
            (Some(rate), None) => Reader::new(self, rate),
            (_, problem) => Err(Error::FrontEnd(problem.unwrap_or(unset))),
        }
    }
}

/// `8000 Hz, 24 mels, windows of 25 ms every 20 ms, 0.8 s`.
impl fmt::Display for Audio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mels,
            window_ms,
            hop_ms,
            seconds,
            ..
        } = self;
        if let Some(rate) = self.rate {
            write!(f, "{rate} Hz, ")?;
        }
        write!(
            f,
            "{mels} mels, windows of {window_ms} ms every {hop_ms} ms, {seconds} s"
        )
    }
}

/// How the files end that are read.
const ENDINGS: &[&str] = &["wav"];

/// Reads all files below a folder, and below that of `more` without classes; with the front end as configured, and its rate.
pub(crate) fn load(
    folder: &Path,
    more: Option<&Path>,
    audio: &Audio,
    intake: &mut Intake,
) -> Result<(Set, Audio), Error> {
    let files = folder::find(folder, ENDINGS)?;
    let rate = match audio.rate {
        Some(rate) => rate,
        None => files.first(folder, &mut intake.bad, read)?.1,
    };
    let mut reader = Reader::new(audio, rate)?;
    let mut store = Writer::new(Form::Floats, reader.shape.len(), intake.memory);
    let (pool, pool_files) = reader.samples(files.pool.iter(), &mut store, &mut intake.bad)?;
    let (test, _) = reader.samples(files.test_mixed(), &mut store, &mut intake.bad)?;
    files.check(folder, &pool.labels, &test.labels)?;
    let unlabelled = match more {
        Some(more) => {
            let files = folder::all(more, ENDINGS)?;
            reader.samples(files.iter(), &mut store, &mut intake.bad)?.0
        }
        None => Samples::default(),
    };
    let audio = Audio {
        rate: Some(rate),
        ..audio.clone()
    };
    let set = Set {
        shape: reader.shape,
        class_names: files.class_names,
        store: store.finish()?,
        pool,
        test,
        unlabelled,
        files: pool_files,
    };
    Ok((set, audio))
}

/// Makes samples of files.
struct Reader {
    front_end: FrontEnd,
    shape: Shape,
    rate: u32,
    /// Of a sample of the data set, in samples of sound.
    len: usize,
    windows: Windows,
    /// By the rate that they start from.
    resamplers: BTreeMap<u32, Resampler>,
}

impl Reader {
    fn new(audio: &Audio, rate: u32) -> Result<Self, Error> {
        let of_ms = |ms: u32| (u64::from(ms) * u64::from(rate) / 1_000) as usize;
        let (window, hop) = (of_ms(audio.window_ms), of_ms(audio.hop_ms));
        let len = ((audio.seconds * f64::from(rate)).round() as usize).max(window);
        let front_end = FrontEnd::new(rate, window, hop, audio.mels).map_err(|most| Error::Mels {
            mels: audio.mels,
            most,
            window_ms: audio.window_ms,
            rate,
        })?;
        let shape = Shape {
            channels: 1,
            height: front_end.frames(len),
            width: audio.mels as usize,
        };
        Ok(Self {
            front_end,
            shape,
            rate,
            len,
            windows: audio.windows,
            resamplers: BTreeMap::new(),
        })
    }

    /// The samples of files, and the number of each one's file.
    fn samples<'f>(
        &mut self,
        files: impl Iterator<Item = &'f File>,
        store: &mut Writer,
        bad: &mut Quarantine,
    ) -> Result<(Samples, Vec<u32>), Error> {
        let (mut samples, mut numbers) = (Samples::default(), Vec::new());
        for (number, file) in (0u32..).zip(files) {
            let windows = match self.windows(&file.path) {
                Ok(windows) => windows,
                Err(fault) => {
                    bad.leave_out_file(&file.path, &fault)?;
                    continue;
                }
            };
            bad.good();
            for values in windows {
                samples.push(store.push_floats(&values), file.class);
                numbers.push(number);
            }
        }
        Ok((samples, numbers))
    }

    fn windows(&mut self, path: &Path) -> Result<Vec<Vec<f32>>, Fault> {
        let (mut sound, rate) = read(path)?;
        if sound.is_empty() && self.windows == Windows::First {
            return Err(Fault::NoSamples);
        }
        if rate != self.rate {
            let to = self.rate;
            let resampler = self.resamplers.entry(rate);
            sound = resampler
                .or_insert_with(|| Resampler::new(rate, to))
                .apply(&sound);
        }
        if sound.len() < self.len || self.windows == Windows::First {
            sound.resize(self.len, 0.0);
        }
        let windows = sound
            .chunks_exact(self.len)
            .map(|window| self.front_end.spectra(window));
        let heard = |values: &Vec<f32>| self.windows == Windows::First || values.iter().any(|&v| v > 0.0);
        Ok(windows.filter(heard).collect())
    }
}

/// A file's sound, all channels averaged, from -1 to 1, and its rate.
fn read(path: &Path) -> Result<(Vec<f64>, u32), Fault> {
    let decode = |error| match error {
        hound::Error::IoError(error) if error.kind() != std::io::ErrorKind::Other => Fault::Read(error),
        error => Fault::Decode(error),
    };
    let mut reader = hound::WavReader::open(path).map_err(decode)?;
    let spec = reader.spec();
    if spec.sample_format == hound::SampleFormat::Float {
        return Err(Fault::Float);
    }
    if spec.bits_per_sample > 32 {
        return Err(decode(hound::Error::TooWide));
    }
    let rate = spec.sample_rate;
    if !RATES.contains(&rate) {
        return Err(Fault::Rate { rate });
    }
    let channels = usize::from(spec.channels);
    let full = (1u64 << (spec.bits_per_sample - 1)) as f64 * f64::from(spec.channels);
    // One by one: nothing is set aside for what the header merely claims.
    let mut sound = Vec::with_capacity(1 << 16);
    let mut sum = 0.0;
    for (i, sample) in (1usize..).zip(reader.samples::<i32>()) {
        sum += f64::from(sample.map_err(decode)?);
        if i.is_multiple_of(channels) {
            sound.push(sum / full);
            sum = 0.0;
        }
    }
    Ok((sound, rate))
}

#[cfg(test)]
mod tests;
