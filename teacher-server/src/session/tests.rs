use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use pb::control_down::Command;
use pb::fleet_server::{Fleet, FleetServer};
use pb::versions_server::{Versions, VersionsServer};
use retort_runtime::logging::Format;
use retort_tls::ServerFlags;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::*;

const JOB: &str = r#"
    [run]
    name = "t"
    epochs = 2
    [dataset]
    name = "digits"
    [[teachers]]
    name = "big"
    model = { architecture = "mlp", hidden = [64] }
    source = { kind = "trained", learning_rate = 0.01 }
    [[students]]
    name = "small"
    model = { architecture = "mlp", hidden = [8] }
    teachers = [{ name = "big" }]
"#;

/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

type Commands = mpsc::Receiver<Result<pb::ControlDown, Status>>;

/// A coordinator of one run and one session, which says what the test wants.
struct Coordinator {
    offered: AtomicBool,
    commands: Mutex<Option<Commands>>,
    /// Kept, or the streams would end.
    heartbeats: Mutex<Vec<Streaming<pb::ControlUp>>>,
    /// Versions that were asked for.
    fetched: Mutex<Vec<u64>>,
    /// No version is there; otherwise a download never ends.
    empty: bool,
    left: AtomicU64,
}

fn unexpected<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no teacher server asks for this"))
}

#[tonic::async_trait]
impl Fleet for Coordinator {
    type ControlStream = ReceiverStream<Result<pb::ControlDown, Status>>;

    async fn next_run(&self, _: Request<pb::NextRunRequest>) -> Result<Response<pb::NextRunReply>, Status> {
        if self.offered.swap(true, Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(pb::NextRunReply {
            run: "r".into(),
            job_toml: JOB.into(),
            seed: 0,
            term: 1,
        }))
    }

    async fn register(
        &self,
        request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterReply>, Status> {
        let request = request.into_inner();
        let session = pb::Session {
            run: request.run,
            role: request.role,
            worker: request.worker,
            incarnation: 1,
            term: 1,
        };
        Ok(Response::new(pb::RegisterReply {
            session: Some(session),
            part: "big".into(),
            lease_ttl_ms: 10_000,
            heartbeat_ms: 100,
            stage: vec![0],
            ..Default::default()
        }))
    }

    async fn control(
        &self,
        request: Request<Streaming<pb::ControlUp>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let commands = self.commands.lock().unwrap().take();
        let commands = commands.ok_or_else(|| Status::unavailable("one stream is all there is"))?;
        self.heartbeats.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ReceiverStream::new(commands)))
    }

    async fn leave(&self, _: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveReply>, Status> {
        self.left.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(pb::LeaveReply::default()))
    }

    async fn lease(&self, _: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseReply>, Status> {
        unexpected()
    }

    async fn release(&self, _: Request<pb::ReleaseRequest>) -> Result<Response<pb::ReleaseReply>, Status> {
        unexpected()
    }

    async fn reject(&self, _: Request<pb::RejectRequest>) -> Result<Response<pb::RejectReply>, Status> {
        unexpected()
    }

    async fn fail(&self, _: Request<pb::FailRequest>) -> Result<Response<pb::FailReply>, Status> {
        unexpected()
    }
}

#[tonic::async_trait]
impl Versions for Coordinator {
    type FetchStream = ReceiverStream<Result<pb::FetchReply, Status>>;

    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let version = request.into_inner().version.unwrap();
        self.fetched.lock().unwrap().push(version);
        if !self.empty {
            std::future::pending::<()>().await;
        }
        Err(Status::not_found("no such version"))
    }

    async fn publish(
        &self,
        _: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<pb::PublishReply>, Status> {
        unexpected()
    }

    async fn list(
        &self,
        _: Request<pb::ListVersionsRequest>,
    ) -> Result<Response<pb::ListVersionsReply>, Status> {
        unexpected()
    }
}

