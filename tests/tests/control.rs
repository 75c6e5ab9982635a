//! `retort control` and `retort status` over a run that is under way.

use retort_tests::online::{LIMIT, long, text, under_way};
use retort_tests::{Harness, eventually, processes};
use serde_json::Value;

#[test]
fn orders_take_effect_and_are_told_with_who_gave_them() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let (job, out) = (h.job("job.toml", &long()), h.path("out"));
    let running = h.start(&["run", text(&job), "--out", text(&out), "--json"]);
    under_way(&h, &out);
    let (_, _, address) = processes(&out, "coordinator").remove(0);
    let at = ["--coordinator", address.as_str()];
    let control = |order: &[&str]| -> Value {
        let said = h.ok(&[&["control", "--json"], order, &at[..]].concat());
        serde_json::from_str(&said).unwrap()
    };
    let status = || -> Value {
        let said = h.ok(&[&["status", "--json"], &at[..]].concat());
        serde_json::from_str(&said).unwrap()
    };
    let becomes = |state: &str| {
        let reached = || (status()["state"] == state).then_some(());
        eventually(state, LIMIT, reached).unwrap();
    };

    assert_eq!(control(&["pause"])["order"], "pause");
    becomes("paused");
    let text_of = || h.ok(&[&["status"], &at[..]].concat());
    assert!(text_of().contains("paused"), "{}", text_of());
    control(&["retune", "--alpha", "0.25", "--temperature", "2"]);
    let set = status();
    assert_eq!((&set["alpha"], &set["temperature"]), (&0.25.into(), &2.0.into()));
    assert!(
        text_of().contains("alpha is 0.25: set by an operator"),
        "{}",
        text_of()
    );
    control(&["resume", "--run", "online-3"]);
    becomes("running");
    let student = |status: &Value| -> Value {
        let groups = status["groups"].as_array().unwrap();
        groups.iter().find(|g| g["kind"] == "student").unwrap().clone()
    };
    let worker = student(&status())["workers"][0]["worker"]
        .as_str()
        .unwrap()
        .to_owned();
    control(&["drain", &worker]);
    eventually("it has left", LIMIT, || {
        let here = student(&status())["workers"].as_array()?.clone();
        here.iter().all(|w| w["worker"] != *worker).then_some(())
    })
    .unwrap();
    // The ends of what may be: nothing changes.
    for (order, part) in [
        (&["retune", "--alpha", "3"][..], "within 0..=1"),
        (&["drain", "nobody"], "nobody is no member"),
        (&["pause", "--run", "nowhere"], "no run nowhere"),
    ] {
        let output = h.call(&[&["control"], order, &at[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{part}: {said}");
    }
    let runs: Value =
        serde_json::from_str(&h.ok(&[&["status", "--runs", "--json"], &at[..]].concat())).unwrap();
    assert_eq!(
        (&runs["total"], &runs["runs"][0]["run"]),
        (&1.into(), &"online-3".into())
    );

    let orders: Vec<(Value, String)> = status()["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["kind"] == "order")
        .map(|e| (e["kind"].clone(), e["text"].as_str().unwrap().to_owned()))
        .collect();
    let told: Vec<&str> = orders.iter().map(|(_, text)| text.as_str()).collect();
    for order in [
        "asks: pause",
        "alpha is 0.25",
        "asks: retune",
        "asks: resume",
        &format!("asks: drain {worker}"),
    ] {
        assert!(told.iter().any(|text| text.contains(order)), "{order}: {told:?}");
    }
    control(&["stop", "--reason", "seen enough"]);
    let (code, said) = running.end(LIMIT).unwrap();
    assert_eq!(code, 1, "{said}");
}
