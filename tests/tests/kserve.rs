//! Teachers on servers of the Open Inference Protocol: brought in, checked, heard by a whole fleet while the server goes
//! away and comes back; refused where they are of no use, and left where they become so.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use retort_models::{Classifier, Device};
use retort_tests::kserve::{Compute, Kserve, Model};
use retort_tests::online::{LIMIT, ONLINE, exactly_once, long, text, under_way, with_fixed_teacher};
use retort_tests::{Harness, eventually, json, processes};
use serde_json::Value;

/// What the model does not say.
const CARD: &str = r#"
shape = [1, 8, 8]
layout = "flat"
gives = "logits"
max_batch = 16
parameters = 4810
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"#;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

fn model(compute: Compute) -> Model {
    Model {
        name: "digits".into(),
        version: "3".into(),
        ready: true,
        datatype: "FP32".into(),
        sizes: [64, 10],
        raw: true,
        compute,
    }
}

/// Without learning anything: the mean of each of ten stripes of the image.
fn stripes() -> Compute {
    Arc::new(|samples| {
        let rows = samples.chunks_exact(64);
        rows.flat_map(|row| row.chunks(7).map(|stripe| stripe.iter().sum::<f32>() / 7.0))
            .collect()
    })
}

/// One of our exports.
fn exported(folder: &Path) -> Compute {
    let classifier = Classifier::load(folder, &Device::flex()).expect("an export");
    // A lock: requests of one connection are answered at once.
    let classifier = Mutex::new(classifier);
    Arc::new(move |samples| {
        let mut classifier = classifier.lock().unwrap_or_else(PoisonError::into_inner);
        classifier.logits(samples, samples.len() / 64).expect("logits")
    })
}

/// A job with the teacher in the folder `digits` instead of one that learns.
fn taught(h: &Harness, job: &str) -> PathBuf {
    h.job("taught.toml", &with_fixed_teacher(job, "path = \"digits\""))
}

fn import(h: &Harness, server: &Kserve) -> String {
    h.job("digits.toml", CARD);
    let place = format!("{}/digits", server.endpoint);
    h.ok(&["import", &place, "--out", "digits"])
}

fn status(h: &Harness, out: &Path) -> Option<Value> {
    let (_, _, address) = processes(out, "coordinator").into_iter().next()?;
    let output = h.call(&["status", "--json", "--coordinator", &address]);
    serde_json::from_slice(&output.stdout).ok()
}

/// Rounds that the run's student has been through.
fn rounds(h: &Harness, out: &Path) -> Option<u64> {
    let status = status(h, out)?;
    let groups = status["groups"].as_array()?;
    let student = groups.iter().find(|g| g["kind"] == "student")?;
    student["round"].as_u64()
}

