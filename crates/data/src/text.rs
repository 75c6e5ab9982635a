//! Texts with labels, from JSON lines or tables, as token ids.

mod error;
mod rows;
mod tokens;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::error::Error;
use self::rows::{Kind, Reader, Row, quoted};
pub(crate) use self::tokens::PADDING;
pub use self::tokens::Tokens;
use crate::split::{Pixels, Samples, UNLABELLED};

/// Tokens of the longest samples that are let in: what a transformer makes of more fits no memory.
const MAX_LENGTH: u32 = 65_536;
/// Keys the choice of test samples where there is no file of them; a constant, so that all runs share their parts.
const TEST_KEY: &str = "retort text test split v1";
/// Of five samples one is for testing.
const TEST_SHARE: u64 = 5;

/// The `[dataset.text]` table: how files of texts are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Field or column of the text.
    pub text: String,
    /// Field or column of the label. One that is absent, null or empty is no label.
    pub label: String,
    /// What texts are cut into.
    pub tokens: Tokens,
    /// Tokens of a sample: longer ones are cut, shorter ones filled up with padding.
    pub length: u32,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            label: "label".to_owned(),
            tokens: Tokens::default(),
            length: 128,
        }
    }
}

impl TextConfig {
    /// Key within the table, value, what is expected.
    pub(crate) fn problems(&self) -> Vec<(String, String, String)> {
        let mut problems = Vec::new();
        for (key, value) in [("text", &self.text), ("label", &self.label)] {
            if value.is_empty() {
                let expected = "the name of a field or column".to_owned();
                problems.push((key.to_owned(), "\"\"".to_owned(), expected));
            }
        }
        if self.text == self.label {
            let expected = format!("another field or column than that of the text, {:?}", self.text);
            problems.push(("label".to_owned(), format!("{:?}", self.label), expected));
        }
        for (key, value, expected) in self.tokens.problems() {
            problems.push((format!("tokens.{key}"), value, expected));
        }
        if !(1..=MAX_LENGTH).contains(&self.length) {
            let expected = format!("1..={MAX_LENGTH} tokens");
            problems.push(("length".to_owned(), self.length.to_string(), expected));
        }
        problems
    }
}

/// A data set of texts.
pub(crate) struct Texts {
    pub(crate) class_names: Vec<String>,
    pub(crate) pool: Samples,
    pub(crate) test: Samples,
    /// Further training samples, which have no label.
    pub(crate) unlabelled: Samples,
}

/// Reads a folder, or one file whose test samples are chosen by a hash of the text. `more` names a file of texts without
/// labels.
pub(crate) fn load(config: &TextConfig, path: &Path, more: Option<&Path>) -> Result<Texts, Error> {
    let (train, test) = files(path)?;
    let (mut pool, mut held_out, mut unlabelled) =
        (Builder::new(config), Builder::new(config), Builder::new(config));
    // By order of appearance.
    let mut found = BTreeMap::new();
    reader(&train, config).read(Kind::of(&train, &Kind::LABELLED)?, |row| {
        let Some(label) = row.label else {
            unlabelled.push(&row.text, UNLABELLED);
            return Ok(());
        };
        let next = found.len() as u32;
        let class = *found.entry(label).or_insert(next);
        let testing = test.is_none() && is_test(&row.text);
        let part = if testing { &mut held_out } else { &mut pool };
        part.push(&row.text, class);
        Ok(())
    })?;
    if found.is_empty() {
        let expected = format!("some line with {:?}", config.label);
        return Err(empty(&train, "no label", expected));
    }
    let mut classes = vec![0; found.len()];
    for (class, &appeared) in (0u32..).zip(found.values()) {
        classes[appeared as usize] = class;
    }
    for label in pool.labels.iter_mut().chain(&mut held_out.labels) {
        *label = classes[*label as usize];
    }
    let class_names: Vec<String> = found.into_keys().collect();
    if let Some(test) = &test {
        let kind = Kind::of(test, &Kind::LABELLED)?;
        let reader = reader(test, config);
        reader.read(kind, |Row { line, text, label }| {
            let known = |label: &str| class_names.binary_search_by(|name| name.as_str().cmp(label)).ok();
            let class = label.as_deref().and_then(known).ok_or_else(|| {
                let value = label.as_deref().map_or("absent".to_owned(), quoted);
                let expected = format!("one of the {} labels of {}", class_names.len(), train.display());
                reader.wrong(line, &config.label, value, expected)
            })?;
            held_out.push(&text, class as u32);
            Ok(())
        })?;
    }
    if held_out.labels.is_empty() {
        let file = test.as_deref().unwrap_or(&train);
        return Err(empty(file, "no test sample", "some".to_owned()));
    }
    if let Some(more) = more {
        let reader = Reader {
            unlabelled: true,
            ..reader(more, config)
        };
        reader.read(Kind::of(more, &Kind::ALL)?, |row| {
            unlabelled.push(&row.text, UNLABELLED);
            Ok(())
        })?;
    }
    Ok(Texts {
        pool: pool.samples(),
        test: held_out.samples(),
        unlabelled: unlabelled.samples(),
        class_names,
    })
}

/// The file for training, and that for testing if there is one.
fn files(path: &Path) -> Result<(PathBuf, Option<PathBuf>), Error> {
    if path.is_file() {
        return Ok((path.to_owned(), None));
    }
    let there = |name: &str| -> Vec<PathBuf> {
        let files = Kind::LABELLED
            .iter()
            .map(|(ending, _)| path.join(format!("{name}.{ending}")));
        files.filter(|file| file.is_file()).collect()
    };
    let (mut train, mut test) = (there("train"), there("test"));
    if train.len() != 1 || test.len() > 1 {
        let names = train
            .iter()
            .chain(&test)
            .filter_map(|file| file.file_name()?.to_str());
        let found = names.collect::<Vec<_>>().join(", ");
        return Err(Error::Folder {
            folder: path.to_owned(),
            found: if found.is_empty() {
                "none".to_owned()
            } else {
                found
            },
        });
    }
    Ok((train.remove(0), test.pop()))
}

fn reader<'a>(file: &'a Path, config: &'a TextConfig) -> Reader<'a> {
    Reader {
        file,
        config,
        unlabelled: false,
    }
}

fn empty(file: &Path, found: &'static str, expected: String) -> Error {
    let file = file.to_owned();
    Error::Empty {
        file,
        found,
        expected,
    }
}

/// Equal texts come into the same part.
fn is_test(text: &str) -> bool {
    let hash = blake3::derive_key(TEST_KEY, text.as_bytes());
    let (words, _) = hash.as_chunks::<8>();
    u64::from_le_bytes(words[0]) < u64::MAX / TEST_SHARE
}

/// Samples as they come in.
struct Builder<'a> {
    config: &'a TextConfig,
    ids: Vec<u16>,
    labels: Vec<u32>,
}

impl<'a> Builder<'a> {
    fn new(config: &'a TextConfig) -> Self {
        Self {
            config,
            ids: Vec::new(),
            labels: Vec::new(),
        }
    }

    fn push(&mut self, text: &str, label: u32) {
        self.config
            .tokens
            .write(text, self.config.length as usize, &mut self.ids);
        self.labels.push(label);
    }

    fn samples(self) -> Samples {
        Samples {
            values: self.config.length as usize,
            pixels: Pixels::Tokens(self.ids),
            labels: self.labels,
        }
    }
}

#[cfg(test)]
mod tests;
