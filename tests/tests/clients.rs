//! Clients that are not ours, over a real run: the examples in Python, and what the page says of grpcurl.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use retort_tests::online::{LIMIT, ONLINE, text, under_way};
use retort_tests::standing::Standing;
use retort_tests::{Harness, Running, processes, skipped};
use serde_json::Value;

/// A Python that has `examples/clients/requirements.txt`.
struct Python {
    program: PathBuf,
    root: PathBuf,
}

impl Python {
    fn find() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let named = std::env::var_os("RETORT_PYTHON").map(PathBuf::from);
        let made = root.join("retort-runs/clients/bin/python");
        let program = named.or_else(|| made.is_file().then_some(made));
        if program.is_none() {
            skipped("no Python with examples/clients/requirements.txt (RETORT_PYTHON)");
        }
        Some(Self {
            program: program?,
            root,
        })
    }

    /// In the root of the repository, as the page says.
    fn run(&self, path: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.root).env("PYTHONPATH", path).args(args);
        command.output().expect("start Python")
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}

/// A run of two seeds, so that the coordinator outlives the first and its end can be told; and the coordinator's address.
fn under_way_somewhere(h: &Harness, epochs: &str) -> (Running, String) {
    let job = h.job("job.toml", &ONLINE.replace("epochs = 6", epochs));
    let folder = h.path("out");
    let run = h.start(&[
        "run",
        text(&job),
        "--out",
        text(&folder),
        "--seeds",
        "2",
        "--json",
    ]);
    under_way(h, &folder);
    let (_, _, address) = processes(&folder, "coordinator").remove(0);
    let address = address
        .strip_prefix("http://")
        .expect("a local run speaks in plain text");
    (run, address.to_owned())
}

#[test]
fn the_python_example_follows_a_run_to_its_end() {
    let Some(python) = Python::find() else { return };
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let (run, address) = under_way_somewhere(&h, "epochs = 20");
    let watch = |more: &[&str]| {
        let args = ["examples/clients/watch.py", address.as_str()];
        python.run(Path::new(""), &[&args[..], more].concat())
    };
    let output = said(&watch(&[]));
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines.len() >= 2 && lines[0].contains(" running"), "{output}");
    let last = lines[lines.len() - 1];
    assert!(last.contains(" done"), "{last}");
    assert!(
        last.contains(&format!("small: epoch 20/20, {} committed", 1297 * 20)),
        "{last}"
    );

    let unknown = watch(&["nobody"]);
    let complained = String::from_utf8_lossy(&unknown.stderr);
    assert!(
        !unknown.status.success() && complained.contains("nobody"),
        "{complained}"
    );
    run.end(LIMIT).expect("the run ends");
}

#[test]
fn stubs_and_reflection_do_what_the_page_says() {
    let Some(python) = Python::find() else { return };
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let (run, address) = under_way_somewhere(&h, "epochs = 60");

    let stubs = h.path("stubs");
    std::fs::create_dir(&stubs).expect("a folder");
    let folder = "proto/proto/retort/v1";
    let protocol: Vec<String> = std::fs::read_dir(python.root.join(folder))
        .expect("the protocol")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| format!("{folder}/{}", name.to_str().expect("a plain name")))
        .collect();
    let outputs = ["--python_out", "--grpc_python_out"].map(|flag| format!("{flag}={}", text(&stubs)));
    let mut args = vec!["-m", "grpc_tools.protoc", "-I", "proto/proto"];
    args.extend(outputs.iter().map(String::as_str));
    args.extend(protocol.iter().map(String::as_str));
    said(&python.run(Path::new(""), &args));
    let listed = said(&python.run(&stubs, &["examples/clients/stubs.py", &address]));
    assert!(listed.starts_with("online-3 running, "), "{listed}");

    let lines = said(&python.run(
        Path::new(""),
        &[
            "tests/tests/clients/page.py",
            "docs/clients.md",
            &address,
            "online-3",
        ],
    ));
    let answers: Vec<(String, Value)> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let answer = |asked: &str| &answers.iter().find(|(last, _)| last == asked).expect(asked).1;
    let services = answer("list").as_array().expect("names");
    assert!(services.contains(&"retort.v1.Status".into()), "{lines}");
    let fields = answer("retort.v1.RunStatus").as_array().expect("names");
    assert!(fields.contains(&"positions_per_epoch".into()), "{lines}");
    assert_eq!(answer("retort.v1.Status/GetRun")["run"], "online-3");
    let states = answer("retort.v1.Status/WatchRun").as_array().expect("states");
    let revision = |i: usize| -> u64 {
        let text = states[i]["revision"].as_str().expect("64 bits are text in JSON");
        text.parse().expect("a number")
    };
    assert!(revision(0) < revision(1), "{lines}");
    assert_eq!(answer("grpc.health.v1.Health/Check")["status"], "SERVING");
    // One of the lines pauses the run, another one lets it go on.
    assert_eq!(
        *answer("retort.v1.Runs/Pause"),
        Value::Object(serde_json::Map::new())
    );
    let watch = python.run(
        Path::new(""),
        &["examples/clients/watch.py", &address, "online-3"],
    );
    let watched = said(&watch);
    assert!(
        watched.lines().last().expect("a line").contains("online-3 done"),
        "{watched}"
    );
    let (code, _) = run.end(LIMIT).expect("the run ends");
    assert_eq!(code, 0);
}

#[test]
fn the_encrypted_lines_of_the_page_read_a_fleets_status() {
    let Some(python) = Python::find() else { return };
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let certs = h.path("certs");
    h.ok(&["certs", "init", text(&certs)]);
    let fleet = Standing::with_tls(h, 3, 1, &certs);
    let out = fleet.h.path("out");
    let submitted = fleet.submit(&ONLINE.replace("epochs = 6", "epochs = 20"), &out);
    let token = fleet
        .h
        .ok(&["certs", "token", text(&certs.join("coordinator")), "--status"]);
    let address = fleet.coordinator.strip_prefix("https://").expect("encrypted");
    let page = ["tests/tests/clients/page.py", "docs/clients.md", address, "-"];
    let lines = said(&python.run(
        Path::new(""),
        &[&page[..], &[text(&certs), token.trim()]].concat(),
    ));
    let answers: Vec<(String, Value)> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let asked: Vec<&str> = answers.iter().map(|(asked, _)| asked.as_str()).collect();
    assert_eq!(
        asked, ["retort.v1.Status/GetRun"; 2],
        "by a certificate, by a token: {lines}"
    );
    for (_, status) in &answers {
        assert_eq!(status["name"], "online", "{lines}");
    }
    let (code, _) = submitted.end(LIMIT).expect("the run ends");
    assert_eq!(code, 0);
}
