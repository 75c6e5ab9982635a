//! Following a run: bars on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::Deref;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use retort_proto::pb;

use crate::coordinator::Coordinator;
use crate::failure::{Failure, patiently};

/// Pause between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Pause before a broken stream is opened again.
const AGAIN: Duration = Duration::from_millis(200);
/// Between two pictures of a spinner.
const TICK: Duration = Duration::from_millis(120);

/// Says where a browser finds the run.
#[expect(clippy::print_stderr, reason = "for the user")]
pub(crate) fn say_where(dashboard: &str) {
    eprintln!("dashboard: {dashboard}");
}

/// The last status of a run that has ended.
pub(crate) struct Ended {
    pub(crate) status: pb::RunStatus,
    /// Whether progress is shown: what comes after the run is then shown as well.
    pub(crate) shown: bool,
}

impl Deref for Ended {
    type Target = pb::RunStatus;

    fn deref(&self) -> &pb::RunStatus {
        &self.status
    }
}

/// Follows a run to its end, shown under a title if there is one. A failed run is an error; its last status
/// comes back otherwise.
pub(crate) async fn to_end(
    coordinator: &Coordinator,
    run: &str,
    title: Option<&str>,
) -> Result<Ended, Failure> {
    let mut shown = title.map(Display::new);
    watch(coordinator, states_of(run), |status| {
        if let Some(shown) = &mut shown {
            shown.update(status);
        }
    })
    .await?;
    let status = whole(coordinator, run).await?;
    if let Some(mut shown) = shown {
        shown.end(&status);
    }
    match status.state.as_str() {
        "failed" => Err(anyhow::anyhow!("run {run} failed: {}", status.reason).into()),
        _ => Ok(Ended {
            status,
            shown: title.is_some(),
        }),
    }
}

/// Waits until a run has ended, however.
pub(crate) async fn until_ended(coordinator: &Coordinator, run: &str) -> Result<(), Failure> {
    watch(coordinator, states_of(run), |_| ()).await
}

fn states_of(run: &str) -> pb::WatchRunRequest {
    pb::WatchRunRequest {
        run: run.to_owned(),
        brief: true,
        ..Default::default()
    }
}

/// Reads a run's states until it has ended; a coordinator that is away is waited for.
pub(crate) async fn watch(
    coordinator: &Coordinator,
    mut request: pb::WatchRunRequest,
    mut each: impl FnMut(&pb::RunStatus),
) -> Result<(), Failure> {
    loop {
        let mut states = patiently(|| async {
            let channel = coordinator.reach().await?;
            Ok(retort_client::status(channel)
                .watch_run(request.clone())
                .await?
                .into_inner())
        })
        .await?;
        while let Ok(Some(status)) = states.message().await {
            each(&status);
            if matches!(status.state.as_str(), "done" | "failed" | "stopped") {
                return Ok(());
            }
            // The newest run at first, and that one from then on.
            (request.run, request.since_revision) = (status.run, status.revision);
        }
        // Whatever broke the stream, the next attempt says.
        tokio::time::sleep(AGAIN).await;
    }
}

/// A run's state with its curves.
async fn whole(coordinator: &Coordinator, run: &str) -> Result<pb::RunStatus, Failure> {
    let request = || pb::GetRunRequest {
        run: run.to_owned(),
        without_curves: false,
    };
    patiently(|| async {
        let channel = coordinator.reach().await?;
        Ok(retort_client::status(channel)
            .get_run(request())
            .await?
            .into_inner())
    })
    .await
}

enum Display {
    Bars {
        bars: MultiProgress,
        title: ProgressBar,
        groups: BTreeMap<String, ProgressBar>,
    },
    Lines {
        title: String,
        last: Option<Instant>,
    },
}

impl Display {
    #[expect(clippy::print_stderr, reason = "progress is for the user")]
    fn new(title: &str) -> Self {
        if std::io::stderr().is_terminal() {
            let bars = MultiProgress::new();
            let header = bars.add(ProgressBar::new_spinner());
            header.set_message(title.to_owned());
            header.enable_steady_tick(TICK);
            Self::Bars {
                bars,
                title: header,
                groups: BTreeMap::new(),
            }
        } else {
            eprintln!("{title}");
            Self::Lines {
                title: title.to_owned(),
                last: None,
            }
        }
    }

    #[expect(clippy::print_stderr, reason = "progress is for the user")]
    fn update(&mut self, status: &pb::RunStatus) {
        match self {
            Self::Bars { bars, groups, .. } => {
                for group in &status.groups {
                    let bar = groups.entry(group.name.clone()).or_insert_with(|| {
                        let style =
                            ProgressStyle::with_template("  {prefix:14!} {bar:24} {percent:>3} %  {msg}");
                        bars.add(
                            ProgressBar::new(0)
                                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
                        )
                    });
                    bar.set_prefix(group.name.clone());
                    bar.set_length(total(status, group));
                    bar.set_position(committed(group));
                    bar.set_message(describe(status, group));
                }
            }
            Self::Lines { title, last } => {
                let due = last.is_none_or(|at| at.elapsed() >= LINE_EVERY);
                if due && status.started_s > 0.0 {
                    *last = Some(Instant::now());
                    for group in &status.groups {
                        let done = 100 * committed(group) / total(status, group).max(1);
                        eprintln!(
                            "{title}: {:14} {done:>3} %  {}",
                            group.name,
                            describe(status, group)
                        );
                    }
                }
            }
        }
    }