#[test]
fn students_wait_while_the_server_is_away_and_go_on() {
    let h = harness();
    let file = h.job("teacher.toml", ONLINE);
    h.ok(&["run", text(&file), "--out", "before", "--json"]);
    let folder = h.path("before/teachers/wide");
    let mut server = Kserve::start(model(exported(&folder))).unwrap();
    let said = import(&h, &server);
    assert!(
        said.contains("10 classes") && said.contains("version 3"),
        "{said}"
    );

    let file = taught(&h, &ONLINE.replace("epochs = 6", "epochs = 20"));
    let out = h.path("out");
    let running = h.start(&["run", text(&file), "--out", text(&out), "--json"]);
    under_way(&h, &out);
    server.stop();
    let log = out.join("logs/teacher-server-1.log");
    eventually("the teacher says that its server is away", LIMIT, || {
        let text = std::fs::read_to_string(&log).ok()?;
        text.contains("no answer, students wait").then_some(())
    })
    .unwrap();
    // What was under way is learned from; then nothing moves, which takes a while to see.
    let mut before = None;
    let standstill = eventually("a standstill", LIMIT, || {
        std::thread::sleep(Duration::from_secs(1));
        let now = rounds(&h, &out)?;
        let stands = before == Some(now);
        before = Some(now);
        stands.then_some(now)
    });
    let standstill = standstill.unwrap();
    server.serve(model(exported(&folder))).unwrap();
    let resumed = eventually("training goes on", Duration::from_secs(15), || {
        (rounds(&h, &out)? > standstill).then_some(())
    });
    resumed.unwrap();
    let (code, stdout) = running.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    exactly_once(&h, &out, &report, 20 * 1297);

    let original = json(&h.path("before/report.json"));
    let (theirs, ours) = (&original["teachers"][0], &report["teachers"][0]);
    assert_eq!(theirs["test_accuracy"], ours["test_accuracy"], "the same model");
    assert_eq!(
        (&ours["parameters"], &ours["cost"]),
        (&Value::from(4810), &Value::Null)
    );
    assert!(
        server.answered.load(Ordering::SeqCst) > 1297,
        "the server was asked"
    );
    let measured = h.ok(&["evaluate", "out/teachers/wide", "--json"]);
    let measured: Value = serde_json::from_str(&measured).unwrap();
    assert_eq!(measured["test_accuracy"], ours["test_accuracy"]["mean"]);
    server.stop();
    h.refused(
        &["evaluate", "out/teachers/wide"],
        &["digits at http://127.0.0.1"],
    );
}

