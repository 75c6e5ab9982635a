//! Language modelling: the places of a text are samples, and the byte that follows is the label.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tokens::id;
use super::{Error, TextConfig};
use crate::quarantine::Intake;
use crate::split::{Samples, Set};
use crate::store::{Form, Writer};

/// Of one file, the last part is for testing: one in so many bytes.
const TEST_SHARE: usize = 5;
/// Samples that follow each other in the text and come into the same part, training or validation, since they have most of
/// their bytes in common.
const PAGE: u32 = 256;

/// The `[dataset.text.next]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Next {
    /// Bytes from a sample to the next.
    pub stride: u32,
}

impl Default for Next {
    fn default() -> Self {
        Self { stride: 1 }
    }
}

/// Reads `train.txt` and `test.txt` of a folder, or one file whose end becomes the test. Classes are the bytes that the text
/// has, in ascending order.
pub(super) fn load(config: &TextConfig, next: &Next, path: &Path, intake: &Intake) -> Result<Set, Error> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|source| Error::Read {
            file: file.to_owned(),
            source,
        })
    };
    let (train, test) = if path.is_dir() {
        (read(&path.join("train.txt"))?, read(&path.join("test.txt"))?)
    } else {
        let mut train = read(path)?;
        let test = train.split_off(train.len() - train.len() / TEST_SHARE);
        (train, test)
    };
    let mut there = [false; 256];
    for &byte in train.iter().chain(&test) {
        there[usize::from(byte)] = true;
    }
    let classes: Vec<u8> = (0..=u8::MAX).filter(|&byte| there[usize::from(byte)]).collect();
    let mut windows = Windows {
        length: config.length as usize,
        stride: next.stride as usize,
        classes: &classes,
        store: Writer::new(Form::Tokens, config.length as usize, intake.memory),
    };
    let (pool, held_out) = (windows.samples(&train), windows.samples(&test));
    for (name, samples) in [("train.txt", &pool), ("test.txt", &held_out)] {
        if samples.labels.is_empty() || samples.labels.len() > u32::MAX as usize / 2 {
            return Err(Error::Length {
                file: if path.is_dir() {
                    path.join(name)
                } else {
                    path.to_owned()
                },
                samples: samples.labels.len(),
                length: config.length,
            });
        }
    }
    let name = |&byte: &u8| match byte {
        b' ' => "space".to_owned(),
        _ if byte.is_ascii() => byte.escape_ascii().to_string(),
        _ => format!("byte {byte:02x}"),
    };
    Ok(Set {
        shape: config.shape(),
        class_names: classes.iter().map(name).collect(),
        store: windows.store.finish()?,
        files: (0..pool.len()).map(|sample| sample / PAGE).collect(),
        unlabelled: Samples::default(),
        pool,
        test: held_out,
    })
}

/// What makes samples of a text.
struct Windows<'a> {
    length: usize,
    stride: usize,
    classes: &'a [u8],
    store: Writer,
}

impl Windows<'_> {
    /// Every `stride` bytes one: `length` bytes, and the one behind them.
    fn samples(&mut self, text: &[u8]) -> Samples {
        let mut samples = Samples::default();
        let mut ids = Vec::with_capacity(self.length);
        for place in (self.length..text.len()).step_by(self.stride) {
            ids.clear();
            ids.extend(text[place - self.length..place].iter().map(id));
            let label = self.classes.binary_search(&text[place]).unwrap_or_default();
            samples.push(self.store.push_tokens(&ids), label as u32);
        }
        samples
    }
}
