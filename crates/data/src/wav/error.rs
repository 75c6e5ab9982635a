//! What can be wrong with a folder of WAV files.

use std::io;
use std::path::PathBuf;

use super::RATES;
use crate::config::ConfigProblem;
use crate::folder;
use crate::quarantine::TooMany;
use crate::store;

/// What is wrong with a folder of WAV files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no classes, or a class no files.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// A file by itself cannot be used.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
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
    /// There is no room for the samples.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// More files cannot be used than the job lets go.
    #[error(transparent)]
    BadRows(#[from] TooMany),
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

/// What is wrong with one file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It is of a format that is not understood, or ends too early.
    #[error("no WAV file of 8, 16, 24 or 32 bits PCM")]
    Decode(#[source] hound::Error),
    #[error("floating-point samples, expected 8, 16, 24 or 32 bits PCM: convert it")]
    Float,
    #[error("no samples: record it again, or remove it")]
    NoSamples,
    /// In Hz.
    #[error("{rate} samples a second, expected {} to {}", RATES.start(), RATES.end())]
    Rate { rate: u32 },
}
