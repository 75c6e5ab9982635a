//! The IDX files of MNIST and its successors, plain or gzipped.

mod error;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use md5::{Digest, Md5};

use crate::config::Extent;
use crate::dataset::{Shape, numbers};
use crate::quarantine::Intake;
use crate::split::{Samples, Set, UNLABELLED};
use crate::store::{Form, Writer};

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

/// Reads the four files of a folder of one's own, and images without labels of `more`.
pub(crate) fn load(folder: &Path, more: Option<&Path>, intake: &Intake) -> Result<Set, Error> {
    const HINT: &str = "set dataset.path to the folder that holds it";
    read(folder, more, HINT, None, intake)
}

/// Reads Fashion-MNIST and makes sure that it is.
pub(crate) fn load_fashion_mnist(folder: &Path, intake: &Intake) -> Result<Set, Error> {
    const HINT: &str =
        "install the Debian package dataset-fashion-mnist, or set dataset.path to a folder that holds it";
    read(folder, None, HINT, Some(&FASHION_MNIST_MD5), intake)
}

fn read(
    folder: &Path,
    more: Option<&Path>,
    hint: &'static str,
    hashes: Option<&[&'static str; 4]>,
    intake: &Intake,
) -> Result<Set, Error> {
    const MORE: &str = "set dataset.unlabelled to a file of images";
    let open = |which: usize| {
        let magic = if which.is_multiple_of(2) { IMAGES } else { LABELS };
        let md5 = hashes.map(|hashes| hashes[which]);
        Idx::open(&folder.join(FILES[which]), magic, hint, md5)
    };
    let images = open(0)?;
    let shape = images.shape();
    let mut store = Writer::new(Form::Bytes { white: u8::MAX }, shape.len(), intake.memory);
    let rows = images.rows(&mut store)?;
    let (pool, most) = open(1)?.label(rows, None)?;
    let classes = usize::from(most) + 1;
    let rows = open(2)?.of_shape(shape)?.rows(&mut store)?;
    let (test, _) = open(3)?.label(rows, Some(classes))?;
    let rows = match more {
        Some(more) => Idx::open(more, IMAGES, MORE, None)?
            .of_shape(shape)?
            .rows(&mut store)?,
        None => Vec::new(),
    };
    Ok(Set {
        shape,
        class_names: numbers(classes),
        store: store.finish()?,
        pool,
        test,
        unlabelled: Samples {
            labels: vec![UNLABELLED; rows.len()],
            rows,
            bytes: Vec::new(),
        },
        files: Vec::new(),
    })
}

/// A file whose header was read.
struct Idx {
    file: PathBuf,
    dimensions: Vec<u32>,
    /// Behind the header.
    reader: Box<dyn Read>,
    /// What it must have, decompressed.
    md5: Option<&'static str>,
}

impl Idx {
    fn open(plain: &Path, magic: u32, hint: &'static str, md5: Option<&'static str>) -> Result<Self, Error> {
        /// More than any machine holds, and no product below overflows on the way.
        const MOST_BYTES: u64 = 1 << 40;
        let (file, mut reader) = open(plain, hint)?;
        let mut header = Vec::new();
        let header_len = header_len((magic & 0xff) as usize);
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
            .try_fold(1u64, |size, &side| size.checked_mul(side.into()));
        if !size.is_some_and(|size| (1..=MOST_BYTES).contains(&size)) {
            return Err(Error::Dimensions { file, dimensions });
        }
        Ok(Self {
            file,
            dimensions,
            reader,
            md5,
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

    /// These images, if they have the size of the training images.
    fn of_shape(self, expected: Shape) -> Result<Self, Error> {
        if self.shape() == expected {
            return Ok(self);
        }
        Err(Error::ShapeMismatch {
            found: self.shape(),
            file: self.file,
            expected,
        })
    }

    /// Puts images into a store.
    fn rows(self, store: &mut Writer) -> Result<Vec<u32>, Error> {
        let mut rows = Vec::new();
        self.records(|image| rows.push(store.push(image.iter().copied())))?;
        Ok(rows)
    }

    /// Gives images their labels, below `classes` if that is known; says the largest too.
    fn label(self, images: Vec<u32>, classes: Option<usize>) -> Result<(Samples, u8), Error> {
        let (file, mut labels) = (self.file.clone(), Vec::<u8>::new());
        self.records(|label| labels.extend(label))?;
        if labels.len() != images.len() {
            let (labels, images) = (labels.len(), images.len());
            return Err(Error::Count { file, labels, images });
        }
        let classes = classes.unwrap_or(usize::MAX);
        if let Some(index) = labels.iter().position(|&label| usize::from(label) >= classes) {
            let label = labels[index].into();
            return Err(Error::Label {
                file,
                index,
                label,
                classes,
            });
        }
        let most = labels.iter().copied().max().unwrap_or(0);
        let samples = Samples {
            rows: images,
            labels: labels.into_iter().map(u32::from).collect(),
            bytes: Vec::new(),
        };
        Ok((samples, most))
    }

    /// Hands over what belongs to each place along the first dimension. Nothing is set aside for what the header merely
    /// claims.
    fn records(mut self, mut each: impl FnMut(&[u8])) -> Result<(), Error> {
        /// Bytes that are read at once, unless a single record is longer.
        const AT_ONCE: u64 = 1 << 16;
        let mut hash = self.md5.map(|_| self.hash_of_header());
        let record: u64 = self.dimensions[1..].iter().map(|&side| u64::from(side)).product();
        let size = record * u64::from(self.dimensions[0]);
        let block = record * (AT_ONCE / record).max(1);
        let (mut found, mut bytes) = (0, Vec::new());
        while found < size {
            bytes.clear();
            let wanted = block.min(size - found);
            let read = self
                .reader
                .by_ref()
                .take(wanted)
                .read_to_end(&mut bytes)
                .map(drop);
            found += bytes.len() as u64;
            if bytes.len() as u64 != wanted {
                let read = broken_off(read);
                return Err(self.broken(read, size, found));
            }
            if let Some(hash) = &mut hash {
                hash.update(&bytes);
            }
            bytes.chunks_exact(record as usize).for_each(&mut each);
        }
        // One byte more than announced, to see the end (and have gzip check its sum there).
        bytes.clear();
        let read = self.reader.by_ref().take(1).read_to_end(&mut bytes).map(drop);
        if !bytes.is_empty() {
            return Err(self.broken(Ok(()), size, size + 1));
        }
        if read.is_err() {
            return Err(self.broken(read, size, size));
        }
        self.compare(hash)
    }

    /// Whether the file cannot be read, or has `found` bytes behind its header instead of `size`.
    fn broken(self, read: io::Result<()>, size: u64, found: u64) -> Error {
        let (file, header) = (self.file, header_len(self.dimensions.len()));
        match read {
            Err(source) => Error::Read { file, source },
            Ok(()) => Error::Size {
                file,
                expected: header + size,
                found: header + found,
            },
        }
    }

    fn hash_of_header(&self) -> Md5 {
        let mut hash = Md5::new();
        hash.update([0, 0, 8, self.dimensions.len() as u8]);
        for side in &self.dimensions {
            hash.update(side.to_be_bytes());
        }
        hash
    }

    /// Whether it is the published file, where that is asked.
    fn compare(self, hash: Option<Md5>) -> Result<(), Error> {
        let (Some(expected), Some(hash)) = (self.md5, hash) else {
            return Ok(());
        };
        let hex = |byte: &u8| format!("{byte:02x}");
        let found: String = hash.finalize().iter().map(hex).collect();
        if found == expected {
            return Ok(());
        }
        Err(Error::Content {
            file: self.file,
            expected,
            found,
        })
    }
}

/// Of a file of so many dimensions, in bytes.
fn header_len(dimensions: usize) -> u64 {
    4 + 4 * dimensions as u64
}

/// Opens `plain`, or else `plain.gz`.
fn open(plain: &Path, hint: &'static str) -> Result<(PathBuf, Box<dyn Read>), Error> {
    let mut zipped = plain.as_os_str().to_owned();
    zipped.push(".gz");
    let is_zipped = plain.extension().is_some_and(|ending| ending == "gz");
    for (file, gzip) in [(plain.to_owned(), is_zipped), (zipped.into(), true)] {
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
