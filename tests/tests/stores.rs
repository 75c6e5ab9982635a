//! Data sets in object stores: fetched by every role of a real fleet; and refused by a build that cannot fetch.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::path::PathBuf;

use retort_tests::Harness;
use retort_tests::online::text;

#[cfg(feature = "object-store")]
#[path = "../../crates/stores/tests/s3/mod.rs"]
mod s3;

const JOB: &str = r#"
[run]
name = "stored"
seed = 2
epochs = 3
batch_size = 32

[dataset]
format = "text"
path = "s3://shelf/texts"
unlabelled = "s3://shelf/more.txt"
validation = 30

[dataset.text]
tokens = { kind = "words-hashed", ngrams = [1, 1], buckets = 200 }
length = 8

[[teachers]]
name = "reader"
model = { architecture = "embedding-bag", embedding = 8 }
source = { kind = "trained", learning_rate = 0.02, publish_every = 10 }

[[students]]
name = "small"
model = { architecture = "embedding-bag", embedding = 4 }
learning_rate = 0.05
replicas = 2
teachers = [{ name = "reader" }]

[distillation]
gate = "none"
"#;

/// A harness without anybody's credentials, whose fetched objects lie in its own folder.
fn harness() -> Harness {
    let mut h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    for name in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_SKIP_SIGNATURE",
    ] {
        h.set(name, "");
    }
    let cache = h.path("cache");
    h.set("RETORT_DATA__CACHE", text(&cache));
    h
}

/// The job, in a folder of its own.
fn job(h: &Harness) -> PathBuf {
    std::fs::create_dir_all(h.path("jobs")).unwrap();
    h.job("jobs/job.toml", JOB)
}

#[cfg(not(feature = "object-store"))]
#[test]
fn a_build_without_the_feature_says_what_to_build() {
    let h = harness();
    let file = job(&h);
    let parts = ["job.toml", "path", "s3://shelf/texts", "--features object-store"];
    h.refused(&["check", text(&file)], &parts);
    h.refused(&["run", text(&file), "--out", "out"], &parts);
    let only_more = ["check", text(&file), "--set", "dataset.path=\"jobs\""];
    h.refused(&only_more, &["unlabelled", "s3://shelf/more.txt"]);
    assert!(!h.path("out").exists(), "nothing was started");
}

#[cfg(feature = "object-store")]
mod with_the_feature {
    use std::fmt::Write;
    use std::time::{Duration, Instant};

    use retort_tests::online::{ONLINE, exactly_once, with_fixed_teacher};
    use serde_json::Value;

    use super::s3::S3;
    use super::*;

    /// Whoever waits longer than this for a store that is not there waits too long.
    const SOON: Duration = Duration::from_secs(60);

    /// Two words of five that only sentences about this have.
    fn sentence(topic: usize, i: usize) -> String {
        let word = |k: usize| ["rain", "salt", "rail"][topic].to_owned() + &((i * 7 + k * 3) % 5).to_string();
        format!("the {} and {} of {i}", word(0), word(1))
    }

    fn lines(numbers: std::ops::Range<usize>) -> String {
        let mut lines = "label\ttext\n".to_owned();
        numbers.for_each(|i| writeln!(lines, "{}\t{}", i % 3, sentence(i % 3, i)).unwrap());
        lines
    }

    /// 180 lines for training, 60 for testing, 120 more without labels.
    fn fill(server: &S3) {
        let mut more = String::new();
        (1_000..1_120).for_each(|i| writeln!(more, "{}", sentence(i % 3, i)).unwrap());
        server.make_bucket("shelf").unwrap();
        server
            .put("/shelf/texts/train.tsv", lines(0..180).as_bytes())
            .unwrap();
        server
            .put("/shelf/texts/test.tsv", lines(500..560).as_bytes())
            .unwrap();
        server.put("/shelf/more.txt", more.as_bytes()).unwrap();
    }

    fn reach(h: &mut Harness, address: &str) {
        h.set("AWS_ACCESS_KEY_ID", "me");
        h.set("AWS_SECRET_ACCESS_KEY", "secret");
        h.set("AWS_ENDPOINT_URL", address);
        h.set("AWS_ALLOW_HTTP", "true");
    }

    #[test]
    fn without_credentials_nobody_is_asked() {
        let mut h = harness();
        let file = job(&h);
        let began = Instant::now();
        let parts = [
            "dataset",
            "path",
            "s3://shelf/texts",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
        ];
        h.refused(&["check", text(&file)], &parts);
        h.refused(&["run", text(&file), "--out", "out"], &parts);
        assert!(!h.path("out").exists(), "nothing was started");
        reach(&mut h, "http://127.0.0.1:1");
        h.set("AWS_ALLOW_HTTP", "false");
        h.refused(&["check", text(&file)], &["AWS_ALLOW_HTTP", "http://127.0.0.1:1"]);
        assert!(began.elapsed() < SOON);
    }

