//! A tokenizer by the crate `tokenizers`.

use std::path::Path;

use tokenizers::{PostProcessor, TruncationDirection};

use super::{Error, Whole};
use crate::text::tokens::PADDING;

/// Names of padding tokens in files that do not say how to pad.
const PADDING_TOKENS: [&str; 2] = ["[PAD]", "<pad>"];

#[derive(Debug)]
pub(super) struct Reader {
    tokenizer: tokenizers::Tokenizer,
    /// Its own id of the padding token, if it has one.
    padding: Option<u32>,
    /// Added to its own ids.
    shift: u32,
    /// Number of ids, padding included.
    ids: u32,
    /// Tokens of a text without the special ones, at most.
    room: usize,
    direction: TruncationDirection,
}

impl Reader {
    /// `length`: ids of a sample, special tokens included; `None` of whole texts, in which names of special tokens are text.
    pub(super) fn new(path: &Path, file: &[u8], length: Option<usize>) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Format {
            file: path.to_owned(),
            reason,
        };
        let mut tokenizer =
            tokenizers::Tokenizer::from_bytes(file).map_err(|error| wrong(error.to_string()))?;
        let padding = padding(&tokenizer);
        let direction = tokenizer
            .get_truncation()
            .map_or(TruncationDirection::Right, |truncation| truncation.direction);
        // Samples have a length of their own.
        tokenizer
            .with_padding(None)
            .with_truncation(None)
            .map_err(|error| wrong(error.to_string()))?;
        tokenizer.set_encode_special_tokens(length.is_none());
        let last = tokenizer.get_vocab(true).into_values().max();
        let last = last.ok_or_else(|| wrong("its vocabulary is empty".to_owned()))?;
        let shift = u32::from(padding != Some(u32::from(PADDING)));
        let most = u32::from(u16::MAX) - shift;
        let other = |key, found: String, expected: String| Error::Other {
            file: path.to_owned(),
            key,
            found,
            expected,
        };
        if last > most {
            let expected = format!("at most {most}, ids have 16 bits");
            return Err(other("its greatest id", last.to_string(), expected));
        }
        let special = tokenizer
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(false));
        if let Some(length) = length.filter(|length| *length <= special) {
            let expected = format!("at least {}: it adds {special} special tokens", special + 1);
            return Err(other("length", length.to_string(), expected));
        }
        Ok(Self {
            tokenizer,
            padding,
            shift,
            ids: last + shift + 1,
            room: length.map_or(0, |length| length - special),
            direction,
        })
    }

    pub(super) fn ids(&self) -> u32 {
        self.ids
    }

    pub(super) fn shift(&self) -> u32 {
        self.shift
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u16>, String> {
        let reason = |error: tokenizers::Error| error.to_string();
        let mut encoding = self.tokenizer.encode_fast(text, false).map_err(reason)?;
        encoding.truncate(self.room, 0, self.direction);
        let encoding = self
            .tokenizer
            .post_process(encoding, None, true)
            .map_err(reason)?;
        Ok(encoding.get_ids().iter().map(|id| self.id(*id)).collect())
    }

    /// All ids of a text, without special tokens.
    pub(super) fn whole(&self, text: &str) -> Result<Whole, String> {
        let encoding = self.tokenizer.encode(text, false);
        let encoding = encoding.map_err(|error| error.to_string())?;
        let ids = encoding.get_ids().iter().map(|id| self.id(*id)).collect();
        // Tokens that are parts of one character have the offsets of the character.
        let mut ends: Vec<usize> = encoding.get_offsets().iter().map(|(_, end)| *end).collect();
        let mut before = 0;
        for end in &mut ends {
            before = before.max(*end);
            *end = before;
        }
        if let Some(last) = ends.last_mut() {
            *last = text.len();
        }
        Ok(Whole { ids, ends })
    }

    /// The text of ids, as far as they tell it.
    pub(super) fn text(&self, ids: &[u16]) -> Result<String, String> {
        let own: Vec<u32> = ids.iter().filter_map(|id| self.own(*id)).collect();
        self.tokenizer
            .decode(&own, false)
            .map_err(|error| error.to_string())
    }

    /// The id of a token as models see it; `None` of padding.
    pub(super) fn token(&self, name: &str) -> Option<u32> {
        let id = self.tokenizer.token_to_id(name)?;
        (Some(id) != self.padding).then_some(id + self.shift)
    }

    /// The same, of special tokens only.
    pub(super) fn special_token(&self, name: &str) -> Option<u32> {
        let added = self.tokenizer.get_added_tokens_decoder();
        let special = added.values().any(|token| token.special && token.content == name);
        special.then(|| self.token(name)).flatten()
    }

    pub(super) fn name(&self, id: u16) -> Option<String> {
        self.tokenizer.id_to_token(self.own(id)?)
    }

    /// As models see it.
    fn id(&self, own: u32) -> u16 {
        if Some(own) == self.padding {
            return PADDING;
        }
        u16::try_from(own + self.shift).expect("ids of the vocabulary have 16 bits, Reader::new checked")
    }

    /// The tokenizer's own; `None` of padding.
    fn own(&self, id: u16) -> Option<u32> {
        (id != PADDING).then(|| u32::from(id) - self.shift)
    }
}

/// What it pads with; if it does not say, its special token of a usual name.
fn padding(tokenizer: &tokenizers::Tokenizer) -> Option<u32> {
    if let Some(padding) = tokenizer.get_padding() {
        return Some(padding.pad_id);
    }
    let added = tokenizer.get_added_tokens_decoder();
    let named = added
        .iter()
        .filter(|(_, token)| token.special && PADDING_TOKENS.contains(&token.content.as_str()));
    named.map(|(&id, _)| id).min()
}
