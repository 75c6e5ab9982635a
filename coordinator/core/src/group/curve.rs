//! Means by round with a bounded history.

use std::collections::BTreeMap;

use crate::round::Point;

/// Points a curve keeps; when full, every other one is dropped and half as many come from then on.
const LIMIT: usize = 1_024;

/// Points by round.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    points: BTreeMap<u64, Point>,
    stride: u64,
}

impl Curve {
    pub(super) fn new() -> Self {
        Self {
            points: BTreeMap::new(),
            stride: 1,
        }
    }

    /// Adds a round's point where one is due (`always`: it has an evaluation). Gives the rounds
    /// whose points changed.
    pub(super) fn add(&mut self, round: u64, point: Point, always: bool) -> Vec<u64> {
        if !always && !round.is_multiple_of(self.stride) {
            return Vec::new();
        }
        self.points.insert(round, point);
        let mut changed = vec![round];
        if self.points.len() >= LIMIT {
            self.stride *= 2;
            let odd: Vec<u64> = self.points.keys().skip(1).step_by(2).copied().collect();
            for round in odd {
                self.points.remove(&round);
                changed.push(round);
            }
        }
        changed
    }

    /// Drops what lies beyond a step; gives the rounds dropped.
    pub(super) fn cut(&mut self, steps: u64) -> Vec<u64> {
        let beyond = |(_, p): &(&u64, &Point)| p.step > steps;
        let gone: Vec<u64> = self.points.iter().filter(beyond).map(|(r, _)| *r).collect();
        for round in &gone {
            self.points.remove(round);
        }
        gone
    }

    /// Puts a stored point back.
    pub(super) fn restore(&mut self, round: u64, point: Point) {
        self.points.insert(round, point);
    }

    pub(super) fn get(&self, round: u64) -> Option<&Point> {
        self.points.get(&round)
    }

    pub(super) fn points(&self) -> impl DoubleEndedIterator<Item = &Point> {
        self.points.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_curve_keeps_every_other_point() {
        let mut curve = Curve::new();
        for round in 0..3_000 {
            let point = Point {
                step: round,
                ..Point::default()
            };
            curve.add(round, point, false);
        }
        let count = curve.points().count();
        assert!((LIMIT / 2..LIMIT).contains(&count), "{count}");
        assert_eq!(curve.points().next().map(|p| p.step), Some(0));
        assert!(curve.points().next_back().is_some_and(|p| p.step > 2_900));
    }
}
