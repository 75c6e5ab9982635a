//! Replicas of one student, by each strategy, with members that come and go.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::path::Path;
use std::time::Duration;

use retort_proto::{PROTOCOL, pb};
use retort_tests::online::{LIMIT, exactly_once, text};
use retort_tests::standing::Standing;
use retort_tests::{Harness, eventually, processes, signal};
use rustix::process::Signal;
use serde_json::Value;

const SAMPLES: u64 = 1297;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

fn example(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    std::fs::read_to_string(format!("{path}/{name}.toml")).unwrap()
}

/// What all processes said.
fn logs(out: &Path) -> String {
    let files = std::fs::read_dir(out.join("logs")).unwrap();
    files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap_or_default())
        .collect()
}

fn student(report: &Value) -> f64 {
    report["students"][0]["test_accuracy"]["mean"].as_f64().unwrap()
}

#[test]
fn replicas_by_each_strategy_train_each_sample_once() {
    let mut bytes_a_sample = Vec::new();
    for (name, epochs) in [("digits-step", 4), ("digits-diloco", 24)] {
        let h = harness();
        let file = h.job("job.toml", &example(name));
        let epochs_set = format!("run.epochs={epochs}");
        let report = h.ok(&["run", text(&file), "--out", "out", "--json", "--set", &epochs_set]);
        let report: Value = serde_json::from_str(&report).unwrap();
        exactly_once(&h, &h.path("out"), &report, epochs * SAMPLES);
        assert!(student(&report) > 0.5, "{name}: {}", student(&report));
        assert!(!logs(&h.path("out")).contains("with other weights"), "{name}");
        let time = report["students"][0]["time"].as_object().unwrap();
        let shares: Vec<f64> = time.values().map(|share| share.as_f64().unwrap()).collect();
        assert!(shares.iter().all(|share| *share >= 0.0), "{time:?}");
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{time:?}");
        assert!(
            time["compute"].as_f64().unwrap() > 0.0 && time["sync"].as_f64().unwrap() > 0.0,
            "{time:?}"
        );
        let bytes = report["sync"]["bytes"].as_u64().unwrap();
        bytes_a_sample.push(bytes as f64 / (epochs * SAMPLES) as f64);
    }
    // Of 2,410 parameters: 4 replicas send and get 4 bytes of each every 64 samples, or 2 bytes every 4 x 32 x 16, but for
    // the ends of epochs, where rounds are shorter.
    let [step, diloco] = bytes_a_sample[..] else {
        panic!("two strategies");
    };
    assert!(
        (step / (2_410.0 / 2.0) - 1.0).abs() < 0.1,
        "{step} bytes a sample"
    );
    assert!(step / diloco > 25.0, "{step} and {diloco} bytes a sample");
}

