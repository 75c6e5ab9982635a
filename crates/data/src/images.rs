//! Images: folders of files, or columns of them.

mod columns;

use std::io::{BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageError, ImageReader};
use serde::{Deserialize, Serialize};

use crate::config::ConfigProblem;
use crate::dataset::Shape;
use crate::folder::{self, File};
use crate::parquet;
use crate::quarantine::{Intake, Quarantine, TooMany, with_sources};
use crate::split::{Samples, Set};
use crate::store::{self, Form, Writer};

/// How the files end that are read.
const ENDINGS: &[&str] = &["png", "jpg", "jpeg", "pgm", "ppm"];
/// The value of full brightness.
const WHITE: u8 = 255;
/// Of a side: what is larger fits no network of ours.
const MOST: u32 = 1_024;

/// The `[dataset.images]` table: how files become samples of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// Rows (1..=1,024). Unset, like the width: those of the first image, which all the others must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Columns (1..=1,024). What has another size is scaled to it, whatever its proportions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// One channel, of brightness, instead of red, green and blue.
    pub grey: bool,
    /// Of Parquet: the column of the image files.
    pub image: String,
    /// Of Parquet: the column of the label. Null, or an empty string, is no label.
    pub label: String,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            height: None,
            width: None,
            grey: false,
            image: "image".to_owned(),
            label: "label".to_owned(),
        }
    }
}

/// What is wrong with a set of images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder has no classes, or a class no files.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// A Parquet file cannot be read, or has other columns.
    #[error(transparent)]
    Parquet(#[from] parquet::Error),
    /// There is nothing to train with, or to test with.
    #[error("{path} holds no image with a label for {part}")]
    Empty {
        /// The folder or file.
        path: PathBuf,
        /// `training` or `testing`.
        part: &'static str,
    },
    /// A file by itself cannot be used.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no room for the samples.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// More images cannot be used than the job lets go.
    #[error(transparent)]
    BadRows(#[from] TooMany),
}

/// What is wrong with one image.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("no image in PNG, JPEG, PGM or PPM that can be read")]
    Decode(#[source] ImageError),
    #[error(
        "{found} pixels, expected {expected} like the first one: set images.height and images.width in [dataset] to \
         scale them all"
    )]
    Size { found: String, expected: String },
    #[error(
        "{found} pixels, expected at most {MOST}x{MOST}: set images.height and images.width in [dataset] to scale them \
         all down"
    )]
    Large { found: String },
}

impl Images {
    /// The shape of all samples, if this is the first image.
    fn shape(&self, first: &DynamicImage) -> Result<Shape, Fault> {
        let (height, width) = match (self.height, self.width) {
            (Some(height), Some(width)) => (height, width),
            _ if first.height().max(first.width()) > MOST => return Err(Fault::Large { found: size(first) }),
            _ => (first.height(), first.width()),
        };
        Ok(Shape {
            channels: if self.grey { 1 } else { 3 },
            height: height as usize,
            width: width as usize,
        })
    }

    /// What is wrong with it, keys within the `[dataset]` table.
    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        for (key, side, other) in [
            ("height", self.height, self.width),
            ("width", self.width, self.height),
        ] {
            let (value, expected) = match side {
                Some(side) if !(1..=MOST).contains(&side) => (side.to_string(), format!("1 to {MOST}")),
                None if other.is_some() => ("unset".to_owned(), "a size, since the other is set".to_owned()),
                _ => continue,
            };
            let key = format!("images.{key}");
            problems.push(ConfigProblem { key, value, expected });
        }
        if self.image == self.label || self.image.is_empty() || self.label.is_empty() {
            problems.push(ConfigProblem {
                key: "images.label".to_owned(),
                value: format!("{:?}", self.label),
                expected: format!(
                    "the name of a column, and of another one than images.image = {:?}",
                    self.image
                ),
            });
        }
        problems
    }
}

/// An image file as a sample of this shape: one channel of brightness or three of colours from 0 to 1, scaled where its size
/// is another. As a data set reads it with `images.height` and `images.width`.
///
/// # Errors
///
/// A file that cannot be read, or is no image.
pub fn read_image(file: &Path, shape: Shape) -> Result<Vec<f32>, Error> {
    let image = read(file).map_err(|fault| Error::File {
        file: file.to_owned(),
        reason: with_sources(&fault),
    })?;
    let bytes = planes(&image, shape).into_iter();
    Ok(bytes.map(|byte| f32::from(byte) / f32::from(WHITE)).collect())
}

