//! Where the values of samples are: records of one size, in memory or, beyond a bound, in a file.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes on their way to the file: enough that a system call is nothing, and little beside any bound.
const BUFFER: usize = 1 << 20;
/// Set by the operator, else a folder that is on a disk where [`std::env::temp_dir`] often is memory.
const FOLDERS: (&str, &str) = ("TMPDIR", "/var/tmp");

/// How a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A byte that stands for `byte / white`.
    Bytes { white: u8 },
    /// The value itself, four bytes, the lowest first.
    Floats,
    /// The id of a token, two bytes, the lower first.
    Tokens,
}

impl Form {
    const fn width(self) -> usize {
        match self {
            Self::Bytes { .. } => 1,
            Self::Tokens => 2,
            Self::Floats => 4,
        }
    }

    fn decode(self, record: &[u8], out: &mut [f32]) {
        match self {
            Self::Bytes { white } => {
                let white = f32::from(white);
                for (out, &byte) in out.iter_mut().zip(record) {
                    *out = f32::from(byte) / white;
                }
            }
            Self::Floats => {
                for (out, bytes) in out.iter_mut().zip(record.as_chunks().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            Self::Tokens => {
                for (out, bytes) in out.iter_mut().zip(record.as_chunks().0) {
                    *out = f32::from(u16::from_le_bytes(*bytes));
                }
            }
        }
    }
}

/// Samples by row, in the order that they were put in.
pub(crate) struct Store {
    form: Form,
    values: usize,
    records: Records,
}

enum Records {
    Memory(Vec<u8>),
    /// It has no name: whatever happens, nothing is left.
    File(File),
}

impl Store {
    /// Numbers of one sample.
    pub(crate) fn values(&self) -> usize {
        self.values
    }

    /// The values of a sample.
    ///
    /// # Panics
    ///
    /// If `out` is of another length, there is no such row, or the file that this process wrote cannot be read back, as
    /// memory cannot that is broken.
    pub(crate) fn read(&self, row: u32, out: &mut [f32]) {
        assert_eq!(out.len(), self.values, "values of a sample");
        self.with(row, |record| self.form.decode(record, out));
    }

    /// What says the meaning of the bytes in a digest.
    pub(crate) fn mark(&self) -> u8 {
        match self.form {
            Form::Bytes { white } => white,
            Form::Floats => 0,
            Form::Tokens => 1,
        }
    }

    /// Hands over the bytes of a sample.
    pub(crate) fn with<T>(&self, row: u32, use_record: impl FnOnce(&[u8]) -> T) -> T {
        let len = self.values * self.form.width();
        let from = row as usize * len;
        match &self.records {
            Records::Memory(all) => use_record(&all[from..from + len]),
            Records::File(file) => {
                let mut record = vec![0; len];
                if let Err(error) = file.read_exact_at(&mut record, from as u64) {
                    panic!("read back sample {row} from the temporary file: {error}");
                }
                use_record(&record)
            }
        }
    }

    /// Bytes of memory that samples take.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        match &self.records {
            Records::Memory(all) => all.capacity(),
            Records::File(_) => 0,
        }
    }
}

/// A [`Store`] as it is filled.
pub(crate) struct Writer {
    form: Form,
    values: usize,
    /// In bytes.
    bound: u64,
    rows: u32,
    held: Vec<u8>,
    file: Option<File>,
    /// The first thing that went wrong; nothing is written from then on.
    failed: Option<Error>,
}

impl Writer {
    /// Of samples of so many values, which go to a file once they are more than `bound` bytes.
    pub(crate) fn new(form: Form, values: usize, bound: u64) -> Self {
        Self {
            form,
            values,
            bound,
            rows: 0,
            held: Vec::new(),
            file: None,
            failed: None,
        }
    }

    /// Puts in the bytes of a sample and says its row. What goes wrong with the file is told by [`Self::finish`].
    ///
    /// # Panics
    ///
    /// If they are too many or too few, or if there are 2^32 rows, which no loader does.
    pub(crate) fn push(&mut self, record: impl IntoIterator<Item = u8>) -> u32 {
        let row = self.rows;
        self.rows = row.checked_add(1).expect("loaders count samples in 32 bits");
        if self.failed.is_some() {
            return row;
        }
        let (before, len) = (self.held.len(), self.values * self.form.width());
        if self.held.capacity() - before < len {
            // By doubling, but not beyond what will be held.
            let wanted = before.min(self.most().saturating_sub(before)).max(len);
            self.held.reserve_exact(wanted);
        }
        self.held.extend(record);
        assert_eq!(self.held.len() - before, len, "bytes of a sample");
        if self.held.len() > self.most() {
            self.failed = self.spill().err();
        }
        row
    }

