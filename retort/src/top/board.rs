//! What is known of a run, and what the user chose.

use std::fmt;

use ratatui::crossterm::event::KeyCode;
use retort_proto::pb;

use crate::status;

/// An order to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verb {
    Pause,
    Resume,
    Stop,
    /// Name of a worker or a teacher server.
    Drain(String),
}

/// As it is asked for and reported.
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause => f.write_str("pause the run"),
            Self::Resume => f.write_str("resume the run"),
            Self::Stop => f.write_str("stop the run (it can be resumed)"),
            Self::Drain(worker) => write!(f, "drain {worker}"),
        }
    }
}

/// What the curves show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Curves {
    #[default]
    Accuracy,
    HeldOutLoss,
    HardLoss,
    Kl,
    GradientShare,
    Staleness,
}

impl Curves {
    pub(super) const ALL: [Self; 6] = [
        Self::Accuracy,
        Self::HeldOutLoss,
        Self::HardLoss,
        Self::Kl,
        Self::GradientShare,
        Self::Staleness,
    ];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|c| *c == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Accuracy => "held-out accuracy, %",
            Self::HeldOutLoss => "held-out loss, nats",
            Self::HardLoss => "hard loss, nats",
            Self::Kl => "KL from the teachers, nats",
            Self::GradientShare => "teacher's share of the gradient, %",
            Self::Staleness => "versions behind the newest",
        }
    }

    /// `None`: the point has no such value.
    pub(super) fn value(self, point: &pb::CurvePoint) -> Option<f64> {
        match self {
            Self::Accuracy => point.held_out_accuracy.map(|a| 100.0 * a),
            Self::HeldOutLoss => point.held_out_loss,
            Self::HardLoss => point.hard_loss,
            Self::Kl => point.kl,
            Self::GradientShare => point.gradient_share.map(|share| 100.0 * share),
            Self::Staleness => point.staleness,
        }
    }
}

/// A member of the fleet, as the table lists it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    /// The group it trains or the teacher it serves.
    pub(super) part: String,
    pub(super) device: String,
    pub(super) samples_per_s: f64,
    /// Samples leased by a worker, queued at a server.
    pub(super) holds: u64,
    pub(super) silent_ms: u64,
    /// What slows it, or why it does not serve.
    pub(super) note: String,
}

#[derive(Debug, Default)]
pub(super) struct Board {
    state: Option<pb::RunStatus>,
    /// Why nothing new comes; empty: it does.
    away: String,
    message: String,
    /// What waits for a yes.
    asked: Option<Verb>,
    pub(super) chosen: usize,
    pub(super) curves: Curves,
}

impl Board {
    pub(super) fn show(&mut self, state: pb::RunStatus) {
        self.away.clear();
        self.state = Some(state);
        self.chosen = self.chosen.min(self.members().len().saturating_sub(1));
    }

    pub(super) fn away(&mut self, reason: String) {
        self.away = reason;
    }

    pub(super) fn say(&mut self, message: String) {
        self.message = message;
    }

    pub(super) fn state(&self) -> Option<&pb::RunStatus> {
        self.state.as_ref()
    }

    /// The shown run's id; empty before there is one.
    pub(super) fn run(&self) -> &str {
        self.state().map_or("", |s| &s.run)
    }

    /// Workers, then teacher servers.
    pub(super) fn members(&self) -> Vec<Member> {
        let Some(state) = self.state() else {
            return Vec::new();
        };
        let workers = state.groups.iter().flat_map(|group| {
            group.workers.iter().map(|w| Member {
                name: w.worker.clone(),
                part: group.name.clone(),
                device: w.device.clone(),
                samples_per_s: w.samples_per_s,
                holds: w.leased,
                silent_ms: w.silent_ms,
                note: slowed(group, w),
            })
        });
        let servers = state.teachers.iter().flat_map(|teacher| {
            teacher.servers.iter().map(|s| Member {
                name: s.worker.clone(),
                part: format!("{} (server)", teacher.name),
                device: s.device.clone(),
                samples_per_s: s.samples_per_s,
                holds: s.queued_samples,
                silent_ms: s.silent_ms,
                note: s.drained.clone(),
            })
        });
        workers.chain(servers).collect()
    }

    /// The last line: what was asked, what came of it, or why nothing comes.
    pub(super) fn line(&self) -> String {
        match &self.asked {
            Some(verb) => format!("{verb}? y: yes, any other key: no"),
            None if !self.away.is_empty() => format!("no news: {}", self.away),
            None => self.message.clone(),
        }
    }

    /// Whether the last line wants the user's eye.
    pub(super) fn urgent(&self) -> bool {
        self.asked.is_some() || !self.away.is_empty()
    }

    /// A key that was pressed; an order once it was confirmed.
    pub(super) fn press(&mut self, key: KeyCode) -> Option<Verb> {
        self.message.clear();
        if let Some(verb) = self.asked.take() {
            return (key == KeyCode::Char('y')).then_some(verb);
        }
        let last = self.members().len().saturating_sub(1);
        match key {
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.chosen = (self.chosen + 1).min(last),
            KeyCode::Tab | KeyCode::Char('c') => self.curves = self.curves.next(),
            KeyCode::Char('p') => {
                self.asked = self.paused().map(|p| if p { Verb::Resume } else { Verb::Pause })
            }
            KeyCode::Char('s') => self.asked = self.state().map(|_| Verb::Stop),
            KeyCode::Char('d') => {
                let member = self.members().into_iter().nth(self.chosen);
                self.asked = member.map(|m| Verb::Drain(m.name));
            }
            _ => {}
        }
        None
    }