/// Reads all files below a folder, or Parquet files, and more without labels of a folder or Parquet file.
pub(crate) fn load(
    path: &Path,
    more: Option<&Path>,
    images: &Images,
    intake: &mut Intake,
) -> Result<Set, Error> {
    let memory = intake.memory;
    let mut reader = Reader {
        images,
        memory,
        made: None,
    };
    let bad = &mut intake.bad;
    let (class_names, mut parts) = match columns::files(path) {
        Some(files) => columns::read(&files, &mut reader, bad)?,
        None => reader.folder(path, bad)?,
    };
    match more {
        Some(file) if parquet::is(file) => columns::unlabelled(file, &mut reader, &mut parts, bad)?,
        Some(folder) => {
            let files = folder::all(folder, ENDINGS)?;
            reader.files(files.iter(), &mut parts[REST], bad)?;
        }
        None => {}
    }
    let [pool, test, unlabelled] = parts;
    let empty = |part| Error::Empty {
        path: path.to_owned(),
        part,
    };
    let made = reader.made.filter(|_| pool.len() > 0);
    let Made { shape, store } = made.ok_or_else(|| empty("training"))?;
    if test.len() == 0 {
        return Err(empty("testing"));
    }
    Ok(Set {
        shape,
        class_names,
        store: store.finish()?,
        pool,
        test,
        unlabelled,
        files: Vec::new(),
    })
}

/// The parts of a set by their place: what training and validation share, what is for testing, and what has no label.
const POOL: usize = 0;
const TEST: usize = 1;
const REST: usize = 2;

/// Makes samples of images.
struct Reader<'a> {
    images: &'a Images,
    /// Bytes of samples to hold.
    memory: u64,
    /// Made for the first image.
    made: Option<Made>,
}

/// The shape of all samples, that of the first image unless the job says one, and where they go.
struct Made {
    shape: Shape,
    store: Writer,
}

impl Reader<'_> {
    /// Names of the classes, and the samples, all with labels.
    fn folder(&mut self, folder: &Path, bad: &mut Quarantine) -> Result<(Vec<String>, [Samples; 3]), Error> {
        let files = folder::find(folder, ENDINGS)?;
        let mut parts = <[Samples; 3]>::default();
        self.files(files.pool.iter(), &mut parts[POOL], bad)?;
        self.files(files.test_mixed(), &mut parts[TEST], bad)?;
        files.check(folder, &parts[POOL].labels, &parts[TEST].labels)?;
        Ok((files.class_names, parts))
    }

    fn files<'f>(
        &mut self,
        files: impl Iterator<Item = &'f File>,
        to: &mut Samples,
        bad: &mut Quarantine,
    ) -> Result<(), Error> {
        for file in files {
            match read(&file.path).and_then(|image| self.append(image, file.class, to)) {
                Ok(()) => bad.good(),
                Err(fault) => bad.leave_out_file(&file.path, &fault)?,
            }
        }
        Ok(())
    }

    /// Appends an image, its channels one after the other.
    fn append(&mut self, image: DynamicImage, label: u32, to: &mut Samples) -> Result<(), Fault> {
        let Made { shape, store } = match &mut self.made {
            Some(made) => made,
            None => {
                let shape = self.images.shape(&image)?;
                let store = Writer::new(Form::Bytes { white: WHITE }, shape.len(), self.memory);
                self.made.insert(Made { shape, store })
            }
        };
        let sizes = (image.height() as usize, image.width() as usize);
        if sizes != (shape.height, shape.width) && self.images.height.is_none() {
            let (found, expected) = (size(&image), format!("{}x{}", shape.width, shape.height));
            return Err(Fault::Size { found, expected });
        }
        to.push(store.push(planes(&image, *shape)), label);
        Ok(())
    }
}

/// The channels of an image one after the other, scaled where its size is another.
fn planes(image: &DynamicImage, shape: Shape) -> Vec<u8> {
    let (width, height) = (shape.width as u32, shape.height as u32);
    let scaled = ((image.width(), image.height()) != (width, height))
        .then(|| image.resize_exact(width, height, FilterType::Triangle));
    let image = scaled.as_ref().unwrap_or(image);
    if shape.channels == 1 {
        return image.to_luma8().into_raw();
    }
    let colours = image.to_rgb8().into_raw();
    let plane = |channel| colours.iter().skip(channel).step_by(3).copied();
    (0..3).flat_map(plane).collect()
}

/// Width x height.
fn size(image: &DynamicImage) -> String {
    format!("{}x{}", image.width(), image.height())
}

/// By what the file holds, not by its name.
fn read(file: &Path) -> Result<DynamicImage, Fault> {
    let open = std::fs::File::open(file).map_err(|e| Fault::Decode(ImageError::IoError(e)))?;
    decode(BufReader::new(open))
}

fn decode(file: impl BufRead + Seek) -> Result<DynamicImage, Fault> {
    let reader = ImageReader::new(file).with_guessed_format();
    let reader = reader.map_err(|e| Fault::Decode(ImageError::IoError(e)))?;
    reader.decode().map_err(Fault::Decode)
}

#[cfg(test)]
mod tests;
