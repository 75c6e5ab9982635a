//! How much work a replica gets, and why it may get none.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// A lease lasts about this long at the replica's measured rate.
const LEASE_SECONDS: f64 = 2.0;
/// Blocks of a replica whose rate is not known yet.
const FIRST_LEASE: u64 = 4;

/// The answer to a request for work.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Train these positions.
    Granted {
        /// Epoch.
        epoch: u32,
        /// Contiguous positions.
        positions: Range<u64>,
        /// Lockstep: the versions that teach them.
        exact: BTreeMap<String, u64>,
        /// What softens their soft targets; `None`: the job's temperature at their place.
        temperature: Option<f64>,
    },
    /// Nothing at present.
    Idle(Reason),
    /// Publish the state at the start of the round.
    Publish,
    /// Leave the run.
    Finish(String),
}

/// Why a request for work got none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The rest of the epoch is with other replicas, or the replica still has to join.
    Contribute,
    /// The epoch's manifest is not durable yet.
    Closing,
    /// Too far ahead of the teacher or the students.
    Pace,
    /// The run, or this replica's part in it, is ending: contribute and give back the rest.
    Stopping,
    /// The run is paused.
    Paused,
    /// Replicas of a former term may still come back for their leases.
    Reclaim,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Contribute => "the other replicas' contributions",
            Self::Closing => "the epoch's manifest",
            Self::Pace => "the teacher's or the students' progress",
            Self::Stopping => "the run to stop",
            Self::Paused => "somebody to resume the run",
            Self::Reclaim => "former replicas to come back",
        })
    }
}

/// Blocks of a lease: the measured rate times two seconds, but never more than the replica's half
/// share of what is left, so that leases shrink towards the epoch's end and replicas end together.
pub fn size(rate: f64, block: u32, available: u64, replicas: u64) -> u32 {
    let by_rate = if rate > 0.0 {
        (rate * LEASE_SECONDS / f64::from(block)).ceil() as u64
    } else {
        FIRST_LEASE
    };
    let left = available.div_ceil(u64::from(block.max(1)));
    let share = if replicas > 1 {
        left.div_ceil(2 * replicas)
    } else {
        left
    };
    u32::try_from(by_rate.min(share).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_follow_the_rate_and_shrink_towards_the_end() {
        assert_eq!(size(0.0, 64, 64_000, 2), 4);
        assert_eq!(size(320.0, 64, 64_000, 2), 10);
        assert_eq!(size(320.0, 64, 640, 2), 3);
        assert_eq!(size(320.0, 64, 1, 2), 1);
        assert_eq!(size(1e6, 64, 640, 1), 10, "a single replica need not shrink");
    }
}
