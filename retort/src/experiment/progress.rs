//! How far an experiment is, and how long it will take as far as what was measured can tell.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::plan::Task;
use super::preflight::Counts;
use crate::follow;

/// A bar on a terminal, a line for each run elsewhere; both on stderr.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    done: usize,
    times: Times,
}

/// What runs of each kind took, and how many are left of it.
#[derive(Debug, Default)]
struct Times {
    left: Counts,
    /// Runs and their seconds.
    measured: BTreeMap<String, (usize, f64)>,
}

impl Times {
    fn record(&mut self, kind: &str, wall_s: f64) {
        if let Some(left) = self.left.get_mut(kind) {
            *left = left.saturating_sub(1);
        }
        let (runs, seconds) = self.measured.entry(kind.to_owned()).or_default();
        *runs += 1;
        *seconds += wall_s;
    }

    /// Each kind at its own mean; kinds that nothing was measured of at the mean of all. None before the first run.
    fn left_s(&self) -> Option<f64> {
        let (runs, seconds) = self
            .measured
            .values()
            .fold((0, 0.0), |(r, s), (runs, seconds)| (r + runs, s + seconds));
        if runs == 0 {
            return None;
        }
        let each = |kind: &String| match self.measured.get(kind) {
            Some((runs, seconds)) => seconds / *runs as f64,
            None => seconds / runs as f64,
        };
        Some(
            self.left
                .iter()
                .map(|(kind, left)| *left as f64 * each(kind))
                .sum(),
        )
    }
}

impl Progress {
    pub(super) fn new(runs: &Counts) -> Self {
        let total = runs.values().sum();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {bar:30} {pos}/{len} runs, {prefix}  {msg}");
            let bar = ProgressBar::new(total as u64)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix("time left unknown");
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            total,
            done: 0,
            times: Times {
                left: runs.clone(),
                ..Default::default()
            },
        }
    }

    pub(super) fn start(&self, task: &Task) {
        if let Some(bar) = &self.bar {
            bar.set_message(task.title.clone());
        }
    }

    /// One more is done; what an earlier call measured counts as well.
    #[expect(clippy::print_stderr, reason = "progress is for the user")]
    pub(super) fn end(&mut self, task: &Task, wall_s: f64, reused: bool) {
        self.done += 1;
        self.times.record(&task.kind, wall_s);
        let left = self.left();
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done as u64);
                bar.set_prefix(left);
            }
            None => {
                let took = if reused { "there already, took" } else { "took" };
                eprintln!(
                    "[{}/{}] {}: {took} {wall_s:.1} s; {left}",
                    self.done, self.total, task.title
                );
            }
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn left(&self) -> String {
        match self.times.left_s() {
            Some(seconds) => follow::left(seconds),
            None => "time left unknown".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_takes_each_kind_at_its_own_mean() {
        let left = BTreeMap::from([("alone".to_owned(), 4), ("online".to_owned(), 4)]);
        let mut times = Times {
            left,
            ..Default::default()
        };
        assert_eq!(times.left_s(), None);
        times.record("alone", 2.0);
        assert_eq!(times.left_s(), Some(3.0 * 2.0 + 4.0 * 2.0));
        times.record("online", 10.0);
        times.record("online", 20.0);
        assert_eq!(times.left_s(), Some(3.0 * 2.0 + 2.0 * 15.0));
    }
}
