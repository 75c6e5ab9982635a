//! Texts with labels, or lists of files, from JSON lines, tables or Parquet, as token ids.

mod encoder;
mod error;
mod next;
mod rows;
mod tokenizer;
mod tokens;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::encoder::{EncodeError, Encoder};
pub use self::error::Error;
pub use self::next::{Documents, Next};
use self::rows::{Kind, Reader, Row, quoted};
pub use self::tokenizer::{Error as TokenizerError, TOKENIZER_FILE};
pub(crate) use self::tokens::PADDING;
pub use self::tokens::Tokens;
use crate::classes::Classes;
use crate::dataset::Shape;
use crate::parquet;
use crate::quarantine::{BadRow, Intake};
use crate::split::{Samples, Set, UNLABELLED};
use crate::store::{Form, Writer};

/// Tokens of the longest samples that are let in: what a transformer makes of more fits no memory.
const MAX_LENGTH: u32 = 65_536;
/// Beside the file for training: the classes in their order, one a line, where a model that others trained knows more of them.
const CLASSES: &str = "classes.txt";
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
    /// Instead of labels, what comes next: a language model. The files are plain text then, and `length` is that of a
    /// window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            label: "label".to_owned(),
            tokens: Tokens::default(),
            length: 128,
            next: None,
        }
    }
}

impl TextConfig {
    /// That of a sample.
    fn shape(&self) -> Shape {
        Shape {
            channels: 1,
            height: 1,
            width: self.length as usize,
        }
    }

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
        if let Some(next) = &self.next {
            for (key, value, expected) in next.problems(self.length, &self.tokens) {
                problems.push((format!("next.{key}"), value, expected));
            }
            if !matches!(self.tokens, Tokens::Bytes {} | Tokens::Tokenizer { .. }) {
                let expected = "{ kind = \"bytes\" } or { kind = \"tokenizer\", path = \"...\" }, which text.next tells the \
                                next one of";
                problems.push((
                    "tokens".to_owned(),
                    format!("{:?}", self.tokens),
                    expected.to_owned(),
                ));
            }
        }
        problems
    }
}

/// Reads a folder, or one file whose test samples are chosen by a hash of the text. `more` names a file of texts without
/// labels.
pub(crate) fn load(
    config: &TextConfig,
    path: &Path,
    more: Option<&Path>,
    intake: &mut Intake,
) -> Result<(Set, Encoder), Error> {
    let length = config.length as usize;
    if let Some(next) = &config.next {
        let encoder = config.tokens.open_next(length, next.border.as_deref())?;
        return Ok((next::load(config, next, (path, &encoder), intake)?, encoder));
    }
    let encoder = config.tokens.open(length)?;
    let (train, test) = files(path)?;
    let mut builder = Builder::new(config, &encoder, intake.memory);
    let bad = &mut intake.bad;
    let (mut pool, mut held_out, mut unlabelled) =
        (Samples::default(), Samples::default(), Samples::default());
    let known = class_list(&train[0])?;
    let is_open = known.is_none();
    let mut classes = Classes::new(known.into_iter().flatten());
    for file in &train {
        let reading = reader(file, config);
        reading.read(Kind::of(file, &Kind::LABELLED)?, bad, |row| {
            let Some(label) = &row.label else {
                return builder.push(&reading, &row, UNLABELLED, &mut unlabelled);
            };
            let class = match classes.get(label) {
                Some(class) => class,
                None if is_open => classes.learn(label.clone()),
                None => {
                    let expected = format!("one of the {} names in {CLASSES}", classes.len());
                    return Err(reading.bad(row.place, &config.label, quoted(label), expected));
                }
            };
            let testing = test.is_empty() && is_test(&row.text);
            let part = if testing { &mut held_out } else { &mut pool };
            builder.push(&reading, &row, class, part)
        })?;
    }
    if pool.labels.is_empty() && held_out.labels.is_empty() {
        let expected = format!("some line with {:?}", config.label);
        return Err(empty(&train[0], "no label", expected));
    }
    if is_open {
        classes.sort(pool.labels.iter_mut().chain(&mut held_out.labels));
    }
    for file in &test {
        let reading = reader(file, config);
        reading.read(Kind::of(file, &Kind::LABELLED)?, bad, |row| {
            let label = row.label.as_deref();
            let class = label.and_then(|label| classes.get(label)).ok_or_else(|| {
                let value = label.map_or("absent".to_owned(), quoted);
                let expected = format!("one of the {} labels of {}", classes.len(), train[0].display());
                reading.bad(row.place, &config.label, value, expected)
            })?;
            builder.push(&reading, &row, class, &mut held_out)
        })?;
    }
    if held_out.labels.is_empty() {
        let file = test.first().unwrap_or(&train[0]);
        return Err(empty(file, "no test sample", "some".to_owned()));
    }
    if let Some(more) = more {
        let reader = Reader {
            unlabelled: true,
            ..reader(more, config)
        };
        reader.read(Kind::of(more, &Kind::ALL)?, bad, |row| {
            builder.push(&reader, &row, UNLABELLED, &mut unlabelled)
        })?;
    }
    let set = Set {
        shape: config.shape(),
        class_names: classes.into_names(),
        store: builder.store.finish()?,
        pool,
        test: held_out,
        unlabelled,
        files: Vec::new(),
    };
    Ok((set, encoder))
}