/// A member of its fleet.
struct Member {
    coordinator: Arc<Coordinator>,
    commands: mpsc::Sender<Result<pb::ControlDown, Status>>,
    current: watch::Receiver<Option<Arc<Serving>>>,
    tasks: TaskGroup,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

async fn start(empty: bool) -> Member {
    let (commands, receiver) = mpsc::channel(8);
    let coordinator = Arc::new(Coordinator {
        offered: AtomicBool::new(false),
        commands: Mutex::new(Some(receiver)),
        heartbeats: Mutex::default(),
        fetched: Mutex::default(),
        empty,
        left: AtomicU64::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Server::builder()
        .add_service(FleetServer::from_arc(coordinator.clone()))
        .add_service(VersionsServer::from_arc(coordinator.clone()))
        .serve_with_incoming(TcpIncoming::from(listener));
    // Of its own: it outlives the member.
    TaskGroup::new(CancellationToken::new()).spawn("coordinator", OnError::Log, async move {
        served.await?;
        Ok(())
    });
    let config = Config {
        coordinator: format!("http://{address}"),
        listen: address,
        advertise: None,
        name: None,
        base: ".".into(),
        max_batch_samples: 64,
        max_queue_delay: Duration::ZERO,
        max_queued_samples: 1_024,
        cache_mib: 1,
        max_unread_mib: 1,
        protection: ServerFlags::default(),
        announce: None,
        exit_with_parent: false,
        log_format: Format::default(),
    };
    let (sender, current) = watch::channel(None);
    let names = ("t".to_owned(), "http://127.0.0.1:1".to_owned());
    let membership = Membership::new(config, &Dialer::plaintext(), names, sender).unwrap();
    let tasks = TaskGroup::new(CancellationToken::new());
    tasks.spawn("membership", OnError::Shutdown, membership.run(tasks.clone()));
    Member {
        coordinator,
        commands,
        current,
        tasks,
    }
}

impl Member {
    /// What it serves, once it has joined.
    async fn serving(&self) -> Arc<Serving> {
        let mut current = self.current.clone();
        let joined = tokio::time::timeout(LIMIT, current.wait_for(Option::is_some)).await;
        let serving = joined.expect("it joins in time").unwrap();
        serving.as_ref().unwrap().clone()
    }

    async fn say(&self, command: Command) {
        let command = Some(command);
        self.commands.send(Ok(pb::ControlDown { command })).await.unwrap();
    }

    fn fetched(&self) -> Vec<u64> {
        self.coordinator.fetched.lock().unwrap().clone()
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_version_is_loaded_once_at_a_time_and_an_ended_run_is_let_go() {
    let member = start(false).await;
    let serving = Arc::downgrade(&member.serving().await);
    for version in [0, 0, 1] {
        member.say(Command::Stage(pb::Stage { version })).await;
    }
    eventually("version 1 is asked for", || member.fetched().contains(&1)).await;
    assert_eq!(member.fetched(), [0, 1], "0 was on its way");
    let reason = "done".into();
    member.say(Command::Finish(pb::Finish { reason })).await;
    eventually("nothing is held", || serving.strong_count() == 0).await;
}

#[tokio::test]
async fn a_version_that_is_not_there_is_not_asked_for_again_unprompted() {
    let member = start(true).await;
    eventually("it is asked for", || !member.fetched().is_empty()).await;
    // The first back-off is shorter.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(member.fetched(), [0]);
    member.say(Command::Stage(pb::Stage { version: 0 })).await;
    eventually("it is asked for again", || member.fetched() == [0, 0]).await;
}

#[tokio::test]
async fn a_device_thread_that_ends_takes_the_process_along() {
    let member = start(false).await;
    member.serving().await.device.requests.end();
    let ends = member.tasks.token().cancelled();
    tokio::time::timeout(LIMIT, ends).await.expect("it ends in time");
    let ended = member.tasks.clone().end(LIMIT).await;
    let failed = ended.expect_err("something is wrong").to_string();
    assert!(failed.contains("membership"), "{failed}");
    assert_eq!(member.coordinator.left.load(Ordering::Relaxed), 1);
}
