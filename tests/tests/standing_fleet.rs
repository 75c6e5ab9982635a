//! A fleet that was started before there was a job: roles with a coordinator's address only.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions};
use retort_client::Channel;
use retort_proto::{PROTOCOL, pb};
use retort_tests::http::ask;
use retort_tests::{Harness, Running, eventually};
use serde_json::Value;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

const LIMIT: Duration = Duration::from_secs(120);

const JOB: &str = r#"
[run]
name = "standing"
epochs = 2
batch_size = 32

[dataset]
name = "digits"

[[teachers]]
name = "wide"
model = { architecture = "mlp", hidden = [32] }
source = { kind = "trained", publish_every = 10 }

[[students]]
name = "small"
model = { architecture = "mlp", hidden = [8] }
teachers = [{ name = "wide" }]
"#;

struct Standing {
    h: Harness,
    coordinator: String,
    _processes: Vec<Running>,
}

fn announced(path: &Path) -> String {
    eventually("a role listens", LIMIT, || std::fs::read_to_string(path).ok()).expect("it listens")
}

fn start(h: &Harness, role: &str, name: &str, more: &[&str]) -> (Running, String) {
    let file: PathBuf = h.path(&format!("{name}.address"));
    let mut args = vec![
        role,
        "--listen",
        "127.0.0.1:0",
        "--announce",
        file.to_str().unwrap(),
    ];
    args.extend(more);
    let running = h.start(&args);
    (running, announced(&file))
}

impl Standing {
    fn new(workers: usize) -> Self {
        let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
        let data = h.path("data");
        let (coordinator, address) = start(&h, "coordinator", "c", &["--data-dir", data.to_str().unwrap()]);
        let mut processes = vec![coordinator];
        if workers > 0 {
            processes.push(
                start(
                    &h,
                    "teacher-server",
                    "t",
                    &["--coordinator", &address, "--name", "t"],
                )
                .0,
            );
        }
        for i in 0..workers {
            let name = format!("w{i}");
            processes.push(
                start(
                    &h,
                    "student-worker",
                    &name,
                    &["--coordinator", &address, "--name", &name],
                )
                .0,
            );
        }
        Self {
            h,
            coordinator: address,
            _processes: processes,
        }
    }

    fn channel(&self) -> Channel {
        retort_client::connect(&self.coordinator).expect("address")
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, work).await.expect("in time") })
}

/// Passes messages through as bytes: what a client without generated code does.
#[derive(Debug, Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = input.remaining();
        Ok(Some(input.copy_to_bytes(len)))
    }
}

async fn reflect(channel: Channel, request: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(channel);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let mut replies = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let reply: ServerReflectionResponse = replies.message().await.unwrap().expect("a reply");
    reply.message_response.expect("a response")
}

/// Calls `Status/GetRun` knowing nothing but the address, as grpcurl would.
async fn get_run_by_reflection(channel: Channel) -> Value {
    let symbol = MessageRequest::FileContainingSymbol("retort.v1.Status".into());
    let MessageResponse::FileDescriptorResponse(files) = reflect(channel.clone(), symbol).await else {
        panic!("no descriptors");
    };
    let mut pool = DescriptorPool::new();
    let mut waiting = files.file_descriptor_proto;
    // Dependencies may come after what needs them.
    for _ in 0..waiting.len() + 1 {
        waiting.retain(|file| pool.decode_file_descriptor_proto(file.as_slice()).is_err());
    }
    let mut missing: Vec<String> = vec!["retort/v1/fleet.proto".into(), "retort/v1/reduce.proto".into()];
    missing.retain(|name| pool.get_file_by_name(name).is_none());
    for name in missing {
        let request = MessageRequest::FileByFilename(name);
        if let MessageResponse::FileDescriptorResponse(files) = reflect(channel.clone(), request).await {
            for file in files.file_descriptor_proto {
                let _ = pool.decode_file_descriptor_proto(file.as_slice());
            }
        }
    }
    waiting.retain(|file| pool.decode_file_descriptor_proto(file.as_slice()).is_err());
    assert!(waiting.is_empty(), "descriptors do not resolve");
    let method = pool.get_service_by_name("retort.v1.Status").unwrap();
    let method = method.methods().find(|m| m.name() == "GetRun").unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = "/retort.v1.Status/GetRun".parse().unwrap();
    let request = tonic::Request::new(DynamicMessage::new(method.input()).encode_to_vec());
    let reply = client.unary(request, path, Raw).await.unwrap().into_inner();
    let message = DynamicMessage::decode(method.output(), reply).unwrap();
    assert_eq!(message.descriptor().full_name(), "retort.v1.RunStatus");
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap()
}

