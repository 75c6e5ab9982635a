//! The IDX files of MNIST and its successors, plain or gzipped.

mod error;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use md5::{Digest, Md5};

use crate::config::Extent;
use crate::dataset::Shape;
use crate::split::{Pixels, Samples};

pub use self::error::Error;

/// Where the Debian package `dataset-fashion-mnist` puts its files.
pub const FASHION_MNIST_FOLDER: &str = "/usr/share/datasets/fashion-mnist";

pub(crate) const VALIDATION: u32 = 5_000;
pub(crate) const FASHION_MNIST: Extent = Extent {
    shape: Shape {
        channels: 1,
        height: 28,
        width: 28,
    },
    pool: 60_000,
    test: 10_000,
};

const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// MD5 of the decompressed files: packagers compress anew, so that the compressed files differ.
const FASHION_MNIST_MD5: [&str; 4] = [
    "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "9018921c3c673c538a1fc5bad174d6f9",
    "8181f5470baa50b63fa0f6fddb340f0a",
    "15d484375f8d13e6eb1aabb0c3f46965",
];

const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;

/// A folder's contents.
pub(crate) struct Folder {
    pub(crate) shape: Shape,
    pub(crate) classes: usize,
    pub(crate) pool: Samples,
    pub(crate) test: Samples,
}

/// Reads the four files of a folder of one's own.
pub(crate) fn load(folder: &Path) -> Result<Folder, Error> {
    const HINT: &str = "set dataset.path to the folder that holds it";
    read_folder(folder, HINT, None)
}

/// Reads Fashion-MNIST and makes sure that it is.
pub(crate) fn load_fashion_mnist(folder: &Path) -> Result<Folder, Error> {
    const HINT: &str =
        "install the Debian package dataset-fashion-mnist, or set dataset.path to a folder that holds it";
    read_folder(folder, HINT, Some(&FASHION_MNIST_MD5))
}