    /// Whether the run stands still; `None` without a run.
    fn paused(&self) -> Option<bool> {
        let state = self.state()?;
        Some(matches!(state.state.as_str(), "paused" | "stopped" | "stopping"))
    }
}

/// What most of a worker's time was lost to, and who waits for whom.
fn slowed(group: &pb::GroupStatus, worker: &pb::WorkerStatus) -> String {
    let waits = (worker.leased == 0).then(|| group.waiting_for.clone());
    let late = worker.waited_for.then(|| "the others wait for it".to_owned());
    let told = [status::stall(worker), late, waits].into_iter().flatten();
    let told: Vec<String> = told.filter(|part| !part.is_empty()).collect();
    told.join("; ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run with a teacher that learns, its server, and a student of two replicas.
    pub(in super::super) fn running() -> pb::RunStatus {
        let worker = |name: &str, leased| pb::WorkerStatus {
            worker: name.into(),
            device: "flex".into(),
            samples_per_s: 1234.5,
            leased,
            silent_ms: 40,
            spent: vec![3.0, 0.0, 6.0, 0.5, 0.5, 0.0],
            ..Default::default()
        };
        let curve = (0..20).map(|i| pb::CurvePoint {
            positions: 64 * i,
            held_out_accuracy: (i % 2 == 0).then_some(0.5 + 0.02 * i as f64),
            hard_loss: Some(2.0 / (1.0 + i as f64)),
            ..Default::default()
        });
        let group = |name: &str, kind: &str, workers| pb::GroupStatus {
            name: name.into(),
            kind: kind.into(),
            phase: "training".into(),
            epochs: 40,
            epoch: 3,
            steps: 77,
            ledger: Some(pb::LedgerStatus {
                available: 1000,
                leased: 128,
                acked: 64,
                committed: 105,
                total_committed: 3996,
                ..Default::default()
            }),
            alpha: 0.9,
            workers,
            curve: curve.clone().collect(),
            waiting_for: "a newer version".into(),
            ..Default::default()
        };
        pb::RunStatus {
            run: "r1".into(),
            name: "digits".into(),
            state: "running".into(),
            age_s: 12.0,
            positions_per_epoch: 1297,
            groups: vec![
                group("wide", "teacher", vec![worker("w0", 64)]),
                group("small", "student", vec![worker("w1", 0), worker("w2", 64)]),
            ],
            teachers: vec![pb::TeacherStatus {
                name: "wide".into(),
                source: "trained".into(),
                published: Some(8),
                active: Some(7),
                servers: vec![pb::ServerStatus {
                    worker: "t0".into(),
                    device: "flex".into(),
                    samples_per_s: 2500.0,
                    queued_samples: 500,
                    queue_wait_s: Some(0.2),
                    counters: [("hits".to_owned(), 3), ("misses".to_owned(), 1)].into(),
                    drained: "answers with NaN".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            events: vec![pb::Event {
                at_s: 1.5,
                text: "w1 joined small".into(),
                kind: "member".into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn an_order_is_given_only_after_a_yes() {
        let mut board = Board::default();
        assert_eq!(board.press(KeyCode::Char('p')), None);
        assert_eq!(board.press(KeyCode::Char('y')), None, "there is no run yet");
        board.show(running());
        board.press(KeyCode::Char('p'));
        assert_eq!(board.line(), "pause the run? y: yes, any other key: no");
        assert_eq!(board.press(KeyCode::Char('n')), None);
        assert_eq!(board.press(KeyCode::Char('y')), None, "it was refused");
        board.press(KeyCode::Char('s'));
        assert_eq!(board.press(KeyCode::Char('y')), Some(Verb::Stop));
    }

    #[test]
    fn the_chosen_member_is_drained_and_a_paused_run_resumed() {
        let mut board = Board::default();
        board.show(running());
        let names: Vec<String> = board.members().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["w0", "w1", "w2", "t0"]);
        for _ in 0..9 {
            board.press(KeyCode::Down);
        }
        board.press(KeyCode::Up);
        board.press(KeyCode::Char('d'));
        assert_eq!(board.press(KeyCode::Char('y')), Some(Verb::Drain("w2".into())));
        let mut state = running();
        state.state = "paused".into();
        state.groups.clear();
        board.show(state);
        assert_eq!(board.chosen, 0, "fewer members are left");
        board.press(KeyCode::Char('p'));
        assert_eq!(board.press(KeyCode::Char('y')), Some(Verb::Resume));
    }

    #[test]
    fn a_member_says_what_slows_it() {
        let mut board = Board::default();
        let mut state = running();
        state.groups[1].workers[1].waited_for = true;
        state.groups[0].workers[0].spent.clear();
        board.show(state);
        let notes: Vec<String> = board.members().into_iter().map(|m| m.note).collect();
        assert_eq!(
            notes,
            [
                "",
                "teacher 60 %; a newer version",
                "teacher 60 %; the others wait for it",
                "answers with NaN"
            ]
        );
    }

    #[test]
    fn the_teachers_share_of_the_gradient_is_among_the_curves() {
        let point = pb::CurvePoint {
            gradient_share: Some(0.25),
            ..Default::default()
        };
        let shown: Vec<Curves> = Curves::ALL
            .into_iter()
            .filter(|curves| curves.value(&point).is_some())
            .collect();
        assert_eq!(shown, [Curves::GradientShare]);
        assert_eq!(Curves::GradientShare.value(&point), Some(25.0));
    }
}
