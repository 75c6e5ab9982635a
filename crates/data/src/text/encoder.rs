//! From text, or the bytes of a file, to token ids.

use std::path::Path;

use super::tokenizer::{self, Purpose, TOKENIZER_FILE, Tokenizer};
use super::tokens::{END, PADDING, Tokens, id, of_characters, of_words, read_ends, split, write_ends};

/// What makes token ids of texts, the same number of each.
#[derive(Debug)]
pub struct Encoder {
    tokens: Tokens,
    length: usize,
    tokenizer: Option<Tokenizer>,
}

/// Why a text or a file has no ids.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It cannot be read, or is no text where the tokens are those of a text.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// A tokenizer fails.
    #[error("the tokenizer has no tokens for it: {0}")]
    Tokenizer(String),
}

impl Tokens {
    /// What makes `length` ids of each text. Reads the file of a tokenizer.
    ///
    /// # Errors
    ///
    /// A tokenizer's file cannot be used, is not the one that was meant, or adds more special tokens than there is room for.
    pub fn open(&self, length: usize) -> Result<Encoder, tokenizer::Error> {
        let purpose = match self {
            Self::Tokenizer {
                border: Some(border), ..
            } => Purpose::NextBy(*border),
            _ => Purpose::Samples(length),
        };
        self.open_for(length, purpose)
    }

    /// What makes ids of a language model's text, in windows of `length`; the token that stands between documents may have a
    /// name.
    pub(super) fn open_next(&self, length: usize, border: Option<&str>) -> Result<Encoder, tokenizer::Error> {
        self.open_for(length, Purpose::Next(border))
    }

    fn open_for(&self, length: usize, purpose: Purpose<'_>) -> Result<Encoder, tokenizer::Error> {
        let mut encoder = Encoder {
            tokens: self.clone(),
            length,
            tokenizer: None,
        };
        if let Self::Tokenizer {
            path,
            blake3,
            ids,
            border,
        } = &mut encoder.tokens
        {
            let tokenizer = Tokenizer::read(Path::new(path), purpose)?;
            tokenizer.check(blake3.as_deref(), *ids)?;
            *path = TOKENIZER_FILE.to_owned();
            *blake3 = Some(tokenizer.blake3());
            *ids = Some(tokenizer.ids());
            *border = tokenizer.border();
            encoder.tokenizer = Some(tokenizer);
        }
        Ok(encoder)
    }
}

impl Encoder {
    /// As a card has them: of a tokenizer, by the hash of its file.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// How much greater ids are than a tokenizer's own.
    pub fn shift(&self) -> u32 {
        self.tokenizer.as_ref().map_or(0, Tokenizer::shift)
    }

    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The tokens, as [`Encoder::tokens`], and the bytes of the tokenizer's file.
    pub(crate) fn into_parts(self) -> (Tokens, Option<Vec<u8>>) {
        (self.tokens, self.tokenizer.map(Tokenizer::into_file))
    }

    /// The first ids of a text, as the numbers that models take; padding follows where there are fewer.
    ///
    /// # Errors
    ///
    /// A tokenizer has no tokens for it; the other kinds have some for all texts.
    pub fn encode(&self, text: &str) -> Result<Vec<f32>, EncodeError> {
        let mut ids = Vec::with_capacity(self.length);
        self.write(text, &mut ids)?;
        Ok(ids.into_iter().map(f32::from).collect())
    }

    /// The last ids of a text, which a language model goes on with, as the numbers that models take; padding follows where there
    /// are fewer. Of tokens that no language model is made of, the first ones.
    ///
    /// # Errors
    ///
    /// As [`Encoder::encode`].
    pub fn ending(&self, text: &str) -> Result<Vec<f32>, EncodeError> {
        let ids: Vec<u16> = match (&self.tokens, &self.tokenizer) {
            (Tokens::Bytes {}, _) => text.as_bytes().iter().map(id).collect(),
            (_, Some(tokenizer)) => tokenizer.whole(text).map_err(EncodeError::Tokenizer)?.ids,
            _ => return self.encode(text),
        };
        let last = &ids[ids.len().saturating_sub(self.length)..];
        let padding = std::iter::repeat_n(PADDING, self.length - last.len());
        Ok(last.iter().copied().chain(padding).map(f32::from).collect())
    }

    /// The ids of a file, as the numbers that models take: of its bytes, or of the text that it holds.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is no text where the tokens are those of a text; and as [`Encoder::encode`].
    pub fn encode_file(&self, file: &Path) -> Result<Vec<f32>, EncodeError> {
        if !self.tokens.of_files() {
            return self.encode(&std::fs::read_to_string(file)?);
        }
        let mut ids = Vec::with_capacity(self.length);
        self.write_file(file, &mut ids)?;
        Ok(ids.into_iter().map(f32::from).collect())
    }

