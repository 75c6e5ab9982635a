//! Coordinators whose records lie in etcd: a standby takes over, and no sample is lost or repeated.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use retort_tests::online::{LIMIT, exactly_once, long, text};
use retort_tests::{Harness, Running, eventually};
use serde_json::Value;

#[path = "../../coordinator/src/journal/etcd/tests/server.rs"]
mod server;

use server::Server;

/// What the student of the long job commits.
const SAMPLES: u64 = 1_297 * 60;

fn coordinator(h: &Harness, (etcd, port): (&Server, u16)) -> Running {
    let (listen, data) = (format!("127.0.0.1:{port}"), h.path("data"));
    let args = [
        "coordinator",
        "--listen",
        &listen,
        "--http",
        "127.0.0.1:0",
        "--data-dir",
        text(&data),
    ];
    h.start(
        &[
            &args[..],
            &["--etcd", &etcd.address(), "--etcd-prefix", "scenario"],
        ]
        .concat(),
    )
}

fn status(h: &Harness, address: &str) -> Option<Value> {
    let output = h.call(&["status", "--json", "--coordinator", address]);
    serde_json::from_slice(&output.stdout).ok()
}

/// The student's rounds so far.
fn round(h: &Harness, address: &str) -> Option<u64> {
    let groups = status(h, address)?["groups"].as_array()?.clone();
    groups.iter().find(|g| g["kind"] == "student")?["round"].as_u64()
}

fn report(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap()
}

#[test]
fn a_standby_takes_over_within_ten_seconds() {
    let Some(etcd) = Server::start() else { return };
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("http://127.0.0.1:{port}");
    let leader = coordinator(&h, (&etcd, port));
    eventually("the leader serves", LIMIT, || {
        h.call(&["health", &address]).status.success().then_some(())
    })
    .unwrap();
    // On the same port: it listens on none until it leads.
    let standby = coordinator(&h, (&etcd, port));
    let worker = |role, name| {
        h.start(&[
            role,
            "--listen",
            "127.0.0.1:0",
            "--coordinator",
            &address,
            "--name",
            name,
        ])
    };
    let _fleet = [
        worker("teacher-server", "t"),
        worker("student-worker", "a"),
        worker("student-worker", "b"),
        worker("student-worker", "c"),
    ];
    let (job, out) = (h.job("job.toml", &long()), h.path("out"));
    let submitted = h.start(&[
        "submit",
        text(&job),
        "--coordinator",
        &address,
        "--out",
        text(&out),
        "--json",
    ]);
    let before = eventually("training", LIMIT, || round(&h, &address).filter(|r| *r > 5)).unwrap();

    // SIGKILL.
    drop(leader);
    let killed = Instant::now();
    eventually("the standby leads", LIMIT, || status(&h, &address)).unwrap();
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
    eventually("training goes on", LIMIT, || {
        round(&h, &address).filter(|r| *r > before + 5)
    })
    .unwrap();

    let (code, log) = submitted.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{log}");
    exactly_once(&h, &out, &report(&out), SAMPLES);
    drop(standby);
}

#[test]
fn etcd_that_is_not_there_is_named_by_address() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let refused = h.call(&["coordinator", "--etcd", "127.0.0.1:2379"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--etcd"));
    let away = h.start(&[
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--etcd",
        "http://127.0.0.1:1",
    ]);
    let (code, log) = away.end(LIMIT).unwrap();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("etcd at http://127.0.0.1:1"), "{log}");
}
