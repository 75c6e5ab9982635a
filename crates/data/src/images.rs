//! Folders of images.

use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageReader};
use serde::{Deserialize, Serialize};

use crate::config::ConfigProblem;
use crate::dataset::Shape;
use crate::folder::{self, File};
use crate::split::{Pixels, Samples};

/// How the files end that are read.
const ENDINGS: &[&str] = &["png", "jpg", "jpeg", "pgm", "ppm"];
/// The value of full brightness.
const WHITE: u8 = 255;
/// Of a side: what is larger fits no network of ours.
const MOST: u32 = 1_024;

/// The `[dataset.images]` table: how files become samples of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// Rows (1..=1,024). Unset, like the width: those of the first file, which all the others must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Columns (1..=1,024). What has another size is scaled to it, whatever its proportions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// One channel, of brightness, instead of red, green and blue.
    pub grey: bool,
}

/// What is wrong with a folder of images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no classes, or a class no files.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// A file cannot be read, or is no image.
    #[error("read {file}, expected an image in PNG, JPEG, PGM or PPM: mend it, or remove it")]
    Decode {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: image::ImageError,
    },
    /// Images of several sizes, and none that they should have.
    #[error(
        "{file} has {found} pixels, expected {expected} like the first file: set images.height and images.width in \
         [dataset] to scale them all"
    )]
    Size {
        /// The file.
        file: PathBuf,
        /// Its width x height.
        found: String,
        /// Those of the first file.
        expected: String,
    },
    /// The first file is larger than what is let in.
    #[error(
        "{file} has {found} pixels, expected at most {MOST}x{MOST}: set images.height and images.width in [dataset] to \
         scale it down"
    )]
    Large {
        /// The file.
        file: PathBuf,
        /// Its width x height.
        found: String,
    },
}

impl Images {
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
    let mut bytes = Vec::with_capacity(shape.len());
    Reader { shape, scales: true }.append(file, &mut bytes)?;
    Ok(bytes
        .into_iter()
        .map(|byte| f32::from(byte) / f32::from(WHITE))
        .collect())
}

/// A folder's contents.
pub(crate) struct Folder {
    pub(crate) shape: Shape,
    pub(crate) class_names: Vec<String>,
    pub(crate) pool: Samples,
    pub(crate) test: Samples,
}

/// Reads all files below a folder.
pub(crate) fn load(folder: &Path, images: &Images) -> Result<Folder, Error> {
    let files = folder::find(folder, ENDINGS)?;
    let reader = Reader::new(images, &files.first(folder)?.path)?;
    let pool = reader.samples(files.pool.iter())?;
    let test = reader.samples(files.test_mixed())?;
    files.check(folder, &pool.labels, &test.labels)?;
    Ok(Folder {
        shape: reader.shape,
        class_names: files.class_names,
        pool,
        test,
    })
}

/// Makes samples of files.
struct Reader {
    shape: Shape,
    /// Whether other sizes are scaled.
    scales: bool,
}

impl Reader {
    fn new(images: &Images, first: &Path) -> Result<Self, Error> {
        let (height, width) = match (images.height, images.width) {
            (Some(height), Some(width)) => (height, width),
            _ => {
                let image = read(first)?;
                if image.height().max(image.width()) > MOST {
                    return Err(Error::Large {
                        file: first.to_owned(),
                        found: format!("{}x{}", image.width(), image.height()),
                    });
                }
                (image.height(), image.width())
            }
        };
        Ok(Self {
            shape: Shape {
                channels: if images.grey { 1 } else { 3 },
                height: height as usize,
                width: width as usize,
            },
            scales: images.height.is_some(),
        })
    }

    fn samples<'a>(&self, files: impl Iterator<Item = &'a File>) -> Result<Samples, Error> {
        let (mut data, mut labels) = (Vec::new(), Vec::new());
        for file in files {
            self.append(&file.path, &mut data)?;
            labels.push(file.class);
        }
        Ok(Samples {
            values: self.shape.len(),
            pixels: Pixels::Bytes { data, white: WHITE },
            labels,
        })
    }

    /// Appends the channels of a file one after the other.
    fn append(&self, path: &Path, data: &mut Vec<u8>) -> Result<(), Error> {
        let mut image = read(path)?;
        let (width, height) = (self.shape.width as u32, self.shape.height as u32);
        if (image.width(), image.height()) != (width, height) {
            if !self.scales {
                return Err(Error::Size {
                    file: path.to_owned(),
                    found: format!("{}x{}", image.width(), image.height()),
                    expected: format!("{width}x{height}"),
                });
            }
            image = image.resize_exact(width, height, FilterType::Triangle);
        }
        if self.shape.channels == 1 {
            data.extend(image.to_luma8().into_raw());
            return Ok(());
        }
        let colours = image.to_rgb8().into_raw();
        for channel in 0..3 {
            data.extend(colours.iter().skip(channel).step_by(3));
        }
        Ok(())
    }
}

/// By what the file holds, not by its name.
fn read(file: &Path) -> Result<DynamicImage, Error> {
    let decode = |source| Error::Decode {
        file: file.to_owned(),
        source,
    };
    let reader = ImageReader::open(file).and_then(ImageReader::with_guessed_format);
    let reader = reader.map_err(|e| decode(image::ImageError::IoError(e)))?;
    reader.decode().map_err(decode)
}

#[cfg(test)]
mod tests;
