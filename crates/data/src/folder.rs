//! Which files of a folder belong to which class and part.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::quarantine::{Quarantine, TooMany};
use crate::split::{UNLABELLED, shuffled};

/// One of so many files is a test sample where the folder does not say.
const TEST_SHARE: u64 = 5;
/// Keys the choice of test files.
const TEST_KEY: &str = "retort test files v1";

/// The files of both parts, each class's together, sorted by path.
pub(crate) struct Files {
    pub(crate) class_names: Vec<String>,
    pub(crate) pool: Vec<File>,
    pub(crate) test: Vec<File>,
}

pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// Or [`UNLABELLED`].
    pub(crate) class: u32,
}

/// Goes through `FOLDER/train` and `FOLDER/test`, each with a folder for each class, or else through `FOLDER` itself, where
/// a hash of each file's path below it chooses the test samples. Files have one of the `endings`, in any case; names that
/// begin with a dot are left out.
pub(crate) fn find(folder: &Path, endings: &'static [&'static str]) -> Result<Files, Error> {
    let (train, test) = (folder.join("train"), folder.join("test"));
    if train.is_dir() && test.is_dir() {
        let (class_names, pool) = several(&train, endings)?;
        let (test_names, mut files) = classes(&test, endings)?;
        for file in &mut files {
            let name = &test_names[file.class as usize];
            let Ok(class) = class_names.binary_search(name) else {
                let folder = test.join(name);
                return Err(Error::UnknownClass { folder });
            };
            file.class = class as u32;
        }
        return Ok(Files {
            class_names,
            pool,
            test: files,
        });
    }
    let (class_names, files) = several(folder, endings)?;
    let chosen = |file: &File| is_test(file.path.strip_prefix(folder).unwrap_or(&file.path));
    let (test, pool): (Vec<File>, Vec<File>) = files.into_iter().partition(chosen);
    Ok(Files {
        class_names,
        pool,
        test,
    })
}

/// [`classes`], of which there must be two.
fn several(folder: &Path, endings: &'static [&'static str]) -> Result<(Vec<String>, Vec<File>), Error> {
    let (names, files) = classes(folder, endings)?;
    if names.len() < 2 {
        let (folder, found) = (folder.to_owned(), names.len());
        return Err(Error::Classes { folder, found });
    }
    Ok((names, files))
}

/// The names of the folders, which are the classes, and all files below them.
fn classes(folder: &Path, endings: &'static [&'static str]) -> Result<(Vec<String>, Vec<File>), Error> {
    let folders: Vec<PathBuf> = entries(folder)?
        .into_iter()
        .filter(|path| path.is_dir())
        .collect();
    let mut files = Vec::new();
    for (class, folder) in (0u32..).zip(&folders) {
        let before = files.len();
        walk(folder, class, endings, &mut files)?;
        if files.len() == before {
            let folder = folder.clone();
            return Err(Error::EmptyClass { folder, endings });
        }
    }
    let name = |path: &PathBuf| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    Ok((folders.iter().map(name).collect(), files))
}

fn walk(folder: &Path, class: u32, endings: &[&str], files: &mut Vec<File>) -> Result<(), Error> {
    for path in entries(folder)? {
        let known = |end: &std::ffi::OsStr| endings.iter().any(|known| end.eq_ignore_ascii_case(known));
        if path.is_dir() {
            walk(&path, class, endings, files)?;
        } else if path.extension().is_some_and(known) {
            files.push(File { path, class });
        }
    }
    Ok(())
}

/// All files below a folder, whatever they show.
pub(crate) fn all(folder: &Path, endings: &'static [&'static str]) -> Result<Vec<File>, Error> {
    let mut files = Vec::new();
    walk(folder, UNLABELLED, endings, &mut files)?;
    if files.is_empty() {
        let folder = folder.to_owned();
        return Err(Error::NoFile { folder, endings });
    }
    Ok(files)
}

