//! Bugs planted on purpose, to prove that the oracle can see: each breaks the shell around the
//! cores in a way that a careless change would.

use std::fmt;
use std::str::FromStr;

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A worker reports less than its state contains.
    LostAck,
    /// A manifest lists one merge twice.
    DoubleCommit,
    /// Writes of stale sessions are let through.
    MissingFence,
    /// A restarted coordinator keeps its former term.
    WrongTerm,
    /// A repeated request for work gets other work, and what was granted first is forgotten.
    LeakedLease,
    /// Batches are cut by worker, not on the run's grid.
    FleetOrder,
    /// Merges are answered and never written.
    UnsavedMerge,
    /// Answers leave before what they say is durable.
    EarlyReply,
    /// A snapshot is taken after the round's first step.
    LateSnapshot,
    /// A teacher answers with an old version under a new name.
    StaleFrame,
    /// Late weights are averaged in although their round has closed.
    LateMerge,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::LostAck,
        Self::DoubleCommit,
        Self::MissingFence,
        Self::WrongTerm,
        Self::LeakedLease,
        Self::FleetOrder,
        Self::UnsavedMerge,
        Self::EarlyReply,
        Self::LateSnapshot,
        Self::StaleFrame,
        Self::LateMerge,
    ];

    /// As given to `--plant`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LostAck => "lost-ack",
            Self::DoubleCommit => "double-commit",
            Self::MissingFence => "missing-fence",
            Self::WrongTerm => "wrong-term",
            Self::LeakedLease => "leaked-lease",
            Self::FleetOrder => "fleet-order",
            Self::UnsavedMerge => "unsaved-merge",
            Self::EarlyReply => "early-reply",
            Self::LateSnapshot => "late-snapshot",
            Self::StaleFrame => "stale-frame",
            Self::LateMerge => "late-merge",
        }
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|p| p.name() == name);
        found.ok_or_else(|| format!("{name:?} is no planted bug; `--plant list` names them"))
    }
}
