//! What those who watch a run cost those who train: training on one core, coordinator and watchers on the other.
//!
//!   cargo bench -p retort-tests --bench watchers -- [--quick]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use retort::report::stats::interval_95;
use retort_client::Dialer;
use retort_proto::pb;
use retort_tests::bench::{Table, quick};
use retort_tests::online::ONLINE;
use retort_tests::standing::Standing;
use retort_tests::{Harness, eventually};
use retort_tls::Role;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

const CLIENTS: usize = 500;
/// Of them, those that read a state in [`SLOW`].
const SLOW_CLIENTS: usize = 50;
const SLOW: Duration = Duration::from_secs(5);
/// States that each of the others asks for, a second.
const PER_S: f64 = 1.0;
/// What a slow client's side takes before it is read.
const SLOW_WINDOW: u32 = 65_535;
/// Of a curve in a state, about.
const POINTS: usize = 128;
/// Cores by number.
const TRAINING: &str = "0";
const REST: &str = "1";
/// All watchers must have a first state by then.
const OPENING: Duration = Duration::from_secs(60);
/// After watchers came or went, before anything is counted.
const SETTLE: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let quick = quick()?;
    let (pairs, while_) = if quick { (3, 2) } else { (9, 8) };
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "{cores} core: training and watching need one each");
    pin(std::process::id(), REST)?;
    let mut table = Table::default();
    table.keep("quick", quick);

    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let out = h.path("out");
    let fleet = Standing::new(h, 3, 1);
    for trains in ["w0", "w1", "w2", "t0"] {
        pin(fleet.pid(trains), TRAINING)?;
    }
    let _submitter = fleet.submit(&job(), &out);
    let bench = Bench {
        runtime: tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?,
        coordinator: fleet.coordinator.clone(),
        pid: fleet.pid("c"),
        states: Arc::default(),
    };
    bench.curve_fills()?;
    for (label, key, brief) in [
        ("a brief state a second each", "brief", true),
        ("a whole state a second each", "whole", false),
    ] {
        let request = pb::WatchRunRequest {
            max_per_s: PER_S,
            brief,
            ..Default::default()
        };
        table.head(&format!(
            "{CLIENTS} gRPC watchers, {label}, {SLOW_CLIENTS} of them slow, beside none: {pairs} pairs of {while_} s"
        ));
        bench.compare(&mut table, (key, &request), pairs, Duration::from_secs(while_))?;
    }
    table.result("watchers")
}

/// The online job for ever, with networks of an everyday size: a coordinator that has nothing but rounds to do all day would
/// measure itself.
fn job() -> String {
    ONLINE
        .replace("epochs = 6", "epochs = 1000000")
        .replace("hidden = [64]", "hidden = [800, 800]")
        .replace("hidden = [16]", "hidden = [800, 800]")
}