#[test]
fn whole_numbers_and_typed_answers_are_spoken_too() {
    let h = harness();
    let out = ["FP32", "INT32", "INT64", "UINT8"].map(|datatype| {
        let other = Model {
            datatype: datatype.into(),
            raw: datatype == "FP32",
            ..model(stripes())
        };
        let server = Kserve::start(other).unwrap();
        // Ink counts from 0 to 16, which is whole numbers.
        h.job("digits.toml", &format!("scale = 16\n{CARD}"));
        let place = format!("{}/digits", server.endpoint);
        h.ok(&["import", &place, "--out", datatype]);
        let job = taught(&h, ONLINE);
        let said = h.ok(&["evaluate", datatype, "--job", text(&job), "--json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        said["test_nll"].clone()
    });
    assert!(out.iter().all(|nll| *nll == out[0] && nll.is_number()), "{out:?}");
}

#[test]
fn an_import_is_refused_with_what_was_expected() {
    let h = harness();
    h.job("digits.toml", CARD);
    let refuse = |model: Model, name: &str, parts: &[&str]| {
        let server = Kserve::start(model).unwrap();
        let place = format!("{}/{name}", server.endpoint);
        let args = ["import", &place, "--card", "digits.toml", "--out", "digits"];
        h.refused(&args, parts);
    };
    let fine = || model(stripes());
    refuse(fine(), "letters", &["letters is not ready", "does not have it"]);
    refuse(
        Model {
            ready: false,
            ..fine()
        },
        "digits",
        &["not ready"],
    );
    let wide = Model {
        sizes: [65, 10],
        ..fine()
    };
    refuse(wide, "digits", &["input \"x\" is FP32 [-1, 65]", "batch x 64"]);
    let few = Model {
        sizes: [64, 9],
        ..fine()
    };
    refuse(few, "digits", &["of a batch of n is FP32 [-1, 9]", "n x 10"]);
    let text_input = Model {
        datatype: "BYTES".into(),
        ..fine()
    };
    refuse(text_input, "digits", &["BYTES", "FP32, UINT8, INT32 or INT64"]);
    let nan: Compute = Arc::new(|samples| vec![f32::NAN; samples.len() / 64 * 10]);
    refuse(model(nan), "digits", &["NaN", "finite"]);
    let short: Compute = Arc::new(|samples| vec![0.0; samples.len() / 64 * 9]);
    refuse(model(short), "digits", &["shape [16, 9]", "expected 16 x 10"]);
    let company: Compute = Arc::new(|samples| {
        let sum = samples.iter().sum::<f32>();
        (0..samples.len() / 64 * 10).map(|i| sum + i as f32).collect()
    });
    refuse(model(company), "digits", &["alone", "max_batch = 1"]);

    let server = Kserve::start(fine()).unwrap();
    let place = format!("{}/digits", server.endpoint);
    for (from, to, parts) in [
        (
            "max_batch = 16",
            "max_batch = 17",
            &["batch-size must be <= 16"][..],
        ),
        ("max_batch = 16", "max_batch = 0", &["max_batch = 0", "1..=4096"]),
        ("max_batch = 16", "version = \"4\"", &["version \"4\""]),
        (
            "\"logits\"",
            "\"probabilities\"",
            &["output \"y\" sums to", "expected 1"],
        ),
        ("\"flat\"", "\"nchw\"", &["batch x 1 x 8 x 8"]),
        (", \"9\"", "", &["n x 9"]),
        ("layout", "output = \"z\"\nlayout", &["output is \"z\"", "\"y\""]),
    ] {
        assert!(CARD.contains(from), "{from}");
        h.job("card.toml", &CARD.replace(from, to));
        let args = ["import", &place, "--card", "card.toml", "--out", "digits"];
        h.refused(&args, parts);
    }
    let endpoint = server.endpoint.clone();
    drop(server);
    let args = ["import", &place, "--card", "digits.toml", "--out", "digits"];
    h.refused(&args, &[&endpoint, "is a server of the Open Inference Protocol"]);
    for (place, part) in [
        ("https://127.0.0.1:1/digits", "nothing is encrypted"),
        ("http://127.0.0.1:1", "http://HOST:PORT/NAME"),
    ] {
        h.refused(
            &["import", place, "--card", "digits.toml", "--out", "digits"],
            &[part],
        );
    }
    assert!(!h.path("digits").exists(), "nothing was written");
}

#[test]
fn a_job_is_refused_where_the_server_is_away_or_has_changed() {
    let h = harness();
    let mut server = Kserve::start(model(stripes())).unwrap();
    import(&h, &server);
    let file = taught(&h, ONLINE);
    let key = "teachers.0.source.path";
    h.ok(&["check", text(&file)]);
    h.refused(
        &["check", text(&file), "--set", "teachers.0.device=wgpu"],
        &["teachers.0.device", "on a server where that is"],
    );
    server.stop();
    h.refused(&["check", text(&file)], &[key, &server.endpoint]);
    let refuse = |server: &mut Kserve, model: Model, parts: &[&str]| {
        server.serve(model).unwrap();
        for command in [&["check"][..], &["run", "--out", "out"]] {
            h.refused(&[command, &[text(&file)]].concat(), parts);
        }
    };
    let newer = Model {
        version: "4".into(),
        ..model(stripes())
    };
    refuse(&mut server, newer, &[key, "not ready"]);
    let other = Model {
        datatype: "INT32".into(),
        ..model(stripes())
    };
    refuse(&mut server, other, &[key, "x: INT32[-1, 64]", "import it again"]);
    let nan: Compute = Arc::new(|samples| vec![f32::NAN; samples.len() / 64 * 10]);
    refuse(&mut server, model(nan), &[key, "not finite"]);
    assert!(!h.path("out").exists(), "nothing was started");
}

/// While a run lasts the server has another version: the teacher is left, and the run says so.
#[test]
fn another_version_drains_the_teacher() {
    let h = harness();
    let mut server = Kserve::start(model(stripes())).unwrap();
    import(&h, &server);
    let file = taught(&h, &long());
    let out = h.path("out");
    let running = h.start(&["run", text(&file), "--out", text(&out), "--json"]);
    under_way(&h, &out);
    let newer = Model {
        version: "4".into(),
        ..model(stripes())
    };
    server.serve(newer).unwrap();
    eventually("the run says so", LIMIT, || {
        let events = status(&h, &out)?["events"].to_string();
        (events.contains("leaves the routing") && events.contains("import it again")).then_some(())
    })
    .unwrap();
    drop(running);
}
