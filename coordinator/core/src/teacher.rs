//! One teacher: its published versions, who has staged them, and which one serves.
//!
//! publish -> stage on every server -> raise the floor with every student -> activate. A version
//! becomes active only after all live students acknowledged the floor it brings, so no student
//! trains on a frame older than `max_staleness` versions (P5), and a silent one is fenced first.
//! A server that can't load a version holds it back for a grace time only: it goes on with the older
//! one it has until the floor passes that, and has no students then until it caught up.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::Millis;
use crate::record::{self, Record};
use crate::round::Evaluation;
use crate::spec::TeacherSpec;

/// A server of this teacher.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Server {
    /// Where students reach it.
    pub address: String,
    /// Versions it can serve.
    pub staged: BTreeSet<u64>,
    /// Version it serves.
    pub active: Option<u64>,
    /// Versions it was asked to stage.
    asked: BTreeSet<u64>,
    /// Why it left the routing; empty: it serves.
    pub drained: String,
    /// Its control stream broke and it has not come back yet. Students may reach it all the same; no
    /// version waits for it.
    pub away: bool,
    /// It is far slower than the others: said once.
    pub slow: bool,
}

impl Server {
    /// Versions it was asked for and has not reported yet.
    pub fn to_stage(&self) -> impl Iterator<Item = u64> + '_ {
        self.asked.difference(&self.staged).copied()
    }
}

/// State of one teacher.
#[derive(Debug, Clone)]
pub struct Teacher {
    /// What it is.
    pub spec: TeacherSpec,
    /// Published versions: place in the timetable and held-out result.
    versions: BTreeMap<u64, (u64, Option<Evaluation>)>,
    /// Lockstep: which version is the n-th of the timetable.
    by_index: BTreeMap<u64, u64>,
    /// Version that serves.
    pub active: Option<u64>,
    /// Oldest version a student may train on.
    pub floor: u64,
    /// Versions activated so far.
    pub activations: u64,
    /// The version on its way to serve. It is not given up for a newer one, or a teacher that
    /// publishes faster than floors are acknowledged would never serve.
    next: Option<u64>,
    /// When its servers were first asked for it.
    asked_at: Millis,
    /// A student that had not acknowledged the floor when it was last looked for: while it has not,
    /// the others need not be asked.
    lagging: Option<String>,
    /// An average is being made.
    pub averaging: bool,
    /// An average could not be made: none is asked for before this.
    pub average_after: Option<Millis>,
    /// Live servers by worker.
    pub servers: BTreeMap<String, Server>,
}

/// The floors that the live students of a teacher hold.
pub trait Floors {
    /// The oldest version that a group may yet have to train on, whoever is in it (lockstep): no
    /// floor passes it.
    fn needed(&self) -> Option<u64>;
    /// That of one student; `None`: it is none any more.
    fn of(&self, student: &str) -> Option<u64>;
    /// Some student that holds less than `floor`.
    fn below(&self, floor: u64) -> Option<String>;
}

/// What has to be told to whom before the next version can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These servers load the version.
    Stage {
        /// Workers to ask.
        servers: Vec<String>,
        /// Version to load.
        version: u64,
    },
    /// All students of this teacher drop older frames.
    RaiseFloor(u64),
    /// The version serves from now on.
    Activate {
        /// Version to serve.
        version: u64,
        /// Older ones may be dropped.
        keep_from: u64,
    },
}

impl Teacher {
    /// A teacher without versions.
    pub fn new(spec: TeacherSpec) -> Self {
        Self {
            spec,
            versions: BTreeMap::new(),
            by_index: BTreeMap::new(),
            active: None,
            floor: 0,
            activations: 0,
            next: None,
            asked_at: Millis(0),
            lagging: None,
            averaging: false,
            average_after: None,
            servers: BTreeMap::new(),
        }
    }

    /// A version is durable; `index` is its place in the lockstep timetable.
    pub fn publish(&mut self, version: u64, index: u64, held_out: Option<Evaluation>) {
        self.versions.insert(version, (index, held_out));
        // The first one at a place stays: students may be at it.
        self.by_index.entry(index).or_insert(version);
    }

