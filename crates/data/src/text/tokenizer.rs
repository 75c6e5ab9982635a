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

/// Special tokens that end a text in files of others, by which documents are told apart where the job names none.
const BORDERS: [&str; 5] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]"];

/// What a tokenizer's ids are for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// Samples of so many, special tokens included.
    Samples(usize),
    /// A language model's text, without special tokens. The token of this name stands between documents; unless given, a
    /// special token of a usual name, or else an id behind the vocabulary.
    Next(Option<&'a str>),
    /// The same, with the id of what stands between documents.
    NextBy(u16),
}

/// A text as ids, however long.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// As models see them.
    pub(super) ids: Vec<u16>,
    /// Where in the text, in bytes, each token ends, ascending; the last one where the text does. What lies between two tokens
    /// belongs to the second.
    pub(super) ends: Vec<usize>,
}

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
        /// What differs: its `blake3`, its number of `ids`, the `length` of a sample, the border of documents.
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
    /// What stands between the documents of a language model's text.
    border: Option<u16>,
}

impl Tokenizer {
    pub(super) fn read(path: &Path, purpose: Purpose<'_>) -> Result<Self, Error> {
        let path = path.to_owned();
        let file = std::fs::read(&path).map_err(|source| Error::Read {
            file: path.clone(),
            source,
        })?;
        let length = match purpose {
            Purpose::Samples(length) => Some(length),
            Purpose::Next(_) | Purpose::NextBy(_) => None,
        };
        let reader = Reader::new(&path, &file, length)?;
        let border = None;
        let mut tokenizer = Self {
            path,
            file,
            reader,
            border,
        };
        tokenizer.border = match purpose {
            Purpose::Samples(_) => None,
            Purpose::Next(name) => Some(tokenizer.choose_border(name)?),
            Purpose::NextBy(border) => Some(tokenizer.known_border(border)?),
        };
        Ok(tokenizer)
    }

    fn choose_border(&self, name: Option<&str>) -> Result<u16, Error> {
        let usual = || BORDERS.iter().find_map(|name| self.reader.special_token(name));
        let chosen = match name {
            Some(name) => self.reader.token(name).ok_or_else(|| {
                let expected = "a token of its vocabulary, and not that of padding".to_owned();
                self.other("text.next.border", format!("{name:?}"), expected)
            })?,
            None => usual().unwrap_or(self.reader.ids()),
        };
        u16::try_from(chosen).map_err(|_| {
            let expected = format!(
                "at most {}, so that one is left to stand between documents, or text.next.border, a token that does",
                u16::MAX
            );
            self.other("its number of ids", self.reader.ids().to_string(), expected)
        })
    }

    fn known_border(&self, border: u16) -> Result<u16, Error> {
        let most = self.reader.ids();
        if (1..=most).contains(&u32::from(border)) {
            return Ok(border);
        }
        Err(self.other(
            "border",
            border.to_string(),
            format!("1..={most}, its ids and the next"),
        ))
    }

    fn other(&self, key: &'static str, found: String, expected: String) -> Error {
        Error::Other {
            file: self.path.clone(),
            key,
            found,
            expected,
        }
    }

    /// Refuses a file that is not the one that was meant.
    pub(super) fn check(&self, blake3: Option<&str>, ids: Option<u32>) -> Result<(), Error> {
        let found = self.blake3();
        if let Some(expected) = blake3.filter(|expected| *expected != found) {
            return Err(self.other("blake3", found, format!("{expected}, another tokenizer's file")));
        }
        match ids.filter(|ids| *ids != self.ids()) {
            Some(ids) => {
                let expected = format!("{ids}, padding included");
                Err(self.other("ids", self.ids().to_string(), expected))
            }
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

    /// Number of ids, padding and what stands between documents included.
    pub(super) fn ids(&self) -> u32 {
        let ids = self.reader.ids();
        ids + u32::from(self.border.map(u32::from) == Some(ids))
    }

    pub(super) fn border(&self) -> Option<u16> {
        self.border
    }

    /// The token of an id as the file has it; `None` of padding, and of what is no token.
    pub(super) fn name(&self, id: u16) -> Option<String> {
        self.reader.name(id)
    }

    /// How much greater ids are than its own.
    pub(super) fn shift(&self) -> u32 {
        self.reader.shift()
    }

    /// The ids of a text, at most as many as fit into a sample, without padding behind them.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u16>, String> {
        self.reader.encode(text)
    }

    /// All ids of a text, without special tokens.
    pub(super) fn whole(&self, text: &str) -> Result<Whole, String> {
        self.reader.whole(text)
    }

    /// Whether the ids of a text are all of it, so that who knows them knows the text, but for white space before it.
    pub(super) fn gives_back(&self, text: &str, ids: &[u16]) -> bool {
        let given = self.reader.text(ids);
        given.is_ok_and(|given| given.trim_start() == text.trim_start())
    }
}
