//! Language modelling: windows of a text are samples, and what follows each token is its target.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tokens::{PADDING, id};
use super::{Error, TextConfig};
use crate::quarantine::Intake;
use crate::split::{NO_TARGET, Samples, Set};
use crate::store::{Form, Writer};

/// Of one file, the last part is for testing: one in so many bytes.
const TEST_SHARE: usize = 5;
/// Windows that overlap and follow each other in the text come into the same part, training or validation, by so many, since
/// they have most of their tokens in common.
const PAGE: u32 = 256;
/// The byte whose id stands between documents.
const BORDER: u8 = 0;

/// The `[dataset.text.next]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Next {
    /// How many positions of a window have a target, the last ones. Unset: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<u32>,
    /// Tokens from a window to the next. Unset: as many as have targets, so that each token of the text is one once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<u32>,
    /// Where a text is cut into documents. They are packed into windows one behind another, and none is seen from another.
    /// Unset: a file is one document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<Documents>,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Documents {
    /// A line that is not blank, without its end.
    Lines,
    /// Lines between blank ones.
    Paragraphs,
}

impl Next {
    /// Positions of a window of this length that have a target.
    fn targets(&self, length: u32) -> u32 {
        self.targets.unwrap_or(length)
    }

    /// Key, value, what is expected.
    pub(super) fn problems(&self, length: u32) -> Vec<(&'static str, String, String)> {
        let mut problems = Vec::new();
        let targets = self.targets(length);
        if !(1..=length.max(1)).contains(&targets) {
            let expected = format!("1..={length}, the positions of a window (text.length)");
            problems.push(("targets", targets.to_string(), expected));
        }
        if self.stride == Some(0) {
            problems.push(("stride", "0".to_owned(), "at least 1 token".to_owned()));
        }
        problems
    }
}

/// Reads `train.txt` and `test.txt` of a folder, or one file whose end becomes the test. Classes are the bytes that the text
/// has, in ascending order, before them the border where there are documents.
pub(super) fn load(config: &TextConfig, next: &Next, path: &Path, intake: &Intake) -> Result<Set, Error> {
    let read = |file: &Path| {
        let text = std::fs::read(file).map_err(|source| Error::Read {
            file: file.to_owned(),
            source,
        })?;
        match next.documents {
            Some(_) => refuse_borders(file, &text).map(|()| text),
            None => Ok(text),
        }
    };
    let files = match path.is_dir() {
        true => ["train.txt", "test.txt"].map(|name| path.join(name)),
        false => [path, path].map(Path::to_owned),
    };
    let mut train = read(&files[0])?;
    let mut test = match path.is_dir() {
        true => read(&files[1])?,
        false => train.split_off(train.len() - train.len() / TEST_SHARE),
    };
    if let Some(documents) = next.documents {
        (train, test) = (packed(&train, documents), packed(&test, documents));
    }
    let mut there = [false; 256];
    for &byte in train.iter().chain(&test) {
        there[usize::from(byte)] = true;
    }
    let classes: Vec<u8> = (0..=u8::MAX).filter(|&byte| there[usize::from(byte)]).collect();
    let targets = next.targets(config.length);
    let stride = next.stride.unwrap_or(targets);
    let mut windows = Windows {
        length: config.length as usize,
        targets: targets as usize,
        stride: stride as usize,
        classes: &classes,
        store: Writer::new(Form::Tokens, config.length as usize, intake.memory),
    };
    let (pool, held_out) = (windows.samples(&train), windows.samples(&test));
    for (file, samples) in files.into_iter().zip([&pool, &held_out]) {
        let (samples, length) = (samples.labels.len() / targets as usize, config.length);
        if samples == 0 || samples > u32::MAX as usize / 2 {
            return Err(Error::Length {
                file,
                samples,
                length,
            });
        }
    }
    let name = |&byte: &u8| match byte {
        BORDER if next.documents.is_some() => "end".to_owned(),
        b' ' => "space".to_owned(),
        _ if byte.is_ascii() => byte.escape_ascii().to_string(),
        _ => format!("byte {byte:02x}"),
    };
    let overlap = stride < config.length;
    Ok(Set {
        shape: config.shape(),
        class_names: classes.iter().map(name).collect(),
        store: windows.store.finish()?,
        files: (0..pool.len())
            .filter(|_| overlap)
            .map(|sample| sample / PAGE)
            .collect(),
        unlabelled: Samples::default(),
        pool,
        test: held_out,
    })
}

/// A text may not have what is put between its documents.
fn refuse_borders(file: &Path, text: &[u8]) -> Result<(), Error> {
    let Some(at) = text.iter().position(|&byte| byte == BORDER) else {
        return Ok(());
    };
    let before = text[..at].iter().filter(|&&byte| byte == b'\n');
    Err(Error::Line {
        file: file.to_owned(),
        line: before.count() as u64 + 1,
        column: "byte".to_owned(),
        value: BORDER.to_string(),
        expected: "a text without byte 0, which text.next.documents puts between documents".to_owned(),
    })
}