    /// Versions above the newest intact one can't be loaded any more; where one of them served, the
    /// newest intact one serves again, and the floor falls with it. Gives those forgotten.
    ///
    /// Only at a restart: students take the floor of the new term's admission as it is.
    pub fn forget_above(&mut self, newest: Option<u64>, max_staleness: u64) -> Vec<u64> {
        let from = newest.map_or(0, |v| v + 1);
        let gone: Vec<u64> = self.versions.range(from..).map(|(v, _)| *v).collect();
        for version in &gone {
            self.versions.remove(version);
        }
        self.by_index.retain(|_, v| !gone.contains(v));
        // Where a version was published again, its place belongs to the one that is left.
        for (version, (index, _)) in &self.versions {
            self.by_index.entry(*index).or_insert(*version);
        }
        if self.active > newest {
            self.active = self.newest();
            self.next = None;
        }
        let oldest = self.active.map_or(0, |a| a.saturating_sub(max_staleness));
        self.floor = self.floor.min(oldest);
        for server in self.servers.values_mut() {
            server.staged.retain(|v| !gone.contains(v));
            server.asked.retain(|v| !gone.contains(v));
            server.active = server.active.min(self.active);
        }
        gone
    }

    /// What survives the coordinator, but for the versions.
    pub fn record(&self) -> record::Teacher {
        record::Teacher {
            name: self.spec.name.clone(),
            active: self.active,
            floor: self.floor,
            activations: self.activations,
        }
    }

    /// One published version, as it survives the coordinator.
    pub fn version_record(&self, version: u64) -> Option<Record> {
        let (index, held_out) = *self.versions.get(&version)?;
        Some(Record::Version(record::Version {
            teacher: self.spec.name.clone(),
            version,
            index,
            held_out,
        }))
    }

    /// Takes up what [`Teacher::record`] wrote.
    pub fn restore(&mut self, r: &record::Teacher) {
        self.active = r.active;
        self.floor = r.floor;
        self.activations = r.activations;
    }

    /// Newest published version.
    pub fn newest(&self) -> Option<u64> {
        self.versions.keys().next_back().copied()
    }

    /// Held-out result of a version.
    pub fn held_out(&self, version: u64) -> Option<Evaluation> {
        self.versions.get(&version).and_then(|(_, held_out)| *held_out)
    }

    /// The version that stands at this place of the timetable, or, where a disturbed run passed the
    /// place over, the next one.
    pub fn published_at(&self, index: u64) -> Option<u64> {
        self.by_index.range(index..).next().map(|(_, version)| *version)
    }

    /// The same, once it is active. Where a student's own versions were lost with the disk, it may
    /// need one that is not kept any more: then the oldest that is.
    pub fn at_index(&self, index: u64) -> Option<u64> {
        let kept = *self.versions.range(self.floor..).next()?.0;
        let version = self.published_at(index)?.max(kept);
        (self.active >= Some(version)).then_some(version)
    }

    /// Whether enough servers can serve this version: all that serve the active one, or after the
    /// grace time any.
    fn is_staged(&self, candidate: u64, any_will_do: bool) -> bool {
        let mut here = self.routed().map(|(_, s)| s).filter(|s| !s.away);
        let mut in_time = self
            .routed()
            .map(|(_, s)| s)
            .filter(|s| !s.away && self.active.is_none_or(|a| s.staged.contains(&a)));
        here.any(|s| s.staged.contains(&candidate))
            && (any_will_do || in_time.all(|s| s.staged.contains(&candidate)))
    }

    /// Students are sent to this server: it has the active version, or one that they may train on yet.
    pub fn is_usable(&self, server: &Server, exact: bool) -> bool {
        let current = self.active.is_none_or(|a| server.staged.contains(&a));
        current || !exact && server.active >= Some(self.floor)
    }

    /// A version waits for a server that has had its grace time.
    pub fn waits_in_vain(&self, now: Millis, grace: u64) -> bool {
        let waits = self.next.is_some_and(|next| self.active < Some(next));
        waits && now.since(self.asked_at) >= grace
    }

    /// Live servers that students may use.
    pub fn routed(&self) -> impl Iterator<Item = (&String, &Server)> {
        self.servers.iter().filter(|(_, s)| s.drained.is_empty())
    }

    /// The oldest version whose files some server may ask for: the one that serves, else the one that is to serve first.
    pub fn oldest_needed(&self) -> Option<u64> {
        self.active.or(self.next)
    }

