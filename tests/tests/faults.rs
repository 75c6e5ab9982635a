//! Real processes under fire: killed at every failpoint, stopped, cut off, resumed.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use retort_tests::online::{LIMIT, ONLINE, exactly_once, long, text, under_way};
use retort_tests::standing::Standing;
use retort_tests::{Harness, Running, Throttle, children, eventually, processes, signal};
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

/// Row 20: a step that panics (a tensor library out of memory, say) costs the replica its session, not the run.
#[test]
fn a_sample_whose_step_panics_is_found_and_quarantined() {
    let h = harness();
    let file = h.job("job.toml", &ONLINE.replace("epochs = 6", "epochs = 2"));
    let out = h.path("run");
    let poison = [("RETORT_POISON", "7:step")];
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

/// Row 8: only the link to the coordinator is cut.
#[test]
fn a_student_that_is_cut_off_commits_nothing_and_comes_back() {
    let fleet = Standing::new(harness(), 3, 1);
    let out = fleet.h.path("out");
    let submitted = fleet.submit(&long(), &out);
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
    let fleet = Standing::new(harness(), 3, 1);
    fleet.link.delay(200, 100);
    let out = fleet.h.path("out");
    // Each round takes the link's time.
    let submitted = fleet.submit(&long().replace("epochs = 60", "epochs = 30"), &out);
    eventually("the slow one takes part", LIMIT, || {
        fleet.tells(&["w0", "joined"]).then_some(())
    })
    .unwrap();
    let report = end(submitted);
    exactly_once(&fleet.h, &out, &report, LONG / 2);
    let status = fleet.status().unwrap();
    let evicted = |e: &Value| e["text"].as_str().is_some_and(|t| t.contains("ran out"));
    let events = status["events"].as_array().unwrap();
    assert!(!events.iter().any(evicted), "{events:#?}");
}

/// Row 22: the fleet shrinks to one replica in the middle of an epoch.
#[test]
fn a_smaller_fleet_goes_on_in_the_middle_of_an_epoch() {
    let mut fleet = Standing::new(harness(), 3, 1);
    let out = fleet.h.path("out");
    let submitted = fleet.submit(&long(), &out);
    // Whoever trains the student but one is gone for good.
    let student = fleet.student().unwrap();
    let name = student["workers"][0]["worker"].as_str().unwrap();
    fleet.kill(name);
    exactly_once(&fleet.h, &out, &end(submitted), LONG);
}

/// Row 3: one of two teacher servers is gone for good; what was asked of it is asked of the other
/// long before the coordinator knows.
#[test]
fn students_go_on_with_the_other_teacher_server() {
    let mut fleet = Standing::new(harness(), 3, 2);
    let out = fleet.h.path("out");
    let job = long()
        .replace("publish_every = 10 }", "publish_every = 10 }\nreplicas = 2")
        .replace("lease = \"2s\"", "lease = \"20s\"");
    let submitted = fleet.submit(&job, &out);
    eventually("both serve", LIMIT, || {
        let status = fleet.status()?;
        (status["teachers"][0]["servers"].as_array()?.len() == 2).then_some(())
    })
    .unwrap();
    let steps = || fleet.student()?["steps"].as_u64();
    let before = steps().unwrap();
    signal(fleet.pid("t0"), Signal::KILL).unwrap();
    eventually("progress", LIMIT, || steps().filter(|s| *s > before + 100)).unwrap();
    assert!(
        !fleet.tells(&["t0", "ran out"]),
        "the students noticed before the coordinator"
    );
    fleet.kill("t0");
    exactly_once(&fleet.h, &out, &end(submitted), LONG);
}

/// Row 11: a replica that gets a tenth of its time gets less work, and holds up nobody.
#[test]
fn a_slow_student_gets_less_work() {
    let fleet = Standing::new(harness(), 5, 1);
    let out = fleet.h.path("out");
    let job = long().replace("replicas = 2", "replicas = 4");
    let submitted = fleet.submit(&job, &out);
    let student = fleet.student().unwrap();
    let slow = student["workers"][0]["worker"].as_str().unwrap().to_owned();
    let pid = fleet.pid(&slow);
    let throttle = Throttle::new(pid, Duration::from_millis(10), Duration::from_millis(90));
    let report = end(submitted);
    drop(throttle);
    exactly_once(&fleet.h, &out, &report, LONG);
    let by_worker = samples_by_worker(&out);
    let others: Vec<u64> = by_worker
        .iter()
        .filter(|(w, _)| **w != slow)
        .map(|(_, n)| *n)
        .collect();
    let mean = others.iter().sum::<u64>() / others.len() as u64;
    assert!(by_worker[&slow] * 2 < mean, "{slow} of {by_worker:?}");
    assert!(!fleet.tells(&["ran out"]), "nobody was taken for dead");
}

/// The student's merges, from the manifests: of each contribution, who brought it and how many samples.
fn merges(out: &Path) -> Vec<Vec<(String, u64)>> {
    let mut all = Vec::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|n| n == "manifest.json") {
                let manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                if manifest["kind"] == "student" {
                    let merges = manifest["merges"].as_array().unwrap().iter();
                    all.extend(merges.map(contributions));
                }
            }
        }
    }
    all
}

