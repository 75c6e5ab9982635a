//! Parquet files: a column of contents and one of labels, read in batches of rows.

#[cfg(feature = "parquet")]
mod columns;

use std::io;
use std::path::{Path, PathBuf};

/// How files end that are read here.
pub(crate) const ENDING: &str = "parquet";

/// Which columns are wanted of a file.
#[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "nothing is read"))]
pub(crate) struct Columns<'a> {
    pub(crate) content: &'a str,
    pub(crate) kind: Content,
    pub(crate) label: &'a str,
    /// Whether the file may go without the label's column.
    pub(crate) unlabelled: bool,
}

/// What the contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A column of strings.
    Text,
    /// A column of bytes, or a struct of which `bytes` has them, as Hugging Face stores images.
    Bytes,
}

impl Content {
    #[cfg(feature = "parquet")]
    fn expected(self) -> &'static str {
        match self {
            Self::Text => "a column of strings",
            Self::Bytes => "a column of bytes, or of structs with bytes",
        }
    }
}

/// A label as its column has it; numbers come before names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "made of what is read"))]
pub(crate) enum Label {
    Number(i64),
    Name(String),
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// One row; `None` is null.
pub(crate) struct Row<'a> {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) content: Option<&'a [u8]>,
    pub(crate) label: Option<Label>,
}

/// What is wrong with a Parquet file as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("read {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no Parquet file, damaged, or compressed by what is not built in.
    #[error("read {file}, expected a Parquet file, plain or compressed with snappy, zstd or gzip")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A column is missing or of another type.
    #[error("{file}: column {column:?} is {found}, expected {expected}")]
    Column {
        /// The file.
        file: PathBuf,
        /// Its name.
        column: String,
        /// Its type, or what there is instead.
        found: String,
        /// The type that is wanted.
        expected: String,
    },
    /// This program was built without Parquet.
    #[error(
        "{file} is a Parquet file, which this build does not read: build with --features parquet, or convert it"
    )]
    NotBuilt {
        /// The file.
        file: PathBuf,
    },
}

/// Whether a file is read here.
pub(crate) fn is(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == ENDING)
}

/// `PART.parquet` of a folder, or what it was cut into, `PART-*.parquet`, sorted.
pub(crate) fn shards(folder: &Path, part: &str) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let of_part = |file: &PathBuf| {
        let stem = file.file_stem().and_then(|stem| stem.to_str());
        let rest = stem.and_then(|stem| stem.strip_prefix(part));
        is(file) && file.is_file() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(of_part).collect();
    files.sort();
    files
}

/// Hands every row to `each`, in order.
#[cfg(feature = "parquet")]
pub(crate) fn read<E: From<Error>>(
    file: &Path,
    wanted: &Columns<'_>,
    each: impl FnMut(Row<'_>) -> Result<(), E>,
) -> Result<(), E> {
    columns::read(file, wanted, each)
}

/// Refuses.
#[cfg(not(feature = "parquet"))]
pub(crate) fn read<E: From<Error>>(
    file: &Path,
    Columns { .. }: &Columns<'_>,
    _each: impl FnMut(Row<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let open = std::fs::File::open(file);
    let file = file.to_owned();
    Err(match open {
        Ok(_) => Error::NotBuilt { file }.into(),
        Err(source) => Error::Read { file, source }.into(),
    })
}

#[cfg(all(test, feature = "parquet"))]
mod tests;
