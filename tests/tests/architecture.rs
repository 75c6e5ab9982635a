//! The dependency rule of ARCHITECTURE.md, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

fn metadata() -> Metadata {
    // This platform's packages only: they are here, or nothing would have been built.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(vec![
            "--locked".to_owned(),
            format!("--filter-platform={platform}"),
        ])
        .exec()
        .expect("cargo metadata")
}

/// Names of a package's direct normal dependencies.
fn direct(metadata: &Metadata, package: &str) -> BTreeSet<String> {
    let package = metadata
        .packages
        .iter()
        .find(|p| p.name.as_str() == package)
        .expect("a member");
    let normal = package
        .dependencies
        .iter()
        .filter(|d| d.kind == DependencyKind::Normal);
    normal.map(|d| d.name.clone()).collect()
}

/// Names of everything below a package, without development and build dependencies.
fn below(metadata: &Metadata, package: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().expect("resolved");
    let name: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .map(|p| (&p.id, p.name.to_string()))
        .collect();
    let start = metadata
        .packages
        .iter()
        .find(|p| p.name.as_str() == package)
        .expect("a member");
    let mut seen = BTreeSet::new();
    let mut stack = vec![&start.id];
    while let Some(id) = stack.pop() {
        let node = resolve.nodes.iter().find(|n| n.id == *id).expect("a node");
        for dep in &node.deps {
            let normal = dep.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal);
            if normal && seen.insert(name[&dep.pkg].clone()) {
                stack.push(&dep.pkg);
            }
        }
    }
    seen
}

#[test]
fn pure_crates_know_no_runtime_no_wire_and_no_tensor() {
    let metadata = metadata();
    for package in [
        "retort-coordinator-core",
        "retort-student-worker-core",
        "retort-codec",
        "retort-data",
    ] {
        let all = below(&metadata, package);
        for forbidden in ["tokio", "tonic", "burn", "hyper"] {
            assert!(!all.contains(forbidden), "{package} depends on {forbidden}");
        }
    }
}

#[test]
fn tensor_crates_know_no_runtime_and_no_wire() {
    let metadata = metadata();
    for package in ["retort-losses", "retort-models"] {
        let names = direct(&metadata, package);
        for forbidden in ["tokio", "tonic"] {
            assert!(!names.contains(forbidden), "{package} depends on {forbidden}");
        }
    }
}

#[test]
fn burn_is_named_in_the_tensor_crates_and_the_worker_only() {
    let metadata = metadata();
    let allowed = [
        "retort-losses",
        "retort-models",
        "retort-student-worker",
        "retort-teacher-server",
    ];
    for package in metadata.workspace_packages() {
        let names = direct(&metadata, package.name.as_str());
        let named = names.iter().any(|n| n.starts_with("burn"));
        assert!(
            !named || allowed.contains(&package.name.as_str()),
            "{} names burn",
            package.name
        );
    }
}

#[test]
fn burn_is_named_behind_the_seam_only() {
    let mut outside = Vec::new();
    for role in ["student-worker/src", "teacher-server/src"] {
        let mut folders = vec![root().join(role)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("sources") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    if !path.ends_with("trainer") && !path.ends_with("engine") {
                        folders.push(path);
                    }
                } else if std::fs::read_to_string(&path).expect("source").contains("burn::") {
                    outside.push(path);
                }
            }
        }
    }
    assert!(
        outside.is_empty(),
        "burn is used outside trainer/ and engine/: {outside:?}"
    );
}

#[test]
fn object_stores_are_named_by_their_crate_only() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let names = direct(&metadata, package.name.as_str());
        for client in ["object_store", "reqwest"] {
            assert_eq!(
                names.contains(client),
                package.name.as_str() == "retort-stores",
                "{}: {client}",
                package.name
            );
        }
    }
}

#[test]
fn certificates_are_read_and_made_by_their_crate_only() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let names = direct(&metadata, package.name.as_str());
        for library in ["rcgen", "ring", "rustls-webpki", "tokio-rustls"] {
            assert_eq!(
                names.contains(library),
                package.name.as_str() == "retort-tls",
                "{}: {library}",
                package.name
            );
        }
    }
}

#[test]
fn no_role_depends_on_another_and_nothing_on_the_tests() {
    let metadata = metadata();
    let roles = [
        "retort-coordinator",
        "retort-teacher-server",
        "retort-student-worker",
    ];
    for role in roles {
        let all = below(&metadata, role);
        for other in roles.iter().filter(|o| **o != role) {
            assert!(!all.contains(*other), "{role} depends on {other}");
        }
    }
    for package in metadata.workspace_packages() {
        assert!(
            !direct(&metadata, package.name.as_str()).contains("retort-tests"),
            "{}",
            package.name
        );
    }
}

#[test]
fn pure_cores_repeat_the_workspaces_bans() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("clippy.toml");
    let common = read("clippy.toml");
    for core in ["coordinator/core", "student-worker/core"] {
        let own = read(&format!("{core}/clippy.toml"));
        for line in common.lines().filter(|l| l.contains('=') && !l.ends_with('[')) {
            assert!(own.contains(line), "{core}/clippy.toml lacks {line}");
        }
        assert!(
            own.contains("Instant::now") && own.contains("HashMap"),
            "{core} must ban clocks and hash maps"
        );
    }
}