/// The path that a configured one stands for; if none, what to write.
pub(crate) fn local_path(path: &str) -> Result<PathBuf, String> {
    if let Some(rest) = path.strip_prefix("file://") {
        let rest = rest.strip_prefix("localhost").unwrap_or(rest);
        return match percent_decoded(rest) {
            Some(path) if path.starts_with('/') => Ok(path.into()),
            _ => Err("an absolute file URL, such as file:///data/mnist".to_owned()),
        };
    }
    match path.split_once("://") {
        Some((scheme, _)) => Err(format!(
            "a folder or a file:// URL, not {scheme}: copy the files to this machine and give their folder"
        )),
        None if path.is_empty() => Err("a folder, such as data/mnist".to_owned()),
        None => Ok(path.into()),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn read_folder(
    folder: &Path,
    hint: &'static str,
    hashes: Option<&[&'static str; 4]>,
) -> Result<Folder, Error> {
    let read = |which: usize| {
        let magic = if which.is_multiple_of(2) { IMAGES } else { LABELS };
        let expected = hashes.map(|hashes| hashes[which]);
        Idx::read(&folder.join(FILES[which]), magic, hint, expected)
    };
    let (images, labels) = (read(0)?, read(1)?);
    let shape = images.shape();
    let most = labels.data.iter().max().map_or(0, |&label| usize::from(label));
    let classes = most + 1;
    let pool = images.into_samples(labels, classes)?;
    let (images, labels) = (read(2)?, read(3)?);
    if images.shape() != shape {
        return Err(Error::ShapeMismatch {
            found: images.shape(),
            file: images.file,
            expected: shape,
        });
    }
    let test = images.into_samples(labels, classes)?;
    Ok(Folder {
        shape,
        classes,
        pool,
        test,
    })
}

/// One file's contents.
struct Idx {
    file: PathBuf,
    dimensions: Vec<u32>,
    data: Vec<u8>,
}

impl Idx {
    fn read(plain: &Path, magic: u32, hint: &'static str, md5: Option<&'static str>) -> Result<Self, Error> {
        let (file, reader) = open(plain, hint)?;
        let idx = Self::parse(file, reader, magic)?;
        if let Some(expected) = md5 {
            let found = idx.md5(magic);
            if found != expected {
                let file = idx.file;
                return Err(Error::Content {
                    file,
                    expected,
                    found,
                });
            }
        }
        Ok(idx)
    }

    fn parse(file: PathBuf, mut reader: impl Read, magic: u32) -> Result<Self, Error> {
        /// More than any machine holds, and no product below overflows on the way.
        const MOST_BYTES: u64 = 1 << 40;
        let mut header = Vec::new();
        let rank = (magic & 0xff) as usize;
        let header_len = 4 + 4 * rank as u64;
        let read = reader
            .by_ref()
            .take(header_len)
            .read_to_end(&mut header)
            .map(drop);
        if let Err(source) = broken_off(read) {
            return Err(Error::Read { file, source });
        }
        let mut words = header
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        if let Some(found) = words.next().filter(|&found| found != magic) {
            return Err(Error::Magic {
                file,
                expected: magic,
                found,
            });
        }
        if (header.len() as u64) < header_len {
            let found = header.len() as u64;
            return Err(Error::Size {
                file,
                expected: header_len,
                found,
            });
        }
        let dimensions: Vec<u32> = words.collect();
        let size = dimensions
            .iter()
            .try_fold(1u64, |size, &side| size.checked_mul(side.into()))
            .filter(|size| (1..=MOST_BYTES).contains(size));
        let Some(size) = size else {
            return Err(Error::Dimensions { file, dimensions });
        };
        // One byte more than announced, to see the end (and have gzip check its sum there). Nothing is set aside for
        // what the header merely claims.
        let mut data = Vec::new();
        let mut read = reader.take(size + 1).read_to_end(&mut data).map(drop);
        let found = data.len() as u64;
        if found != size {
            read = broken_off(read);
        }
        if let Err(source) = read {
            return Err(Error::Read { file, source });
        }
        if found != size {
            let (expected, found) = (header_len + size, header_len + found);
            return Err(Error::Size {
                file,
                expected,
                found,
            });
        }
        Ok(Self {
            file,
            dimensions,
            data,
        })
    }

    /// Of images: one channel, the last two dimensions.
    fn shape(&self) -> Shape {
        Shape {
            channels: 1,
            height: self.dimensions[1] as usize,
            width: self.dimensions[2] as usize,
        }
    }

    fn md5(&self, magic: u32) -> String {
        let mut hash = Md5::new();
        hash.update(magic.to_be_bytes());
        for side in &self.dimensions {
            hash.update(side.to_be_bytes());
        }
        hash.update(&self.data);
        let hex = |byte: &u8| format!("{byte:02x}");
        hash.finalize().iter().map(hex).collect()
    }

    fn into_samples(self, labels: Self, classes: usize) -> Result<Samples, Error> {
        let images = self.dimensions[0] as usize;
        if labels.data.len() != images {
            let (file, labels) = (labels.file, labels.data.len());
            return Err(Error::Count { file, labels, images });
        }
        let wrong = |&label: &u8| usize::from(label) >= classes;
        if let Some(index) = labels.data.iter().position(wrong) {
            let label = labels.data[index].into();
            let file = labels.file;
            return Err(Error::Label {
                file,
                index,
                label,
                classes,
            });
        }
        Ok(Samples {
            values: self.shape().len(),
            pixels: Pixels::Bytes {
                data: self.data,
                white: u8::MAX,
            },
            labels: labels.data.into_iter().map(u32::from).collect(),
        })
    }
}

/// Opens `plain`, or else `plain.gz`.
fn open(plain: &Path, hint: &'static str) -> Result<(PathBuf, Box<dyn Read>), Error> {
    let mut zipped = plain.as_os_str().to_owned();
    zipped.push(".gz");
    for (file, gzip) in [(plain.to_owned(), false), (zipped.into(), true)] {
        match File::open(&file) {
            Ok(open) if gzip => {
                return Ok((file, Box::new(MultiGzDecoder::new(BufReader::new(open)))));
            }
            Ok(open) => return Ok((file, Box::new(BufReader::new(open)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Read { file, source }),
        }
    }
    let file = plain.to_owned();
    Err(Error::Missing { file, hint })
}

/// Lets a gzip stream that breaks off count as the end of the file: the size says the rest.
fn broken_off(read: io::Result<()>) -> io::Result<()> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        read => read,
    }
}

#[cfg(test)]
mod tests;
