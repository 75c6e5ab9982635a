//! Positions whose holders died. A range that took two processes with it is leased alone, then in
//! halves, until a single sample has twice killed whoever computed it.

use std::ops::Range;

use retort_data::ranges::RangeSet;
use serde::{Deserialize, Serialize};

/// Deaths after which a range is leased alone and halved.
const SUSPECT: u32 = 2;
/// Deaths of holders of nothing but the single suspect that quarantine it.
const GUILTY: u32 = 2;

/// A range that was held when its holder died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Suspect {
    /// First position.
    pub(super) begin: u64,
    /// One past the last.
    pub(super) end: u64,
    /// Deaths of its holders.
    pub(super) deaths: u32,
    /// Deaths while it was suspect already and leased alone, as a single sample.
    pub(super) alone: u32,
}

/// All suspects of an epoch: sorted, disjoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Suspects(Vec<Suspect>);

impl Suspects {
    /// The holder of these positions died. Gives the positions that are guilty now.
    pub(super) fn blame(&mut self, held: &RangeSet) -> Vec<u64> {
        for range in held.iter() {
            self.split_at(range.start);
            self.split_at(range.end);
            let mut at = range.start;
            for i in 0..self.0.len() {
                let s = &mut self.0[i];
                if s.begin < range.start || s.end > range.end {
                    continue;
                }
                s.alone += u32::from(s.deaths >= SUSPECT && s.end - s.begin == 1 && held.len() == 1);
                s.deaths += 1;
            }
            // What was not suspect yet.
            let known: Vec<Range<u64>> = self.inside(&range).map(|s| s.begin..s.end).collect();
            for gap in known.iter().cloned().chain(std::iter::once(range.end..range.end)) {
                if at < gap.start {
                    self.0.push(Suspect {
                        begin: at,
                        end: gap.start,
                        deaths: 1,
                        alone: 0,
                    });
                }
                at = gap.end;
            }
            self.0.sort_by_key(|s| s.begin);
        }
        let guilty = |s: &&Suspect| s.alone >= GUILTY;
        self.0.iter().filter(guilty).map(|s| s.begin).collect()
    }

    /// The holder was only away: it came back.
    pub(super) fn absolve(&mut self, held: &RangeSet) {
        for range in held.iter() {
            self.split_at(range.start);
            self.split_at(range.end);
            for s in &mut self.0 {
                if s.begin >= range.start && s.end <= range.end {
                    s.deaths = s.deaths.saturating_sub(1);
                    s.alone = s.alone.saturating_sub(1);
                }
            }
        }
        self.0.retain(|s| s.deaths > 0);
    }

    /// Merged or taken out: not suspect any more.
    pub(super) fn clear(&mut self, positions: impl Iterator<Item = Range<u64>>) {
        if self.0.is_empty() {
            return;
        }
        for range in positions {
            self.split_at(range.start);
            self.split_at(range.end);
            self.0.retain(|s| s.end <= range.start || s.begin >= range.end);
        }
    }

    /// How much of an available range may be leased at once: up to the next suspect, or half of a
    /// suspect, which must then be leased alone.
    pub(super) fn cut(&mut self, first: Range<u64>) -> (Range<u64>, bool) {
        let Some(s) = self.0.iter().find(|s| s.deaths >= SUSPECT && s.end > first.start) else {
            return (first, false);
        };
        if s.begin > first.start {
            return (first.start..first.end.min(s.begin), false);
        }
        let end = s.end.min(first.end);
        let half = first.start + ((end - first.start) / 2).max(1);
        self.split_at(half);
        (first.start..half, true)
    }

    /// Nobody died of late.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these positions hold one that must be alone.
    pub(super) fn touches(&self, positions: &RangeSet) -> bool {
        let hit = |s: &Suspect| s.deaths >= SUSPECT && positions.overlaps(s.begin..s.end);
        !self.0.is_empty() && self.0.iter().any(hit)
    }

    fn inside(&self, range: &Range<u64>) -> impl Iterator<Item = &Suspect> {
        let range = range.clone();
        self.0
            .iter()
            .filter(move |s| s.begin >= range.start && s.end <= range.end)
    }

    fn split_at(&mut self, at: u64) {
        if let Some(i) = self.0.iter().position(|s| s.begin < at && at < s.end) {
            let right = Suspect {
                begin: at,
                ..self.0[i]
            };
            self.0[i].end = at;
            self.0.insert(i + 1, right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leases as the coordinator would, with a sample that kills whoever computes it.
    fn deaths_until_quarantined(len: u64, lease: u64, poison: u64) -> (u32, u64) {
        let mut suspects = Suspects::default();
        let mut available = RangeSet::from(0..len);
        for deaths in 0.. {
            loop {
                let first = available.first().expect("the poison is never merged");
                let (cut, _) = suspects.cut(first.start..first.end.min(first.start + lease));
                if cut.contains(&poison) {
                    if let [guilty] = suspects.blame(&RangeSet::from(cut)).as_slice() {
                        return (deaths + 1, *guilty);
                    }
                    break;
                }
                available.remove(cut.clone());
                suspects.clear(RangeSet::from(cut).iter());
            }
        }
        unreachable!("deaths are counted without a limit")
    }

    #[test]
    fn halving_finds_the_sample() {
        for poison in [0, 17, 255] {
            let (deaths, found) = deaths_until_quarantined(256, 256, poison);
            assert_eq!(found, poison);
            assert!(deaths <= 2 + 8 + 2, "{deaths} deaths for position {poison}");
        }
    }

    #[test]
    fn whoever_comes_back_had_not_died() {
        let mut s = Suspects::default();
        for _ in 0..9 {
            assert!(s.blame(&RangeSet::from(3..4)).is_empty());
            s.absolve(&RangeSet::from(3..4));
        }
        assert_eq!(s, Suspects::default());
    }

    #[test]
    fn one_death_changes_nothing_and_a_merge_acquits() {
        let mut s = Suspects::default();
        assert!(s.blame(&RangeSet::from(0..8)).is_empty());
        assert_eq!(s.cut(0..16), (0..16, false));
        s.blame(&RangeSet::from(0..8));
        assert_eq!(s.cut(0..16), (0..4, true));
        s.clear(RangeSet::from(0..4).iter());
        assert_eq!(s.cut(4..16), (4..6, true));
        s.clear(RangeSet::from(4..8).iter());
        assert_eq!(s.cut(8..16), (8..16, false));
    }
}
