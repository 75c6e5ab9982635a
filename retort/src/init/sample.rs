//! What kind of data a name or a path stands for.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders below the given one that are looked into for files.
const DEPTH: usize = 4;

/// A data set, as far as a job file has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Digits,
    Mnist1d,
    FashionMnist,
    /// Of the user: `format`, and the path as the job says it.
    Files(Form, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Idx,
    Images,
    Wav,
    Text,
}

impl Data {
    /// A known name, or a path relative to the job file's `folder`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub(super) fn of(text: &str, folder: &Path) -> Result<Self, String> {
        Ok(match text {
            "digits" => Self::Digits,
            "mnist1d" => Self::Mnist1d,
            "fashion-mnist" => Self::FashionMnist,
            path => Self::Files(Form::of(&folder.join(path))?, path.to_owned()),
        })
    }
}

impl Form {
    fn of(path: &Path) -> Result<Self, String> {
        if !path.exists() {
            return Err(format!(
                "{}: no such folder or file, and no data set of that name (digits, mnist1d, fashion-mnist)",
                path.display()
            ));
        }
        let found = first(path, DEPTH, &|file| Self::by_name(file));
        found.ok_or_else(|| {
            format!(
                "{}: no data that Retort reads; it looks for PNG or JPEG files or WAV files in a folder for each class, for \
                 train.jsonl, train.csv or train.tsv, and for train-images-idx3-ubyte (docs/data.md)",
                path.display()
            )
        })
    }

    fn by_name(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_str()?.to_ascii_lowercase();
        if name.contains("-ubyte") {
            return Some(Self::Idx);
        }
        match name.rsplit('.').next()? {
            "png" | "jpg" | "jpeg" | "pgm" | "ppm" => Some(Self::Images),
            "wav" => Some(Self::Wav),
            "jsonl" | "csv" | "tsv" => Some(Self::Text),
            _ => None,
        }
    }
}

/// What the first file that says something says, files of a folder before those of its folders, in the order of names.
fn first<T>(path: &Path, depth: usize, says: &impl Fn(&Path) -> Option<T>) -> Option<T> {
    if path.is_file() {
        return says(path);
    }
    let mut inside: Vec<PathBuf> = fs::read_dir(path).ok()?.flatten().map(|e| e.path()).collect();
    inside.sort();
    let (folders, files): (Vec<_>, Vec<_>) = inside.into_iter().partition(|p| p.is_dir());
    let found = files.iter().find_map(|file| says(file));
    let deeper = |folder: &PathBuf| depth.checked_sub(1).and_then(|d| first(folder, d, says));
    found.or_else(|| folders.iter().find_map(deeper))
}