    #[test]
    fn a_store_that_is_away_is_known_soon() {
        let mut h = harness();
        reach(&mut h, "http://127.0.0.1:1");
        let began = Instant::now();
        h.refused(
            &["check", text(&job(&h))],
            &["s3://shelf/texts", "does not answer", "127.0.0.1:1"],
        );
        assert!(began.elapsed() < SOON);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let Some(server) = S3::start().unwrap() else {
            return;
        };
        fill(&server);
        let mut h = harness();
        reach(&mut h, &server.address);
        let file = job(&h);
        for (path, parts) in [
            ("s3://shelf/nothing", ["s3://shelf/nothing", "no object"]),
            ("s3://shelf/text", ["s3://shelf/text", "no object"]),
            ("s3://nowhere/texts", ["s3://nowhere/texts", "NoSuchBucket"]),
            ("s3://shelf/a//b", ["s3://shelf/a//b", "empty"]),
            ("s3://", ["s3://", "s3://bucket/"]),
        ] {
            let setting = format!("dataset.path={path:?}");
            h.refused(&["check", text(&file), "--set", &setting], &parts);
        }
    }

    #[test]
    fn a_fleet_learns_from_what_lies_in_a_bucket() {
        let Some(server) = S3::start().unwrap() else {
            return;
        };
        fill(&server);
        let mut h = harness();
        reach(&mut h, &server.address);
        let file = job(&h);
        let checked = h.ok(&["check", text(&file)]);
        assert!(
            checked.contains("270 samples of 1x1x8, 150 labelled"),
            "{checked}"
        );
        let report = h.ok(&["run", text(&file), "--out", "out", "--json"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        exactly_once(&h, &h.path("out"), &report, 3 * 270);
        let accuracy = &report["students"][0]["test_accuracy"];
        assert!(accuracy["mean"].as_f64().unwrap() > 0.5, "{accuracy}");
        let resumed = h.ok(&["run", "--resume", "--out", "out", "--json"]);
        let resumed: Value = serde_json::from_str(&resumed).unwrap();
        assert_eq!(resumed["dataset"]["digest"], report["dataset"]["digest"]);

        // The store goes away; what was fetched stays.
        let student = h.path("out/students/small");
        let evaluate = ["evaluate", text(&student), "--json"];
        let before: Value = serde_json::from_str(&h.ok(&evaluate)).unwrap();
        assert_eq!(before["test_accuracy"], accuracy["values"][0]);
        drop(server);
        let after: Value = serde_json::from_str(&h.ok(&evaluate)).unwrap();
        assert_eq!(after["test_accuracy"], before["test_accuracy"]);
    }

    #[test]
    fn soft_targets_recorded_on_one_machine_are_replayed_on_another() {
        let Some(server) = S3::start().unwrap() else {
            return;
        };
        server.make_bucket("shelf").unwrap();
        let mut h = harness();
        reach(&mut h, &server.address);
        let teacher = ONLINE.split("[[students]]").next().unwrap();
        h.job("teacher.toml", teacher);
        h.ok(&["run", "teacher.toml", "--out", "teacher", "--json"]);
        let place = "path = \"teacher/teachers/wide\", store = \"s3://shelf/soft\"";
        let offline = with_fixed_teacher(ONLINE, place);
        h.job("offline.toml", &offline);
        // Another machine has another cache.
        let mut told = Vec::new();
        for machine in ["one", "two"] {
            let cache = h.path(machine);
            h.set("RETORT_DATA__CACHE", text(&cache));
            let report = h.ok(&[
                "run",
                "offline.toml",
                "--out",
                &format!("out-{machine}"),
                "--json",
            ]);
            let report: Value = serde_json::from_str(&report).unwrap();
            exactly_once(&h, &h.path(&format!("out-{machine}")), &report, 6 * 1297);
            let logs = std::fs::read_dir(h.path(&format!("out-{machine}/logs"))).unwrap();
            let all: String = logs
                .map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap())
                .collect();
            told.push(all);
        }
        assert!(told[0].contains("0 of 1297 samples are recorded"), "{}", told[0]);
        assert!(
            told[1].contains("1297 of 1297 samples are recorded, the model is not loaded"),
            "{}",
            told[1]
        );
    }
}