#[test]
fn a_submitted_job_runs_and_any_client_reads_its_status() {
    let fleet = Standing::new(2);
    let file = fleet.h.job("job.toml", JOB);
    let out = fleet.h.path("out");
    let url = fleet.coordinator.clone();
    let args = [
        "submit",
        file.to_str().unwrap(),
        "--coordinator",
        &url,
        "--out",
        out.to_str().unwrap(),
        "--json",
    ];
    let (code, stdout) = fleet.h.start(&args).end(LIMIT).expect("it ends");
    assert_eq!(code, 0);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["ledger"]["committed"], 1297 * 2);
    fleet.h.ok(&["audit", out.to_str().unwrap()]);

    let status = || -> Value {
        serde_json::from_str(&fleet.h.ok(&["status", "--json", "--coordinator", &url])).unwrap()
    };
    // Until everybody has left, the silence of servers changes.
    let left = |status: &Value| status["teachers"][0]["servers"].as_array().unwrap().is_empty();
    let by_command = eventually("the server leaves", LIMIT, || Some(status()).filter(left)).unwrap();
    let by_reflection = block_on(async {
        let MessageResponse::ListServicesResponse(list) =
            reflect(fleet.channel(), MessageRequest::ListServices(String::new())).await
        else {
            panic!("no list");
        };
        let names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
        for service in ["Fleet", "Reduce", "Versions", "Runs", "Status"] {
            assert!(names.contains(&format!("retort.v1.{service}")), "{names:?}");
        }
        assert!(names.iter().any(|n| n == "grpc.health.v1.Health"), "{names:?}");
        get_run_by_reflection(fleet.channel()).await
    });
    let still = |status: &Value| {
        let mut status = status.clone();
        status["age_s"] = Value::Null;
        status
    };
    assert_eq!(still(&by_command), still(&by_reflection));
    assert_eq!(by_command["state"], "done");

    // One fleet serves several runs in turn.
    let (code, _) = fleet.h.start(&args[..4]).end(LIMIT).expect("it ends");
    assert_eq!(code, 0);
}

#[test]
fn the_report_of_an_ended_run_is_on_the_dashboard() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let (data, http, out) = (h.path("data"), h.path("http"), h.path("out"));
    let coordinator = |name: &str| {
        let _ = std::fs::remove_file(&http);
        let to = [
            "--data-dir",
            data.to_str().unwrap(),
            "--announce-http",
            http.to_str().unwrap(),
        ];
        let (process, url) = start(&h, "coordinator", name, &to);
        (process, url, announced(&http))
    };
    let (first, url, pages) = coordinator("c1");
    let to = ["--coordinator", url.as_str()];
    let (_server, _) = start(&h, "teacher-server", "t", &to);
    let (_w0, _) = start(&h, "student-worker", "w0", &to);
    let (_w1, _) = start(&h, "student-worker", "w1", &to);
    let file = h.job("job.toml", JOB);
    let submit = ["submit", file.to_str().unwrap(), to[0], to[1]];
    h.ok(&[&submit[..], &["--out", out.to_str().unwrap()]].concat());
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();

    let shown = ask(&pages, "GET", "/reports/standing-1").unwrap();
    assert_eq!((shown.status, shown.body.as_str()), (200, page.as_str()));
    let policy = shown.header("content-security-policy");
    assert!(
        policy.starts_with("sandbox;") && !policy.contains("script"),
        "{policy}"
    );
    // Nobody fetched the second run's models, so nobody measured them; the third waits for its turn.
    h.ok(&submit);
    let held = h.ok(&["submit", file.to_str().unwrap(), to[0], to[1], "--detach"]);
    for run in ["standing-2", "nobody"] {
        let none = ask(&pages, "GET", &format!("/reports/{run}")).unwrap();
        assert_eq!(none.status, 404, "{}", none.body);
        assert!(none.body.contains(run), "{}", none.body);
    }
    let early = block_on(async {
        let mut runs = retort_client::runs(retort_client::connect(&url).expect("address"));
        let run = held.trim().to_owned();
        let pause = pb::PauseRequest { run: run.clone() };
        runs.pause(pause).await.unwrap();
        let html = "too early".to_owned();
        runs.keep_report(pb::KeepReportRequest { run, html })
            .await
            .unwrap_err()
    });
    assert_eq!(early.code(), Code::FailedPrecondition, "{early}");

    drop(first);
    let (_second, _, pages) = coordinator("c2");
    let runs: Value = serde_json::from_str(&ask(&pages, "GET", "/api/runs").unwrap().body).unwrap();
    let reported: Vec<bool> = (0..3)
        .map(|i| runs["runs"][i]["reported"].as_bool().unwrap())
        .collect();
    assert_eq!(reported, [true, false, false]);
    assert_eq!(ask(&pages, "GET", "/reports/standing-1").unwrap().body, page);
}

