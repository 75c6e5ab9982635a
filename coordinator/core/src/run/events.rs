//! What happened, in words, with a bounded history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Millis;
use crate::record::Key;
use crate::run::Run;

/// Events of each sort that are kept; the oldest go first. Versions come and go by the second: they must not push out who
/// left and who ordered what.
const LIMIT: usize = 256;
/// Bytes of an event's text; the rest is cut off. Much of it comes from other processes.
const TEXT: usize = 1_024;

/// As much of a text as an event keeps.
pub(super) fn brief(mut text: String) -> String {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push_str(" ...");
    }
    text
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Somebody asked for something.
    Order,
    /// The run as a whole.
    Run,
    /// Who joined, left, or is not of use.
    Member,
    /// Samples that can't be trained on.
    Data,
    /// A version is durable, or serves.
    Version,
}

impl Kind {
    /// As shown in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Run => "run",
            Self::Member => "member",
            Self::Data => "data",
            Self::Version => "version",
        }
    }

    /// Survives the coordinator.
    fn is_durable(self) -> bool {
        self != Self::Version
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the run's events.
    pub number: u64,
    /// When.
    pub at: Millis,
    /// What it is about.
    pub kind: Kind,
    /// What.
    pub text: String,
}

/// The newest events.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    all: BTreeMap<u64, Event>,
    next: u64,
}

impl Events {
    /// Gives the numbers of durable events that came or went.
    fn add(&mut self, at: Millis, kind: Kind, text: String) -> Vec<u64> {
        let number = self.next;
        self.next += 1;
        let mut changed = vec![number];
        let alike = |e: &&Event| e.kind.is_durable() == kind.is_durable();
        if self.all.values().filter(alike).count() >= LIMIT
            && let Some(oldest) = self.all.values().find(alike).map(|e| e.number)
        {
            self.all.remove(&oldest);
            changed.push(oldest);
        }
        let event = Event {
            number,
            at,
            kind,
            text,
        };
        self.all.insert(number, event);
        changed.retain(|_| kind.is_durable());
        changed
    }

    pub(super) fn restore(&mut self, event: Event) {
        self.next = self.next.max(event.number + 1);
        self.all.insert(event.number, event);
    }

    pub(super) fn get(&self, number: u64) -> Option<&Event> {
        self.all.get(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.all.values()
    }
}

impl Run {
    pub(super) fn event(&mut self, now: Millis, kind: Kind, text: String) {
        let changed = self.events.add(now, kind, brief(text));
        self.dirty.extend(changed.into_iter().map(Key::Event));
        self.revision += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_letters() {
        assert_eq!(brief("short".into()), "short");
        let long = brief("é".repeat(TEXT));
        assert!(
            long.len() <= TEXT + 4 && long.ends_with("é ..."),
            "{}",
            long.len()
        );
    }

    #[test]
    fn versions_push_out_versions_only() {
        let mut events = Events::default();
        assert_eq!(events.add(Millis(1), Kind::Order, "pause".into()), [0]);
        for i in 0..1_000 {
            assert!(events.add(Millis(i), Kind::Version, i.to_string()).is_empty());
        }
        assert_eq!(events.iter().count(), LIMIT + 1);
        assert_eq!(events.iter().next().map(|e| e.text.as_str()), Some("pause"));
        for i in 1..LIMIT {
            assert_eq!(
                events.add(Millis(0), Kind::Member, String::new()),
                [1_000 + i as u64]
            );
        }
        let pushed_out = events.add(Millis(0), Kind::Run, String::new());
        assert_eq!(pushed_out, [1_000 + LIMIT as u64, 0], "the order is the oldest");
        assert_eq!(events.iter().count(), 2 * LIMIT);
    }
}
