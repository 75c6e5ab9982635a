//! How fast a group gets on, for who waits.

use std::collections::VecDeque;

use crate::ids::Millis;

/// Places that are remembered; with [`APART`] the last minute.
const PLACES: usize = 60;
/// Shortest time between two of them, ms.
const APART: u64 = 1_000;
/// Less is too little to tell, ms.
const ENOUGH: u64 = 2_000;

/// When which place was reached.
#[derive(Debug, Clone, Default)]
pub(super) struct Eta {
    places: VecDeque<(Millis, u64)>,
}

impl Eta {
    /// Everything up to `place` is merged.
    pub(super) fn reached(&mut self, place: u64, now: Millis) {
        match self.places.back() {
            // Merges were taken back.
            Some((_, last)) if place < *last => self.forget(),
            Some((at, _)) if now.since(*at) < APART => return,
            _ => {}
        }
        if self.places.len() == PLACES {
            self.places.pop_front();
        }
        self.places.push_back((now, place));
    }

    /// What was says nothing of what comes.
    pub(super) fn forget(&mut self) {
        self.places.clear();
    }

    /// Seconds until `end` at the pace of the last minute; a standstill makes them more. `None`: too early to tell.
    pub(super) fn left(&self, (place, end): (u64, u64), now: Millis) -> Option<f64> {
        let (since, from) = *self.places.front()?;
        let (took, came) = (now.since(since), place.checked_sub(from)?);
        let known = took >= ENOUGH && came > 0;
        known.then(|| end.saturating_sub(place) as f64 * took as f64 / came as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_last_minute() {
        let mut eta = Eta::default();
        assert_eq!(eta.left((0, 1_000), Millis(0)), None);
        eta.reached(0, Millis(0));
        assert_eq!(eta.left((50, 1_000), Millis(1_000)), None, "too early");
        for second in 1..=200 {
            eta.reached(10 * second, Millis(1_000 * second));
        }
        let left = |now| eta.left((2_000, 3_000), Millis(now)).unwrap();
        assert!((left(200_000) - 100.0).abs() < 3.0, "{}", left(200_000));
        assert!(left(260_000) > 190.0, "it stands still since");
        eta.reached(100, Millis(201_000));
        assert_eq!(eta.left((100, 3_000), Millis(201_000)), None, "rolled back");
    }
}