/// All threads of a process, and those it will start, on one core.
fn pin(pid: u32, core: &str) -> anyhow::Result<()> {
    let output = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", core, &pid.to_string()])
        .output()
        .context("taskset (package util-linux)")?;
    ensure!(
        output.status.success(),
        "taskset: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

struct Bench {
    runtime: Runtime,
    coordinator: String,
    pid: u32,
    /// That clients have read.
    states: Arc<AtomicU64>,
}

/// What happened in a while.
struct While {
    /// Samples trained by the student's replicas, a second.
    rate: f64,
    /// Seconds of processor that the coordinator used, a second.
    cpu: f64,
    states: u64,
    seconds: f64,
}

impl Bench {
    fn compare(
        &self,
        table: &mut Table,
        (key, request): (&str, &pb::WatchRunRequest),
        pairs: usize,
        while_: Duration,
    ) -> anyhow::Result<()> {
        let before = memory_mb(self.pid)?;
        let (mut ratios, mut costs, mut most) = (Vec::new(), Vec::new(), before);
        let (mut read, mut seconds) = (0, 0.0);
        for pair in 0..pairs {
            let ((watched, memory), alone);
            if pair % 2 == 0 {
                (watched, memory) = self.watched(request, while_)?;
                alone = self.measure(while_)?;
            } else {
                alone = self.measure(while_)?;
                (watched, memory) = self.watched(request, while_)?;
            }
            ratios.push(watched.rate / alone.rate);
            let extra = (watched.cpu - alone.cpu) * watched.seconds;
            costs.push(1e3 * extra / watched.states.max(1) as f64);
            read += watched.states;
            seconds += watched.seconds;
            most = most.max(memory);
        }
        let (mean, half) = interval(&ratios);
        let (low, high) = (mean - half, mean + half);
        table.check(
            (
                "training rate, watched / alone (mean, 95 % interval)".into(),
                format!("{mean:.3} ({low:.3}..{high:.3})"),
            ),
            "includes 1 or >= 0.95, no wider than +- 0.1",
            ((low <= 1.0 && high >= 1.0) || low >= 0.95) && half <= 0.1,
        );
        let (cost, spread) = interval(&costs);
        table.note(
            "coordinator's processor per 1,000 states read, s",
            format!("{cost:.3} ({:.3}..{:.3})", cost - spread, cost + spread),
        );
        // A watcher that hears nothing slows nobody.
        let asked = PER_S * (CLIENTS - SLOW_CLIENTS) as f64 + SLOW_CLIENTS as f64 / SLOW.as_secs_f64();
        let rate = read as f64 / seconds;
        table.check(
            (
                format!("states read a second, of {asked:.0} that are asked for"),
                format!("{rate:.0}"),
            ),
            ">= 0.9 of them",
            rate >= 0.9 * asked,
        );
        table.check(
            (
                "coordinator's memory, MB: before, most while watched".into(),
                format!("{before:.0}, {most:.0}"),
            ),
            "<= 512",
            most <= 512.0,
        );
        table.keep(&format!("ratio_{key}"), mean);
        table.keep(&format!("ratio_{key}_half"), half);
        table.keep(&format!("cpu_s_per_1000_{key}"), cost);
        table.keep(&format!("states_per_s_{key}"), rate);
        table.keep(&format!("memory_mb_{key}"), vec![before, most]);
        Ok(())
    }

    /// What happens while all watch, and the coordinator's memory at the end, in MB.
    fn watched(&self, request: &pb::WatchRunRequest, while_: Duration) -> anyhow::Result<(While, f64)> {
        let mut watching = self.watch(request)?;
        std::thread::sleep(SETTLE);
        let measured = self.measure(while_)?;
        let memory = memory_mb(self.pid)?;
        none_ended(&mut watching)?;
        drop(watching);
        std::thread::sleep(SETTLE);
        Ok((measured, memory))
    }

    fn status(&self) -> anyhow::Result<pb::RunStatus> {
        let channel = self
            .runtime
            .block_on(async { Dialer::plaintext().connect(&self.coordinator, Role::Coordinator) })?;
        let mut client = retort_client::status(channel);
        let answer = client.get_run(pb::GetRunRequest::default());
        Ok(self.runtime.block_on(answer)?.into_inner())
    }

    /// A longer curve makes no larger state.
    fn curve_fills(&self) -> anyhow::Result<()> {
        let points = |status: &pb::RunStatus| status.groups.iter().map(|g| g.curve.len()).max();
        eventually("a long curve", Duration::from_secs(600), || {
            (points(&self.status().ok()?)? >= POINTS).then_some(())
        })
    }

    fn trained(&self) -> anyhow::Result<u64> {
        let status = self.status()?;
        let student = status.groups.into_iter().find(|g| g.kind == "student");
        Ok(student
            .and_then(|g| g.totals)
            .context("the student's totals")?
            .samples)
    }

    fn measure(&self, while_: Duration) -> anyhow::Result<While> {
        let (began, trained, cpu) = (Instant::now(), self.trained()?, cpu_seconds(self.pid)?);
        let read = self.states.load(Ordering::Relaxed);
        std::thread::sleep(while_);
        let (trained, seconds) = (self.trained()? - trained, began.elapsed().as_secs_f64());
        Ok(While {
            rate: trained as f64 / seconds,
            cpu: (cpu_seconds(self.pid)? - cpu) / seconds,
            states: self.states.load(Ordering::Relaxed) - read,
            seconds,
        })
    }

    /// Opens all watchers, each of which has read a state; they go when it is dropped.
    fn watch(&self, request: &pb::WatchRunRequest) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
        let opened = Arc::new(AtomicUsize::new(0));
        let mut clients = self.clients(request, &opened);
        eventually("a state for every watcher", OPENING, || {
            match none_ended(&mut clients) {
                Ok(()) => (opened.load(Ordering::Relaxed) == CLIENTS).then_some(Ok(())),
                Err(e) => Some(Err(e)),
            }
        })??;
        Ok(clients)
    }

    /// Each says in `opened` that it has read its first state. An error ends it.
    fn clients(
        &self,
        request: &pb::WatchRunRequest,
        opened: &Arc<AtomicUsize>,
    ) -> JoinSet<anyhow::Result<()>> {
        let _in = self.runtime.enter();
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (address, states, request) = (self.coordinator.clone(), self.states.clone(), request.clone());
            let opened = opened.clone();
            clients.spawn(async move {
                let slow = client < SLOW_CLIENTS;
                let mut endpoint = Endpoint::from_shared(address)?;
                if slow {
                    endpoint = endpoint
                        .initial_stream_window_size(SLOW_WINDOW)
                        .initial_connection_window_size(SLOW_WINDOW);
                }
                let mut status = pb::status_client::StatusClient::new(endpoint.connect().await?);
                let mut stream = status.watch_run(request).await?.into_inner();
                let mut first = true;
                while stream.message().await?.is_some() {
                    states.fetch_add(1, Ordering::Relaxed);
                    opened.fetch_add(usize::from(std::mem::take(&mut first)), Ordering::Relaxed);
                    if slow {
                        tokio::time::sleep(SLOW).await;
                    }
                }
                Ok(())
            });
        }
        clients
    }
}

/// The run lasts longer than any of them watches.
fn none_ended(clients: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    match clients.try_join_next() {
        None => Ok(()),
        Some(ended) => {
            ended?.context("a watcher")?;
            bail!("a watcher's stream ended")
        }
    }
}

/// Mean and half of its 95 % interval.
fn interval(values: &[f64]) -> (f64, f64) {
    let [low, high] = interval_95(values).expect("several pairs");
    ((low + high) / 2.0, (high - low) / 2.0)
}

/// User and system time of a process, in seconds (proc(5): fields 14 and 15, after the name in brackets).
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a name in brackets")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

fn memory_mb(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kb = line.and_then(|l| l.split_whitespace().next()).context("VmRSS")?;
    Ok(kb.parse::<f64>()? / 1024.0)
}