#[test]
fn workers_of_one_run_leave_with_it() {
    let fleet = Standing::new(0);
    let to = ["--coordinator", fleet.coordinator.as_str()];
    let (_server, _) = start(&fleet.h, "teacher-server", "t", &to);
    let workers: Vec<Running> = ["w0", "w1"]
        .map(|name| start(&fleet.h, "student-worker", name, &[&to[..], &["--once"]].concat()).0)
        .into();
    let file = fleet.h.job("job.toml", JOB);
    fleet.h.ok(&["submit", file.to_str().unwrap(), to[0], to[1]]);
    for worker in workers {
        let (code, log) = worker.end(LIMIT).unwrap();
        assert_eq!(code, 0, "{log}");
    }
}

#[test]
fn registration_refuses_other_data_and_other_protocols() {
    let fleet = Standing::new(0);
    let url = fleet.coordinator.clone();
    let file = fleet.h.job("job.toml", JOB);
    let run = fleet.h.ok(&[
        "submit",
        file.to_str().unwrap(),
        "--coordinator",
        &url,
        "--detach",
    ]);
    let run = run.trim().to_owned();
    block_on(async {
        let mut client = retort_client::fleet(fleet.channel());
        let digest = retort_client::status(fleet.channel())
            .get_run(pb::GetRunRequest::default())
            .await
            .unwrap()
            .into_inner()
            .dataset_digest;
        let attempts = std::cell::Cell::new(0);
        let next = || {
            attempts.set(attempts.get() + 1);
            attempts.get()
        };
        let register = |protocol, dataset_digest: String| pb::RegisterRequest {
            protocol,
            attempt: next(),
            run: run.clone(),
            role: pb::Role::StudentWorker.into(),
            worker: "w".into(),
            dataset_digest,
            ..Default::default()
        };
        let other = client
            .register(register(PROTOCOL, "0".repeat(64)))
            .await
            .unwrap_err();
        assert_eq!(other.code(), Code::PermissionDenied);
        assert!(
            other.message().contains("digest") && other.message().contains(&digest),
            "{other}"
        );
        let old = client
            .register(register(PROTOCOL + 1, digest.clone()))
            .await
            .unwrap_err();
        assert_eq!(old.code(), Code::PermissionDenied);
        assert!(old.message().contains("protocol"), "{old}");

        // P3: a second life fences the first.
        let first = client
            .register(register(PROTOCOL, digest.clone()))
            .await
            .unwrap()
            .into_inner();
        let second = client
            .register(register(PROTOCOL, digest))
            .await
            .unwrap()
            .into_inner();
        let lease = |session| pb::LeaseRequest {
            session,
            sequence: 1,
            ..Default::default()
        };
        let stale = client.lease(lease(first.session)).await.unwrap_err();
        assert_eq!(stale.code(), Code::FailedPrecondition);
        assert!(stale.message().contains("incarnation"), "{stale}");
        let granted = client
            .lease(lease(second.session.clone()))
            .await
            .unwrap()
            .into_inner();
        assert!(
            matches!(granted.reply, Some(pb::lease_reply::Reply::Granted(_))),
            "{granted:?}"
        );
        let wrong_term = second.session.map(|s| pb::Session {
            term: s.term + 1,
            ..s
        });
        let stale = client.lease(lease(wrong_term)).await.unwrap_err();
        assert!(stale.message().contains("term"), "{stale}");
    });
}

#[test]
fn a_bad_job_or_field_is_refused_with_its_name() {
    let fleet = Standing::new(0);
    block_on(async {
        let mut runs = retort_client::runs(fleet.channel());
        let submit = |job: &str, digest: String, positions| pb::SubmitRequest {
            job_toml: job.to_owned(),
            dataset_digest: digest,
            positions,
            ..Default::default()
        };
        for (request, part) in [
            (
                submit(&JOB.replace("epochs = 2", "epochs = 0"), "0".repeat(64), 1),
                "run.epochs",
            ),
            (submit(JOB, "xyz".into(), 1), "dataset_digest"),
            (submit(JOB, "0".repeat(64), 0), "positions"),
        ] {
            let status = runs.submit(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(part), "{status}");
        }
        let none = retort_client::status(fleet.channel())
            .get_run(pb::GetRunRequest::default())
            .await
            .unwrap_err();
        assert_eq!(none.code(), Code::NotFound);
    });
}
