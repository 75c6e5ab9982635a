//! A fleet of local processes: this very program in its roles, supervised.
//!
//! A process that dies is started again with back-off and told apart from one that was asked to
//! leave. Each child holds the other end of a pipe, so that it notices when the supervisor is gone.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use retort_client::Backoff;
use retort_runtime::logging::Format;
use retort_runtime::{OnError, TaskGroup};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::coordinator::Coordinator;

/// A child that was asked to leave and did not is killed after this.
const LEAVE_GRACE: Duration = Duration::from_secs(15);
/// How long a child may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(5);
/// A child that lived this long starts its back-off anew.
const STABLE: Duration = Duration::from_secs(10);
/// A coordinator that dies this often right after its start will not do better, nor will another process that dies so often
/// before it ever listens.
const SHORT_LIVES: u32 = 12;
/// Files in which a child says what it listens on, gRPC and HTTP.
const ADDRESS: &str = "address";
const HTTP: &str = "http";
/// The file that says which processes a fleet consists of.
pub(crate) const PROCESSES: &str = "processes.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Role {
    Coordinator,
    TeacherServer,
    StudentWorker,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::TeacherServer => "teacher-server",
            Self::StudentWorker => "student-worker",
        }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Process {
    role: Role,
    name: String,
    pid: u32,
    /// gRPC first, then the coordinator's HTTP port.
    addresses: Vec<String>,
}

/// How many of each, and where.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) out: PathBuf,
    pub(crate) teacher_servers: usize,
    pub(crate) student_workers: usize,
    pub(crate) log_format: Format,
}

/// The running fleet.
pub(crate) struct Fleet {
    pub(crate) coordinator: Coordinator,
    /// The coordinator's HTTP port.
    pub(crate) dashboard: String,
    /// Cancelled when the coordinator does not stay up, which ends the run.
    pub(crate) lost: CancellationToken,
    tasks: TaskGroup,
    shared: Arc<Shared>,
}

struct Shared {
    plan: Plan,
    // A lock: written by each child's task, never across an await.
    processes: Mutex<Vec<Process>>,
}

impl Fleet {
    /// Starts the coordinator, then everything else, and waits until all listen.
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        for folder in ["logs", "run"] {
            let folder = plan.out.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let shared = Arc::new(Shared {
            plan,
            processes: Mutex::default(),
        });
        let tasks = TaskGroup::new(CancellationToken::new());
        let lost = CancellationToken::new();
        let mut coordinator = Supervised::new(shared.clone(), Role::Coordinator, "coordinator".into());
        let mut child = coordinator.spawn("")?;
        let address = coordinator.listening(&mut child).await?;
        let dashboard = coordinator.http.clone().unwrap_or_default();
        let (token, gone) = (tasks.token().clone(), lost.clone());
        tasks.spawn("coordinator", OnError::Log, async move {
            let kept = coordinator.keep(Some(child), String::new(), token).await;
            gone.cancel();
            kept
        });
        let fleet = Self {
            coordinator: Coordinator::local(address),
            dashboard,
            lost,
            tasks,
            shared,
        };
        if let Err(e) = fleet.start_others().await {
            // What does not start is the failure to report.
            let _ = fleet.stop().await;
            return Err(e);
        }
        Ok(fleet)
    }

    /// Starts teacher servers and student workers at once, and supervises each as soon as it listens.
    async fn start_others(&self) -> anyhow::Result<()> {
        let plan = &self.shared.plan;
        let coordinator = &self.coordinator.address;
        let mut started = Vec::new();
        for (role, count) in [
            (Role::TeacherServer, plan.teacher_servers),
            (Role::StudentWorker, plan.student_workers),
        ] {
            for i in 1..=count {
                let name = format!("{}-{i}", role.name());
                let process = Supervised::new(self.shared.clone(), role, name);
                let child = process.spawn(coordinator)?;
                started.push((process, child));
            }
        }
        for (mut process, child) in started {
            let child = process.up(child, coordinator, SHORT_LIVES).await?;
            let token = self.tasks.token().clone();
            let kept = process.keep(Some(child), coordinator.clone(), token);
            self.tasks.spawn("supervise", OnError::Log, kept);
        }
        Ok(())
    }

    /// Asks every process to leave, and waits for it.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.tasks.end(LEAVE_GRACE * 2).await
    }
}