fn contributions(merge: &Value) -> Vec<(String, u64)> {
    let samples = |contribution: &Value| {
        let cuts = contribution["trained"].as_array().unwrap().iter();
        let ranges = cuts.flat_map(|cut| cut["positions"].as_array().unwrap());
        ranges
            .map(|range| range[1].as_u64().unwrap() - range[0].as_u64().unwrap())
            .sum()
    };
    let all = merge["contributions"].as_array().unwrap().iter();
    all.map(|c| (c["worker"].as_str().unwrap().to_owned(), samples(c)))
        .collect()
}

fn samples_by_worker(out: &Path) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (worker, samples) in merges(out).into_iter().flatten() {
        *sum.entry(worker).or_default() += samples;
    }
    sum
}

/// Row 14, scaled: the student's replicas double and halve four times, the leavers by SIGKILL.
fn grows_and_shrinks(strategy: &str, epochs: u64) -> Vec<Vec<(String, u64)>> {
    let mut fleet = Standing::new(harness(), 3, 1);
    let out = fleet.h.path("out");
    let job = ONLINE
        .replace("epochs = 6", &format!("epochs = {epochs}"))
        .replace("replicas = 2", "replicas = 4")
        .replace("local-sgd", strategy)
        .replace("lease = \"2s\"", "lease = \"1s\"");
    let submitted = fleet.submit(&job, &out);
    let replicas = |fleet: &Standing, wanted: usize| {
        eventually("the fleet's size", LIMIT, || {
            let size = fleet.student()?["workers"].as_array()?.len();
            (size == wanted).then_some(())
        })
        .unwrap();
    };
    for cycle in 0..4 {
        let names = [format!("guest-{cycle}-a"), format!("guest-{cycle}-b")];
        for name in &names {
            fleet.add("student-worker", name);
        }
        replicas(&fleet, 4);
        eventually("a guest's part of a merge", LIMIT, || {
            let student = fleet.student()?;
            let brought =
                |w: &Value| names.iter().any(|n| w["worker"] == *n) && w["merged"].as_u64() > Some(0);
            student["workers"].as_array()?.iter().any(brought).then_some(())
        })
        .unwrap();
        for name in &names {
            fleet.kill(name);
        }
        replicas(&fleet, 2);
    }
    let report = end(submitted);
    exactly_once(&fleet.h, &out, &report, 1297 * epochs);
    let count = |key: &str| report["ledger"][key].as_u64().unwrap();
    let again = count("redelivered") + count("rolled_back");
    assert!(again * 10 <= count("committed"), "{}", report["ledger"]);
    let merges = merges(&out);
    assert!(merges.iter().any(|m| m.len() > 2), "nobody joined");
    merges
}

#[test]
fn a_fleet_that_grows_and_shrinks_wastes_little() {
    grows_and_shrinks("local-sgd", 240);
}

#[test]
fn a_fleet_that_grows_and_shrinks_wastes_little_by_diloco() {
    grows_and_shrinks("diloco", 240);
}