    /// Appends the ids of a text and padding.
    pub(super) fn write(&self, text: &str, out: &mut Vec<u16>) -> Result<(), EncodeError> {
        let length = self.length;
        let end = out.len() + length;
        match &self.tokens {
            Tokens::CharactersHashed { ngrams, buckets } => {
                let text = text.to_lowercase();
                let ids = split(&text).flat_map(|word| of_characters(word, *ngrams, *buckets));
                out.extend(ids.take(length));
            }
            Tokens::WordsHashed { ngrams, buckets } => {
                let text = text.to_lowercase();
                out.extend(of_words(&text, *ngrams, *buckets).take(length));
            }
            Tokens::Bytes {} => out.extend(text.as_bytes().iter().map(id).take(length)),
            Tokens::FileBytes {} => {
                let bytes = text.as_bytes();
                let (first, last) = (bytes.len().min(END), bytes.len().saturating_sub(END));
                write_ends([&bytes[..first], &bytes[last..]], length, out);
            }
            Tokens::Tokenizer { .. } => {
                let tokenizer = self
                    .tokenizer
                    .as_ref()
                    .expect("Tokens::open has read a tokenizer");
                let ids = tokenizer.encode(text).map_err(EncodeError::Tokenizer)?;
                out.extend(ids.into_iter().take(length));
            }
        }
        out.resize(end, PADDING);
        Ok(())
    }

    /// Appends the ids of a file's bytes.
    pub(super) fn write_file(&self, file: &Path, out: &mut Vec<u16>) -> std::io::Result<()> {
        let [first, last] = read_ends(file)?;
        write_ends([&first, &last], self.length, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(tokens: &Tokens, text: &str, length: usize) -> Vec<f32> {
        let encoder = tokens.open(length).expect("nothing to read");
        assert_eq!(encoder.tokens(), tokens);
        encoder.encode(text).expect("ids")
    }

    #[test]
    fn texts_are_cut_and_filled_up_to_one_length() {
        assert_eq!(encode(&Tokens::Bytes {}, "ab", 4), [98.0, 99.0, 0.0, 0.0]);
        assert_eq!(encode(&Tokens::Bytes {}, "abc", 2), [98.0, 99.0]);
        let characters = Tokens::default();
        assert_eq!(encode(&characters, "", 3), [0.0; 3]);
        assert_eq!(encode(&characters, "Été", 50), encode(&characters, " été\n", 50));
    }

    #[test]
    fn of_a_file_both_ends_are_seen() {
        let folder = tempfile::TempDir::new().unwrap();
        let encoder = Tokens::FileBytes {}.open(7).unwrap();
        let ids = |content: &[u8]| {
            let file = folder.path().join("file");
            std::fs::write(&file, content).unwrap();
            let ids = encoder.encode_file(&file).unwrap();
            let text = std::str::from_utf8(content).unwrap();
            assert_eq!(ids, encoder.encode(text).unwrap());
            let byte = |&id: &f32| {
                if id == 0.0 {
                    '.'
                } else {
                    char::from((id - 1.0) as u8)
                }
            };
            ids.iter().map(byte).collect::<String>()
        };
        assert_eq!(ids(b"abcdefghij"), "abcdhij");
        assert_eq!(ids(b" \t\nab c\r\n\x0b\x0c"), "ab cb c");
        assert_eq!(ids(b" a "), "a ... a");
        assert_eq!(ids(b""), ".......");
        let long = [vec![b' '; END], vec![b'x'; 3 * END], vec![b'\n'; END]].concat();
        assert_eq!(ids(&long), ".......", "nothing but white space at both ends");
    }

    proptest! {
        #[test]
        fn any_text_gives_ids_within_the_vocabulary(text: String, length in 1usize..40, buckets in 1u32..=65_535) {
            let ngrams = [1, 4];
            for tokens in [
                Tokens::CharactersHashed { ngrams, buckets },
                Tokens::WordsHashed { ngrams, buckets },
                Tokens::Bytes {},
            ] {
                let ids = encode(&tokens, &text, length);
                prop_assert_eq!(ids.len(), length);
                let end = ids.iter().position(|&id| id == 0.0).unwrap_or(length);
                prop_assert!(ids[end..].iter().all(|&id| id == 0.0), "padding comes last");
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokens.vocabulary()));
            }
        }
    }
}
