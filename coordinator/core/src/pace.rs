//! How far teachers and students may run ahead of each other, and which version teaches what.
//!
//! Progress is compared as shares of the whole work, in the teacher's positions. One interval is
//! what the teacher trains between two published versions.

use crate::spec::{GroupSpec, Pace, RunSpec};

/// The deterministic timetable of an online teacher's versions over its positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timetable {
    epoch: u64,
    interval: u64,
    epochs: u64,
}

impl Timetable {
    /// Versions appear every `publish_every` steps and at the end of each epoch.
    pub fn new(run: &RunSpec, teacher: &GroupSpec) -> Self {
        let interval = u64::from(teacher.publish_every.max(1)) * u64::from(run.batch);
        Self {
            epoch: run.positions,
            interval: interval.min(run.positions),
            epochs: u64::from(teacher.epochs),
        }
    }

    /// Positions of the teacher's whole work.
    pub fn total(&self) -> u64 {
        self.epoch * self.epochs
    }

    /// Index of the newest version that exists once `y` positions are trained.
    pub fn index_at(&self, y: u64) -> u64 {
        let per_epoch = self.epoch.div_ceil(self.interval);
        let y = y.min(self.total());
        (y / self.epoch) * per_epoch + (y % self.epoch) / self.interval
    }

    /// Where the version after that of `y` appears; `None` after the last.
    pub fn next_boundary(&self, y: u64) -> Option<u64> {
        if y >= self.total() {
            return None;
        }
        let start = y - y % self.epoch;
        Some((start + ((y % self.epoch) / self.interval + 1) * self.interval).min(start + self.epoch))
    }
}

/// A student's positions as the teacher's share of work, and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    student: u64,
    teacher: u64,
}

impl Ratio {
    /// Totals of both.
    pub fn new(student_total: u64, teacher_total: u64) -> Self {
        Self {
            student: student_total.max(1),
            teacher: teacher_total,
        }
    }

    /// Teacher position at the same share of work, rounded down.
    pub fn to_teacher(self, x: u64) -> u64 {
        (u128::from(x) * u128::from(self.teacher) / u128::from(self.student)) as u64
    }

    /// First student position whose share is at least that of `y`.
    pub fn to_student(self, y: u64) -> u64 {
        (u128::from(y) * u128::from(self.student)).div_ceil(u128::from(self.teacher.max(1))) as u64
    }
}

/// Where a group stands: positions handed out, of how many in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Handed out and not given back, over all epochs.
    pub granted: u64,
    /// Epochs times positions.
    pub total: u64,
    /// The group has ended.
    pub done: bool,
}

/// Position up to which an online teacher may be leased, given its students.
pub fn teacher_limit(pace: Pace, table: &Timetable, students: &[Progress]) -> u64 {
    let slowest = students
        .iter()
        .filter(|s| !s.done)
        .map(|s| Ratio::new(s.total, table.total()).to_teacher(s.granted))
        .min();
    match (pace, slowest) {
        (Pace::Free, _) | (_, None) => u64::MAX,
        // One interval ahead: the version that the students need next can be made in time.
        (_, Some(y)) => y.saturating_add(table.interval),
    }
}

/// Position up to which a student may be leased, given an online teacher's progress.
pub fn student_limit(pace: Pace, table: &Timetable, student: Progress, teacher: Progress) -> u64 {
    match pace {
        Pace::Students if !teacher.done => {
            let y = teacher.granted.saturating_add(table.interval);
            Ratio::new(student.total, table.total()).to_student(y)
        }
        // Lockstep cuts by version instead.
        _ => u64::MAX,
    }
}

/// The lease grid over the places of all epochs: each epoch begins a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    epoch: u64,
    block: u64,
}

impl Blocks {
    /// The grid of a run.
    pub fn new(run: &RunSpec) -> Self {
        Self {
            epoch: run.positions,
            block: u64::from(run.block),
        }
    }

    /// Where the block begins that holds this place.
    fn start(self, place: u64) -> u64 {
        place - place % self.epoch % self.block
    }

    /// The first beginning of a block from this place on.
    fn next_start(self, place: u64) -> u64 {
        let start = self.start(place);
        let epoch_end = (start / self.epoch + 1) * self.epoch;
        if start == place {
            place
        } else {
            (start + self.block).min(epoch_end)
        }
    }
}

/// Lockstep: the timetable index that teaches student place `x`, and the first place after it that
/// another version teaches (`u64::MAX`: none). One version teaches all of a block: the one of the
/// block's beginning.
pub fn lockstep(table: &Timetable, blocks: Blocks, student: Progress, x: u64) -> (u64, u64) {
    let ratio = Ratio::new(student.total, table.total());
    let y = ratio.to_teacher(blocks.start(x));
    let end = table.next_boundary(y).map_or(u64::MAX, |b| ratio.to_student(b));
    let end = if end == u64::MAX {
        end
    } else {
        blocks.next_start(end)
    };
    (table.index_at(y), end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(epoch: u64, interval: u64, epochs: u64) -> Timetable {
        Timetable {
            epoch,
            interval: interval.min(epoch),
            epochs,
        }
    }

    #[test]
    fn versions_appear_by_interval_and_at_epoch_ends() {
        let t = table(100, 40, 2);
        assert_eq!(
            [0, 39, 40, 80, 99, 100, 140, 200].map(|y| t.index_at(y)),
            [0, 0, 1, 2, 2, 3, 4, 6]
        );
        assert_eq!(
            [0, 40, 80, 100, 199, 200].map(|y| t.next_boundary(y)),
            [Some(40), Some(80), Some(100), Some(140), Some(200), None]
        );
    }

    proptest! {
        /// Lockstep windows tile a student's positions, in order, one index each.
        #[test]
        fn lockstep_windows_tile(epoch in 1u64..300, interval in 1u64..100, te in 1u64..4, se in 1u64..4, block in 1u64..12) {
            let t = table(epoch, interval, te);
            let blocks = Blocks { epoch, block };
            let student = Progress { granted: 0, total: epoch * se, done: false };
            let mut x = 0;
            let mut last = None;
            while x < student.total {
                let (index, end) = lockstep(&t, blocks, student, x);
                prop_assert!(end > x && last.is_none_or(|l| index > l));
                prop_assert_eq!(blocks.start(x), x);
                for p in x..end.min(student.total) {
                    prop_assert_eq!(lockstep(&t, blocks, student, p), (index, end));
                }
                last = Some(index);
                x = end;
            }
        }

        /// Neither side can wait for the other for ever.
        #[test]
        fn somebody_may_always_go_on(epoch in 1u64..200, interval in 1u64..100, te in 1u64..4, se in 1u64..4, g in 0u64..1000, h in 0u64..1000) {
            let t = table(epoch, interval, te);
            let s = Progress { granted: g.min(epoch * se - 1), total: epoch * se, done: false };
            let y = Progress { granted: h.min(t.total() - 1), total: t.total(), done: false };
            let teacher_may = y.granted < teacher_limit(Pace::Students, &t, &[s]);
            let student_may = s.granted < student_limit(Pace::Students, &t, s, y);
            prop_assert!(teacher_may || student_may);
        }
    }
}
