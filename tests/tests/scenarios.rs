//! The main job end to end, over real processes and gRPC on loopback.

use std::path::PathBuf;
use std::time::Duration;

use retort_tests::online::{LIMIT, ONLINE, exactly_once, long, text, under_way, with_fixed_teacher};
use retort_tests::{Harness, children, eventually, json, processes, signal};
use rustix::process::Signal;
use serde_json::Value;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

/// Runs a job to its end and gives its folder and report.
fn run(h: &Harness, job: &str, out: &str, more: &[&str]) -> (PathBuf, Value) {
    let file = h.job(&format!("{out}.toml"), job);
    let folder = h.path(out);
    let mut args = vec!["run", text(&file), "--out", text(&folder), "--json"];
    args.extend(more);
    let (code, stdout) = h.start(&args).end(LIMIT).expect("the run ends");
    assert_eq!(code, 0, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).expect("stdout holds the report and nothing else");
    assert_eq!(
        report,
        json(&folder.join("report.json")),
        "stdout and report.json differ"
    );
    (folder, report)
}

fn schema_holds(report: &Value) {
    let schema = json(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/report.schema.json"));
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let errors: Vec<String> = validator
        .iter_errors(report)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn teacher_and_students_learn_together() {
    let h = harness();
    let (folder, report) = run(&h, ONLINE, "online", &["--baseline", "--seeds", "2"]);
    schema_holds(&report);
    exactly_once(&h, &folder, &report, 1297 * 6 * 2);
    assert_eq!(report["run"]["seeds"], serde_json::json!([3, 4]));
    assert_eq!(report["dataset"]["labelled"], 100);
    let trained_on = report["teachers"][0]["versions_trained_on"].as_u64().unwrap();
    assert!(
        trained_on >= 2 * 3,
        "students saw {trained_on} versions in two runs"
    );
    assert_eq!(report["soft_targets"]["samples"], 1297 * 6 * 2);
    assert!(
        report["soft_targets"]["max_staleness_seen"].as_u64().unwrap() <= 2,
        "P5"
    );
    let share = report["soft_targets"]["teacher_gradient_share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{share}");
    assert!(report["verdict"]["interval"].is_array(), "{}", report["verdict"]);
    let accuracy = report["students"][0]["test_accuracy"]["mean"].as_f64().unwrap();
    assert!(accuracy > 0.5, "the student learned nothing: {accuracy}");
    for file in [
        "report.html",
        "students/small/model.safetensors",
        "teachers/wide/model.json",
        "logs/coordinator.log",
    ] {
        assert!(folder.join(file).is_file(), "{file} is missing");
    }
    // A fresh process reproduces the report exactly, for every seed.
    for (i, seed) in [3, 4].iter().enumerate() {
        let model = folder.join(format!("students/small/seed-{seed}"));
        let again: Value = serde_json::from_str(&h.ok(&["evaluate", text(&model), "--json"])).unwrap();
        assert_eq!(
            again["test_accuracy"],
            report["students"][0]["test_accuracy"]["values"][i]
        );
    }
    let card = json(&folder.join("students/small/model.json"));
    assert_eq!(card["temperature"], 1);
}

#[test]
fn a_teacher_trained_alone_teaches_offline() {
    let h = harness();
    let teacher = ONLINE.split("[[students]]").next().unwrap().to_owned();
    let (folder, report) = run(&h, &teacher, "teacher", &[]);
    assert_eq!(report["students"], serde_json::json!([]));
    assert!(report["teachers"][0]["versions"].as_u64().unwrap() >= 6);
    let accuracy = report["teachers"][0]["test_accuracy"]["mean"].clone();

    let offline = with_fixed_teacher(ONLINE, "path = \"teacher/teachers/wide\"");
    let (offline_folder, report) = run(&h, &offline, "offline", &[]);
    schema_holds(&report);
    exactly_once(&h, &offline_folder, &report, 1297 * 6);
    assert_eq!(report["teachers"][0]["versions"], 1);
    assert_eq!(report["teachers"][0]["versions_trained_on"], 1);
    assert_eq!(
        report["teachers"][0]["test_accuracy"]["mean"], accuracy,
        "the same teacher"
    );
    assert!(folder.join("teachers/wide/model.safetensors").is_file());
}

#[test]
fn two_student_groups_share_one_teacher() {
    let h = harness();
    let second = ONLINE.replace(
        "[distillation]",
        "[[students]]\nname = \"tiny\"\nmodel = { architecture = \"mlp\", hidden = [6] }\nteachers = [{ name = \"wide\" }]\n\n[distillation]",
    );
    let (folder, report) = run(&h, &second, "two", &[]);
    schema_holds(&report);
    assert_eq!(report["students"].as_array().unwrap().len(), 2);
    exactly_once(&h, &folder, &report, 2 * 1297 * 6);
}

#[test]
fn lockstep_gives_the_same_weights_bit_for_bit() {
    let h = harness();
    let job = ONLINE
        .replace("replicas = 2", "replicas = 1")
        .replace("temperature = 4.0", "temperature = 4.0\npace = \"lockstep\"");
    let weights = |out: &str| {
        let (folder, report) = run(&h, &job, out, &[]);
        assert!(
            report["teachers"][0]["versions_trained_on"].as_u64().unwrap() >= 6,
            "{}",
            report["teachers"]
        );
        ["students/small", "teachers/wide"]
            .map(|m| std::fs::read(folder.join(m).join("model.safetensors")).unwrap())
    };
    assert!(weights("first") == weights("second"), "P9: two runs differ");
}

#[test]
fn a_killed_worker_loses_and_repeats_nothing() {
    let h = harness();
    let file = h.job("kill.toml", &long());
    let out = h.path("kill");
    let running = h.start(&["run", text(&file), "--out", text(&out), "--json"]);
    let student = under_way(&h, &out);
    let worker = student["workers"][0]["worker"].as_str().unwrap().to_owned();
    let pid_of = |name: &str| {
        processes(&out, "student-worker")
            .into_iter()
            .find(|p| p.0 == name)
            .map(|p| p.1)
    };
    let first = pid_of(&worker).unwrap();
    signal(first, Signal::KILL).unwrap();
    eventually("the supervisor starts it again", LIMIT, || {
        pid_of(&worker).filter(|pid| *pid != first)
    })
    .unwrap();
    let (code, stdout) = running.end(LIMIT).expect("the run ends");
    assert_eq!(code, 0, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    exactly_once(&h, &out, &report, 1297 * 60);
}

#[test]
fn a_killed_teacher_trainer_goes_on_where_it_was() {
    let h = harness();
    let file = h.job("kill.toml", &long());
    let out = h.path("kill");
    let running = h.start(&["run", text(&file), "--out", text(&out), "--json"]);
    under_way(&h, &out);
    let (_, _, address) = processes(&out, "coordinator").remove(0);
    let status: Value =
        serde_json::from_str(&h.ok(&["status", "--json", "--coordinator", &address])).unwrap();
    let group = |status: &Value, kind: &str| {
        let groups = status["groups"].as_array().unwrap();
        groups.iter().find(|g| g["kind"] == kind).unwrap().clone()
    };
    let trainer = group(&status, "teacher")["workers"][0]["worker"]
        .as_str()
        .unwrap()
        .to_owned();
    for (role, name) in [
        ("student-worker", trainer),
        ("teacher-server", "teacher-server-1".to_owned()),
    ] {
        let pid = processes(&out, role).into_iter().find(|p| p.0 == name).unwrap().1;
        signal(pid, Signal::KILL).unwrap();
    }
    let (code, stdout) = running.end(LIMIT).expect("the run ends");
    assert_eq!(code, 0, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    exactly_once(&h, &out, &report, 1297 * 60);
    let audit: Value = serde_json::from_str(&h.ok(&["audit", text(&out), "--json"])).unwrap();
    assert_eq!(
        audit["groups"].as_array().unwrap().len(),
        2,
        "the teacher's lineage is audited too"
    );
}

#[test]
fn ctrl_c_stops_in_order_with_a_checkpoint() {
    let h = harness();
    let file = h.job("stop.toml", &long());
    let out = h.path("stop");
    let running = h.start(&["run", text(&file), "--out", text(&out)]);
    under_way(&h, &out);
    let children = children(&out);
    assert_eq!(children.len(), 5);
    signal(running.pid(), Signal::INT).unwrap();
    let (code, _) = running.end(LIMIT).expect("it stops");
    assert_eq!(code, 130);
    for pid in children {
        assert!(signal(pid, Signal::CONT).is_err(), "process {pid} is an orphan");
    }
    let audit: Value = serde_json::from_slice(&h.call(&["audit", text(&out), "--json"]).stdout).unwrap();
    let groups = audit["groups"].as_array().unwrap();
    let small = groups.iter().find(|g| g["group"] == "small").unwrap();
    let committed: u64 = small["epochs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["committed"].as_u64().unwrap())
        .sum();
    assert!(committed > 0, "nothing was checkpointed: {small}");
    let duplicates: u64 = small["epochs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["duplicates"].as_u64().unwrap())
        .sum();
    assert_eq!(duplicates, 0);
}

#[test]
fn children_leave_when_their_supervisor_is_killed() {
    let h = harness();
    let file = h.job("orphan.toml", &long());
    let out = h.path("orphan");
    let running = h.start(&["run", text(&file), "--out", text(&out)]);
    under_way(&h, &out);
    let children = children(&out);
    signal(running.pid(), Signal::KILL).unwrap();
    for pid in children {
        eventually("an orphan leaves", Duration::from_secs(30), || {
            signal(pid, Signal::CONT).is_err().then_some(())
        })
        .unwrap_or_else(|e| panic!("process {pid}: {e}"));
    }
}
