//! Real processes under fire: killed at every failpoint, stopped, cut off, resumed.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::path::{Path, PathBuf};

use retort_tests::online::{LIMIT, ONLINE, exactly_once, long, text, under_way};
use retort_tests::proxy::Proxy;
use retort_tests::{Harness, Running, children, eventually, processes, signal};
use rustix::process::Signal;
use serde_json::Value;

/// Samples of the short and of the long job's student group.
const SHORT: u64 = 1297 * 6;
const LONG: u64 = 1297 * 60;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

fn start(h: &Harness, job: &str, out: &Path) -> Running {
    let file = h.job("job.toml", job);
    h.start(&["run", text(&file), "--out", text(out), "--json"])
}

/// Waits for the end of a run that must succeed, and gives its report.
fn end(running: Running) -> Value {
    let (code, stdout) = running.end(LIMIT).expect("the run ends");
    assert_eq!(code, 0, "{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

fn pid(out: &Path, role: &str) -> u32 {
    processes(out, role).remove(0).1
}

fn term(h: &Harness, out: &Path) -> Option<u64> {
    let (_, _, address) = processes(out, "coordinator").into_iter().next()?;
    let output = h.call(&["status", "--json", "--coordinator", &address]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    status["term"].as_u64()
}

/// Rows 5 and 6.
#[test]
fn a_killed_coordinator_goes_on_under_a_new_term() {
    let h = harness();
    let out = h.path("run");
    let running = start(&h, &long(), &out);
    under_way(&h, &out);
    let workers: Vec<u32> = processes(&out, "student-worker").iter().map(|p| p.1).collect();
    for wanted in [2, 3] {
        signal(pid(&out, "coordinator"), Signal::KILL).unwrap();
        eventually("a new term", LIMIT, || term(&h, &out).filter(|t| *t == wanted)).unwrap();
    }
    under_way(&h, &out);
    let still: Vec<u32> = processes(&out, "student-worker").iter().map(|p| p.1).collect();
    assert_eq!(workers, still, "no worker ended because the coordinator did");
    let report = end(running);
    exactly_once(&h, &out, &report, LONG);
}

/// Rows 1, 5 and 21: each place between two steps of a write, a lease or a contribution.
#[test]
fn a_process_may_die_at_every_failpoint() {
    let points = [
        "journal.before-write@30",
        "journal.after-write@30",
        "store.file-written@7",
        "store.before-manifest@3",
        "store.before-rename@3",
        "store.committed@3",
        "worker.leased@4",
        "worker.trained@40",
        "worker.contribute@4",
        "worker.publish@3",
        "worker.merged@4",
    ];
    let h = harness();
    let file = h.job("job.toml", ONLINE);
    for point in points {
        let (name, _) = point.split_once('@').unwrap();
        let out = h.path(name);
        let markers = h.path(&format!("{name}.markers"));
        std::fs::create_dir(&markers).unwrap();
        let environment = [
            ("RETORT_FAILPOINT", point),
            ("RETORT_FAILPOINT_ONCE", text(&markers)),
        ];
        let running = h.start_with(&["run", text(&file), "--out", text(&out), "--json"], &environment);
        let (code, stdout) = running.end(LIMIT).unwrap_or_else(|e| panic!("{point}: {e}"));
        assert_eq!(code, 0, "{point}: {stdout}");
        assert!(markers.join(name).exists(), "{point} was not reached");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        exactly_once(&h, &out, &report, SHORT);
    }
}

/// Death of `retort run` itself leaves no orphan, and `--resume` goes on.
#[test]
fn a_killed_run_is_resumed_to_its_end() {
    let h = harness();
    let out = h.path("run");
    let running = start(&h, &long(), &out);
    under_way(&h, &out);
    let children = children(&out);
    signal(running.pid(), Signal::KILL).unwrap();
    for pid in children {
        eventually("an orphan leaves", LIMIT, || {
            signal(pid, Signal::CONT).is_err().then_some(())
        })
        .unwrap();
    }
    let resumed = h.start(&["run", "--resume", "--out", text(&out), "--json"]);
    let report = end(resumed);
    exactly_once(&h, &out, &report, LONG);
}

#[test]
fn a_stopped_run_is_resumed_to_its_end_with_its_own_job_only() {
    let h = harness();
    let out = h.path("run");
    let running = start(&h, &long(), &out);
    under_way(&h, &out);
    signal(running.pid(), Signal::INT).unwrap();
    assert_eq!(running.end(LIMIT).unwrap().0, 130);
    let other = h.job("other.toml", ONLINE);
    let refused = h.call(&["run", text(&other), "--resume", "--out", text(&out)]);
    assert_eq!(refused.status.code(), Some(2));
    let nothing = h.path("nothing");
    let refused = h.call(&["run", "--resume", "--out", text(&nothing)]);
    assert_eq!(refused.status.code(), Some(2), "nothing to resume");
    let file = h.path("job.toml");
    let resumed = h.start(&["run", text(&file), "--resume", "--out", text(&out), "--json"]);
    exactly_once(&h, &out, &end(resumed), LONG);
}

/// Row 2.
#[test]
fn a_student_that_was_stopped_repeats_nothing() {
    let h = harness();
    let out = h.path("run");
    let running = start(&h, &long(), &out);
    let student = under_way(&h, &out);
    let name = student["workers"][0]["worker"].as_str().unwrap().to_owned();
    let all = processes(&out, "student-worker");
    let pid = all.into_iter().find(|p| p.0 == name).unwrap().1;
    signal(pid, Signal::STOP).unwrap();
    eventually("its session ends", LIMIT, || {
        let (_, _, address) = processes(&out, "coordinator").remove(0);
        let output = h.call(&["status", "--json", "--coordinator", &address]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let events = status["events"].as_array()?.clone();
        let gone = |e: &Value| {
            e["text"]
                .as_str()
                .is_some_and(|t| t.contains(&name) && t.contains("ran out"))
        };
        events.iter().any(gone).then_some(())
    })
    .unwrap();
    signal(pid, Signal::CONT).unwrap();
    exactly_once(&h, &out, &end(running), LONG);
}

/// Row 4, scaled: the only teacher server dies three times, and is away each time until it has
/// started again.
#[test]
fn students_wait_for_their_teachers_without_an_error() {
    let h = harness();
    let out = h.path("run");
    let running = start(&h, &long(), &out);
    under_way(&h, &out);
    for _ in 0..3 {
        let first = pid(&out, "teacher-server");
        signal(first, Signal::KILL).unwrap();
        eventually("it is started again", LIMIT, || {
            let (_, again, _) = processes(&out, "teacher-server").into_iter().next()?;
            (again != first).then_some(())
        })
        .unwrap();
    }
    exactly_once(&h, &out, &end(running), LONG);
}

/// Row 20: damaged data is quarantined by sample, in every epoch, and named.
#[test]
fn a_sample_that_cannot_be_read_is_quarantined() {
    let h = harness();
    let file = h.job("job.toml", ONLINE);
    let out = h.path("run");
    let poison = [("RETORT_POISON", "7:panic")];
    let running = h.start_with(&["run", text(&file), "--out", text(&out), "--json"], &poison);
    let report = end(running);
    exactly_once(&h, &out, &report, SHORT);
    assert_eq!(
        report["ledger"]["quarantined"], 6,
        "once an epoch: {}",
        report["ledger"]
    );
}

/// Row 20: a sample that kills whoever computes it is found by halving.
#[test]
#[ignore = "extended: a dozen deaths with back-off"]
fn a_sample_that_kills_its_reader_is_found_and_quarantined() {
    let h = harness();
    let file = h.job("job.toml", &ONLINE.replace("epochs = 6", "epochs = 2"));
    let out = h.path("run");
    let poison = [("RETORT_POISON", "7:abort")];
    let running = h.start_with(&["run", text(&file), "--out", text(&out), "--json"], &poison);
    let report = end(running);
    exactly_once(&h, &out, &report, 1297 * 2);
    assert_eq!(report["ledger"]["quarantined"], 2, "{}", report["ledger"]);
}

/// Row 7, as far as one host allows it: the journal is locked.
#[test]
fn a_second_coordinator_does_not_start_on_the_same_data() {
    let h = harness();
    let data = h.path("data");
    let file = h.path("address");
    let first = [
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        text(&data),
    ];
    let args: Vec<&str> = first.iter().copied().chain(["--announce", text(&file)]).collect();
    let _running = h.start(&args);
    eventually("it listens", LIMIT, || std::fs::read_to_string(&file).ok()).unwrap();
    eventually("it has its journal", LIMIT, || {
        data.join("state.redb").exists().then_some(())
    })
    .unwrap();
    let (code, _) = h.start(&first).end(LIMIT).unwrap();
    assert_eq!(code, 1);
}

/// A standing fleet whose first worker reaches the coordinator over a link that can be cut.
struct Linked {
    h: Harness,
    coordinator: String,
    link: Proxy,
    _processes: Vec<Running>,
}

impl Linked {
    fn new(workers: usize) -> Self {
        let h = harness();
        let data = h.path("data");
        let role = |name: &str, args: &[&str]| {
            let file: PathBuf = h.path(&format!("{name}.address"));
            let all = [args, &["--listen", "127.0.0.1:0", "--announce", text(&file)]].concat();
            let running = h.start(&all);
            let address =
                eventually("a role listens", LIMIT, || std::fs::read_to_string(&file).ok()).unwrap();
            (running, address)
        };
        let (first, coordinator) = role("c", &["coordinator", "--data-dir", text(&data)]);
        let link = Proxy::to(&coordinator).unwrap();
        let mut running = vec![first];
        running.push(
            role(
                "t",
                &["teacher-server", "--coordinator", &coordinator, "--name", "t"],
            )
            .0,
        );
        for i in 0..workers {
            let name = format!("w{i}");
            let via = if i == 0 { &link.address } else { &coordinator };
            running.push(role(&name, &["student-worker", "--coordinator", via, "--name", &name]).0);
        }
        Self {
            h,
            coordinator,
            link,
            _processes: running,
        }
    }

    /// Submits the long job and waits until it is under way; gives the submitter.
    fn submit(&self, out: &Path) -> Running {
        let file = self.h.job("job.toml", &long());
        let args = [
            "submit",
            text(&file),
            "--coordinator",
            &self.coordinator,
            "--out",
            text(out),
            "--json",
        ];
        let running = self.h.start(&args);
        eventually("training", LIMIT, || {
            (self.student()?["round"].as_u64()? > 5).then_some(())
        })
        .unwrap();
        running
    }

    fn status(&self) -> Option<Value> {
        let output = self
            .h
            .call(&["status", "--json", "--coordinator", &self.coordinator]);
        serde_json::from_slice(&output.stdout).ok()
    }

    fn student(&self) -> Option<Value> {
        let status = self.status()?;
        let groups = status["groups"].as_array()?.clone();
        groups.into_iter().find(|g| g["kind"] == "student")
    }
}

/// Row 8: only the link to the coordinator is cut.
#[test]
fn a_student_that_is_cut_off_commits_nothing_and_comes_back() {
    let fleet = Linked::new(3);
    let out = fleet.h.path("out");
    let submitted = fleet.submit(&out);
    fleet.link.cut();
    eventually("its session ends", LIMIT, || {
        let status = fleet.status()?;
        let events = status["events"].as_array()?.clone();
        let gone = |e: &Value| {
            e["text"]
                .as_str()
                .is_some_and(|t| t.contains("w0") && t.contains("ran out"))
        };
        events.iter().any(gone).then_some(())
    })
    .unwrap();
    fleet.link.heal();
    exactly_once(&fleet.h, &out, &end(submitted), LONG);
}

/// Row 10, without the packet loss: 200 ms and up to 100 more on every message of one worker.
#[test]
fn a_slow_link_evicts_nobody() {
    let fleet = Linked::new(3);
    fleet.link.delay(200, 100);
    let out = fleet.h.path("out");
    let submitted = fleet.submit(&out);
    let report = end(submitted);
    exactly_once(&fleet.h, &out, &report, LONG);
    let status = fleet.status().unwrap();
    let evicted = |e: &Value| e["text"].as_str().is_some_and(|t| t.contains("ran out"));
    let events = status["events"].as_array().unwrap();
    assert!(!events.iter().any(evicted), "{events:#?}");
}

/// Row 22: the fleet shrinks to one replica in the middle of an epoch.
#[test]
fn a_smaller_fleet_goes_on_in_the_middle_of_an_epoch() {
    let mut fleet = Linked::new(3);
    let out = fleet.h.path("out");
    let submitted = fleet.submit(&out);
    // Whoever trains the student but one is gone for good.
    let student = fleet.student().unwrap();
    let name = student["workers"][0]["worker"].as_str().unwrap();
    let index: usize = name.trim_start_matches('w').parse().unwrap();
    drop(fleet._processes.remove(2 + index));
    exactly_once(&fleet.h, &out, &end(submitted), LONG);
}
