use super::*;

fn commit(store: &Store, term: u64, weights: &'static [u8]) -> Result<String, Error> {
    let hash = blake3::hash(weights).to_hex().to_string();
    let staged = store.stage(
        ("r", term),
        &[(WEIGHTS.into(), hash, Bytes::from_static(weights))],
    )?;
    let manifest = Manifest {
        format: retort_coordinator_core::manifest::FORMAT,
        run: "r".into(),
        group: "g".into(),
        version: 3,
        term,
        files: staged.files.clone(),
        ..Manifest::default()
    };
    store.commit(&staged, &manifest)
}

#[test]
fn of_two_coordinators_with_one_version_the_later_terms_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(FolderShelf::open(dir.path()).unwrap());
    commit(&store, 1, b"of one that no longer leads").unwrap();
    commit(&store, 2, b"of its successor").unwrap();
    let late = commit(&store, 1, b"later still").unwrap_err();
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
    let (version, weights, _) = store.read(("r", "g"), None, WEIGHTS).unwrap();
    assert_eq!((version, &weights[..]), (3, &b"of its successor"[..]));
}

#[test]
fn the_later_of_two_reports_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(FolderShelf::open(dir.path()).unwrap());
    assert_eq!(store.report("r").unwrap(), None);
    for page in ["first", "second"] {
        store.keep_report("r", page.into()).unwrap();
    }
    let again = Store::new(FolderShelf::open(dir.path()).unwrap());
    assert_eq!(again.report("r").unwrap().unwrap(), "second");
    assert_eq!(again.report("other").unwrap(), None);
}

/// Manifests stay for ever: a version that was pruned costs nothing any more.
#[test]
fn what_was_pruned_before_is_not_looked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(FolderShelf::open(dir.path()).unwrap());
    let weights = |version: u64| checkpoint_dir(dir.path(), "r", "g", version).join(WEIGHTS);
    for version in 0..6 {
        std::fs::create_dir_all(weights(version).parent().unwrap()).unwrap();
        std::fs::write(weights(version), "w").unwrap();
    }
    let there = || (0..6).filter(|v| weights(*v).exists()).collect::<Vec<u64>>();
    store.prune("r", "g", 3);
    assert_eq!(there(), [3, 4, 5]);
    std::fs::write(weights(1), "w").unwrap();
    store.prune("r", "g", 5);
    assert_eq!(there(), [1, 5]);
    store.prune("r", "g", 2);
    assert_eq!(there(), [1, 5], "nothing to do");
}