/// The documents of a text, a border before each and one behind the last.
fn packed(text: &[u8], documents: Documents) -> Vec<u8> {
    let lines = text.split(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut out = vec![BORDER];
    for line in lines {
        let blank = line.iter().all(u8::is_ascii_whitespace);
        let begins = out.ends_with(&[BORDER]);
        match documents {
            Documents::Lines if !blank => {
                out.extend_from_slice(line);
                out.push(BORDER);
            }
            Documents::Paragraphs if !blank => {
                if !begins {
                    out.push(b'\n');
                }
                out.extend_from_slice(line);
            }
            Documents::Paragraphs if !begins => out.push(BORDER),
            Documents::Lines | Documents::Paragraphs => {}
        }
    }
    if !out.ends_with(&[BORDER]) {
        out.push(BORDER);
    }
    out
}

/// What makes samples of a text.
struct Windows<'a> {
    length: usize,
    /// The last positions of a window, which have one.
    targets: usize,
    stride: usize,
    classes: &'a [u8],
    store: Writer,
}

impl Windows<'_> {
    /// Every `stride` bytes a window that has a target; the target of a position is the byte behind it. The last window may
    /// reach beyond the text: padding follows.
    fn samples(&mut self, text: &[u8]) -> Samples {
        let first = self.length - self.targets;
        let starts = (0..text.len().saturating_sub(first + 1)).step_by(self.stride);
        let mut samples = Samples::default();
        let mut ids = Vec::with_capacity(self.length);
        for start in starts {
            let rest = &text[start..];
            // The last byte is a target only.
            let shown = (rest.len() - 1).min(self.length);
            ids.clear();
            ids.extend(rest[..shown].iter().map(id));
            ids.resize(self.length, PADDING);
            let labels = (first..self.length).map(|position| match rest.get(position + 1) {
                Some(byte) => self.classes.binary_search(byte).unwrap_or_default() as u32,
                None => NO_TARGET,
            });
            samples.push_all(self.store.push_tokens(&ids), labels);
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a text: samples, and the ids of their windows one after the other.
    fn windows(text: &[u8], targets: usize, stride: usize) -> (Samples, Vec<u16>) {
        const LENGTH: usize = 4;
        let mut windows = Windows {
            length: LENGTH,
            targets,
            stride,
            classes: b"abcdef",
            store: Writer::new(Form::Tokens, LENGTH, u64::MAX),
        };
        let samples = windows.samples(text);
        let store = windows.store.finish().unwrap();
        let mut ids = Vec::new();
        for &row in &samples.rows {
            let mut window = [0.0; LENGTH];
            store.read(row, &mut window);
            ids.extend(window.map(|id| id as u16));
        }
        (samples, ids)
    }

    #[test]
    fn every_byte_but_the_first_is_the_target_of_the_one_before_it() {
        let (samples, ids) = windows(b"abcdefabc", 4, 4);
        let id = |byte: u8| u16::from(byte) + 1;
        assert_eq!((samples.len(), samples.targets_each()), (2, 4));
        assert_eq!(ids, b"abcdefab".map(id));
        assert_eq!(samples.labels, [1, 2, 3, 4, 5, 0, 1, 2]);
    }

    #[test]
    fn behind_the_end_is_padding_without_a_target() {
        let (samples, ids) = windows(b"abcdefa", 4, 4);
        assert_eq!((samples.len(), samples.targets_each()), (2, 4));
        let id = |byte: u8| u16::from(byte) + 1;
        assert_eq!(ids[4..], [id(b'e'), id(b'f'), PADDING, PADDING]);
        assert_eq!(samples.labels[4..], [5, 0, NO_TARGET, NO_TARGET]);
        assert_eq!(samples.labelled(), 2);
        let targets: Vec<(usize, u32)> = samples.targets(1).collect();
        assert_eq!(targets, [(0, 5), (1, 0)]);
        assert_eq!(windows(b"abcde", 4, 4).0.len(), 1, "no window without a target");
        assert_eq!(windows(b"a", 4, 4).0.len(), 0);
    }

    #[test]
    fn one_target_is_what_follows_the_window() {
        let (samples, ids) = windows(b"abcdefab", 1, 3);
        assert_eq!((samples.len(), samples.targets_each()), (2, 1));
        assert_eq!(samples.labels, [4, 1]);
        let id = |byte: u8| u16::from(byte) + 1;
        assert_eq!(ids, b"abcddefa".map(id));
    }

    #[test]
    fn documents_stand_between_borders() {
        let text = b"\n one\ntwo \r\n \n\n three\n";
        assert_eq!(packed(text, Documents::Lines), b"\0 one\0two \0 three\0");
        assert_eq!(packed(text, Documents::Paragraphs), b"\0 one\ntwo \0 three\0");
        assert_eq!(packed(b"\n", Documents::Lines), b"\0");
    }
}