/// How LibTorch's threads share the cores with other processes: each process may use all of them, as on flex, and a thread that
/// waits for another one sleeps after a thousand looks instead of 300,000 (GNU OpenMP's default), so that whoever has work finds a
/// core.
fn threads() -> [(&'static str, String); 2] {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    [
        ("OMP_NUM_THREADS", cores.to_string()),
        ("GOMP_SPINCOUNT", "1000".to_owned()),
    ]
}

impl Shared {
    /// Replaces a process in the list and rewrites `processes.json` atomically.
    fn record(&self, process: Process) -> anyhow::Result<()> {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.retain(|p| p.name != process.name);
        processes.push(process);
        processes.sort_by(|a, b| a.name.cmp(&b.name));
        let json = serde_json::json!({ "processes": &*processes });
        let path = self.plan.out.join(PROCESSES);
        let partial = path.with_extension("partial");
        std::fs::write(&partial, format!("{json:#}\n"))
            .with_context(|| format!("write {}", partial.display()))?;
        std::fs::rename(&partial, &path).with_context(|| format!("rename to {}", path.display()))
    }
}

/// One child over all its lives.
struct Supervised {
    shared: Arc<Shared>,
    role: Role,
    name: String,
    /// Kept over restarts, so that others find it again.
    address: Option<String>,
    /// Of the coordinator's HTTP port, kept as well.
    http: Option<String>,
}

impl Supervised {
    fn new(shared: Arc<Shared>, role: Role, name: String) -> Self {
        Self {
            shared,
            role,
            name,
            address: None,
            http: None,
        }
    }

    /// Where the child says what it listens on.
    fn announced(&self, kind: &str) -> PathBuf {
        self.shared
            .plan
            .out
            .join("run")
            .join(format!("{}.{kind}", self.name))
    }

    fn spawn(&self, coordinator: &str) -> anyhow::Result<Child> {
        let plan = &self.shared.plan;
        let log = self.log();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let _ = std::fs::remove_file(self.announced(ADDRESS));
        let or_any = |kept: &Option<String>| {
            let kept = kept
                .as_deref()
                .map(|address| address.trim_start_matches("http://"));
            kept.unwrap_or("127.0.0.1:0").to_owned()
        };
        let program = std::env::current_exe().context("path of this program")?;
        let mut command = Command::new(program);
        command
            // A local fleet speaks in plain text on this machine, whatever protects another one.
            .env_remove(retort_tls::TLS)
            .arg(self.role.name())
            .args([
                "--listen",
                &or_any(&self.address),
                "--exit-with-parent",
                "--announce",
            ])
            .arg(self.announced(ADDRESS));
        match self.role {
            Role::Coordinator => {
                command.arg("--data-dir").arg(&plan.out);
                command.args(["--http", &or_any(&self.http), "--announce-http"]);
                command.arg(self.announced(HTTP));
            }
            Role::TeacherServer | Role::StudentWorker => {
                command.args(["--coordinator", coordinator, "--name", &self.name]);
                for (name, value) in threads() {
                    // Whoever starts the fleet may know better.
                    if std::env::var_os(name).is_none() {
                        command.env(name, value);
                    }
                }
            }
        }
        if plan.log_format == Format::Json {
            command.args(["--log-format", "json"]);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the supervisor, which stops the others in order.
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().with_context(|| format!("start {}", self.name))
    }

    /// Waits until the child listens, and records it.
    async fn listening(&mut self, child: &mut Child) -> anyhow::Result<String> {
        let path = self.announced(ADDRESS);
        let wait = async {
            loop {
                if let Ok(address) = std::fs::read_to_string(&path) {
                    return Ok(address);
                }
                if let Some(status) = child.try_wait()? {
                    anyhow::bail!(
                        "{} ended at its start ({status}): see {}",
                        self.name,
                        self.log().display()
                    );
                }
                tokio::time::sleep(START_POLL).await;
            }
        };
        let address = tokio::time::timeout(START_LIMIT, wait).await.with_context(|| {
            let log = self.log();
            format!(
                "{} does not listen within {START_LIMIT:?}: see {}",
                self.name,
                log.display()
            )
        })??;
        self.address = Some(address.clone());
        if self.role == Role::Coordinator {
            let path = self.announced(HTTP);
            let http = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            self.http = Some(http);
        }
        self.shared.record(Process {
            role: self.role,
            name: self.name.clone(),
            pid: child.id().unwrap_or(0),
            addresses: [address.clone()].into_iter().chain(self.http.clone()).collect(),
        })?;
        Ok(address)
    }

    fn log(&self) -> PathBuf {
        let logs = self.shared.plan.out.join("logs");
        logs.join(format!("{}.log", self.name))
    }

    /// Waits until a new child listens, and starts it again where it dies before. After so many lives that is an error:
    /// it will never be well.
    async fn up(&mut self, mut child: Child, coordinator: &str, lives: u32) -> anyhow::Result<Child> {
        let mut backoff = Backoff::new(self.name.len() as u64);
        let mut life = 1;
        loop {
            let Err(e) = self.listening(&mut child).await else {
                return Ok(child);
            };
            if child.try_wait()?.is_none() {
                // Slow: it may listen yet.
                warn!("{e:#}");
                return Ok(child);
            }
            if life >= lives {
                return Err(e.context(format!("{} died {lives} times before it listened", self.name)));
            }
            warn!("{e:#}");
            tokio::time::sleep(backoff.next_delay()).await;
            info!("starting {} again", self.name);
            child = self.spawn(coordinator)?;
            life += 1;
        }
    }

    /// Starts the child again and again until the fleet stops, or (the coordinator) until it has died
    /// too often at once.
    async fn keep(
        mut self,
        mut running: Option<Child>,
        coordinator: String,
        token: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(self.name.len() as u64);
        let mut short_lives = 0;
        while !token.is_cancelled() {
            let began = tokio::time::Instant::now();
            let child = match running.take() {
                Some(child) => child,
                None => {
                    let mut child = self.spawn(&coordinator)?;
                    if let Err(e) = self.listening(&mut child).await {
                        warn!("{e:#}");
                    }
                    child
                }
            };
            if self.watch_once(child, &token).await {
                return Ok(());
            }
            if began.elapsed() > STABLE {
                backoff.reset();
                short_lives = 0;
            }
            short_lives += 1;
            anyhow::ensure!(
                self.role != Role::Coordinator || short_lives < SHORT_LIVES,
                "the coordinator died {short_lives} times within {STABLE:?} of its start"
            );
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = token.cancelled() => return Ok(()),
            }
            info!("starting {} again", self.name);
        }
        Ok(())
    }

