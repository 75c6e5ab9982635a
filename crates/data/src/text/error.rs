//! What can be wrong with a text file.

use std::io;
use std::path::PathBuf;

use super::TokenizerError;
use crate::parquet;
use crate::quarantine::TooMany;
use crate::store;

/// What is wrong with a text data set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("read {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no room for the samples.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A Parquet file cannot be read, or has other columns.
    #[error(transparent)]
    Parquet(#[from] parquet::Error),
    /// A folder has no file for training, or several.
    #[error("{folder} holds {found}, expected one of train.jsonl, train.csv, train.tsv and train.parquet")]
    Folder {
        /// The folder, or what is in its place.
        folder: PathBuf,
        /// The files found.
        found: String,
    },
    /// Its name says of no known format.
    #[error("{file} has an unknown ending, expected one of {expected}")]
    Ending {
        /// The file.
        file: PathBuf,
        /// Known endings.
        expected: String,
    },
    /// Its tokenizer cannot be used.
    #[error("text.tokens")]
    Tokenizer(#[from] TokenizerError),
    /// More rows cannot be used than the job lets go.
    #[error(transparent)]
    BadRows(#[from] TooMany),
    /// A line that the whole file rests on is not what it should be.
    #[error("{file} line {line}: {column} = {value}: expected {expected}")]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: u64,
        /// The field or column, or `line`.
        column: String,
        /// What is there, shortened.
        value: String,
        /// What should be.
        expected: String,
    },
    /// A text to tell what comes next in is too short, or too long.
    #[error("{file} gives {samples} windows of {length} tokens and the next one, expected 1 to 2147483647")]
    Length {
        /// The file.
        file: PathBuf,
        /// Windows that it gives.
        samples: usize,
        /// Tokens of a window.
        length: u32,
    },
    /// It has no sample with a label, or none at all.
    #[error("{file} holds {found}, expected {expected}")]
    Empty {
        /// The file.
        file: PathBuf,
        /// What it has.
        found: &'static str,
        /// What it needs.
        expected: String,
    },
}
