//! Tokenizers that others made, from a `tokenizer.json`.
//!
//! Running one needs the cargo feature `tokenizers`; without it such tokens are known and refused.

#[cfg(not(feature = "tokenizers"))]
mod absent;
#[cfg(feature = "tokenizers")]
mod reader;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

#[cfg(not(feature = "tokenizers"))]
use absent as reader;
use reader::Reader;

/// Name of the file beside a card, whatever it was called before.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Why a tokenizer's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This program was built without what runs it.
    #[error(
        "{file}: this build has no tokenizers: build with the cargo feature `tokenizers` (cargo run --release --features \
         tokenizers -- ...)"
    )]
    NotCompiledIn {
        /// The file.
        file: PathBuf,
    },
    /// It cannot be read.
    #[error("read {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is none, or one that this library does not know.
    #[error("{file} is no tokenizer: {reason}")]
    Format {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is not what it should be.
    #[error("{file}: {key} is {found}, expected {expected}")]
    Other {
        /// The file.
        file: PathBuf,
        /// What differs: its `blake3`, its number of `ids`, the `length` of a sample.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
}

/// A tokenizer and the file that it is of.
#[derive(Debug)]
pub(super) struct Tokenizer {
    path: PathBuf,
    file: Vec<u8>,
    reader: Reader,
}

impl Tokenizer {
    /// `length`: ids of a sample, special tokens included.
    pub(super) fn read(path: &Path, length: usize) -> Result<Self, Error> {
        let path = path.to_owned();
        let file = std::fs::read(&path).map_err(|source| Error::Read {
            file: path.clone(),
            source,
        })?;
        let reader = Reader::new(&path, &file, length)?;
        Ok(Self { path, file, reader })
    }

    /// Refuses a file that is not the one that was meant.
    pub(super) fn check(&self, blake3: Option<&str>, ids: Option<u32>) -> Result<(), Error> {
        let other = |key, found: String, expected: String| {
            let file = self.path.clone();
            Err(Error::Other {
                file,
                key,
                found,
                expected,
            })
        };
        let found = self.blake3();
        if let Some(expected) = blake3.filter(|expected| *expected != found) {
            return other("blake3", found, format!("{expected}, another tokenizer's file"));
        }
        match ids.filter(|ids| *ids != self.ids()) {
            Some(ids) => other("ids", self.ids().to_string(), format!("{ids}, padding included")),
            None => Ok(()),
        }
    }

    pub(super) fn into_file(self) -> Vec<u8> {
        self.file
    }

    /// Of the file's bytes, in hexadecimal.
    pub(super) fn blake3(&self) -> String {
        blake3::hash(&self.file).to_hex().to_string()
    }

    /// Number of ids, padding included.
    pub(super) fn ids(&self) -> u32 {
        self.reader.ids()
    }

    /// How much greater ids are than its own.
    pub(super) fn shift(&self) -> u32 {
        self.reader.shift()
    }

    /// The ids of a text, at most as many as fit into a sample, without padding behind them.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u16>, String> {
        self.reader.encode(text)
    }
}
