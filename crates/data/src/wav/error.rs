//! What can be wrong with a folder of WAV files.

use std::io;
use std::path::PathBuf;

use super::RATES;

/// What is wrong with a folder of WAV files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("read {path}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is no WAV file, of a format that is not understood, or ends too early.
    #[error("read {file}, expected a WAV file of 8, 16, 24 or 32 bits PCM")]
    Decode {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: hound::Error,
    },
    /// A file holds floating-point samples.
    #[error("{file} holds floating-point samples, expected 8, 16, 24 or 32 bits PCM: convert it")]
    Float {
        /// The file.
        file: PathBuf,
    },
    /// A file holds nothing.
    #[error("{file} holds no samples: record it again, or remove it")]
    NoSamples {
        /// The file.
        file: PathBuf,
    },
    /// A file's rate is beyond all use.
    #[error("{file} has {rate} samples a second, expected {} to {}", RATES.start(), RATES.end())]
    Rate {
        /// The file.
        file: PathBuf,
        /// Its rate in Hz.
        rate: u32,
    },
    /// There is nothing to tell apart.
    #[error(
        "{folder} holds {found} folders, expected at least 2, one for each class (or train and test with these): \
         set dataset.path to the folder that holds them"
    )]
    Classes {
        /// The folder of classes.
        folder: PathBuf,
        /// How many it has.
        found: usize,
    },
    /// A class has no file.
    #[error("{folder} holds no .wav file, expected some of this class: add some, or remove the folder")]
    EmptyClass {
        /// The class's folder.
        folder: PathBuf,
    },
    /// Test samples of a class that training does not have.
    #[error("{folder} has no counterpart among the training samples' folders: add one, or remove it")]
    UnknownClass {
        /// The class's folder.
        folder: PathBuf,
    },
    /// All of a class is silence, or became test samples.
    #[error(
        "{folder} leaves no training sample of class {class:?}: what was not chosen for testing is silence or too \
         little, add more files"
    )]
    NoTraining {
        /// The folder of all classes.
        folder: PathBuf,
        /// The class's name.
        class: String,
    },
    /// There is nothing to test with.
    #[error(
        "{folder} has no test sample: add files (about a fifth of them is chosen by their names), or make folders train \
         and test"
    )]
    NoTest {
        /// The folder of all classes.
        folder: PathBuf,
    },
    /// More filters than the spectrum can feed.
    #[error(
        "dataset: audio.mels = {mels}: expected at most {most} with windows of {window_ms} ms at {rate} Hz, or a \
         longer audio.window_ms: some filter would hold no frequency of the spectrum"
    )]
    Mels {
        /// Filters as configured.
        mels: u32,
        /// As many as would do.
        most: u32,
        /// The window as configured.
        window_ms: u32,
        /// Samples a second.
        rate: u32,
    },
}
