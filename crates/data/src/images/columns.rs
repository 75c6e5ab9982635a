//! Parquet files with a column of images and one of labels.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use super::{Error, POOL, REST, Reader, TEST, decode};
use crate::classes::Classes;
use crate::parquet::{self, Columns, Content, Label};
use crate::quarantine::{BadRow, Place, Quarantine, with_sources};
use crate::split::{Samples, UNLABELLED};

/// Keys the choice of test samples where there is no file of them; a constant, so that all runs share their parts.
const TEST_KEY: &str = "retort image test split v1";
/// Of five samples one is for testing.
const TEST_SHARE: u64 = 5;

/// Files for training, and those for testing if there are any.
pub(super) struct Files {
    train: Vec<PathBuf>,
    test: Vec<PathBuf>,
}

/// `train.parquet` and `test.parquet` of a folder, or their shards, or one file; `None` where there is no Parquet.
pub(super) fn files(path: &Path) -> Option<Files> {
    let (train, test) = match parquet::is(path) {
        true => (vec![path.to_owned()], Vec::new()),
        false => (parquet::shards(path, "train"), parquet::shards(path, "test")),
    };
    (!train.is_empty()).then_some(Files { train, test })
}

/// Names of the classes, which are the distinct labels, numbers in their order; and the samples. Without a file for
/// testing a hash of the image chooses.
pub(super) fn read(
    files: &Files,
    reader: &mut Reader<'_>,
    bad: &mut Quarantine,
) -> Result<(Vec<String>, [Samples; 3]), Error> {
    let mut classes: Classes<Label> = Classes::new([]);
    let mut parts = <[Samples; 3]>::default();
    for file in &files.train {
        each(
            file,
            false,
            (&mut *reader, &mut parts, &mut *bad),
            |image, label| {
                let Some(label) = label else {
                    return Ok((UNLABELLED, REST));
                };
                let testing = files.test.is_empty() && is_test(image);
                Ok((classes.learn(label), if testing { TEST } else { POOL }))
            },
        )?;
    }
    let [pool, test, _] = &mut parts;
    classes.sort(pool.labels.iter_mut().chain(&mut test.labels));
    for file in &files.test {
        each(file, false, (&mut *reader, &mut parts, &mut *bad), |_, label| {
            let class = label.as_ref().and_then(|label| classes.get(label));
            let value = label.map_or("null".to_owned(), |label| format!("{:?}", label.to_string()));
            let expected = || {
                format!(
                    "{value}: expected one of the {} labels for training",
                    classes.len()
                )
            };
            Ok((class.ok_or_else(expected)?, TEST))
        })?;
    }
    let names = classes.into_names();
    Ok((names.iter().map(Label::to_string).collect(), parts))
}

/// Reads a file, whose labels are no matter.
pub(super) fn unlabelled(
    file: &Path,
    reader: &mut Reader<'_>,
    parts: &mut [Samples; 3],
    bad: &mut Quarantine,
) -> Result<(), Error> {
    each(file, true, (reader, parts, bad), |_, _| Ok((UNLABELLED, REST)))
}

/// Appends every image as `place` says, by its number and part; or what is wrong with its label.
fn each(
    file: &Path,
    unlabelled: bool,
    (reader, parts, bad): (&mut Reader<'_>, &mut [Samples; 3], &mut Quarantine),
    mut place: impl FnMut(&[u8], Option<Label>) -> Result<(u32, usize), String>,
) -> Result<(), Error> {
    let images = reader.images;
    let columns = Columns {
        content: &images.image,
        kind: Content::Bytes,
        label: &images.label,
        unlabelled,
    };
    parquet::read(file, &columns, |row| {
        let image = row
            .content
            .ok_or_else(|| format!("{} = null: expected an image", images.image));
        let read = image.and_then(|image| {
            let (label, part) = place(image, row.label).map_err(|e| format!("{} = {e}", images.label))?;
            let image = decode(Cursor::new(image));
            let appended = image.and_then(|image| reader.append(image, label, &mut parts[part]));
            appended.map_err(|fault| with_sources(&fault))
        });
        match read {
            Ok(()) => bad.good(),
            Err(reason) => bad.leave_out(BadRow {
                file: file.to_owned(),
                place: Place::Row(row.number),
                reason,
            })?,
        }
        Ok(())
    })
}

/// Equal images come into the same part.
fn is_test(image: &[u8]) -> bool {
    let hash = blake3::derive_key(TEST_KEY, image);
    let (words, _) = hash.as_chunks::<8>();
    u64::from_le_bytes(words[0]) < u64::MAX / TEST_SHARE
}
