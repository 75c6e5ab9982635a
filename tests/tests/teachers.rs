//! Teacher servers under fire: muted, slow, damaged, worthless; and soft targets that were recorded before.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::path::Path;
use std::time::Duration;

use retort_tests::online::{LIMIT, ONLINE, exactly_once, long, text, with_fixed_teacher};
use retort_tests::standing::Standing;
use retort_tests::{Harness, Running, Throttle, eventually};
use serde_json::Value;

const SAMPLES: u64 = 1297;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

/// Waits for the end of a run that must succeed, and gives its report.
fn end(running: Running) -> Value {
    let (code, stdout) = running.end(LIMIT).expect("the run ends");
    assert_eq!(code, 0, "{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

/// Two servers answer for the teacher, and a lease outlasts what is done to them.
fn two_servers() -> String {
    long()
        .replace("publish_every = 10 }", "publish_every = 10 }\nreplicas = 2")
        .replace("lease = \"2s\"", "lease = \"20s\"")
}

fn both_serve(fleet: &Standing) {
    eventually("both serve", LIMIT, || {
        let (a, b) = (fleet.count("t0", "forwards"), fleet.count("t1", "forwards"));
        (a > 0 && b > 0).then_some(())
    })
    .unwrap();
}

fn steps(fleet: &Standing) -> u64 {
    fleet.student().and_then(|s| s["steps"].as_u64()).unwrap_or(0)
}

/// Goes on by so many steps.
fn progress(fleet: &Standing, more: u64) {
    let before = steps(fleet);
    eventually("progress", LIMIT, || (steps(fleet) > before + more).then_some(())).unwrap();
}

/// Row 9: a server's answers do not arrive, though it hears all questions and its heartbeats are fine.
#[test]
fn a_server_that_cannot_be_heard_is_routed_around() {
    let mut fleet = Standing::new(harness(), 3, 0);
    let out = fleet.h.path("out");
    let (link, _control) = fleet.add_linked_server("t0");
    fleet.add("teacher-server", "t1");
    let submitted = fleet.submit(&two_servers(), &out);
    both_serve(&fleet);
    link.mute(true);
    progress(&fleet, 200);
    assert!(!fleet.tells(&["ran out"]), "nobody is taken for dead");
    link.mute(false);
    exactly_once(&fleet.h, &out, &end(submitted), 60 * SAMPLES);
}

/// Row 12: a server gets a tenth of its time, while it looks alive. It loses its share, and is named.
#[test]
fn a_slow_server_loses_its_share_and_is_named() {
    let fleet = Standing::new(harness(), 3, 2);
    let out = fleet.h.path("out");
    let job = two_servers().replace("epochs = 60", "epochs = 150");
    let submitted = fleet.submit(&job, &out);
    both_serve(&fleet);
    let pid = fleet.pid("t0");
    let throttle = Throttle::new(pid, Duration::from_millis(50), Duration::from_millis(450));
    let forwards = || (fleet.count("t0", "forwards"), fleet.count("t1", "forwards"));
    let share = eventually("its share falls", Duration::from_secs(60), || {
        let before = forwards();
        std::thread::sleep(Duration::from_secs(1));
        let after = forwards();
        let (slow, fast) = (after.0 - before.0, after.1 - before.1);
        (fast > 20 && slow * 3 < fast).then_some((slow, fast))
    });
    let named = eventually("it is named", Duration::from_secs(60), || {
        fleet.tells(&["t0", "is slow"]).then_some(())
    });
    drop(throttle);
    share.unwrap();
    named.unwrap();
    assert!(!fleet.tells(&["ran out"]), "nobody is taken for dead");
    exactly_once(&fleet.h, &out, &end(submitted), 150 * SAMPLES);
}

/// Row 18: bits of frames and of weights change on the way. They are found by their checksums, refused
/// or fetched again, counted, and never used.
#[test]
fn damaged_frames_and_weights_are_found_counted_and_asked_for_again() {
    let mut fleet = Standing::new(harness(), 3, 0);
    let out = fleet.h.path("out");
    let (frames, control) = fleet.add_linked_server("t0");
    // Weights come in 20 KB at once, and nothing else does on that link.
    control.damage(8_192);
    let file = fleet.h.job("job.toml", &long());
    let submitted = fleet.h.start(&[
        "submit",
        text(&file),
        "--coordinator",
        &fleet.coordinator,
        "--out",
        text(&out),
        "--json",
    ]);
    eventually("weights are fetched again", LIMIT, || {
        (fleet.count("t0", "refetched") > 0).then_some(())
    })
    .unwrap();
    control.damage(0);
    eventually("training", LIMIT, || (steps(&fleet) > 50).then_some(())).unwrap();
    frames.damage(600);
    eventually("frames are refused", LIMIT, || {
        let refused = fleet.student()?["rejected_frames"]["corrupt"].as_u64()?;
        (refused > 3).then_some(())
    })
    .unwrap();
    frames.damage(0);
    let report = end(submitted);
    exactly_once(&fleet.h, &out, &report, 60 * SAMPLES);
    assert!(report["soft_targets"]["rejected"].as_u64().unwrap() > 3);
}

/// Trains a teacher and leaves its export at `teachers/wide` of the folder given back.
fn teacher(h: &Harness) -> std::path::PathBuf {
    let start = ONLINE.find("[[students]]").unwrap();
    let job = ONLINE[..start].replace("epochs = 6", "epochs = 2");
    let file = h.job("teacher.toml", &job);
    h.ok(&["run", text(&file), "--out", "teacher", "--json"]);
    h.path("teacher/teachers/wide")
}

fn offline(more: &str) -> String {
    with_fixed_teacher(ONLINE, &format!("path = \"teacher/teachers/wide\"{more}"))
}

fn run(h: &Harness, job: &str, name: &str) -> Value {
    let file = h.job(&format!("{name}.toml"), job);
    serde_json::from_str(&h.ok(&["run", text(&file), "--out", name, "--json"])).unwrap()
}

/// Row 19: a model that came with values that are not finite is refused before anything starts. (One
/// that becomes so while it serves is drained and named: the teacher server's own tests.)
#[test]
fn a_teacher_that_gives_nan_is_refused_at_once() {
    let h = harness();
    let weights = teacher(&h).join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let numbers = bytes.len() / 4 * 3..bytes.len();
    for number in bytes[numbers].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(&weights, &bytes).unwrap();
    // The card vouches for them: only what they compute is wrong.
    let card = weights.with_file_name("model.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&card).unwrap()).unwrap();
    json["weights_blake3"] = blake3::hash(&bytes).to_hex().as_str().into();
    std::fs::write(&card, json.to_string()).unwrap();
    let file = h.job("nan.toml", &offline(""));
    let output = h.call(&["run", text(&file), "--out", "nan"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("teachers.0.source.path"), "{message}");
    assert!(message.contains("not finite"), "{message}");
    assert!(!h.path("nan").exists(), "nothing was started");
}

/// What is recorded once is replayed in any order by a run with another seed, without the model.
#[test]
fn recorded_soft_targets_are_replayed_without_the_teacher() {
    let h = harness();
    teacher(&h);
    let job = offline(", store = \"soft-targets\"");
    let first = run(&h, &job, "first");
    let second = run(&h, &job.replace("seed = 3", "seed = 4"), "second");
    for (name, report) in [("first", &first), ("second", &second)] {
        exactly_once(&h, &h.path(name), report, 6 * SAMPLES);
        assert_eq!(report["soft_targets"]["samples"], 6 * SAMPLES);
    }
    let log = |name: &str| {
        let path: &Path = &h.path(name).join("logs/teacher-server-1.log");
        std::fs::read_to_string(path).unwrap()
    };
    assert!(log("first").contains(&format!("0 of {SAMPLES} samples are recorded")));
    let all = format!("{SAMPLES} of {SAMPLES} samples are recorded, the model is not loaded");
    assert!(log("second").contains(&all), "{}", log("second"));
}
