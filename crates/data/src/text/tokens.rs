//! What texts, or the bytes of files, are cut into.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Location;

/// The id that fills a sample up to its length. Models leave it out.
pub(crate) const PADDING: u16 = 0;

/// The id of byte 0, which no text has: it stands between the documents of a language model's text.
pub(super) const BORDER: u16 = 1;

/// Beyond this an n-gram is as good as a sample of its own.
const MAX_NGRAM: u32 = 8;
/// Ids are stored in 16 bits. A table of so many rows of 16 numbers is a million parameters.
const MAX_BUCKETS: u32 = u16::MAX as u32;

/// How a text becomes ids. Id 0 is padding.
///
/// Hashed n-grams need no vocabulary: the id of one is `1 + hash % buckets`, whether or not training met it, and n-grams
/// that meet in a bucket share it. Bojanowski et al., Enriching Word Vectors with Subword Information, 2017,
/// <https://arxiv.org/abs/1607.04606>; Joulin et al., Bag of Tricks for Efficient Text Classification, 2017,
/// <https://arxiv.org/abs/1607.01759>. Differences from their fastText: there is no dictionary of whole words beside the
/// n-grams, letters are made lower case, and a punctuation mark is a word of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Tokens {
    /// The n-grams of the characters of each word between `<` and `>`, which mark its ends, but for these alone.
    CharactersHashed {
        /// Shortest and longest.
        #[serde(default = "characters")]
        ngrams: [u32; 2],
        #[serde(default = "buckets")]
        buckets: u32,
    },
    /// The n-grams of words.
    WordsHashed {
        /// Shortest and longest.
        #[serde(default = "words")]
        ngrams: [u32; 2],
        #[serde(default = "buckets")]
        buckets: u32,
    },
    /// The bytes of its UTF-8 form: id `1 + byte`.
    Bytes {},
    /// The text is the path of a file, relative to the file that lists it. What of that is looked at is both its ends: of
    /// its first 4,096 bytes, without leading white space, as many as fit into the first half of a sample, and of its last
    /// 4,096, without trailing white space, as many of the last as fit into the second half. Id `1 + byte`; padding lies
    /// between. So Magika reads files, Fratantonio et al. 2024, <https://arxiv.org/abs/2409.13768>.
    FileBytes {},
    /// Those of a `tokenizer.json`, the file of Hugging Face's `tokenizers`, with its special tokens, which stay where a text
    /// is cut. Where its padding token has id 0, ids are its own. Elsewhere they are its own plus 1, so that 0 is free for
    /// padding, and its padding token becomes 0 too. A language model's texts are without special tokens. Needs the cargo
    /// feature `tokenizers`.
    Tokenizer {
        /// The file: a path relative to the job file, a `file://` or an `s3://` URL; of a card, relative to the card's folder.
        path: String,
        /// BLAKE3 of its bytes, in hexadecimal. Unset: whatever they are. A card and a loaded data set have it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blake3: Option<String>,
        /// Number of ids that models see, padding included. Like `blake3`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ids: Option<u32>,
        /// The id that models see between documents: a token's, or the one behind the vocabulary. Only a language model's
        /// card and loaded data set have it; a job names a token (`text.next.border`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        border: Option<u16>,
    },
}

/// Bytes at either end of a file that [`Tokens::FileBytes`] reads.
pub(super) const END: usize = 4_096;

fn characters() -> [u32; 2] {
    [1, 4]
}

fn words() -> [u32; 2] {
    [1, 2]
}

fn buckets() -> u32 {
    16_384
}

impl Default for Tokens {
    fn default() -> Self {
        Self::CharactersHashed {
            ngrams: characters(),
            buckets: buckets(),
        }
    }
}

impl Tokens {
    /// Number of ids, padding included; 1 of a tokenizer whose file was not read yet.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::CharactersHashed { buckets, .. } | Self::WordsHashed { buckets, .. } => {
                1 + *buckets as usize
            }
            Self::Bytes {} | Self::FileBytes {} => 1 + usize::from(u8::MAX) + 1,
            Self::Tokenizer { ids, .. } => ids.unwrap_or(1) as usize,
        }
    }

    /// The id that stands before each document and behind the last one where `text.next` packs several into a window; `None`
    /// where no language model can be made of such tokens.
    pub fn border(&self) -> Option<u16> {
        match self {
            Self::Bytes {} => Some(BORDER),
            Self::Tokenizer { border, .. } => *border,
            _ => None,
        }
    }

    /// The path of a tokenizer's file, to make it absolute.
    pub fn path_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Tokenizer { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The same, whose file is looked for below a folder, unless it lies in a bucket.
    #[must_use]
    pub fn below(mut self, base: &Path) -> Self {
        if let Some(path) = self.path_mut()
            && let Ok(Location::Local(local)) = path.parse()
        {
            *path = base.join(local).display().to_string();
        }
        self
    }

    /// Whether a text is the path of the file that is meant.
    pub(super) fn of_files(&self) -> bool {
        matches!(self, Self::FileBytes {})
    }

    /// Key, value, what is expected.
    pub(super) fn problems(&self) -> Vec<(&'static str, String, String)> {
        let mut problems = Vec::new();
        if let Self::CharactersHashed { ngrams, buckets } | Self::WordsHashed { ngrams, buckets } = self {
            let [shortest, longest] = *ngrams;
            if !(1..=MAX_NGRAM).contains(&shortest) || !(shortest..=MAX_NGRAM).contains(&longest) {
                let expected = format!("shortest and longest, 1 <= shortest <= longest <= {MAX_NGRAM}");
                problems.push(("ngrams", format!("{ngrams:?}"), expected));
            }
            if !(1..=MAX_BUCKETS).contains(buckets) {
                let expected = format!("1..={MAX_BUCKETS}, ids have 16 bits");
                problems.push(("buckets", buckets.to_string(), expected));
            }
        }
        if let Self::Tokenizer { path, border, .. } = self {
            if path.parse::<Location>().is_err() {
                let expected = "the path, file:// or s3:// URL of a tokenizer.json".to_owned();
                problems.push(("path", format!("{path:?}"), expected));
            }
            if let Some(border) = border {
                let expected = "absent: text.next.border names a token".to_owned();
                problems.push(("border", border.to_string(), expected));
            }
        }
        problems
    }
}

