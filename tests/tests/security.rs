//! Who may do what, over real TLS: certificates and their roles, tokens, and what happens to those that are bad.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use retort_client::{Channel, Dialer};
use retort_proto::{PROTOCOL, pb};
use retort_tests::online::{LIMIT, exactly_once, text};
use retort_tests::standing::Standing;
use retort_tests::{Harness, eventually};
use retort_tls::access::{TABLE, Who};
use retort_tls::{Authority, Credentials, Expected, Role, write_folder};
use serde_json::Value;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Samples of an epoch.
const SAMPLES: u64 = 1_297;

/// A teacher that learns, and one replica of its student.
fn job(epochs: u64) -> String {
    retort_tests::online::ONLINE
        .replace("epochs = 6", &format!("epochs = {epochs}"))
        .replace("replicas = 2", "replicas = 1")
}

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

/// A CA and folders for every role; the coordinator signs for those who join.
fn certs(h: &Harness, name: &str) -> PathBuf {
    let certs = h.path(name);
    h.ok(&["certs", "init", text(&certs), "--join"]);
    certs
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, work).await.expect("in time") })
}

/// Exit code 2 and a message with all these parts.
fn refused(output: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

fn dialer(certs: &Path, role: Role) -> Dialer {
    Dialer::new(Credentials::of(&certs.join(role.name()), role).unwrap())
}

/// Messages without a byte: whatever a method takes, all fields absent.
#[derive(Debug, Clone, Default)]
struct Nothing;

impl Codec for Nothing {
    type Encode = ();
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

impl Encoder for Nothing {
    type Item = ();
    type Error = Status;
    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Nothing {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}

/// Calls a method with one empty message; how it ends.
async fn call(channel: &Channel, method: &'static str) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|_| Status::unavailable("no connection"))?;
    let path = PathAndQuery::from_static(method);
    let mut answers = grpc
        .streaming(Request::new(tokio_stream::iter([()])), path, Nothing)
        .await?
        .into_inner();
    answers.message().await.map(drop)
}

#[test]
fn a_fleet_with_certificates_runs_a_job_to_an_exact_audit() {
    let h = harness();
    let certs = certs(&h, "certs");
    let fleet = Standing::with_tls(h, 2, 1, &certs);
    assert!(fleet.coordinator.starts_with("https://"), "{}", fleet.coordinator);
    let out = fleet.h.path("out");
    let running = fleet.submit(&job(20), &out);
    let token = fleet
        .h
        .ok(&["certs", "token", text(&certs.join("coordinator")), "--status"]);
    let trust = fleet.h.path("trust");
    write_folder(
        &trust,
        &[("ca.pem", &std::fs::read_to_string(certs.join("ca.pem")).unwrap())],
    )
    .unwrap();
    let status = fleet.h.ok(&[
        "status",
        "--json",
        "--coordinator",
        &fleet.coordinator,
        "--tls",
        text(&trust),
        "--token",
        token.trim(),
    ]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let server = &status["teachers"][0]["servers"][0]["address"];
    assert!(server.as_str().unwrap().starts_with("https://"), "{server}");
    let (code, report) = running.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{report}");
    exactly_once(
        &fleet.h,
        &out,
        &serde_json::from_str(&report).unwrap(),
        20 * SAMPLES,
    );
}

#[test]
fn every_wrong_role_is_denied_on_every_method_of_every_server() {
    let h = harness();
    let certs = certs(&h, "certs");
    let fleet = Standing::with_tls(h, 1, 1, &certs);
    let servers = ["c", "t0", "w0"].map(|name| fleet.address(name));
    block_on(async {
        let mut denied = 0;
        for server in &servers {
            for role in Role::ALL {
                let channel = dialer(&certs, role)
                    .reach(server, Expected::Anyone)
                    .await
                    .unwrap();
                for (method, who) in TABLE {
                    let allowed = match who {
                        Who::Anyone | Who::Certificate => true,
                        Who::Roles(roles) => roles.contains(&role),
                        Who::Joining => false,
                    };
                    if allowed {
                        continue;
                    }
                    let status = call(&channel, method).await.expect_err("denied");
                    assert_eq!(
                        status.code(),
                        Code::PermissionDenied,
                        "{method} by {role}: {status}"
                    );
                    for part in [&method[1..], role.name(), "needs"] {
                        assert!(status.message().contains(part), "{status}");
                    }
                    denied += 1;
                }
                let health = HealthClient::new(channel)
                    .check(HealthCheckRequest::default())
                    .await;
                assert!(health.is_ok(), "health is for {role} too: {health:?}");
            }
            let trust = Credentials::read(&certs).unwrap();
            let nobody = Dialer::new(trust).reach(server, Expected::Anyone).await.unwrap();
            for (method, _) in TABLE {
                let status = call(&nobody, method).await.expect_err("unauthenticated");
                assert_eq!(status.code(), Code::Unauthenticated, "{method}: {status}");
            }
        }
        assert!(denied > 200, "{denied}");

        // And whom the table lets pass, it lets pass: what fails then is the empty message, or the absent run.
        let passes = |role: Role, server: &'static str| {
            let (certs, address) = (certs.clone(), fleet.address(server));
            async move {
                let server_role = if server == "c" {
                    Role::Coordinator
                } else {
                    Role::Teacher
                };
                dialer(&certs, role).reach(&address, server_role).await.unwrap()
            }
        };
        for (role, method) in [
            (Role::Operator, "/retort.v1.Runs/Submit"),
            (Role::Operator, "/retort.v1.Runs/Stop"),
            (Role::Operator, "/retort.v1.Versions/List"),
            (Role::Operator, "/retort.v1.Versions/Publish"),
            (Role::Observer, "/retort.v1.Status/GetRun"),
            (Role::Observer, "/retort.v1.Status/ListRuns"),
            (Role::Student, "/retort.v1.Status/GetRun"),
            (Role::Student, "/retort.v1.Fleet/Lease"),
            (Role::Student, "/retort.v1.Reduce/Contribute"),
            (Role::Teacher, "/retort.v1.Fleet/Register"),
            (Role::Teacher, "/retort.v1.Versions/Fetch"),
            (Role::Observer, "/retort.v1.Join/Renew"),
        ] {
            let result = call(&passes(role, "c").await, method).await;
            let code = result.as_ref().err().map(Status::code);
            assert!(
                !matches!(code, Some(Code::PermissionDenied | Code::Unauthenticated)),
                "{method} by {role}: {result:?}"
            );
        }
        let described = call(&passes(Role::Student, "t0").await, "/retort.v1.Teacher/Describe").await;
        assert!(described.is_ok(), "{described:?}");
    });
}

/// What a message claims its sender to be must agree with the certificate.
#[test]
fn a_role_that_a_message_claims_is_held_against_the_certificate() {
    let h = harness();
    let certs = certs(&h, "certs");
    let fleet = Standing::with_tls(h, 0, 0, &certs);
    let denied = |what: &str, result: Result<(), Status>| {
        let status = result.expect_err(what);
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
        assert!(status.message().contains("role"), "{what}: {status}");
    };
    block_on(async {
        let reach = async |role| {
            let dialer = dialer(&certs, role);
            dialer.reach(&fleet.coordinator, Role::Coordinator).await.unwrap()
        };
        for (role, claimed) in [
            (Role::Teacher, pb::Role::StudentWorker),
            (Role::Student, pb::Role::TeacherServer),
        ] {
            let mut client = retort_client::fleet(reach(role).await);
            let register = pb::RegisterRequest {
                protocol: PROTOCOL,
                role: claimed.into(),
                worker: "w".into(),
                ..Default::default()
            };
            denied("register", client.register(register).await.map(drop));
            let next = pb::NextRunRequest {
                role: claimed.into(),
                worker: "w".into(),
                wait_ms: 0,
            };
            denied("next run", client.next_run(next).await.map(drop));
            let session = pb::Session {
                run: "r".into(),
                role: claimed.into(),
                worker: "w".into(),
                incarnation: 1,
                term: 1,
            };
            let beat = pb::ControlUp {
                session: Some(session.clone()),
                ..Default::default()
            };
            let control = client.control(tokio_stream::iter([beat])).await;
            denied("control", control.map(drop));
            let leave = pb::LeaveRequest {
                session: Some(session.clone()),
            };
            denied("leave", client.leave(leave).await.map(drop));
            if role == Role::Student {
                let lease = pb::LeaseRequest {
                    session: Some(session),
                    sequence: 1,
                    ..Default::default()
                };
                denied("lease", client.lease(lease).await.map(drop));
            }
        }
        // In plain text is no address of a server in an encrypted fleet.
        let register = pb::RegisterRequest {
            protocol: PROTOCOL,
            role: pb::Role::TeacherServer.into(),
            worker: "t".into(),
            address: "http://10.0.0.7:7310".into(),
            ..Default::default()
        };
        let mut client = retort_client::fleet(reach(Role::Teacher).await);
        let status = client.register(register).await.unwrap_err();
        assert!(status.message().contains("https://"), "{status}");

        let by_teacher = pb::publish_header::By::Teacher(pb::ProvidedTeacher::default());
        let by_round = pb::publish_header::By::Round(pb::PublishedRound::default());
        for (role, by) in [(Role::Student, by_teacher), (Role::Operator, by_round)] {
            let mut client = retort_client::versions(reach(role).await);
            let published = retort_client::publish(&mut client, by, None, Vec::new()).await;
            denied("publish", published.map(drop));
        }
    });
}

#[test]
fn tokens_open_what_they_were_made_for_until_they_expire() {
    let h = harness();
    let certs = certs(&h, "certs");
    let fleet = Standing::with_tls(h, 0, 0, &certs);
    let h = &fleet.h;
    let (keys, ca) = (certs.join("coordinator"), certs.join("ca.pem"));
    let token = |more: &[&str]| {
        let args = [&["certs", "token", text(&keys)], more].concat();
        h.ok(&args).trim().to_owned()
    };
    let url = fleet.coordinator.as_str();
    let trust = h.path("trust");
    write_folder(&trust, &[("ca.pem", &std::fs::read_to_string(&ca).unwrap())]).unwrap();
    let status = |token: &str| {
        let tls = ["--tls", text(&trust), "--token", token];
        h.call(&[&["status", "--coordinator", url], &tls[..]].concat())
    };
    let look = token(&["--status"]);
    let none = status(&look);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(
        none.status.code() == Some(1) && said.contains("NotFound"),
        "{said}"
    );
    refused(&status("wrong"), &["no token", "retort certs token"]);
    refused(&status(&look.replace("observer", "operator")), &["not made with"]);
    refused(&status(&token(&["--status", "--valid", "0s"])), &["expired"]);
    refused(
        &status(&token(&["--join", "student"])),
        &["Status/GetRun needs", "joining as student"],
    );
    let job = h.job("job.toml", &job(1));
    let submitted = h.call(&[
        "submit",
        text(&job),
        "--coordinator",
        url,
        "--tls",
        text(&trust),
        "--token",
        &look,
    ]);
    refused(&submitted, &["Runs/Submit needs operator", "observer by token"]);

    let join = |token: &str, out: &str| {
        let out = h.path(out);
        let args = ["certs", "join", "--coordinator", url, "--token", token];
        h.call(&[&args[..], &["--ca", text(&ca), "--out", text(&out)]].concat())
    };
    let ticket = token(&["--join", "student"]);
    let joined = join(&ticket, "joined");
    assert!(
        joined.status.success(),
        "{}",
        String::from_utf8_lossy(&joined.stderr)
    );
    let folder = h.path("joined");
    let credentials = Credentials::of(&folder, Role::Student).unwrap();
    refused(&join(&ticket, "again"), &["used before"]);
    refused(&join(&ticket, "joined"), &["has credentials already", "renew"]);
    refused(&join(&look, "looking"), &["Join/Join needs", "joining"]);
    refused(
        &join(&token(&["--join", "student", "--valid", "0s"]), "late"),
        &["expired"],
    );

    // Renewed by what it got, with the same role, and a folder in use sees it.
    let certificate = || std::fs::read_to_string(folder.join("cert.pem")).unwrap();
    let before = certificate();
    h.ok(&["certs", "renew", "--coordinator", url, "--tls", text(&folder)]);
    assert_ne!(before, certificate());
    assert_eq!(credentials.role(), Some(Role::Student));
    block_on(async {
        let channel = Dialer::new(credentials)
            .reach(url, Role::Coordinator)
            .await
            .unwrap();
        let next = pb::NextRunRequest {
            role: pb::Role::StudentWorker.into(),
            worker: "w".into(),
            wait_ms: 0,
        };
        let offered = retort_client::fleet(channel).next_run(next).await;
        assert_eq!(
            offered.unwrap().into_inner().run,
            "",
            "it may ask, and there is no run"
        );
    });
}

/// Whatever is wrong with a folder, nothing is started, and the message names the file and what to do.
#[test]
fn bad_credentials_are_refused_before_anything_starts() {
    let h = harness();
    let certs = certs(&h, "certs");
    let fleet = Standing::with_tls(h, 0, 0, &certs);
    let h = &fleet.h;
    let url = fleet.coordinator.as_str();
    let worker = |role: &str, url: &str, tls: &str| {
        let args = [role, "--listen", "127.0.0.1:0", "--coordinator", url];
        h.call(&[&args[..], &["--tls", tls]].concat())
    };
    let folder = |role: &str| text(&certs.join(role)).to_owned();
    refused(
        &worker("student-worker", url, &folder("teacher")),
        &["teacher/cert.pem", "of a teacher", "one of a student"],
    );
    refused(
        &worker("teacher-server", url, "nowhere"),
        &["nowhere/ca.pem", "retort certs init"],
    );
    refused(
        &worker("teacher-server", "http://127.0.0.1:1", &folder("teacher")),
        &["--coordinator", "https://"],
    );
    let expired = h.path("expired");
    let authority = Authority::read(&certs).unwrap();
    let day = Duration::from_secs(86_400);
    let issued = authority
        .issue(Role::Operator, (SystemTime::now() - 2 * day, day))
        .unwrap();
    write_folder(&expired, &issued.files(authority.ca())).unwrap();
    let status = |tls: &str| h.call(&["status", "--coordinator", url, "--tls", tls]);
    refused(
        &status(text(&expired)),
        &["expired/cert.pem", "expired", "retort certs issue"],
    );

    let other = self::certs(h, "other");
    let signs = other.join("coordinator");
    std::fs::copy(certs.join("ca-key.pem"), signs.join("ca-key.pem")).unwrap();
    refused(
        &h.call(&["coordinator", "--listen", "127.0.0.1:0", "--tls", text(&signs)]),
        &["coordinator/ca-key.pem is not the key of"],
    );
    refused(
        &status(text(&other.join("operator"))),
        &["cannot be trusted", "ca.pem"],
    );
    // It trusts the coordinator, which does not trust it.
    let both = ["other", "certs"].map(|dir| std::fs::read_to_string(h.path(dir).join("ca.pem")).unwrap());
    std::fs::write(other.join("operator/ca.pem"), both.concat()).unwrap();
    refused(
        &status(text(&other.join("operator"))),
        &["refuses the certificate in", "other/operator"],
    );
    refused(
        &h.call(&["status", "--coordinator", url]),
        &["is encrypted", "--tls DIR"],
    );
    let plain = h.call(&["status", "--coordinator", &url.replace("https", "http")]);
    refused(&plain, &["in plain text", "https:// and --tls DIR"]);
    refused(
        &h.call(&[
            "status",
            "--coordinator",
            &url.replace("https", "http"),
            "--tls",
            &folder("operator"),
        ]),
        &["plain text", "https://"],
    );
    let refusal = h.call(&["certs", "init", text(&certs)]);
    refused(&refusal, &["has a CA already", "retort certs issue"]);
    h.ok(&["certs", "init", text(&certs), "--if-absent"]);
    let health = ["health", url, "--tls", &folder("observer")];
    h.ok(&health);
}

#[test]
fn plain_text_is_served_to_others_only_when_asked_for() {
    let h = harness();
    let data = h.path("data");
    let coordinator = ["coordinator", "--listen", "0.0.0.0:0", "--data-dir", text(&data)];
    refused(
        &h.call(&coordinator),
        &["--listen 0.0.0.0:0", "--tls DIR", "--plaintext"],
    );
    assert!(!data.exists(), "nothing was started");
    for role in ["teacher-server", "student-worker"] {
        let output = h.call(&[
            role,
            "--listen",
            "0.0.0.0:0",
            "--coordinator",
            "http://127.0.0.1:1",
        ]);
        refused(&output, &["--listen 0.0.0.0:0", "--plaintext"]);
    }
    for (more, environment) in [
        (Some("--plaintext"), None),
        (None, Some(("RETORT_PLAINTEXT", "1"))),
    ] {
        let file = h.path("address");
        let _ = std::fs::remove_file(&file);
        let announce = ["--announce", text(&file), "--http", "127.0.0.1:0"];
        let args: Vec<&str> = coordinator.into_iter().chain(announce).chain(more).collect();
        let environment: Vec<(&str, &str)> = environment.into_iter().collect();
        let _running = h.start_with(&args, &environment);
        let listens = eventually("it listens", LIMIT, || std::fs::read_to_string(&file).ok());
        assert!(listens.unwrap().starts_with("http://0.0.0.0:"));
    }
}

/// A CA takes over from another while a run is under way: who connects anew uses the new certificates, and nothing is lost.
#[test]
fn certificates_are_exchanged_while_a_run_goes_on() {
    let h = harness();
    let (old, next) = (certs(&h, "certs"), certs(&h, "next"));
    let before = h.path("before");
    copy(&old.join("observer"), &before);
    let fleet = Standing::with_tls(h, 2, 1, &old);
    let out = fleet.h.path("out");
    let running = fleet.submit(&job(60), &out);
    for role in Role::ALL {
        copy(&next.join(role.name()), &old.join(role.name()));
    }
    let incarnation = |fleet: &Standing| {
        let groups = fleet.status()?["groups"].as_array()?.clone();
        let mut workers = groups
            .iter()
            .flat_map(|g| g["workers"].as_array().cloned().unwrap_or_default());
        workers.find(|w| w["worker"] == "w0")?["incarnation"].as_u64()
    };
    assert_eq!(incarnation(&fleet), Some(1));
    fleet.link.cut();
    eventually("w0 is missed", LIMIT, || {
        incarnation(&fleet).is_none().then_some(())
    })
    .unwrap();
    fleet.link.heal();
    eventually("w0 is back", LIMIT, || incarnation(&fleet).filter(|n| *n > 1)).unwrap();
    let stranger = fleet.h.call(&[
        "status",
        "--coordinator",
        &fleet.coordinator,
        "--tls",
        text(&before),
    ]);
    refused(&stranger, &["cannot be trusted"]);
    let (code, report) = running.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{report}");
    exactly_once(
        &fleet.h,
        &out,
        &serde_json::from_str(&report).unwrap(),
        60 * SAMPLES,
    );
}

fn copy(from: &Path, to: &Path) {
    for name in ["ca.pem", "key.pem", "cert.pem"] {
        let content = std::fs::read_to_string(from.join(name)).unwrap();
        write_folder(to, &[(name, &content)]).unwrap();
    }
}
