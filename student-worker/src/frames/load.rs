//! How busy a link is and how fast it answers, as measured by this student.

// A lock: the replica asks and the link's task measures; both hold it for a few assignments only.
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a stalled link is taken to need, in seconds: it is asked only where all others are no better.
const STALLED: f64 = 1e6;
/// Seconds of work after which a measurement counts for a third of what it did.
const MEMORY: f64 = 1.0;

#[derive(Debug, Default)]
struct State {
    /// Samples asked for and not answered.
    outstanding: u64,
    /// Samples answered, and seconds in which an answer was owed: older ones count for less.
    answered: f64,
    busy: f64,
    /// Seconds that a sample took when the last answer came.
    took: f64,
    /// Until when `busy` is counted.
    counted: Option<Instant>,
    down: bool,
    stalled: bool,
}

impl State {
    /// Counts the time until now: a link that leaves work lying is slow while it does so, not only
    /// once it answers; one without work stays as it was measured.
    fn count(&mut self, now: Instant) {
        let since = self.counted.unwrap_or(now);
        self.counted = Some(now.max(since));
        if self.outstanding > 0 {
            let seconds = now.saturating_duration_since(since).as_secs_f64();
            let kept = (-seconds / MEMORY).exp();
            self.busy = self.busy * kept + seconds;
            self.answered *= kept;
        }
    }

    /// Seconds that a sample takes; 0: not measured yet.
    fn per_sample(&self) -> f64 {
        if self.answered > 0.0 {
            self.busy / self.answered
        } else {
            0.0
        }
    }
}

/// Shared by the routing and one link.
#[derive(Debug, Default)]
pub(super) struct Load(Mutex<State>);

impl Load {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.count(now);
        state
    }

    pub(super) fn asked(&self, samples: u64, now: Instant) {
        self.at(now).outstanding += samples;
    }

    /// What was asked is not waited for any more.
    pub(super) fn given_up(&self, samples: u64, now: Instant) {
        let mut state = self.at(now);
        state.outstanding = state.outstanding.saturating_sub(samples);
    }

    pub(super) fn answered(&self, samples: u64, now: Instant) {
        let mut state = self.at(now);
        state.outstanding = state.outstanding.saturating_sub(samples);
        state.answered += samples as f64;
        state.took = state.per_sample();
        state.stalled = false;
    }

    /// Seconds until so many samples more would be answered; infinite where the link is down.
    pub(super) fn expected(&self, samples: u64, now: Instant) -> f64 {
        let state = self.at(now);
        if state.down {
            return f64::INFINITY;
        }
        if state.stalled {
            return STALLED;
        }
        state.per_sample() * (state.outstanding + samples) as f64
    }

    /// Seconds that what is outstanding should have taken, as it went until the last answer.
    pub(super) fn backlog(&self) -> f64 {
        let state = self.state();
        state.took * state.outstanding as f64
    }

    /// Samples per second while it has work; 0: not measured yet.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let per_sample = self.at(now).per_sample();
        if per_sample > 0.0 { per_sample.recip() } else { 0.0 }
    }

    pub(super) fn set_down(&self, down: bool, now: Instant) {
        let mut state = self.at(now);
        state.down = down;
        if down {
            state.outstanding = 0;
            state.stalled = false;
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.state().down
    }

    pub(super) fn set_stalled(&self) {
        self.state().stalled = true;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_wait_follows_what_is_outstanding_and_how_fast_it_went() {
        let load = Load::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(load.expected(10, start), 0.0, "an unknown link is tried");
        load.asked(20, at(0));
        load.answered(10, at(100));
        assert!(
            (load.expected(10, at(100)) - 0.2).abs() < 1e-9,
            "10 outstanding and 10 more"
        );
        // Asked together, answered one after the other: the second took 100 ms, not 200.
        load.answered(10, at(200));
        let wait = load.expected(10, at(200));
        assert!((wait - 0.1).abs() < 0.01, "{wait}");
        assert_eq!(
            load.expected(10, at(9_000)),
            wait,
            "who has no work grows no slower"
        );
        for second in 10..15 {
            load.asked(10, at(1_000 * second));
            load.answered(10, at(1_000 * second + 1_000));
        }
        assert!(load.expected(10, at(15_000)) > 0.8, "ten times slower");
        assert!(load.rate(at(15_000)) < 12.0);
    }

    /// A process that runs for 50 ms of every 500 answers at once whenever it runs.
    #[test]
    fn who_stands_still_is_slow_meanwhile() {
        let load = Load::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for period in 0..10 {
            let from = 500 * period;
            for ms in 0..50 {
                load.asked(10, at(from + ms));
                load.answered(10, at(from + ms + 1));
            }
            let rate = load.rate(at(from + 50));
            load.asked(10, at(from + 50));
            let stopped = load.rate(at(from + 499));
            assert!(stopped < 0.3 * 10_000.0, "period {period}: {rate} then {stopped}");
            load.answered(10, at(from + 500));
        }
        assert!(load.rate(at(5_000)) < 0.2 * 10_000.0);
    }

    #[test]
    fn who_does_not_answer_is_passed_over_until_it_does() {
        let load = Load::default();
        let now = Instant::now();
        load.asked(5, now);
        load.set_stalled();
        assert!(load.expected(1, now) >= STALLED);
        load.answered(5, now);
        assert!(load.expected(1, now) < STALLED);
        load.asked(5, now);
        load.set_down(true, now);
        assert!(load.expected(1, now).is_infinite() && load.is_down());
        load.set_down(false, now);
        assert_eq!(load.backlog(), 0.0);
    }
}
