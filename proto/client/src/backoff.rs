//! Jittered exponential back-off, so that a fleet does not retry in step.

use std::time::Duration;

/// Waits 100 ms at first, twice as long each time up to 5 s, less a jitter of up to half.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    state: u64,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(5);

    /// `seed` decides the jitter: hash the process's name into it.
    pub fn new(seed: u64) -> Self {
        Self {
            next: Self::FIRST,
            state: seed | 1,
        }
    }

    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(Self::LAST);
        // xorshift64: spread is all that is asked of it.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let jitter = (self.state >> 11) as f64 / (1u64 << 53) as f64;
        delay.mul_f64(1.0 - 0.5 * jitter)
    }

    /// It worked: start over.
    pub fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_within_bounds_and_differs_by_seed() {
        let mut a = Backoff::new(1);
        let mut b = Backoff::new(2);
        let delays: Vec<_> = (0..10).map(|_| a.next_delay()).collect();
        assert!(
            delays
                .iter()
                .all(|d| *d >= Backoff::FIRST / 2 && *d <= Backoff::LAST)
        );
        assert!(delays[9] > delays[0]);
        assert_ne!(delays[3], (0..4).map(|_| b.next_delay()).last().unwrap());
    }
}