/// The global batch stays that of the job, 32 samples however many share them, but for the last of an epoch and where
/// somebody died in the middle of it. Now and then one is larger: who had nothing to train when the round was planned, and
/// whose part others took, may have been given what a dead one left.
#[test]
fn a_fleet_that_grows_and_shrinks_keeps_its_global_batch() {
    let epochs = 120;
    let merges = grows_and_shrinks("step", epochs);
    let size = |merge: &Vec<(String, u64)>| merge.iter().map(|(_, samples)| samples).sum::<u64>();
    let whole = merges.iter().filter(|m| size(m) == 32).count() as u64;
    let other = merges.len() as u64 - whole;
    let larger: Vec<_> = merges.iter().filter(|m| size(m) > 32).collect();
    assert!(
        larger.len() <= 4 && larger.iter().all(|m| size(m) < 64),
        "{larger:?}"
    );
    assert!(
        whole >= 39 * epochs && other <= epochs + epochs / 2,
        "{whole} whole, {other} others"
    );
}

/// Row 21: the coordinator's disk is full for a while.
#[test]
#[ignore = "extended: mounts a small file system, which needs root"]
fn a_full_disk_stops_nobody_for_good() {
    let h = harness();
    let disk = SmallDisk::mount(&h.path("disk"), "24m");
    let fleet = Standing::with_data(h, 3, 1, &disk.0.join("data"));
    let out = fleet.h.path("out");
    let submitted = fleet.submit(&long(), &out);
    let filler = disk.0.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    drop(file);
    eventually("it is noticed", LIMIT, || {
        fleet.tells(&["no version could be written"]).then_some(())
    })
    .unwrap();
    std::fs::remove_file(&filler).unwrap();
    exactly_once(&fleet.h, &out, &end(submitted), LONG);
}

/// A file system of its own, gone with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs", text(at)])
            .status();
        assert!(mounted.unwrap().success(), "mount needs root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the coordinator may be leaving still.
        let _ = Command::new("umount").args(["-l", text(&self.0)]).status();
    }
}

/// Row 28: who is told to leave says so. Nobody waits for a session to run out, and nothing is lost.
#[test]
fn a_server_and_a_replica_that_are_told_to_leave_hand_over_at_once() {
    let mut fleet = Standing::new(harness(), 3, 2);
    let out = fleet.h.path("out");
    let job = long().replace("lease = \"2s\"", "lease = \"20s\"");
    let submitted = fleet.submit(&job, &out);
    // Two for a teacher that wants one: whoever there is serves.
    eventually("both serve", LIMIT, || {
        let status = fleet.status()?;
        (status["teachers"][0]["servers"].as_array()?.len() == 2).then_some(())
    })
    .unwrap();
    assert_eq!(fleet.terminate("t0"), 0);
    eventually("it left", LIMIT, || fleet.tells(&["t0", "it left"]).then_some(())).unwrap();
    let student = fleet.student().unwrap();
    let replica = student["workers"][0]["worker"].as_str().unwrap().to_owned();
    assert_eq!(fleet.terminate(&replica), 0);
    eventually("it left", LIMIT, || {
        fleet.tells(&[&replica, "it left"]).then_some(())
    })
    .unwrap();
    assert!(!fleet.tells(&["ran out"]), "leases are 20 s long");
    let steps = || fleet.student()?["steps"].as_u64();
    let before = steps().unwrap();
    eventually("progress", LIMIT, || steps().filter(|s| *s > before + 20)).unwrap();
    exactly_once(&fleet.h, &out, &end(submitted), LONG);
}

/// A worker that was started for one run is not done with it because somebody stopped its machine.
#[test]
fn a_worker_for_one_run_that_is_told_to_leave_before_its_end_has_failed() {
    let mut fleet = Standing::new(harness(), 2, 1);
    let once = [
        "student-worker",
        "--once",
        "--listen",
        "127.0.0.1:0",
        "--name",
        "once",
    ];
    let coordinator = fleet.coordinator.clone();
    let running = fleet
        .h
        .start(&[&once[..], &["--coordinator", &coordinator]].concat());
    let out = fleet.h.path("out");
    let submitted = fleet.submit(&long(), &out);
    eventually("it takes part", LIMIT, || {
        fleet.tells(&["once joined"]).then_some(())
    })
    .unwrap();
    signal(running.pid(), Signal::TERM).unwrap();
    assert_eq!(running.end(LIMIT).unwrap().0, 1);
    fleet.add("student-worker", "w2");
    exactly_once(&fleet.h, &out, &end(submitted), LONG);
}