    /// The version to serve next: the one chosen before, unless nobody could load it in the grace time (its files may be
    /// damaged). Then one that somebody has loaded by now, however long it took, else the newest.
    fn choose(&self, (now, grace): (Millis, u64)) -> Option<u64> {
        let has = |version: &u64| self.routed().any(|(_, s)| s.staged.contains(version));
        let in_time = now.since(self.asked_at) < grace;
        let chosen = self.next.filter(|v| self.versions.contains_key(v));
        chosen.filter(|v| in_time || has(v)).or_else(|| {
            let newer = self.versions.keys().rev().take_while(|v| self.active < Some(**v));
            newer.copied().find(has).or(self.newest())
        })
    }

    /// A server joined: what it loads first, and what serves.
    pub fn join(&mut self, worker: &str, address: &str, max_staleness: u64) -> Vec<u64> {
        let serves = self.active.map(|a| a.saturating_sub(max_staleness));
        let from = serves.or(self.next).or(self.newest()).unwrap_or(0);
        let stage: Vec<u64> = self.versions.range(from..).map(|(v, _)| *v).collect();
        let server = Server {
            address: address.to_owned(),
            asked: stage.iter().copied().collect(),
            ..Server::default()
        };
        self.servers.insert(worker.to_owned(), server);
        stage
    }