/// The names of all classes, if a file beside that for training has them.
fn class_list(train: &Path) -> Result<Option<Vec<String>>, Error> {
    let file = train.with_file_name(CLASSES);
    if !file.is_file() {
        return Ok(None);
    }
    let read = std::fs::read_to_string(&file);
    let text = read.map_err(|source| Error::Read {
        file: file.clone(),
        source,
    })?;
    let names: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    let mut seen = BTreeSet::new();
    let twice = (1u64..)
        .zip(&names)
        .find(|(_, name)| name.is_empty() || !seen.insert(*name));
    match twice {
        None => Ok(Some(names)),
        Some((line, name)) => Err(Error::Line {
            file,
            line,
            column: "line".to_owned(),
            value: quoted(name),
            expected: "the name of a class, each once".to_owned(),
        }),
    }
}

/// The file for training and that for testing, or several where Parquet was cut into shards. There may be none for testing.
fn files(path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    if path.is_file() {
        return Ok((vec![path.to_owned()], Vec::new()));
    }
    let there = |name: &str| -> Vec<Vec<PathBuf>> {
        let lines = Kind::LABELLED.iter().filter(|(_, kind)| *kind != Kind::Parquet);
        let files = lines.map(|(ending, _)| path.join(format!("{name}.{ending}")));
        let one = files.filter(|file| file.is_file()).map(|file| vec![file]);
        let shards = parquet::shards(path, name);
        one.chain((!shards.is_empty()).then_some(shards)).collect()
    };
    let (mut train, mut test) = (there("train"), there("test"));
    if train.len() != 1 || test.len() > 1 {
        let names = train
            .iter()
            .chain(&test)
            .flatten()
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
    Ok((train.remove(0), test.pop().unwrap_or_default()))
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

/// Makes samples of rows.
struct Builder<'a> {
    config: &'a TextConfig,
    encoder: &'a Encoder,
    store: Writer,
    /// Of one sample.
    ids: Vec<u16>,
}

impl<'a> Builder<'a> {
    fn new(config: &'a TextConfig, encoder: &'a Encoder, memory: u64) -> Self {
        Self {
            config,
            encoder,
            store: Writer::new(Form::Tokens, config.length as usize, memory),
            ids: Vec::new(),
        }
    }

    fn push(&mut self, reader: &Reader<'_>, row: &Row, label: u32, to: &mut Samples) -> Result<(), BadRow> {
        let bad = |expected: String| reader.bad(row.place, &self.config.text, quoted(&row.text), expected);
        self.ids.clear();
        if self.config.tokens.of_files() {
            let listed = reader.file.parent().unwrap_or(Path::new("")).join(&row.text);
            let written = self.encoder.write_file(&listed, &mut self.ids);
            written.map_err(|source| {
                bad(format!(
                    "a file that can be read, {} is not: {source}",
                    listed.display()
                ))
            })?;
        } else {
            let written = self.encoder.write(&row.text, &mut self.ids);
            written.map_err(|error| bad(format!("a text of tokens that are known: {error}")))?;
        }
        to.push(self.store.push_tokens(&self.ids), label);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