    #[expect(clippy::print_stderr, reason = "progress is for the user")]
    fn end(&mut self, status: &pb::RunStatus) {
        let line = format!("{} after {:.1} s", status.state, status.age_s);
        match self {
            Self::Bars { title, groups, .. } => {
                for bar in groups.values() {
                    bar.abandon();
                }
                title.finish_with_message(format!("{}: {line}", title.message()));
            }
            Self::Lines { title, .. } => eprintln!("{title}: {line}"),
        }
    }
}

/// A line that says what is measured, for as long as it takes; on a terminal only, and gone afterwards.
pub(crate) struct Measuring(ProgressBar);

impl Measuring {
    pub(crate) fn new(shown: bool) -> Self {
        if !shown || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let line = ProgressBar::new_spinner();
        // By a thread of its own: a measurement leaves no time for anything else.
        line.enable_steady_tick(TICK);
        Self(line)
    }

    pub(crate) fn say(&self, what: &str) {
        self.0.set_message(format!("measuring {what}"));
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// `about 40 s left`; no finer than it is known.
pub(crate) fn left(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => "a few seconds left".to_owned(),
        s if s < 90.0 => format!("about {:.0} s left", (s / 10.0).round() * 10.0),
        s if s < 5_400.0 => format!("about {:.0} min left", s / 60.0),
        s => format!("about {:.1} h left", s / 3_600.0),
    }
}

fn total(status: &pb::RunStatus, group: &pb::GroupStatus) -> u64 {
    u64::from(group.epochs) * status.positions_per_epoch
}

/// Merged counts as progress too: it is shown long before the manifest that makes it durable.
fn committed(group: &pb::GroupStatus) -> u64 {
    group
        .ledger
        .as_ref()
        .map_or(0, |l| l.total_committed + l.total_quarantined + l.acked)
}

fn describe(status: &pb::RunStatus, group: &pb::GroupStatus) -> String {
    let rate: f64 = group.workers.iter().fold(0.0, |sum, w| sum + w.samples_per_s);
    let mut parts = vec![format!(
        "epoch {}/{}",
        (group.epoch + 1).min(group.epochs),
        group.epochs
    )];
    parts.push(format!(
        "{} x {:.0} samples/s",
        group.workers.len(),
        rate / (group.workers.len().max(1) as f64)
    ));
    if let Some(point) = &group.last {
        if let Some(loss) = point.hard_loss {
            parts.push(format!("hard loss {loss:.3}"));
        }
        if let Some(kl) = point.kl {
            parts.push(format!("KL {kl:.3}"));
        }
        if let Some(alpha) = point.alpha {
            parts.push(format!("alpha {alpha:.2}"));
        }
    }
    if let Some(held_out) = &group.held_out {
        parts.push(format!("held-out {:.1} %", held_out.accuracy * 100.0));
    }
    if let Some(teacher) = status.teachers.iter().find(|t| t.name == group.name)
        && let Some(active) = teacher.active
    {
        parts.push(format!("version {active} serves"));
    }
    if let Some(seconds) = group.remaining_s {
        // Of several, each is a run of its own.
        parts.push(format!("{} of seed {}", left(seconds), status.seed));
    }
    if !group.waiting_for.is_empty() && group.phase == "training" {
        parts.push(format!("waiting for {}", group.waiting_for));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_a_seed() {
        let group = pb::GroupStatus {
            remaining_s: Some(44.0),
            ..Default::default()
        };
        let status = pb::RunStatus {
            seed: 3,
            ..Default::default()
        };
        let told = describe(&status, &group);
        assert!(told.ends_with("about 40 s left of seed 3"), "{told}");
    }

    #[test]
    fn what_is_measured_is_said_where_progress_is_shown() {
        let measuring = Measuring::new(false);
        assert!(measuring.0.is_hidden());
        measuring.say("small");
        assert_eq!(measuring.0.message(), "measuring small");
    }

    #[test]
    fn the_time_left_is_told_no_finer_than_it_is_known() {
        let told = [3.0, 44.0, 89.0, 125.0, 5_399.0, 9_000.0].map(left);
        let expected = [
            "a few seconds left",
            "about 40 s left",
            "about 90 s left",
            "about 2 min left",
            "about 90 min left",
            "about 2.5 h left",
        ];
        assert_eq!(told, expected);
    }
}
