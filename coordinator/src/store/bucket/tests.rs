use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::store::{Staged, Store, WEIGHTS};

#[path = "../../../../crates/stores/tests/s3/mod.rs"]
mod s3;

use s3::S3;

/// How long what is removed in the background may take.
const SOON: Duration = Duration::from_secs(30);

fn bucket(server: &S3) -> Bucket {
    let environment = [
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL", &server.address),
        ("AWS_ALLOW_HTTP", "true"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Bucket::new("s3://shelf/fleet/a", environment).unwrap()
}

/// `None` where there is no server.
fn store() -> Option<(S3, Bucket, Store)> {
    let server = S3::start().unwrap()?;
    server.make_bucket("shelf").unwrap();
    let bucket = bucket(&server);
    let store = Store::new(BucketShelf::open(bucket.clone()).unwrap());
    Some((server, bucket, store))
}

fn stage(store: &Store, id: u64, weights: &'static [u8]) -> Staged {
    let hash = blake3::hash(weights).to_hex().to_string();
    store
        .stage(("r", id), &[(WEIGHTS.into(), hash, Bytes::from_static(weights))])
        .unwrap()
}

fn manifest(staged: &Staged, version: u64, term: u64) -> Manifest {
    Manifest {
        format: retort_coordinator_core::manifest::FORMAT,
        run: "r".into(),
        group: "g".into(),
        version,
        term,
        files: staged.files.clone(),
        ..Manifest::default()
    }
}

fn commit(store: &Store, (version, term): (u64, u64), weights: &'static [u8]) -> Result<String, Error> {
    static UPLOAD: AtomicU64 = AtomicU64::new(100);
    let staged = stage(store, UPLOAD.fetch_add(1, Ordering::Relaxed), weights);
    store.commit(&staged, &manifest(&staged, version, term))
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < SOON, "{what}");
        std::thread::yield_now();
    }
}

fn uploads(bucket: &Bucket) -> Vec<String> {
    bucket.list("r/files").unwrap()
}

#[test]
fn a_version_is_visible_once_its_manifest_is_there() {
    let Some((_server, bucket, store)) = store() else {
        return;
    };
    let staged = stage(&store, 1, b"weights");
    assert!(store.versions("r", "g").unwrap().is_empty(), "staged only");
    let hash = store.commit(&staged, &manifest(&staged, 7, 1)).unwrap();
    assert_eq!(store.versions("r", "g").unwrap(), [7]);
    let (version, weights, _) = store.read(("r", "g"), None, WEIGHTS).unwrap();
    assert_eq!((version, &weights[..]), (7, &b"weights"[..]));
    let (newest, found) = store.newest_intact(("r", "g"), true).unwrap().unwrap();
    assert_eq!((newest.version, found), (7, hash));
    drop(staged);
    // One that is given up goes, and only that one.
    drop(stage(&store, 2, b"given up"));
    eventually("the upload is removed", || uploads(&bucket).len() == 1);
    assert_eq!(
        store.read(("r", "g"), Some(7), WEIGHTS).unwrap().1,
        &b"weights"[..]
    );
}

#[test]
fn of_two_coordinators_with_one_version_the_later_terms_counts() {
    let Some((_server, bucket, store)) = store() else {
        return;
    };
    commit(&store, (3, 1), b"of one that no longer leads").unwrap();
    commit(&store, (3, 2), b"of its successor").unwrap();
    for term in [1, 2] {
        let late = commit(&store, (3, term), b"later still").unwrap_err();
        assert!(
            matches!(
                late,
                Error::Superseded {
                    version: 3,
                    term: 2,
                    ..
                }
            ),
            "{late}"
        );
    }
    // One that looked before the other wrote: the bucket refuses it.
    let staged = stage(&store, 99, b"raced");
    let raced = manifest(&staged, 3, 9);
    let refused = staged
        .upload
        .publish(&raced, &raced.to_bytes().into())
        .unwrap_err();
    assert!(matches!(refused, Error::Superseded { .. }), "{refused}");
    assert_eq!(
        store.read(("r", "g"), None, WEIGHTS).unwrap().1,
        &b"of its successor"[..]
    );
    assert_eq!(
        bucket.list("r/g").unwrap(),
        ["00000003.json", "00000003.json.superseded"]
    );
}

#[test]
fn old_files_go_and_their_manifests_stay() {
    let Some((_server, bucket, store)) = store() else {
        return;
    };
    for version in 0..5 {
        commit(&store, (version, 1), b"weights").unwrap();
    }
    store.prune("r", "g", 3);
    eventually("three are removed", || uploads(&bucket).len() == 2);
    assert_eq!(store.versions("r", "g").unwrap(), [0, 1, 2, 3, 4]);
    assert!(matches!(
        store.read(("r", "g"), Some(2), WEIGHTS),
        Err(Error::Absent { .. })
    ));
    store.read(("r", "g"), Some(3), WEIGHTS).unwrap();
}

#[test]
fn a_damaged_version_is_put_aside_and_the_one_before_counts() {
    let Some((_server, bucket, store)) = store() else {
        return;
    };
    commit(&store, (0, 1), b"first").unwrap();
    let staged = stage(&store, 5, b"second");
    store.commit(&staged, &manifest(&staged, 1, 1)).unwrap();
    let at = staged.files[WEIGHTS].at.clone().unwrap();
    bucket.put(&at, Bytes::from_static(b"damaged")).unwrap();
    let (newest, _) = store.newest_intact(("r", "g"), true).unwrap().unwrap();
    assert_eq!(newest.version, 0);
    assert_eq!(store.versions("r", "g").unwrap(), [0]);
}

#[test]
fn a_bucket_that_is_away_damages_nothing() {
    let Some((server, _, store)) = store() else { return };
    commit(&store, (0, 1), b"first").unwrap();
    drop(server);
    let away = store.newest_intact(("r", "g"), true).unwrap_err();
    assert!(away.is_of_storage(), "{away}");
}

#[test]
fn the_later_of_two_reports_is_kept() {
    let Some((_server, _, store)) = store() else {
        return;
    };
    assert_eq!(store.report("r").unwrap(), None);
    for page in ["first", "second"] {
        store.keep_report("r", page.into()).unwrap();
    }
    assert_eq!(store.report("r").unwrap().unwrap(), "second");
    assert_eq!(store.versions("r", "g").unwrap(), [0; 0]);
}
