//! Clients that are not ours: the example in Python over a real run.

use std::path::{Path, PathBuf};
use std::process::Command;

use retort_tests::online::{LIMIT, ONLINE, text, under_way};
use retort_tests::{Harness, processes};

/// A Python that has `examples/clients/requirements.txt`.
fn python(root: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("RETORT_PYTHON").map(PathBuf::from);
    let made = root.join("retort-runs/clients/bin/python");
    named.or_else(|| made.is_file().then_some(made))
}

#[test]
fn the_python_example_follows_a_run_to_its_end() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let Some(python) = python(&root) else {
        println!("SKIPPED: no Python with examples/clients/requirements.txt (RETORT_PYTHON)");
        return;
    };
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let job = h.job("job.toml", &ONLINE.replace("epochs = 6", "epochs = 20"));
    let folder = h.path("out");
    // The coordinator outlives the first of two runs, so that its end can be told.
    let run = h.start(&[
        "run",
        text(&job),
        "--out",
        text(&folder),
        "--seeds",
        "2",
        "--json",
    ]);
    under_way(&h, &folder);
    let (_, _, address) = processes(&folder, "coordinator").remove(0);
    let address = address
        .strip_prefix("http://")
        .expect("a local run speaks in plain text");
    let watch = |more: &[&str]| {
        let mut command = Command::new(&python);
        command
            .arg(root.join("examples/clients/watch.py"))
            .arg(address)
            .args(more);
        command.output().expect("start Python")
    };
    let output = watch(&[]);
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{complained}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() >= 2 && lines[0].contains(" running"), "{said}");
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
