//! Means by round with a bounded history.

use std::collections::{BTreeMap, BTreeSet};

use crate::round::Point;

/// Points without an evaluation that a curve keeps; when full, about every other one is dropped and half as many come from
/// then on.
const LIMIT: usize = 1_024;
/// Points with an evaluation, which are far apart and thinned by themselves.
const EVALUATIONS: usize = 512;

/// Points by round.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    points: BTreeMap<u64, Point>,
    /// Rounds whose point has an evaluation.
    evaluated: BTreeSet<u64>,
    /// Points without an evaluation are of rounds that this divides.
    stride: u64,
}

impl Curve {
    pub(super) fn new() -> Self {
        Self {
            points: BTreeMap::new(),
            evaluated: BTreeSet::new(),
            stride: 1,
        }
    }

    /// Adds a round's point where one is due; one with an evaluation always is. Gives the rounds whose points changed.
    pub(super) fn add(&mut self, round: u64, point: Point) -> Vec<u64> {
        let evaluated = point.held_out.is_some();
        if !evaluated && !round.is_multiple_of(self.stride) {
            return Vec::new();
        }
        self.restore(round, point);
        let dropped = if evaluated {
            self.thin_evaluations()
        } else {
            self.thin()
        };
        for round in &dropped {
            self.remove(*round);
        }
        [round].into_iter().chain(dropped).collect()
    }

    /// What is too much of the points without an evaluation.
    fn thin(&mut self) -> Vec<u64> {
        let plain = self.points.keys().filter(|r| !self.evaluated.contains(r));
        if self.points.len() - self.evaluated.len() < LIMIT {
            return Vec::new();
        }
        let mut kept: Vec<u64> = plain.copied().collect();
        let mut dropped = Vec::new();
        while kept.len() >= LIMIT {
            self.stride *= 2;
            let stride = self.stride;
            dropped.extend(kept.extract_if(.., |r| !r.is_multiple_of(stride)));
        }
        dropped
    }

    /// What is too much of those with one: every other.
    fn thin_evaluations(&self) -> Vec<u64> {
        match self.evaluated.len() < EVALUATIONS {
            true => Vec::new(),
            false => self.evaluated.iter().skip(1).step_by(2).copied().collect(),
        }
    }

    fn remove(&mut self, round: u64) {
        self.points.remove(&round);
        self.evaluated.remove(&round);
    }

    /// Drops what lies beyond a step; gives the rounds dropped.
    pub(super) fn cut(&mut self, steps: u64) -> Vec<u64> {
        let beyond = |(_, p): &(&u64, &Point)| p.step > steps;
        let gone: Vec<u64> = self.points.iter().filter(beyond).map(|(r, _)| *r).collect();
        for round in &gone {
            self.remove(*round);
        }
        gone
    }

    /// Puts a stored point back.
    pub(super) fn restore(&mut self, round: u64, point: Point) {
        if point.held_out.is_some() {
            self.evaluated.insert(round);
        }
        self.points.insert(round, point);
    }

    /// All stored points are back: new ones go on at the distance that these have.
    pub(super) fn restored(&mut self) {
        let plain: Vec<u64> = self
            .points
            .keys()
            .filter(|r| !self.evaluated.contains(r))
            .copied()
            .collect();
        // A curve that was thinned is at least half full, but for what was cut off it.
        let divides = plain
            .iter()
            .map(|r| r.checked_ilog2().map_or(63, |_| r.trailing_zeros()));
        self.stride = match divides.min() {
            Some(zeros) if plain.len() >= LIMIT / 4 => 1 << zeros,
            _ => 1,
        };
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
    use crate::round::Evaluation;

    fn point(step: u64, evaluated: bool) -> Point {
        let held_out = evaluated.then_some(Evaluation {
            loss: 0.5,
            accuracy: 0.9,
            samples: 100,
        });
        Point {
            step,
            held_out,
            ..Point::default()
        }
    }

    #[test]
    fn a_full_curve_keeps_every_other_point() {
        let mut curve = Curve::new();
        for round in 0..3_000 {
            curve.add(round, point(round, false));
        }
        let count = curve.points().count();
        assert!((LIMIT / 2..LIMIT).contains(&count), "{count}");
        assert_eq!(curve.points().next().map(|p| p.step), Some(0));
        assert!(curve.points().next_back().is_some_and(|p| p.step > 2_900));
    }

    #[test]
    fn evaluations_stay_where_points_without_one_are_thinned() {
        let mut curve = Curve::new();
        let due = |round: &u64| round % 37 == 1;
        for round in 0..9_000 {
            curve.add(round, point(round, due(&round)));
        }
        let kept: Vec<u64> = curve
            .points()
            .filter(|p| p.held_out.is_some())
            .map(|p| p.step)
            .collect();
        assert_eq!(kept, (0..9_000).filter(due).collect::<Vec<_>>());
        for round in 9_000..40_000 {
            curve.add(round, point(round, due(&round)));
        }
        let count = curve.points().count();
        assert!(count < LIMIT + EVALUATIONS, "bounded: {count}");
        assert!(curve.points().next_back().is_some_and(|p| p.step > 39_900));
    }

    #[test]
    fn a_restored_curve_goes_on_at_the_distance_it_had() {
        let mut curve = Curve::new();
        for round in 0..5_000 {
            curve.add(round, point(round, round % 500 == 3));
        }
        let mut again = Curve::new();
        for (round, point) in &curve.points {
            again.restore(*round, point.clone());
        }
        again.restored();
        assert_eq!((again.stride, curve.stride), (8, 8));
        let mut short = Curve::new();
        short.restore(64, point(64, false));
        short.restored();
        assert_eq!(short.stride, 1, "a short one was never thinned");
    }
}
