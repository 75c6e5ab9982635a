//! Buckets of moto's server, over HTTP, and over an HTTP that fails. Skipped with a line where the server is not installed.

#![cfg(feature = "object-store")]
#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod gate;
mod s3;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use gate::Gate;
use retort_data::{DatasetConfig, Format, TextConfig, Tokens};
use retort_stores::{CACHE, Error, FetchError, fetch};
use s3::S3;
use tempfile::TempDir;

/// A store that is away is known to be before this.
const SOON: Duration = Duration::from_secs(60);

fn lines(numbers: std::ops::Range<usize>) -> String {
    let mut lines = "label\ttext\n".to_owned();
    numbers.for_each(|i| writeln!(lines, "{}\tline {i} of {}", i % 3, i % 3).unwrap());
    lines
}

/// A bucket with texts and more of them, and the same as files.
fn fill(server: &S3) -> TempDir {
    let folder = TempDir::new().unwrap();
    server.make_bucket("shelf").unwrap();
    std::fs::create_dir(folder.path().join("texts")).unwrap();
    for (key, text) in [
        ("texts/train.tsv", lines(0..180)),
        ("texts/test.tsv", lines(500..560)),
        ("more.txt", "nobody says what\n".repeat(120)),
    ] {
        server.put(&format!("/shelf/{key}"), text.as_bytes()).unwrap();
        std::fs::write(folder.path().join(key), text).unwrap();
    }
    folder
}

fn texts(of: &str) -> DatasetConfig {
    DatasetConfig {
        format: Some(Format::Text),
        path: Some(format!("{of}/texts")),
        unlabelled: Some(format!("{of}/more.txt")),
        validation: Some(30),
        ..DatasetConfig::default()
    }
}

/// What the environment of a process says that knows the store by this address.
fn environment(address: &str, cache: &Path) -> Vec<(String, String)> {
    let pairs = [
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL", address),
        ("AWS_ALLOW_HTTP", "true"),
        (CACHE, cache.to_str().unwrap()),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn digest(config: &DatasetConfig) -> String {
    let set = retort_data::load(config, Path::new("."), 1).unwrap();
    set.digest().to_owned()
}

fn refused(config: &DatasetConfig, environment: Vec<(String, String)>) -> FetchError {
    match fetch(config, environment).unwrap_err() {
        Error::Fetch { source, .. } => source,
        Error::Data(e) => panic!("{e}"),
    }
}

#[test]
fn what_lies_in_a_bucket_is_read_like_files() {
    let Some(server) = S3::start().unwrap() else {
        return;
    };
    let (files, cache) = (fill(&server), TempDir::new().unwrap());
    let gate = Gate::to(&server.address).unwrap();
    let environment = environment(&gate.address, cache.path());
    let stored = texts("s3://shelf");
    let here = fetch(&stored, environment.clone()).unwrap();
    let expected = digest(&texts(files.path().to_str().unwrap()));
    assert_eq!(digest(&here), expected);

    // Nothing is fetched twice: two listings, and a question whether the file is a folder.
    let asked = gate.requests();
    assert_eq!(fetch(&stored, environment.clone()).unwrap(), here);
    assert_eq!(gate.requests() - asked, 3);

    // What is changed is seen, and whoever reads what was is not disturbed.
    server
        .put("/shelf/texts/train.tsv", lines(0..90).as_bytes())
        .unwrap();
    let changed = fetch(&stored, environment.clone()).unwrap();
    assert_ne!(digest(&changed), expected);
    assert_eq!(digest(&here), expected);

    // The store goes away; what was fetched stays.
    drop(server);
    assert_eq!(fetch(&stored, environment).unwrap(), changed);
}

#[test]
fn a_tokenizer_may_lie_there_too() {
    let Some(server) = S3::start().unwrap() else {
        return;
    };
    let (files, cache) = (fill(&server), TempDir::new().unwrap());
    server
        .put("/shelf/words/tokenizer.json", b"{\"words\": []}")
        .unwrap();
    let mut config = texts(files.path().to_str().unwrap());
    config.text = Some(TextConfig {
        tokens: Tokens::Tokenizer {
            path: "s3://shelf/words/tokenizer.json".to_owned(),
            blake3: None,
            ids: None,
            border: None,
        },
        ..TextConfig::default()
    });
    let mut here = fetch(&config, environment(&server.address, cache.path())).unwrap();
    assert_eq!(here.path, config.path);
    let path = here.text.as_mut().and_then(|text| text.tokens.path_mut());
    assert_eq!(std::fs::read(path.unwrap()).unwrap(), b"{\"words\": []}");
}

#[test]
fn what_is_not_there_is_named() {
    let Some(server) = S3::start().unwrap() else {
        return;
    };
    let (_files, cache) = (fill(&server), TempDir::new().unwrap());
    for (path, expected) in [
        ("s3://shelf/nothing", "s3://shelf/nothing: no object"),
        ("s3://shelf/text", "s3://shelf/text: no object"),
        ("s3://nowhere/texts", "NoSuchBucket"),
        ("s3://shelf/a//b", "empty"),
    ] {
        let config = DatasetConfig {
            path: Some(path.to_owned()),
            ..texts("s3://shelf")
        };
        let error = refused(&config, environment(&server.address, cache.path()));
        let text = error.to_string();
        assert!(
            matches!(error, FetchError::Refused(_)) && text.contains(expected),
            "{text}"
        );
    }
}

#[test]
fn a_store_that_fails_half_of_the_time_is_read() {
    let Some(server) = S3::start().unwrap() else {
        return;
    };
    let (files, cache) = (fill(&server), TempDir::new().unwrap());
    let gate = Gate::to(&server.address).unwrap();
    gate.fail_every(2);
    gate.cut_every(2);
    let here = fetch(&texts("s3://shelf"), environment(&gate.address, cache.path())).unwrap();
    assert_eq!(digest(&here), digest(&texts(files.path().to_str().unwrap())));
    let [failed, cut, rests] = gate.faults();
    assert!(
        failed >= 3 && cut >= 2 && rests >= 1,
        "{failed} requests failed, {cut} answers were cut, {rests} times the rest was asked for"
    );
}

#[test]
fn a_store_that_only_fails_is_known_soon() {
    let Some(server) = S3::start().unwrap() else {
        return;
    };
    let cache = TempDir::new().unwrap();
    let gate = Gate::to(&server.address).unwrap();
    gate.fail_every(1);
    let began = Instant::now();
    let error = refused(&texts("s3://shelf"), environment(&gate.address, cache.path()));
    assert!(matches!(error, FetchError::Away(_)), "{error}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[test]
fn an_object_that_changes_under_way_is_not_read() {
    let Some(server) = S3::start().unwrap() else {
        return;
    };
    let (_files, cache) = (fill(&server), TempDir::new().unwrap());
    let gate = Gate::to(&server.address).unwrap();
    // As long as before: only the ETag tells.
    let other = lines(0..180).replace("line", "LINE");
    let address = server.address.clone();
    gate.before_an_object(move || {
        for key in ["train", "test"] {
            s3::put(&address, &format!("/shelf/texts/{key}.tsv"), other.as_bytes()).unwrap();
        }
    });
    let stored = texts("s3://shelf");
    let error = refused(&stored, environment(&gate.address, cache.path()));
    assert!(matches!(error, FetchError::Changed(_)), "{error}");
    fetch(&stored, environment(&gate.address, cache.path())).unwrap();
}