    /// The next step towards serving a newer version, if one can be taken. `in_turn`: no version is
    /// skipped (lockstep).
    pub fn next_step(
        &mut self,
        floors: &impl Floors,
        max_staleness: u64,
        in_turn: bool,
        (now, grace): (Millis, u64),
    ) -> Option<Step> {
        let candidate = match (in_turn, self.active) {
            (true, Some(active)) => *self.versions.range(active + 1..).next()?.0,
            (true, None) => *self.versions.keys().next()?,
            (false, _) => self.choose((now, grace))?,
        };
        if self.active >= Some(candidate) {
            return None;
        }
        if self.next != Some(candidate) {
            self.next = Some(candidate);
            self.asked_at = now;
        }
        let ask: Vec<String> = self
            .servers
            .iter_mut()
            .filter_map(|(name, s)| (s.drained.is_empty() && s.asked.insert(candidate)).then(|| name.clone()))
            .collect();
        if !ask.is_empty() {
            return Some(Step::Stage {
                servers: ask,
                version: candidate,
            });
        }
        if !self.is_staged(candidate, now.since(self.asked_at) >= grace) {
            return None;
        }
        let floor = candidate.saturating_sub(max_staleness);
        if floor > self.floor {
            if floors.needed().is_some_and(|needed| needed < floor) {
                return None;
            }
            self.floor = floor;
            return Some(Step::RaiseFloor(floor));
        }
        let lags = |student: &String| floors.of(student).is_some_and(|held| held < floor);
        if !self.lagging.as_ref().is_some_and(lags) {
            self.lagging = floors.below(floor);
        }
        if self.lagging.is_some() {
            return None;
        }
        self.active = Some(candidate);
        self.next = None;
        self.activations += 1;
        Some(Step::Activate {
            version: candidate,
            keep_from: floor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Source, Which};

    const GRACE: u64 = 1_000;
    const NOW: (Millis, u64) = (Millis(0), GRACE);

    impl<const N: usize> Floors for [u64; N] {
        fn needed(&self) -> Option<u64> {
            None
        }

        fn of(&self, student: &str) -> Option<u64> {
            self.get(student.parse::<usize>().ok()?).copied()
        }

        fn below(&self, floor: u64) -> Option<String> {
            let at = self.iter().position(|held| *held < floor)?;
            Some(at.to_string())
        }
    }

    fn teacher() -> Teacher {
        let mut t = Teacher::new(TeacherSpec {
            name: "t".into(),
            source: Source::Group {
                of: "t".into(),
                which: Which::Every,
            },
            replicas: 1,
        });
        t.publish(0, 0, None);
        assert_eq!(t.join("s", "http://a", 1), [0]);
        t.servers.get_mut("s").unwrap().staged.insert(0);
        t
    }

    #[test]
    fn a_version_serves_only_once_staged_and_every_floor_is_acknowledged() {
        let mut t = teacher();
        assert_eq!(
            t.next_step(&[0], 1, false, NOW),
            Some(Step::Activate {
                version: 0,
                keep_from: 0
            })
        );
        t.publish(1, 1, None);
        t.publish(2, 2, None);
        let stage = Step::Stage {
            servers: vec!["s".into()],
            version: 2,
        };
        assert_eq!(t.next_step(&[0], 1, false, NOW), Some(stage));
        assert_eq!(t.next_step(&[0], 1, false, NOW), None, "not staged yet");
        t.servers.get_mut("s").unwrap().staged.insert(2);
        assert_eq!(t.next_step(&[0], 1, false, NOW), Some(Step::RaiseFloor(1)));
        assert_eq!(
            t.next_step(&[0], 1, false, NOW),
            None,
            "a student may still train on version 0"
        );
        assert_eq!(
            t.next_step(&[1], 1, false, NOW),
            Some(Step::Activate {
                version: 2,
                keep_from: 1
            })
        );
        assert_eq!(t.next_step(&[1], 1, false, NOW), None);
        assert_eq!(t.activations, 2);
    }

    #[test]
    fn a_version_that_nobody_could_load_gives_way_to_a_newer_one() {
        let mut t = teacher();
        t.servers.clear();
        assert_eq!(t.next_step(&[], 1, false, NOW), None, "nobody has it");
        for version in 1..=5 {
            t.publish(version, version, None);
        }
        assert_eq!(t.next_step(&[], 1, false, NOW), None);
        assert_eq!(t.oldest_needed(), Some(0), "its files are kept meanwhile");
        let late = (Millis(GRACE), GRACE);
        assert_eq!(t.next_step(&[], 1, false, late), None);
        assert_eq!(t.oldest_needed(), Some(5));
        assert_eq!(t.join("s", "http://a", 1), [5]);
        t.servers.get_mut("s").unwrap().staged.insert(5);
        assert!(matches!(
            t.next_step(&[], 1, false, late),
            Some(Step::RaiseFloor(4))
        ));
        assert!(matches!(
            t.next_step(&[], 1, false, late),
            Some(Step::Activate { version: 5, .. })
        ));
    }

    #[test]
    fn who_loads_slower_than_versions_come_serves_all_the_same() {
        let mut t = teacher();
        t.next_step(&[], 1, false, NOW);
        let mut loaded = None;
        for version in 1..=20 {
            let now = (Millis(version * GRACE), GRACE);
            t.publish(version, version, None);
            while t.next_step(&[9], 1, false, now).is_some() {}
            if version == 6 {
                let s = t.servers.get_mut("s").unwrap();
                loaded = s.asked.iter().copied().find(|v| *v > 0);
                s.staged.extend(loaded);
            }
        }
        assert_eq!(loaded, Some(1), "asked for first");
        assert!(t.active >= loaded, "{:?} serves", t.active);
    }

    #[test]
    fn a_server_that_fails_to_stage_holds_a_version_back_for_the_grace_time_only() {
        let mut t = teacher();
        t.next_step(&[], 1, false, NOW);
        t.join("late", "http://b", 1);
        t.servers.get_mut("late").unwrap().staged.insert(0);
        t.servers.get_mut("late").unwrap().active = Some(0);
        t.publish(1, 1, None);
        assert!(matches!(
            t.next_step(&[], 1, false, NOW),
            Some(Step::Stage { .. })
        ));
        t.servers.get_mut("s").unwrap().staged.insert(1);
        assert_eq!(t.next_step(&[], 1, false, (Millis(GRACE - 1), GRACE)), None);
        assert!(t.waits_in_vain(Millis(GRACE), GRACE));
        let then = (Millis(GRACE), GRACE);
        assert!(matches!(
            t.next_step(&[], 1, false, then),
            Some(Step::Activate { version: 1, .. })
        ));
        assert!(!t.waits_in_vain(Millis(GRACE), GRACE));
        let usable = |t: &Teacher, exact| t.is_usable(&t.servers["late"], exact);
        assert!(usable(&t, false), "one version behind is allowed");
        assert!(!usable(&t, true), "lockstep wants the very version");
        // Nobody waits for it any more, and the floor passes it.
        t.publish(2, 2, None);
        t.next_step(&[9], 1, false, then);
        t.servers.get_mut("s").unwrap().staged.insert(2);
        assert!(matches!(
            t.next_step(&[9], 1, false, then),
            Some(Step::RaiseFloor(1))
        ));
        assert!(matches!(
            t.next_step(&[9], 1, false, then),
            Some(Step::Activate { version: 2, .. })
        ));
        assert!(!usable(&t, false));
        t.servers.get_mut("late").unwrap().staged.insert(2);
        assert!(usable(&t, false));
    }

    /// Students that hold every floor; what their groups may need yet.
    struct Needs(u64);

    impl Floors for Needs {
        fn needed(&self) -> Option<u64> {
            Some(self.0)
        }

        fn of(&self, _: &str) -> Option<u64> {
            None
        }

        fn below(&self, _: u64) -> Option<String> {
            None
        }
    }

    #[test]
    fn no_floor_passes_what_may_be_needed() {
        let mut t = teacher();
        t.next_step(&[], 0, true, NOW);
        t.publish(1, 1, None);
        t.servers.get_mut("s").unwrap().staged.insert(1);
        assert!(matches!(
            t.next_step(&Needs(0), 0, true, NOW),
            Some(Step::Stage { .. })
        ));
        assert_eq!(t.next_step(&Needs(0), 0, true, NOW), None);
        assert_eq!(t.next_step(&Needs(1), 0, true, NOW), Some(Step::RaiseFloor(1)));
        // What was durable was lost with the disk: it is done again by the oldest that serves.
        assert!(matches!(
            t.next_step(&Needs(0), 0, true, NOW),
            Some(Step::Activate { .. })
        ));
        assert_eq!(t.at_index(0), Some(1));
    }

    #[test]
    fn lockstep_skips_no_version() {
        let mut t = teacher();
        t.next_step(&[], 1, true, NOW);
        t.publish(1, 1, None);
        t.publish(2, 2, None);
        t.servers.get_mut("s").unwrap().staged.extend([1, 2]);
        assert!(matches!(
            t.next_step(&[], 1, true, NOW),
            Some(Step::Stage { version: 1, .. })
        ));
        assert_eq!(
            t.next_step(&[], 1, true, NOW),
            Some(Step::Activate {
                version: 1,
                keep_from: 0
            })
        );
        assert_eq!(t.at_index(1), Some(1));
        assert_eq!(t.at_index(2), None, "published, but not active");
    }

    #[test]
    fn a_damaged_version_is_not_waited_for() {
        let mut t = teacher();
        t.next_step(&[], 1, false, NOW);
        t.publish(1, 1, None);
        assert_eq!(t.forget_above(Some(0), 1), [1]);
        assert_eq!(t.next_step(&[], 1, false, NOW), None);
        t.publish(2, 1, None);
        assert!(matches!(
            t.next_step(&[], 1, true, NOW),
            Some(Step::Stage { version: 2, .. })
        ));
    }

    #[test]
    fn where_the_serving_version_is_lost_the_newest_intact_one_serves_and_the_floor_falls() {
        let mut t = teacher();
        t.publish(1, 1, None);
        (t.active, t.floor) = (Some(1), 1);
        let server = t.servers.values_mut().next().expect("one server");
        server.staged = [0, 1].into();
        assert_eq!(t.forget_above(Some(0), 0), [1]);
        assert_eq!((t.active, t.floor), (Some(0), 0));
        let server = t.servers.values().next().expect("one server");
        assert_eq!(
            server.staged,
            [0].into(),
            "nobody is sent to a version that is gone"
        );
    }

    #[test]
    fn nobody_waits_for_a_server_whose_control_stream_broke() {
        let mut t = teacher();
        t.join("dead", "http://b", 1);
        assert_eq!(t.next_step(&[0], 1, false, NOW), None, "not staged on both");
        t.servers.get_mut("dead").unwrap().away = true;
        assert!(matches!(
            t.next_step(&[0], 1, false, NOW),
            Some(Step::Activate { version: 0, .. })
        ));
    }

    #[test]
    fn no_server_no_activation() {
        let mut t = teacher();
        t.servers.clear();
        assert_eq!(t.next_step(&[], 1, false, NOW), None);
        assert_eq!(t.active, None);
    }
}