    pub(crate) fn push_floats(&mut self, values: &[f32]) -> u32 {
        self.push(values.iter().flat_map(|value| value.to_le_bytes()))
    }

    pub(crate) fn push_tokens(&mut self, ids: &[u16]) -> u32 {
        self.push(ids.iter().flat_map(|id| id.to_le_bytes()))
    }

    /// Bytes that are held before they go to the file.
    fn most(&self) -> usize {
        let bound = usize::try_from(self.bound).unwrap_or(usize::MAX);
        if self.file.is_some() {
            bound.min(BUFFER)
        } else {
            bound
        }
    }

    fn spill(&mut self) -> Result<(), Error> {
        let folder = std::env::var_os(FOLDERS.0).unwrap_or_else(|| FOLDERS.1.into());
        let folder = PathBuf::from(folder);
        let bound = self.bound;
        let error = |source| Error {
            folder: folder.clone(),
            bound: Size(bound),
            source,
        };
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile_in(&folder).map_err(error)?),
        };
        file.write_all(&self.held).map_err(error)?;
        if self.held.capacity() > BUFFER {
            self.held = Vec::new();
        }
        self.held.clear();
        Ok(())
    }

    /// All samples that were put in.
    pub(crate) fn finish(mut self) -> Result<Store, Error> {
        if self.file.is_some() && self.failed.is_none() {
            self.failed = self.spill().err();
        }
        let records = match (self.failed, self.file) {
            (Some(error), _) => return Err(error),
            (None, Some(file)) => Records::File(file),
            (None, None) => {
                self.held.shrink_to_fit();
                Records::Memory(self.held)
            }
        };
        Ok(Store {
            form: self.form,
            values: self.values,
            records,
        })
    }
}

/// Samples that are more than memory may hold have no room elsewhere.
#[derive(Debug, thiserror::Error)]
#[error(
    "write samples beyond dataset.memory = \"{bound}\" to a file in {folder}: set TMPDIR to a folder with room, or raise \
     dataset.memory"
)]
pub struct Error {
    folder: PathBuf,
    bound: Size,
    source: io::Error,
}

/// A number of bytes, written with its unit: `512MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, shift): &&(&str, u32)| self.0.is_multiple_of(1 << shift);
        let (unit, shift) = UNITS.iter().find(whole).unwrap_or(&UNITS[3]);
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("{text:?}: expected a whole number with a unit, such as \"512MiB\" or \"4GiB\"");
        let units = UNITS
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
        let (number, shift) = units.ok_or_else(wrong)?;
        let number: u64 = number.trim_end().parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl serde::Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(form: Form, values: usize, bound: u64, records: &[Vec<u8>]) -> Store {
        let mut writer = Writer::new(form, values, bound);
        for (row, record) in (0..).zip(records) {
            assert_eq!(writer.push(record.iter().copied()), row);
            let most = (bound as usize).saturating_add(record.len());
            assert!(writer.held.len() <= most, "{} of {most}", writer.held.len());
        }
        writer.finish().expect("room")
    }

    proptest! {
        #[test]
        fn a_file_gives_back_what_memory_does(
            form in prop_oneof![Just(Form::Bytes { white: 16 }), Just(Form::Floats), Just(Form::Tokens)],
            values in 1usize..9,
            rows in 0usize..40,
            bound in 0u64..400,
            seed: u64,
        ) {
            let mut rng = crate::rng::Rng::new(seed);
            let records: Vec<Vec<u8>> = (0..rows)
                .map(|_| (0..values * form.width()).map(|_| rng.below(256) as u8).collect())
                .collect();
            let memory = stored(form, values, u64::MAX, &records);
            let file = stored(form, values, bound, &records);
            let bytes = (rows * values * form.width()) as u64;
            prop_assert_eq!(file.held() == 0, bytes > bound || bytes == 0);
            let (mut a, mut b) = (vec![0.0; values], vec![1.0; values]);
            for row in 0..rows as u32 {
                prop_assert_eq!(file.with(row, <[u8]>::to_vec), records[row as usize].clone());
                memory.read(row, &mut a);
                file.read(row, &mut b);
                let bits = |all: &[f32]| all.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&a), bits(&b));
            }
        }

        #[test]
        fn sizes_are_read_as_they_are_written(size: u64) {
            let size = Size(size);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("512MiB", 512 << 20),
            ("4 GiB", 4 << 30),
            ("0B", 0),
            ("3KiB", 3 << 10),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "512", "MiB", "1.5GiB", "-1B", "4GB", "99999999999999GiB"] {
            let error = text.parse::<Size>().expect_err(text);
            assert!(error.contains("512MiB"), "{error}");
        }
    }
}