/// What a folder holds, sorted by the bytes of the names, since the order of a listing is the file system's.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// A function of the path below the folder alone, so that a file stays in its part whatever is added or removed.
pub(crate) fn is_test(path: &Path) -> bool {
    let mut hash = blake3::Hasher::new_derive_key(TEST_KEY);
    for part in path {
        hash.update(part.as_encoded_bytes()).update(b"/");
    }
    let mut word = [0; 8];
    hash.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word).is_multiple_of(TEST_SHARE)
}

impl Files {
    /// What the first file for training holds that can be read.
    pub(crate) fn first<T, F: std::error::Error>(
        &self,
        folder: &Path,
        bad: &mut Quarantine,
        read: impl Fn(&Path) -> Result<T, F>,
    ) -> Result<T, Error> {
        // Whoever goes through all files meets the bad ones again.
        let mut before = bad.clone();
        for File { path, .. } in &self.pool {
            match read(path) {
                Ok(first) => return Ok(first),
                Err(fault) => before.leave_out_file(path, &fault)?,
            }
        }
        *bad = before;
        Err(Error::NoTraining {
            folder: folder.to_owned(),
            class: self.class_names[0].clone(),
        })
    }

    /// The files for testing in a fixed order that mixes the classes: a part of them is taken from the front.
    pub(crate) fn test_mixed(&self) -> impl Iterator<Item = &File> {
        shuffled(self.test.len() as u32).map(|row| &self.test[row as usize])
    }

    /// Training must have all classes, and the test some sample; `pool` and `test` are the labels of what was read.
    pub(crate) fn check(&self, folder: &Path, pool: &[u32], test: &[u32]) -> Result<(), Error> {
        let folder = || folder.to_owned();
        let missing = (0..self.class_names.len()).find(|&class| !pool.contains(&(class as u32)));
        if let Some(class) = missing {
            return Err(Error::NoTraining {
                folder: folder(),
                class: self.class_names[class].clone(),
            });
        }
        if test.is_empty() {
            return Err(Error::NoTest { folder: folder() });
        }
        Ok(())
    }
}

/// What is wrong with a folder of classes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder cannot be read.
    #[error("read {path}")]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing to tell apart.
    #[error(
        "{folder} holds {found} folders, expected at least 2, one for each class (or train and test with these): \
         set dataset.path to the folder that holds them"
    )]
    Classes {
        /// The folder of classes.
        folder: PathBuf,
        /// How many it has.
        found: usize,
    },
    /// A class has no file.
    #[error(
        "{folder} holds no .{} file, expected some of this class: add some, or remove the folder",
        endings.join(" or .")
    )]
    EmptyClass {
        /// The class's folder.
        folder: PathBuf,
        /// How files end that are read.
        endings: &'static [&'static str],
    },
    /// A folder of files without classes has none.
    #[error("{folder} holds no .{} file, expected some, at any depth", endings.join(" or ."))]
    NoFile {
        /// The folder.
        folder: PathBuf,
        /// How files end that are read.
        endings: &'static [&'static str],
    },
    /// Test samples of a class that training does not have.
    #[error("{folder} has no counterpart among the training samples' folders: add one, or remove it")]
    UnknownClass {
        /// The class's folder.
        folder: PathBuf,
    },
    /// All of a class is silence, damaged, or became test samples.
    #[error(
        "{folder} leaves no training sample of class {class:?}: what was not chosen for testing is silence, damaged or \
         too little, add more files"
    )]
    NoTraining {
        /// The folder of all classes.
        folder: PathBuf,
        /// The class's name.
        class: String,
    },
    /// There is nothing to test with.
    #[error(
        "{folder} has no test sample: add files (about a fifth of them is chosen by their names), or make folders train \
         and test"
    )]
    NoTest {
        /// The folder of all classes.
        folder: PathBuf,
    },
    /// More files cannot be read than the job lets go.
    #[error(transparent)]
    BadRows(#[from] TooMany),
}
