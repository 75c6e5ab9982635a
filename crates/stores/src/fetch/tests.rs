use std::os::unix::fs::MetadataExt;

use object_store::memory::InMemory;
use tempfile::TempDir;

use super::*;

const BUCKET: &str = "bucket";

struct Place {
    store: InMemory,
    folder: TempDir,
}

impl Place {
    fn new(objects: &[(&str, &str)]) -> Self {
        let place = Self {
            store: InMemory::new(),
            folder: TempDir::new().expect("a folder"),
        };
        for (key, text) in objects {
            place.put(key, text);
        }
        place
    }

    fn put(&self, key: &str, text: &str) {
        let key = Key::parse(key).expect("a key");
        block_on(self.store.put(&key, text.to_owned().into())).expect("put");
    }

    fn cache(&self, prefix: &str) -> Cache {
        Cache::new(self.folder.path(), ("here", BUCKET, prefix)).expect("a cache")
    }

    fn bring(&self, prefix: &str) -> Result<PathBuf, FetchError> {
        let source = Source {
            store: &self.store,
            bucket: BUCKET,
            prefix,
        };
        block_on(source.bring(&self.cache(prefix)))
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// Files below a folder: path, contents, inode.
fn files(folder: &Path) -> Vec<(String, String, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).expect("below").display().to_string();
            let inode = fs::metadata(&path).expect("metadata").ino();
            found.push((name, fs::read_to_string(&path).expect("text"), inode));
        }
    }
    found.sort();
    found
}

fn contents(folder: &Path) -> Vec<(String, String)> {
    files(folder)
        .into_iter()
        .map(|(name, text, _)| (name, text))
        .collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(pair).collect()
}

#[test]
fn a_prefix_is_a_folder_and_a_key_a_file() {
    let all = [
        ("data/train.csv", "1"),
        ("data/deep/er/a b%20.txt", "2"),
        ("data/deep", ""), // stands for a folder
        ("data/empty.txt", ""),
        ("database/x", "not below data"),
    ];
    let place = Place::new(&all);
    let folder = place.bring("data").expect("brought");
    assert!(folder.ends_with("bucket/data"), "{}", folder.display());
    let below = [("deep/er/a b%20.txt", "2"), ("empty.txt", ""), ("train.csv", "1")];
    assert_eq!(contents(&folder), owned(&below));
    let file = place.bring("data/train.csv").expect("brought");
    assert!(file.ends_with("bucket/data/train.csv"), "{}", file.display());
    assert_eq!(fs::read_to_string(file).expect("text"), "1");
    assert_eq!(
        files(&place.bring("").expect("brought")).len(),
        4,
        "all of the bucket"
    );
    for nothing in ["dat", "data/train.csv/x", "none/../data"] {
        let error = place.bring(nothing).expect_err(nothing);
        assert!(matches!(error, FetchError::Refused(_)), "{error}");
    }
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let place = Place::new(&[("d/a", "one"), ("d/b", "two")]);
    let folder = place.bring("d").expect("brought");
    let first = files(&folder);
    assert_eq!(place.bring("d").expect("again"), folder);
    assert_eq!(files(&folder), first, "the very same files");

    // One is damaged, one lost.
    fs::write(folder.join("a"), "on3").expect("write");
    fs::remove_file(folder.join("b")).expect("remove");
    assert_eq!(place.bring("d").expect("mended"), folder);
    assert_eq!(contents(&folder), owned(&[("a", "one"), ("b", "two")]));
}

#[test]
fn a_change_makes_a_new_folder_of_what_changed() {
    let place = Place::new(&[("d/a", "one"), ("d/b", "two"), ("d/c", "three")]);
    let before = place.bring("d").expect("brought");
    let old = files(&before);
    place.put("d/b", "2");
    block_on(place.store.delete(&Key::from("d/c"))).expect("delete");
    let after = place.bring("d").expect("brought");
    assert_ne!(after, before);
    assert_eq!(files(&before), old, "whoever reads the old one is not disturbed");
    assert_eq!(contents(&after), owned(&[("a", "one"), ("b", "2")]));
    assert_eq!(files(&after)[0], old[0], "not fetched again");
}

/// What a process leaves that dies while it writes.
#[test]
fn a_fetch_that_was_broken_off_goes_on() {
    let place = Place::new(&[("d/a", "one"), ("d/b", "two")]);
    let folder = place.bring("d").expect("brought");
    let kept = folder.ancestors().nth(3).expect("of the listing");
    let (a, sums) = (files(&folder)[0].clone(), kept.join("sums.jsonl"));
    let text = fs::read_to_string(&sums).expect("sums");
    let line = |key: &str| text.lines().find(|line| line.contains(key)).expect("a line");
    fs::write(&sums, format!("{}\n{}", line("d/a"), &line("d/b")[..20])).expect("write");
    fs::write(kept.join("parts/7"), "tw").expect("write");
    fs::remove_file(folder.join("b")).expect("remove");
    assert_eq!(place.bring("d").expect("goes on"), folder);
    let now = files(&folder);
    assert_eq!((&now[0], now[1].1.as_str()), (&a, "two"));
    assert_eq!(fs::read_dir(kept.join("parts")).expect("parts").count(), 0);
    assert_eq!(fs::read_to_string(&sums).expect("sums").lines().count(), 2);
}

#[test]
fn several_that_want_it_at_once_fetch_it_once() {
    let objects: Vec<(String, String)> = (0..200).map(|i| (format!("d/{i}"), i.to_string())).collect();
    let place = Place::new(&[]);
    for (key, text) in &objects {
        place.put(key, text);
    }
    let seen = std::thread::scope(|scope| {
        let bring = || {
            let folder = place.bring("d").expect("brought");
            files(&folder)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(bring)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        joined.collect::<Vec<_>>()
    });
    assert_eq!(seen[0].len(), objects.len());
    // The same inodes: nobody replaced what another had read.
    assert!(seen.iter().all(|files| *files == seen[0]));
}

#[test]
fn no_room_is_known_before() {
    let folder = TempDir::new().expect("a folder");
    room(folder.path(), 1).expect("a byte");
    let error = room(folder.path(), u64::MAX).expect_err("too much");
    assert!(matches!(error, FetchError::Full { .. }), "{error}");
}
