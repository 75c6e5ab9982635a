//! Which files of a folder belong to which class and part.

use std::fs;
use std::path::{Path, PathBuf};

use super::Error;

/// One of so many files is a test sample where the folder does not say.
const TEST_SHARE: u64 = 5;
/// Keys the choice of test files.
const TEST_KEY: &str = "retort test files v1";

/// The files of both parts, each class's together, sorted by path.
pub(super) struct Files {
    pub(super) class_names: Vec<String>,
    pub(super) pool: Vec<File>,
    pub(super) test: Vec<File>,
}

pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) class: u32,
}

/// Goes through `FOLDER/train` and `FOLDER/test`, each with a folder for each class, or else through `FOLDER` itself, where
/// a hash of each file's path below it chooses the test samples. Names that begin with a dot are left out.
pub(super) fn find(folder: &Path) -> Result<Files, Error> {
    let (train, test) = (folder.join("train"), folder.join("test"));
    if train.is_dir() && test.is_dir() {
        let (class_names, pool) = several(&train)?;
        let (test_names, mut files) = classes(&test)?;
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
    let (class_names, files) = several(folder)?;
    let chosen = |file: &File| is_test(file.path.strip_prefix(folder).unwrap_or(&file.path));
    let (test, pool): (Vec<File>, Vec<File>) = files.into_iter().partition(chosen);
    Ok(Files {
        class_names,
        pool,
        test,
    })
}

/// [`classes`], of which there must be two.
fn several(folder: &Path) -> Result<(Vec<String>, Vec<File>), Error> {
    let (names, files) = classes(folder)?;
    if names.len() < 2 {
        let (folder, found) = (folder.to_owned(), names.len());
        return Err(Error::Classes { folder, found });
    }
    Ok((names, files))
}

/// The names of the folders, which are the classes, and all files below them.
fn classes(folder: &Path) -> Result<(Vec<String>, Vec<File>), Error> {
    let folders: Vec<PathBuf> = entries(folder)?
        .into_iter()
        .filter(|path| path.is_dir())
        .collect();
    let mut files = Vec::new();
    for (class, folder) in (0u32..).zip(&folders) {
        let before = files.len();
        walk(folder, class, &mut files)?;
        if files.len() == before {
            let folder = folder.clone();
            return Err(Error::EmptyClass { folder });
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

fn walk(folder: &Path, class: u32, files: &mut Vec<File>) -> Result<(), Error> {
    for path in entries(folder)? {
        let is_wav = |end: &std::ffi::OsStr| end.eq_ignore_ascii_case("wav");
        if path.is_dir() {
            walk(&path, class, files)?;
        } else if path.extension().is_some_and(is_wav) {
            files.push(File { path, class });
        }
    }
    Ok(())
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
pub(super) fn is_test(path: &Path) -> bool {
    let mut hash = blake3::Hasher::new_derive_key(TEST_KEY);
    for part in path {
        hash.update(part.as_encoded_bytes()).update(b"/");
    }
    let mut word = [0; 8];
    hash.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word).is_multiple_of(TEST_SHARE)
}
