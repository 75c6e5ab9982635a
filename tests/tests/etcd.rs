//! Coordinators whose records lie in etcd: a standby takes over, and no sample is lost or repeated.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use retort_tests::online::{LIMIT, exactly_once, long, text};
use retort_tests::{Harness, Running, eventually, json};
use serde_json::Value;

#[path = "../../coordinator/src/journal/etcd/tests/server.rs"]
mod server;

use server::Server;

#[cfg(feature = "object-store")]
#[path = "../../crates/stores/tests/s3/mod.rs"]
mod s3;

/// What the student of the long job commits.
const SAMPLES: u64 = 1_297 * 60;

/// `name` has a data folder of its own, if versions do not lie in it.
fn coordinator(h: &Harness, name: &str, (etcd, port, versions): (&Server, u16, Option<&str>)) -> Running {
    let data = h.path(if versions.is_some() { name } else { "shared" });
    let (listen, etcd) = (format!("127.0.0.1:{port}"), etcd.address());
    let args = [
        "coordinator",
        "--listen",
        &listen,
        "--http",
        "127.0.0.1:0",
        "--data-dir",
        text(&data),
    ];
    let mut args = [&args[..], &["--etcd", &etcd, "--etcd-prefix", "scenario"]].concat();
    args.extend(versions.iter().flat_map(|url| ["--versions", url]));
    h.start(&args)
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

/// One leads, one stands by; the leader is killed under way.
fn take_over(h: &Harness, etcd: &Server, versions: Option<&str>) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("http://127.0.0.1:{port}");
    let leader = coordinator(h, "first", (etcd, port, versions));
    let serves = || h.call(&["health", &address]).status.success().then_some(());
    eventually("the leader serves", LIMIT, serves).unwrap();
    // On the same port: it listens on none until it leads.
    let _standby = coordinator(h, "second", (etcd, port, versions));
    let worker = |role, name| {
        let args = [
            role,
            "--listen",
            "127.0.0.1:0",
            "--coordinator",
            &address,
            "--name",
            name,
        ];
        h.start(&args)
    };
    let workers = ["a", "b", "c"].map(|name| worker("student-worker", name));
    let server = worker("teacher-server", "t");
    let (job, out) = (h.job("job.toml", &long()), h.path("out"));
    let args = [
        "submit",
        text(&job),
        "--coordinator",
        &address,
        "--out",
        text(&out),
        "--json",
    ];
    let submitted = h.start(&args);
    let before = eventually("training", LIMIT, || round(h, &address).filter(|r| *r > 5)).unwrap();

    // SIGKILL.
    drop(leader);
    let killed = Instant::now();
    eventually("the standby leads", LIMIT, || status(h, &address)).unwrap();
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
    let goes_on = || round(h, &address).filter(|r| *r > before + 5);
    eventually("training goes on", LIMIT, goes_on).unwrap();

    let (code, log) = submitted.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{log}");
    exactly_once(h, &out, &json(&out.join("report.json")), SAMPLES);
    drop((workers, server));
}

#[test]
fn a_standby_takes_over_within_ten_seconds() {
    let Some(etcd) = Server::start() else { return };
    take_over(&Harness::new(env!("CARGO_BIN_EXE_retort-harness")), &etcd, None);
}

/// The two share etcd and a bucket, and no folder.
#[cfg(feature = "object-store")]
#[test]
fn a_standby_takes_over_what_lies_in_a_bucket() {
    let (Some(etcd), Some(s3)) = (Server::start(), s3::S3::start().unwrap()) else {
        return;
    };
    s3.make_bucket("shelf").unwrap();
    let mut h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    h.set("AWS_ACCESS_KEY_ID", "me");
    h.set("AWS_SECRET_ACCESS_KEY", "secret");
    h.set("AWS_ENDPOINT_URL", &s3.address);
    h.set("AWS_ALLOW_HTTP", "true");
    take_over(&h, &etcd, Some("s3://shelf/fleet"));
}

#[cfg(feature = "object-store")]
#[test]
fn a_bucket_without_credentials_is_refused_before_anything_starts() {
    let mut h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    h.set("AWS_ACCESS_KEY_ID", "");
    let refused = h.call(&["coordinator", "--versions", "s3://shelf/fleet"]);
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(
        message.contains("--versions") && message.contains("AWS_ACCESS_KEY_ID"),
        "{message}"
    );
}

#[test]
fn etcd_that_is_not_there_is_named_by_address() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let refused = h.call(&["coordinator", "--etcd", "127.0.0.1:2379"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--etcd"));
    let args = [
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--etcd",
        "http://127.0.0.1:1",
    ];
    let away = h.call(&args);
    let message = String::from_utf8_lossy(&away.stderr);
    assert_eq!(away.status.code(), Some(1), "{message}");
    assert!(
        message.contains("error: --etcd: ") && message.contains("etcd at http://127.0.0.1:1"),
        "{message}"
    );
}
