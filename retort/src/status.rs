//! `retort status`: what the status API says, for people and for scripts.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use retort_coordinator_core::round::Activity;
use retort_proto::{pb, run_status_json};
use retort_tls::ClientFlags;

use crate::coordinator::Coordinator;
use crate::failure::{Failure, block_on};
use crate::follow;

/// Events that are shown, the newest ones but for versions that come and go.
const EVENTS: usize = 8;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// The coordinator, http://host:port or, with --tls, https://host:port; the newest local run's unless given.
    #[arg(long, env = retort_runtime::env::COORDINATOR)]
    coordinator: Option<String>,
    #[command(flatten)]
    tls: ClientFlags,
    /// Run to ask for; the newest unless given.
    #[arg(long, default_value = "")]
    run: String,
    /// Follow the run until it ends; a coordinator that is away is waited for.
    #[arg(long)]
    watch: bool,
    /// List the runs that the coordinator knows, the newest last.
    #[arg(long, conflicts_with_all = ["watch", "run"])]
    runs: bool,
    /// Print JSON: the message's field names, numbers as numbers, zeros included.
    #[arg(long)]
    json: bool,
}

pub(crate) fn command(args: Args) -> Result<(), Failure> {
    let coordinator = named_or_local(args.coordinator.clone(), &args.tls)?;
    let work = async {
        if args.watch {
            let request = pb::WatchRunRequest {
                run: args.run.clone(),
                max_per_s: 1.0,
                brief: !args.json,
                ..Default::default()
            };
            return follow::watch(&coordinator, request, |status| print(status, args.json)).await;
        }
        let mut client = retort_client::status(coordinator.reach().await?);
        if args.runs {
            let request = pb::ListRunsRequest::default();
            list(&client.list_runs(request).await?.into_inner(), args.json);
            return Ok(());
        }
        let request = pb::GetRunRequest {
            run: args.run.clone(),
            without_curves: false,
        };
        print(&client.get_run(request).await?.into_inner(), args.json);
        Ok(())
    };
    block_on(work)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(status: &pb::RunStatus, json: bool) {
    if json {
        println!("{}", run_status_json(status));
    } else {
        println!("{}", to_text(status));
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn list(reply: &pb::ListRunsReply, json: bool) {
    if json {
        let runs: Vec<String> = reply.runs.iter().map(run_status_json).collect();
        println!("{{\"runs\":[{}],\"total\":{}}}", runs.join(","), reply.total);
        return;
    }
    let beyond = reply.total - reply.runs.len() as u64;
    if beyond > 0 {
        println!("{beyond} older ones are not listed");
    }
    for s in &reply.runs {
        println!("{:24} {:9} {:>8.0} s  {}", s.run, s.state, s.age_s, s.reason);
    }
}

fn to_text(s: &pb::RunStatus) -> String {
    let left = s
        .remaining_s
        .map_or(String::new(), |s| format!(", {}", follow::left(s)));
    let mut lines = vec![format!(
        "run {} ({}, seed {}): {} after {:.1} s{left}",
        s.run, s.name, s.seed, s.state, s.age_s
    )];
    if !s.reason.is_empty() {
        lines.push(format!("  because {}", s.reason));
    }
    let set = [("alpha", s.alpha), ("temperature", s.temperature)];
    for (name, value) in set.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        lines.push(format!("  {name} is {value}: set by an operator, not the job's"));
    }
    lines.extend(s.teachers.iter().flat_map(teacher));
    lines.extend(s.groups.iter().flat_map(group));
    let told: Vec<&pb::Event> = s.events.iter().filter(|e| e.kind != "version").collect();
    let newest = told.len().saturating_sub(EVENTS);
    for event in &told[newest..] {
        lines.push(format!("  {:>9.1} s  {}", event.at_s, event.text));
    }
    lines.join("\n")
}

fn teacher(t: &pb::TeacherStatus) -> Vec<String> {
    let version = |v: Option<u64>| v.map_or("-".into(), |v| v.to_string());
    let published = version(t.published);
    let mut lines = vec![format!(
        "  teacher {:14} version {} serves, {published} is published",
        t.name,
        version(t.active)
    )];
    for server in &t.servers {
        let state = if server.drained.is_empty() {
            "serves"
        } else {
            &server.drained
        };
        let rate = server.samples_per_s;
        lines.push(format!(
            "    {:20} {rate:>8.0} samples/s  {}  {}  {state}",
            server.worker, server.device, server.address
        ));
        let counters = server.counters.iter().filter(|(_, count)| **count > 0);
        let counters: Vec<String> = counters.map(|(name, count)| format!("{count} {name}")).collect();
        if !counters.is_empty() {
            lines.push(format!("    {:20} {}", "", counters.join(", ")));
        }
    }
    lines
}

fn group(g: &pb::GroupStatus) -> Vec<String> {
    let l = g.ledger.unwrap_or_default();
    let mut lines = vec![format!(
        "  {:8} {:14} {} epoch {}/{} round {} steps {}: {} available, {} leased, {} merged, {} committed, {} quarantined",
        g.kind,
        g.name,
        g.phase,
        (g.epoch + 1).min(g.epochs),
        g.epochs,
        g.round,
        g.steps,
        l.available,
        l.leased,
        l.acked,
        l.committed,
        l.quarantined
    )];
    lines.extend(learning(g));
    if l.redelivered + l.rolled_back > 0 {
        lines.push(format!(
            "    {} samples redelivered, {} rolled back",
            l.redelivered, l.rolled_back
        ));
    }
    if !g.waiting_for.is_empty() && g.phase != "done" {
        lines.push(format!("    waits for {}", g.waiting_for));
    }
    lines.extend(totals(g));
    lines.extend(g.workers.iter().map(worker));
    for (reason, count) in &g.rejected_frames {
        lines.push(format!("    {count} frames refused: {reason}"));
    }
    lines
}

/// What a group's rounds add up to.
fn totals(g: &pb::GroupStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let totals = g.totals.clone().unwrap_or_default();
    if totals.exchanged_bytes > 0 {
        lines.push(format!(
            "    {} rounds exchanged {:.1} MB, {:.1} s from contributions to merges",
            g.round,
            totals.exchanged_bytes as f64 / 1e6,
            totals.sync_seconds
        ));
    }
    let behind: u64 = totals.staleness.iter().zip(0..).map(|(n, by)| n * by).sum();
    let taught: u64 = totals.staleness.iter().sum();
    if taught > 0 {
        lines.push(format!(
            "    soft targets were {:.2} versions behind in the mean, {} at most",
            behind as f64 / taught as f64,
            totals.max_staleness
        ));
    }
    let all: f64 = totals.spent.iter().sum();
    if all > 0.0 {
        let share = |(activity, seconds): (&Activity, &f64)| {
            format!("{} {:.0} %", activity.name(), 100.0 * seconds / all)
        };
        let shares: Vec<String> = Activity::ALL.iter().zip(&totals.spent).map(share).collect();
        lines.push(format!("    time: {}", shares.join(", ")));
    }
    lines
}

fn worker(w: &pb::WorkerStatus) -> String {
    let slowed = stall(w).map_or(String::new(), |stall| format!("  slowed by {stall}"));
    format!(
        "    {:20} {:>8.0} samples/s  {}  {} in the last merge  silent for {} ms{slowed}",
        w.worker, w.samples_per_s, w.device, w.merged, w.silent_ms
    )
}

/// What a worker lost most of its time to in its newest merge, and how much: `teacher 45 %`. `None`: nothing worth a word.
pub(crate) fn stall(worker: &pb::WorkerStatus) -> Option<String> {
    let all: f64 = worker.spent.iter().sum();
    let spent = Activity::ALL.into_iter().zip(&worker.spent);
    let lost = spent.filter(|(activity, _)| *activity != Activity::Compute);
    let (activity, seconds) = lost.max_by(|a, b| a.1.total_cmp(b.1))?;
    let share = 100.0 * seconds / all;
    (share >= 0.5).then(|| format!("{} {share:.0} %", activity.name()))
}

/// How a group is getting on, in a line.
fn learning(g: &pb::GroupStatus) -> Option<String> {
    let last = g.last.unwrap_or_default();
    let gate = g.gate.as_ref().map(|gate| gate.lead);
    let share = last.gradient_share.map(|share| 100.0 * share);
    let facts = [
        ("held-out accuracy", g.held_out.map(|e| 100.0 * e.accuracy), " %"),
        ("hard loss", last.hard_loss, ""),
        ("KL", last.kl, ""),
        ("teacher's share of the gradient", share, " %"),
        ("alpha", last.alpha, ""),
        ("gate", gate, ""),
    ];
    let known = facts
        .into_iter()
        .filter_map(|(name, value, unit)| Some((name, value?, unit)));
    let parts: Vec<String> = known
        .map(|(name, value, unit)| format!("{name} {value:.3}{unit}"))
        .collect();
    (!parts.is_empty()).then(|| format!("    {}", parts.join(", ")))
}

fn state_file() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/state"));
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(home)?;
    Some(base.join("retort").join("newest"))
}

/// Remembers the newest local run, so that `retort status` needs no address.
pub(crate) fn remember(processes: &Path) {
    // A convenience only: without a home the user names the coordinator.
    if let Some(file) = state_file()
        && let Some(folder) = file.parent()
        && std::fs::create_dir_all(folder).is_ok()
    {
        let _ = std::fs::write(&file, processes.display().to_string());
    }
}

/// The coordinator that the flags name, or the newest local run's.
pub(crate) fn named_or_local(address: Option<String>, flags: &ClientFlags) -> Result<Coordinator, Failure> {
    match address {
        Some(address) => Coordinator::named(address, flags),
        None => newest_local().map(Coordinator::local),
    }
}

fn newest_local() -> Result<String, Failure> {
    let hint = "name a coordinator: --coordinator http://host:7300";
    let none = |e: &dyn std::fmt::Display| Failure::input(format!("no local run ({e}); {hint}"));
    let file = state_file().ok_or_else(|| none(&"HOME is not set"))?;
    let processes = std::fs::read_to_string(&file).map_err(|e| none(&e))?;
    let text =
        std::fs::read_to_string(processes.trim()).map_err(|e| none(&format!("{}: {e}", processes.trim())))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| none(&e))?;
    let address = json["processes"]
        .as_array()
        .and_then(|all| all.iter().find(|p| p["role"] == "coordinator"))
        .and_then(|p| p["addresses"][0].as_str());
    address
        .map(str::to_owned)
        .ok_or_else(|| none(&"it has no coordinator"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_tells_the_teachers_share_of_the_gradient() {
        let group = pb::GroupStatus {
            last: Some(pb::CurvePoint {
                kl: Some(0.5),
                gradient_share: Some(0.25),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            learning(&group).unwrap(),
            "    KL 0.500, teacher's share of the gradient 25.000 %"
        );
    }

    #[test]
    fn a_worker_tells_its_largest_stall() {
        let worker = |spent: &[f64]| pb::WorkerStatus {
            spent: spent.to_vec(),
            ..Default::default()
        };
        let slow = worker(&[5.0, 0.5, 4.5, 0.0, 0.0, 0.0]);
        assert_eq!(stall(&slow).unwrap(), "teacher 45 %");
        assert!(super::worker(&slow).ends_with("slowed by teacher 45 %"));
        let none: [&[f64]; 3] = [&[], &[0.0; 6], &[9.0, 0.0, 0.01, 0.0, 0.0, 0.0]];
        for fast in none {
            assert_eq!(stall(&worker(fast)), None, "{fast:?}");
        }
    }
}