pub(super) fn id(byte: &u8) -> u16 {
    1 + u16::from(*byte)
}

/// The first and the last bytes of a file, which may be the same ones.
pub(super) fn read_ends(file: &Path) -> io::Result<[Vec<u8>; 2]> {
    let mut file = File::open(file)?;
    let size = file.metadata()?.len();
    let mut read = |from: u64| {
        let mut bytes = Vec::with_capacity(END);
        file.seek(SeekFrom::Start(from))?;
        file.by_ref().take(END as u64).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    Ok([read(0)?, read(size.saturating_sub(END as u64))?])
}

/// Appends `length` ids: half of the first bytes, half of the last ones.
pub(super) fn write_ends([first, last]: [&[u8]; 2], length: usize, out: &mut Vec<u16>) {
    let white = |byte: &&u8| matches!(byte, b' ' | 0x09..=0x0d);
    let end = out.len() + length;
    let half = length - length / 2;
    out.extend(first.iter().skip_while(white).take(half).map(id));
    let kept = last.len() - last.iter().rev().take_while(white).count();
    let last = &last[kept.saturating_sub(length / 2)..kept];
    out.resize(end - last.len(), PADDING);
    out.extend(last.iter().map(id));
}

/// The words of a text: runs of letters and digits, and any other visible character by itself.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let len = if first.is_alphanumeric() {
            rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(len);
        rest = after;
        Some(word)
    })
}

/// By place of the first character, the shorter first.
pub(super) fn of_characters(word: &str, [shortest, longest]: [u32; 2], buckets: u32) -> Vec<u16> {
    let word = format!("<{word}>");
    let mut places: Vec<usize> = word.char_indices().map(|(place, _)| place).collect();
    let last = places.len() - 1;
    places.push(word.len());
    let mut ids = Vec::new();
    for from in 0..=last {
        for n in shortest as usize..=longest as usize {
            let mark = n == 1 && (from == 0 || from == last);
            if let Some(&to) = places.get(from + n).filter(|_| !mark) {
                ids.push(bucket(&word.as_bytes()[places[from]..to], buckets));
            }
        }
    }
    ids
}

/// By the first word, the shorter first. The words of one are hashed with a space between them.
pub(super) fn of_words(text: &str, [shortest, longest]: [u32; 2], buckets: u32) -> impl Iterator<Item = u16> {
    let words: Vec<&str> = split(text).collect();
    (0..words.len()).flat_map(move |from| {
        let lengths = shortest as usize..=longest as usize;
        let ngrams = lengths.filter_map(|n| words.get(from..from + n));
        ngrams
            .map(|ngram| bucket(ngram.join(" ").as_bytes(), buckets))
            .collect::<Vec<_>>()
    })
}

fn bucket(bytes: &[u8], buckets: u32) -> u16 {
    (1 + fnv1a(bytes) % buckets) as u16
}

/// The hash of fastText, FNV-1a in 32 bits (<https://datatracker.ietf.org/doc/html/rfc9923>).
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_has_its_published_values() {
        let expected = [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)];
        for (text, hash) in expected {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text}");
        }
    }

    fn hashed(ngrams: &[&str], buckets: u32) -> Vec<u16> {
        ngrams.iter().map(|n| bucket(n.as_bytes(), buckets)).collect()
    }

    #[test]
    fn characters_by_hand() {
        let got = of_characters("où", [1, 3], 1_000);
        assert_eq!(got, hashed(&["<o", "<où", "o", "où", "où>", "ù", "ù>"], 1_000));
        assert_eq!(of_characters("a", [2, 2], 7), hashed(&["<a", "a>"], 7));
        assert!(of_characters("a", [5, 6], 7).is_empty());
    }

    #[test]
    fn words_by_hand() {
        let words: Vec<&str> = split("  don't stop, 3 Ærø!").collect();
        assert_eq!(words, ["don", "'", "t", "stop", ",", "3", "Ærø", "!"]);
        let ids: Vec<u16> = of_words("a b  c", [1, 2], 1_000).collect();
        assert_eq!(ids, hashed(&["a", "a b", "b", "b c", "c"], 1_000));
    }
}
