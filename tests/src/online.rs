//! The small online job that most scenarios disturb, and what must hold of it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::{Harness, eventually, processes};

/// Longest time of one scenario on a busy machine; it fails instead of hanging.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Teacher and student learn at the same time; small enough for seconds.
pub const ONLINE: &str = r#"
[run]
name = "online"
seed = 3
epochs = 6
batch_size = 32

[dataset]
name = "digits"
labelled = 100

[[teachers]]
name = "wide"
model = { architecture = "mlp", hidden = [64] }
source = { kind = "trained", learning_rate = 0.005, publish_every = 10 }

[[students]]
name = "small"
model = { architecture = "mlp", hidden = [16] }
learning_rate = 0.01
replicas = 2
teachers = [{ name = "wide", weight = 1.0 }]

[distillation]
temperature = 4.0
alpha = 0.9

[sync]
strategy = "local-sgd"
every = 8

[fleet]
lease = "2s"
heartbeat = "100ms"
"#;

/// A job as [`ONLINE`], with a fixed teacher instead of one that learns; `place`: `path = "FOLDER"`, and more keys of its source.
pub fn with_fixed_teacher(job: &str, place: &str) -> String {
    const TRAINED: &str = r#"model = { architecture = "mlp", hidden = [64] }
source = { kind = "trained", learning_rate = 0.005, publish_every = 10 }"#;
    assert!(job.contains(TRAINED), "no teacher to put another one for: {job}");
    job.replace(TRAINED, &format!("source = {{ kind = \"checkpoint\", {place} }}"))
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Every sample's effect is there once (P2), by the audit's reading of the manifests.
pub fn exactly_once(h: &Harness, folder: &Path, report: &Value, samples: u64) {
    let l = &report["ledger"];
    assert_eq!(l["samples"], samples, "{l}");
    assert_eq!(
        l["committed"].as_u64().expect("a count") + l["quarantined"].as_u64().expect("a count"),
        samples,
        "{l}"
    );
    assert_eq!(
        (&l["duplicates"], &l["lost"]),
        (&Value::from(0), &Value::from(0)),
        "{l}"
    );
    h.ok(&["audit", text(folder)]);
}

/// Waits until the run's student has merged something, and gives its processes.
pub fn under_way(h: &Harness, out: &Path) -> Value {
    eventually("training", LIMIT, || {
        let (_, _, address) = processes(out, "coordinator").into_iter().next()?;
        let output = h.call(&["status", "--json", "--coordinator", &address]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let student = status["groups"]
            .as_array()?
            .iter()
            .find(|g| g["kind"] == "student")?
            .clone();
        (student["round"].as_u64()? > 5 && student["workers"].as_array()?.len() == 2).then_some(student)
    })
    .expect("the run gets under way")
}

/// A job that lasts long enough to be disturbed.
pub fn long() -> String {
    ONLINE.replace("epochs = 6", "epochs = 60")
}