/// A replica that is killed comes back in the middle of a round: the others hand it their state, bit for bit the same. The
/// first that is asked to dies of it.
#[test]
fn replicas_that_come_and_go_keep_the_same_bits() {
    for (name, epochs) in [("digits-step", 40), ("digits-diloco", 120)] {
        let h = harness();
        let file = h.job("job.toml", &example(name));
        let epochs_set = format!("run.epochs={epochs}");
        let lease = "fleet={ lease = \"1s\", heartbeat = \"100ms\" }";
        let out = h.path("out");
        let markers = h.path("markers");
        std::fs::create_dir(&markers).unwrap();
        let environment = [
            ("RETORT_FAILPOINT", "worker.hands-over"),
            ("RETORT_FAILPOINT_ONCE", text(&markers)),
        ];
        let arguments = [
            "run",
            text(&file),
            "--out",
            text(&out),
            "--json",
            "--set",
            &epochs_set,
            "--set",
            lease,
            // Several rounds an epoch; `step` has one every step.
            "--set",
            "sync.every=8",
        ];
        let running = h.start_with(&arguments, &environment);
        eventually("training", LIMIT, || {
            let (_, _, address) = processes(&out, "coordinator").into_iter().next()?;
            let output = h.call(&["status", "--json", "--coordinator", &address]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let groups = status["groups"].as_array()?;
            let student = groups.iter().find(|g| g["kind"] == "student")?;
            (student["round"].as_u64()? > 3 && student["workers"].as_array()?.len() == 4).then_some(())
        })
        .unwrap();
        // Whoever comes back while everything merged is durable finds its state there; others are handed it.
        let handed_over = || logs(&out).contains("handed its state over");
        for kill in 0..20 {
            if kill >= 3 && handed_over() {
                break;
            }
            // The pauses are the fault itself: time to come back before the next one dies.
            std::thread::sleep(Duration::from_millis(700));
            let workers = processes(&out, "student-worker");
            if let Some((_, pid, _)) = workers.get(kill % 5) {
                let _ = signal(*pid, Signal::KILL); // it may have ended
            }
        }
        // One that stands still for longer than its lease comes too late, and starts from what the others have.
        if let Some((_, pid, _)) = processes(&out, "student-worker").first() {
            let _ = signal(*pid, Signal::STOP);
            std::thread::sleep(Duration::from_millis(1_500));
            let _ = signal(*pid, Signal::CONT);
        }
        let (code, stdout) = running.end(LIMIT).expect("the run ends");
        assert_eq!(code, 0, "{name}: {stdout}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        exactly_once(&h, &out, &report, epochs * SAMPLES);
        let said = logs(&out);
        assert!(handed_over(), "{name}: nobody joined a round");
        assert!(markers.join("worker.hands-over").exists(), "{name}");
        assert!(!said.contains("with other weights"), "{name}");
        assert!(student(&report) > 0.5, "{name}: {}", student(&report));
    }
}

/// One of four dies: what it had not brought yet is leased again, and nothing else.
#[test]
fn a_death_costs_uncommitted_work_and_nothing_else() {
    let h = harness();
    let file = h.job("job.toml", &example("digits-diloco"));
    let out = h.path("out");
    let arguments = ["run", text(&file), "--out", text(&out), "--json"];
    let running = h.start_with(&arguments, &[]);
    let group = || -> Option<Value> {
        let (_, _, address) = processes(&out, "coordinator").into_iter().next()?;
        let output = h.call(&["status", "--json", "--coordinator", &address]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let groups = status["groups"].as_array()?;
        groups.iter().find(|g| g["kind"] == "student").cloned()
    };
    let name = eventually("training", LIMIT, || {
        let group = group()?;
        let workers = group["workers"].as_array()?;
        let all = workers.iter().filter(|w| w["merged"].as_u64() > Some(0)).count() == 4;
        (all && group["round"].as_u64()? > 3).then(|| workers[1]["worker"].as_str().map(str::to_owned))?
    })
    .unwrap();
    let (_, pid, _) = processes(&out, "student-worker")
        .into_iter()
        .find(|(n, ..)| *n == name)
        .unwrap();
    signal(pid, Signal::KILL).unwrap();
    let (code, stdout) = running.end(LIMIT).expect("the run ends");
    assert_eq!(code, 0, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    exactly_once(&h, &out, &report, 60 * SAMPLES);
    // A round's share of an epoch, and what was leased ahead of it.
    let ledger = &report["ledger"];
    assert_eq!(ledger["rolled_back"], 0, "{ledger}");
    assert!(ledger["redelivered"].as_u64().unwrap() <= 2 * 32 * 16, "{ledger}");
    assert!(!logs(&out).contains("with other weights"));
}

/// A replica whose weights are other bits than those of the others is named and sent away; the round goes on.
#[test]
fn a_replica_that_differs_by_a_bit_is_sent_away() {
    let fleet = Standing::new(harness(), 0, 0);
    let job = example("digits-diloco")
        .replace("[[teachers]]", "[ignored]")
        .replace("replicas = 4", "replicas = 2");
    // Students alone, so that nobody else needs to be there.
    let start = job.find("[ignored]").unwrap();
    let end = job.find("[[students]]").unwrap();
    let job = format!("{}{}", &job[..start], &job[end..])
        .replace("teachers = [{ name = \"wide\" }]", "teachers = []");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = retort_client::connect(&fleet.coordinator).unwrap();
        let digest = "0".repeat(64);
        let request = pb::SubmitRequest {
            job_toml: job,
            seed: 1,
            positions: 1_000,
            dataset_digest: digest.clone(),
            run: String::new(),
        };
        let run = retort_client::runs(channel.clone())
            .submit(request)
            .await
            .unwrap()
            .into_inner()
            .run;
        let mut sessions = Vec::new();
        for (worker, process) in [("good", 1), ("bad", 2)] {
            let request = pb::RegisterRequest {
                protocol: PROTOCOL,
                run: run.clone(),
                role: pb::Role::StudentWorker.into(),
                worker: worker.into(),
                dataset_digest: digest.clone(),
                process,
                attempt: 1,
                ..Default::default()
            };
            let reply = retort_client::fleet(channel.clone())
                .register(request)
                .await
                .unwrap()
                .into_inner();
            sessions.push((reply.session, reply.start.unwrap().plan.unwrap()));
        }
        let contribute = |index: usize, hash: &str| {
            let (session, plan) = sessions[index].clone();
            let header = pb::Contribution {
                session,
                generation: plan.generation,
                round: plan.round,
                sums: Some(pb::TrainingSums::default()),
                state_hash: hash.into(),
                ..Default::default()
            };
            let part = Some(pb::contribute_request::Part::Header(header));
            let messages = tokio_stream::iter([pb::ContributeRequest { part }]);
            let mut client = retort_client::reduce(channel.clone());
            async move { client.contribute(messages).await.map(drop) }
        };
        let mut good = std::pin::pin!(contribute(0, "aa"));
        let waits = tokio::time::timeout(Duration::from_millis(300), &mut good).await;
        assert!(waits.is_err(), "it waits for the other replica");
        let refused = contribute(1, "ab").await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange);
        for part in ["bad began round 0 of small", "(ab)", "than good", "(aa)"] {
            assert!(refused.message().contains(part), "{}", refused.message());
        }
        // It leaves, and the other's contribution closes the round.
        let session = sessions[1].0.clone();
        let leave = pb::LeaveRequest { session };
        retort_client::fleet(channel.clone()).leave(leave).await.unwrap();
        good.await.unwrap();
    });
}
