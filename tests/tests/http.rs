//! The coordinator's HTTP port over real runs: metrics, dashboard, live states.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::path::Path;
use std::time::Duration;

use retort_tests::exposition::Exposition;
use retort_tests::http::{ask, dashboard, events, post};
use retort_tests::online::{LIMIT, ONLINE, text};
use retort_tests::{Harness, eventually, processes, signal};
use rustix::process::Signal;
use serde_json::Value;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

fn metrics(address: &str) -> Option<Exposition> {
    let answer = ask(address, "GET", "/metrics").ok()?;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    Some(Exposition::parse(&answer.body).expect("Prometheus' text format"))
}

/// Two seeds: while the second trains, the first is over and its metrics are final.
#[test]
fn a_run_can_be_watched_while_it_trains() {
    let h = harness();
    // Long enough that the second seed trains while the pages of the first are read.
    let job = ONLINE.replace("epochs = 6", "epochs = 60");
    let (job, out) = (h.job("job.toml", &job), h.path("out"));
    let running = h.start(&["run", text(&job), "--out", text(&out), "--json", "--seeds", "2"]);
    let address = eventually("the HTTP port", LIMIT, || dashboard(&out)).unwrap();
    let first = eventually("a run", LIMIT, || {
        let answer = ask(&address, "GET", "/api/runs").ok()?;
        let runs: Value = serde_json::from_str(&answer.body).ok()?;
        Some(runs["runs"][0]["run"].as_str()?.to_owned())
    })
    .unwrap();
    assert_eq!(first, "online-3");

    let states = events(&address, &first, |states| {
        states.last().is_some_and(|s| s["state"] == "done")
    })
    .unwrap();
    let revisions: Vec<u64> = states.iter().filter_map(|s| s["revision"].as_u64()).collect();
    assert!(
        revisions.len() >= 2 && revisions.windows(2).all(|w| w[0] <= w[1]),
        "{revisions:?}"
    );
    assert_ne!(revisions.first(), revisions.last(), "it went on");

    pages(&address, &first);

    let last = eventually("the second run's metrics", LIMIT, || {
        let metrics = metrics(&address)?;
        let trained = metrics.find("retort_group_trained_samples_total", &[("run", "online-4")]);
        (!trained.is_empty()).then_some(metrics)
    })
    .unwrap();
    let of = [("run", "online-3"), ("kind", "student")];
    let committed = last.sum("retort_ledger_committed_samples_total", &of);
    let taught = last.sum("retort_group_taught_samples_total", &of);
    assert_eq!(last.sum("retort_run_state", &[("state", "done"), of[0]]), 1.0);
    assert_eq!(last.sum("retort_ledger_samples", &of), 1297.0, "conservation");
    assert!(last.sum("retort_group_held_out_accuracy_ratio", &of) > 0.3);
    assert!(last.sum("retort_group_spent_seconds_total", &of) > 0.0);
    assert!(last.sum("retort_teacher_activations_total", &[("teacher", "wide"), of[0]]) > 1.0);

    let (code, stdout) = running.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    // Both seeds together; each goes through the same samples.
    assert_eq!(report["ledger"]["committed"], 2.0 * committed);
    assert_eq!(report["soft_targets"]["samples"], 2.0 * taught);
}

