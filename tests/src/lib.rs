//! Harness of the end-to-end scenarios: real processes, ports chosen by the system.
//!
//! Nothing depends on this crate. Waiting is for conditions, never for time.

pub mod bench;
#[cfg(feature = "otel")]
pub mod collector;
pub mod exposition;
pub mod http;
pub mod kserve;
pub mod online;
pub mod proxy;
pub mod standing;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// A program of the workspace, in a folder of its own.
#[derive(Debug)]
pub struct Harness {
    program: PathBuf,
    dir: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Harness {
    /// `program`: `env!("CARGO_BIN_EXE_retort-harness")`.
    pub fn new(program: &str) -> Self {
        Self {
            program: program.into(),
            dir: TempDir::new().expect("a temporary folder"),
            environment: Vec::new(),
        }
    }

    /// All commands from now on get this variable.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.environment.push((name, value.to_owned()));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a job file and gives its path.
    pub fn job(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("write job");
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .current_dir(self.dir.path())
            // `status` without a URL finds runs of this folder only.
            .env("XDG_STATE_HOME", self.dir.path())
            .env_remove("RUST_LOG")
            .env_remove("RETORT_TLS")
            .env_remove("RETORT_TOKEN")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("start the program")
    }

    /// Runs a command that must succeed and gives its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "retort {args:?}: {}\n{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command that must end with 2, and with every part in its message.
    pub fn refused(&self, args: &[&str], parts: &[&str]) {
        let output = self.call(args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        for part in parts {
            assert!(
                message.contains(part),
                "{args:?}: {part:?} is missing in: {message}"
            );
        }
    }

    /// Starts a command and leaves it running.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_with(args, &[])
    }

    /// As [`Harness::start`], with more environment.
    pub fn start_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Running {
        let child = self
            .command(args)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start the program");
        Running { child }
    }
}

/// A running command; killed if it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end, at most `limit`; gives the exit code and stdout.
    pub fn end(mut self, limit: Duration) -> anyhow::Result<(i32, String)> {
        let mut stdout = self.child.stdout.take().context("stdout")?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(began.elapsed() < limit, "still running after {limit:?}");
            std::thread::sleep(POLL);
        };
        let text = reader.join().map_err(|_| anyhow::anyhow!("reader panicked"))??;
        Ok((status.code().unwrap_or(-1), text))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says what a test that ends without a check had needed, past the capture of output, which hides what a passing test prints.
/// With `RETORT_NO_SKIP=1` the test fails instead.
pub fn skipped(why: &str) {
    let must = std::env::var_os("RETORT_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!must, "RETORT_NO_SKIP=1, and {why}");
    writeln!(std::io::stderr(), "SKIPPED: {why}").expect("stderr");
}

/// Waits until `condition` gives a value, at most `limit`.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if began.elapsed() > limit {
            bail!("{what} did not come true within {limit:?}");
        }
        std::thread::sleep(POLL);
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("process id")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Gives a process the share `on / (on + off)` of the time, until it is dropped.
#[derive(Debug)]
pub struct Throttle {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    pub fn new(pid: u32, on: Duration, off: Duration) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let ended = ended.clone();
            move || {
                while !ended.load(Ordering::SeqCst) {
                    for (what, long) in [(Signal::STOP, off), (Signal::CONT, on)] {
                        // A process that has gone is throttled enough.
                        let _ = signal(pid, what);
                        std::thread::sleep(long);
                    }
                }
            }
        });
        Self {
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // It ends with the process running.
        self.thread.take().map(JoinHandle::join);
    }
}

/// The processes of a local run's folder, by role.
pub fn processes(out: &Path, role: &str) -> Vec<(String, u32, String)> {
    let Ok(text) = std::fs::read_to_string(out.join("processes.json")) else {
        return Vec::new();
    };
    let json: Value = serde_json::from_str(&text).expect("processes.json is rewritten atomically");
    let all = json["processes"].as_array().cloned().unwrap_or_default();
    all.iter()
        .filter(|p| p["role"] == role)
        .map(|p| {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let pid = p["pid"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
            (text(&p["name"]), pid, text(&p["addresses"][0]))
        })
        .collect()
}

/// Ids of all processes of a local run.
pub fn children(out: &Path) -> Vec<u32> {
    ["coordinator", "teacher-server", "student-worker"]
        .iter()
        .flat_map(|role| processes(out, role))
        .map(|(_, pid, _)| pid)
        .collect()
}

/// Reads a JSON file.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("parse {}: {e}", path.display()))
}
