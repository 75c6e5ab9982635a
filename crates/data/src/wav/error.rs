//! What can be wrong with a folder of WAV files.

use std::io;
use std::path::PathBuf;

use super::RATES;
use crate::config::ConfigProblem;
use crate::folder;

/// What is wrong with a folder of WAV files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no classes, or a class no files.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
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
    /// A front end of which no samples can be made.
    #[error("{0}")]
    FrontEnd(ConfigProblem),
    /// Nothing can be heard in a file.
    #[error("{file} is silent throughout: record it again, or remove it")]
    Silent {
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