#[test]
fn the_dashboards_own_page_gives_orders_and_no_other() {
    let h = harness();
    let job = ONLINE.replace("epochs = 6", "epochs = 60");
    let (job, out) = (h.job("job.toml", &job), h.path("out"));
    let running = h.start(&["run", text(&job), "--out", text(&out), "--json"]);
    let address = eventually("the HTTP port", LIMIT, || dashboard(&out)).unwrap();
    let status = || -> Option<Value> {
        let answer = ask(&address, "GET", "/api/runs/online-3").ok()?;
        serde_json::from_str(&answer.body).ok()
    };
    let is = |state: &str| eventually(state, LIMIT, || (status()?["state"] == state).then_some(())).unwrap();
    is("running");
    assert_eq!(
        ask(&address, "GET", "/api/orders").unwrap().body,
        r#"{"allowed":true}"#
    );
    let order =
        |origin: &str, body: &str| post(&address, "/api/runs/online-3/orders", (origin, body)).unwrap();
    for origin in ["", "https://example.com"] {
        let refused = order(origin, r#"{"order":"pause"}"#);
        assert_eq!(refused.status, 403, "{}", refused.body);
    }
    for (body, status, part) in [
        (r#"{"order":"burn"}"#, 400, "burn"),
        (
            r#"{"order":"retune","alpha":7,"temperature":null}"#,
            400,
            "alpha = 7",
        ),
        (r#"{"order":"drain","worker":"nobody"}"#, 400, "nobody"),
    ] {
        let refused = order(&address, body);
        assert_eq!(refused.status, status, "{body}: {}", refused.body);
        assert!(refused.body.contains(part), "{body}: {}", refused.body);
    }
    assert_eq!(
        status().unwrap()["state"],
        "running",
        "what is refused changes nothing"
    );
    let done = |body: &str| {
        let answer = order(&address, body);
        assert_eq!(answer.status, 204, "{body}: {}", answer.body);
    };
    done(r#"{"order":"pause"}"#);
    is("paused");
    done(r#"{"order":"retune","alpha":0.5,"temperature":2}"#);
    done(r#"{"order":"resume"}"#);
    is("running");
    let now = status().unwrap();
    assert_eq!((&now["alpha"], &now["temperature"]), (&0.5.into(), &2.0.into()));
    let events = now["events"].to_string();
    for asked in ["pause", "retune", "resume"] {
        let event = format!("somebody at the dashboard asks: {asked}");
        assert!(events.contains(&event), "{event}: {events}");
    }
    let (code, stdout) = running.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let tuned = serde_json::json!([{ "seed": 3, "alpha": 0.5, "temperature": 2.0 }]);
    assert_eq!(report["run"]["retuned"], tuned);
    assert_eq!(
        report["soft_targets"]["rejected"], 0,
        "frames came at the temperature of their lease"
    );
    retort_tests::online::exactly_once(&h, &out, &report, 1297 * 60);
}

/// What there is, and what there is not.
fn pages(address: &str, run: &str) {
    let page = ask(address, "GET", "/").unwrap();
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(page.body.contains("<main"), "{}", page.body);
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'none'")
    );
    for part in page.body.split('"').filter(|p| p.starts_with("/assets/")) {
        assert_eq!(ask(address, "GET", part).unwrap().status, 200, "{part}");
    }
    let one = ask(address, "GET", &format!("/api/runs/{run}")).unwrap();
    let status: Value = serde_json::from_str(&one.body).unwrap();
    assert_eq!(
        (one.header("content-type"), &status["run"]),
        ("application/json", &run.into())
    );
    assert!(
        status["groups"][0]["curve"]
            .as_array()
            .is_some_and(|c| c.len() > 2)
    );
    for path in [
        "/nothing",
        "/api/runs/nobody",
        "/events?run=nobody",
        "/assets/../Cargo.toml",
    ] {
        assert_eq!(ask(address, "GET", path).unwrap().status, 404, "{path}");
    }
    for path in ["/", "/metrics", "/api/runs", "/events"] {
        assert_eq!(ask(address, "POST", path).unwrap().status, 405, "{path}");
    }
}

#[test]
fn a_port_in_use_and_a_bad_address_end_the_coordinator_at_its_start() {
    let h = harness();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let data = h.path("data");
    let call = |http: &str| {
        let listen = ["--listen", "127.0.0.1:0", "--data-dir", text(&data)];
        let output = h.call(&[&["coordinator", "--http", http][..], &listen[..]].concat());
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, said) = call(&port);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--http") && said.contains(&port), "{said}");
    let (code, said) = call("localhost");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--http") && said.contains("localhost"), "{said}");
}

#[test]
fn a_data_folder_that_cannot_be_used_ends_the_coordinator_at_its_start() {
    let h = harness();
    let file = h.path("file");
    std::fs::write(&file, "not a folder").unwrap();
    // Below a file, on a file system that takes no files, and held by another coordinator.
    let running = h.start(&[
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        text(&h.path("data")),
    ]);
    eventually("its lock", LIMIT, || {
        h.path("data").join("state.redb").exists().then_some(())
    })
    .unwrap();
    for (folder, part, code) in [
        (file.join("below"), "file/below", 2),
        (Path::new("/proc/retort").to_owned(), "/proc/retort", 2),
        (h.path("data"), "another coordinator", 1),
    ] {
        let output = eventually("an answer", LIMIT, || {
            Some(h.call(&[
                "coordinator",
                "--listen",
                "127.0.0.1:0",
                "--data-dir",
                text(&folder),
            ]))
        })
        .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(part) && said.lines().count() < 5, "{part}: {said}");
    }
    drop(running);
}

#[test]
fn both_ports_survive_the_coordinators_death() {
    let h = harness();
    let (job, out) = (h.job("job.toml", ONLINE), h.path("out"));
    let running = h.start(&["run", text(&job), "--out", text(&out), "--json"]);
    let address = eventually("the HTTP port", LIMIT, || dashboard(&out)).unwrap();
    let term = |limit: Duration, above: f64| {
        eventually("a coordinator", limit, || {
            let term = metrics(&address)?.sum("retort_coordinator_term", &[]);
            (term > above).then_some(term)
        })
    };
    let before = term(LIMIT, 0.0).unwrap();
    let (_, pid, grpc) = processes(&out, "coordinator").remove(0);
    signal(pid, Signal::KILL).unwrap();
    term(LIMIT, before).unwrap();
    let (_, again, kept) = eventually("its new process", LIMIT, || {
        let found = processes(&out, "coordinator").into_iter().next()?;
        (found.1 != pid).then_some(found)
    })
    .unwrap();
    assert!(again > 0);
    assert_eq!((kept, dashboard(&out)), (grpc, Some(address.clone())));
    let (code, stdout) = running.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{stdout}");
}