    /// True: the child was asked to leave. False: it died by itself.
    async fn watch_once(&self, mut child: Child, token: &CancellationToken) -> bool {
        // Taken out: waiting would close it.
        let stdin = child.stdin.take();
        tokio::select! {
            status = child.wait() => {
                if !token.is_cancelled() {
                    let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                    warn!("{} died ({status}); its log is {}", self.name, self.log().display());
                }
                false
            }
            () = token.cancelled() => {
                // The end of its standard input asks it to leave.
                drop(stdin);
                if tokio::time::timeout(LEAVE_GRACE, child.wait()).await.is_err() {
                    warn!("{} did not leave within {LEAVE_GRACE:?}: killed", self.name);
                    let _ = child.kill().await;
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_never_listens_is_given_up_on_and_its_log_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["logs", "run"] {
            std::fs::create_dir(folder.path().join(part)).unwrap();
        }
        let plan = Plan {
            out: folder.path().to_owned(),
            teacher_servers: 0,
            student_workers: 1,
            log_format: Format::Text,
        };
        let shared = Arc::new(Shared {
            plan,
            processes: Mutex::default(),
        });
        let mut worker = Supervised::new(shared, Role::StudentWorker, "student-worker-1".into());
        // The program is that of these tests, which refuses a role's flags.
        let coordinator = "http://127.0.0.1:1";
        let child = worker.spawn(coordinator).unwrap();
        let given_up = worker.up(child, coordinator, 2).await.unwrap_err();
        let (text, log) = (format!("{given_up:#}"), worker.log());
        assert!(
            text.contains("student-worker-1 died 2 times before it listened"),
            "{text}"
        );
        assert!(text.contains(&format!("see {}", log.display())), "{text}");
        assert!(
            log.starts_with(folder.path()) && log.is_file(),
            "{}",
            log.display()
        );
    }
}
