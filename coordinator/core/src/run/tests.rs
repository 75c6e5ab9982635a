use proptest::prelude::*;
use retort_data::ranges::RangeSet;

use super::*;
use crate::ids::Refusal;
use crate::lease::Answer;
use crate::round::{Evaluation, Sums, Ticket, Work};
use crate::spec::{Alpha, GroupKind, GroupSpec, Pace, TeacherSpec};

const POSITIONS: u64 = 40;
const TTL: u64 = 100;

fn group(name: &str, kind: GroupKind, replicas: u32) -> GroupSpec {
    GroupSpec {
        name: name.into(),
        kind,
        replicas,
        epochs: 2,
        teachers: if kind == GroupKind::Student {
            vec!["t".into()]
        } else {
            Vec::new()
        },
        round_steps: 2,
        exchange: replicas > 1,
        publish_every: if kind == GroupKind::Teacher { 2 } else { 0 },
        evaluate_every: 1,
    }
}

fn run(groups: Vec<GroupSpec>) -> Run {
    let teachers = groups
        .iter()
        .filter(|g| g.kind == GroupKind::Teacher)
        .map(|g| TeacherSpec {
            name: g.name.clone(),
            trained: true,
            replicas: 1,
        })
        .collect();
    let spec = RunSpec {
        id: "r".into(),
        dataset_digest: "d".into(),
        positions: POSITIONS,
        block: 4,
        batch: 4,
        groups,
        teachers,
        lease_ttl: TTL,
        heartbeat: 10,
        checkpoint_every: 1_000_000,
        alpha: Alpha {
            from: 0.8,
            to: 0.8,
            over: 1.0,
        },
        gate: true,
        max_staleness: 1,
        pace: Pace::Students,
    };
    Run::new(spec, 3, Millis(0))
}

fn join(run: &mut Run, role: Role, worker: &str, now: u64) -> Result<Admission, Refusal> {
    let registration = Registration {
        role,
        worker: worker.into(),
        dataset_digest: "d".into(),
        address: "http://a".into(),
        device: String::new(),
    };
    run.register(registration, Millis(now))
}

fn commands(run: &mut Run) -> Vec<Command> {
    std::iter::from_fn(|| run.poll_command()).collect()
}

fn work(plan: &RoundPlan, epoch: u32, positions: std::ops::Range<u64>) -> Work {
    let samples = positions.end - positions.start;
    Work {
        generation: plan.generation,
        round: plan.round,
        epoch,
        trained: RangeSet::from(positions),
        steps: 1,
        sums: Sums {
            samples,
            ..Sums::default()
        },
        ..Work::default()
    }
}

/// Publishes what the session's group was asked to publish.
fn publish(run: &mut Run, session: &Session, plan: &RoundPlan) -> Ticket {
    let ticket = run.ticket(session, plan.generation, plan.round).unwrap();
    run.published(&ticket, None, Millis(0));
    ticket
}

#[test]
fn other_data_and_stale_sessions_are_refused() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let other = Registration {
        role: Role::StudentWorker,
        worker: "w".into(),
        dataset_digest: "e".into(),
        address: String::new(),
        device: String::new(),
    };
    assert!(matches!(r.register(other, Millis(0)), Err(Refusal::Mismatch(_))));
    let first = join(&mut r, Role::StudentWorker, "w", 0).unwrap();
    assert!(matches!(
        join(&mut r, Role::StudentWorker, "x", 0),
        Err(Refusal::NoPart { .. })
    ));
    let second = join(&mut r, Role::StudentWorker, "w", 1).unwrap();
    assert_eq!(second.session.incarnation, 2);
    assert!(
        matches!(r.lease(&first.session, Millis(1)), Err(Refusal::Fenced { .. })),
        "P3"
    );
    let old_term = Session {
        term: 2,
        ..second.session.clone()
    };
    assert!(
        matches!(r.lease(&old_term, Millis(1)), Err(Refusal::Fenced { .. })),
        "P3"
    );
    assert!(matches!(
        r.lease(&second.session, Millis(1)),
        Ok(Answer::Granted { .. })
    ));
}

#[test]
fn silence_ends_a_session_and_returns_its_leases() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "w", 0).unwrap();
    r.lease(&a.session, Millis(0)).unwrap();
    assert_eq!(r.poll_timeout(), Some(Millis(TTL)));
    r.handle_timeout(Millis(TTL - 1));
    assert_eq!(r.members().count(), 1);
    r.handle_timeout(Millis(TTL));
    assert_eq!(r.members().count(), 0);
    assert_eq!(r.groups()[0].ledger.counts(), [POSITIONS, 0, 0, 0, 0]);
}

#[test]
fn a_round_closes_when_every_replica_contributed_or_is_gone() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 2)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let b = join(&mut r, Role::StudentWorker, "b", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    assert!(plan.publish, "the first replica publishes version 0");
    publish(&mut r, &a.session, &plan);
    let Ok(Answer::Granted { positions, .. }) = r.lease(&a.session, Millis(0)) else {
        panic!("no lease");
    };
    r.contribute(
        &a.session,
        work(&plan, 0, positions.start..positions.start + 4),
        Millis(0),
    )
    .unwrap();
    assert!(commands(&mut r).is_empty(), "b has not contributed");
    let again = r.contribute(&a.session, work(&plan, 0, 0..4), Millis(0));
    assert!(matches!(again, Err(Refusal::Gone(_))), "one contribution a round");
    r.leave(&b.session, Millis(1)).unwrap();
    let closed = commands(&mut r).into_iter().find_map(|c| match c {
        Command::CloseRound(closed) => Some(closed),
        _ => None,
    });
    assert_eq!(closed.unwrap().members, [("a".to_owned(), 4)]);
    // The joiner has to wait for the next merge: the state is ahead of version 0.
    let b = join(&mut r, Role::StudentWorker, "b", 2).unwrap();
    assert_eq!(b.start.unwrap().0, Start::Join(Some(0)));
}

#[test]
fn a_lost_state_rolls_the_ledger_back_to_the_manifest() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    publish(&mut r, &a.session, &plan);
    r.lease(&a.session, Millis(0)).unwrap();
    r.contribute(&a.session, work(&plan, 0, 0..8), Millis(0)).unwrap();
    assert_eq!(r.groups()[0].ledger.counts()[2], 8);
    r.leave(&a.session, Millis(0)).unwrap();
    let b = join(&mut r, Role::StudentWorker, "b", 1).unwrap();
    assert_eq!(b.start.unwrap().0, Start::Restore(0));
    assert_eq!(r.groups()[0].ledger.counts(), [POSITIONS, 0, 0, 0, 0]);
    assert_eq!(r.groups()[0].ledger.rolled_back(), 8);
    assert_eq!(r.groups()[0].plan().generation, 1);
}

#[test]
fn a_version_waits_for_every_students_floor() {
    let mut r = run(vec![
        group("t", GroupKind::Teacher, 1),
        group("s", GroupKind::Student, 1),
    ]);
    let server = join(&mut r, Role::TeacherServer, "server", 0).unwrap();
    let teacher = join(&mut r, Role::StudentWorker, "x", 0).unwrap();
    let student = join(&mut r, Role::StudentWorker, "y", 0).unwrap();
    assert_eq!((teacher.part.as_str(), student.part.as_str()), ("t", "s"));
    let mut plan = teacher.start.as_ref().unwrap().1.clone();
    let mut staged = Heartbeat::default();
    for version in 0..3 {
        let ticket = publish(&mut r, &teacher.session, &plan);
        assert_eq!(ticket.version, version);
        staged.staged.insert(version);
        r.heartbeat(&server.session, staged.clone(), Millis(0)).unwrap();
        let active = r.teachers()[0].active;
        if version < 2 {
            assert_eq!(active, Some(version), "within max_staleness of version 0");
        } else {
            assert_eq!(active, Some(1), "P5: the student may still train on version 0");
            let floor = Message::Floor {
                teacher: "t".into(),
                version: 1,
            };
            assert!(commands(&mut r).iter().any(
                |c| matches!(c, Command::Send { worker, message } if worker == "y" && *message == floor)
            ));
            let mut held = Heartbeat::default();
            held.floors.insert("t".into(), 1);
            r.heartbeat(&student.session, held, Millis(0)).unwrap();
            assert_eq!(r.teachers()[0].active, Some(2));
            break;
        }
        let Ok(Answer::Granted { epoch, positions, .. }) = r.lease(&teacher.session, Millis(0)) else {
            panic!("no lease at version {version}");
        };
        let mut trained = work(&plan, epoch, positions);
        trained.steps = 2;
        r.contribute(&teacher.session, trained, Millis(0)).unwrap();
        // The student keeps pace, or the teacher would have to wait for it.
        let _ = r.lease(&student.session, Millis(0));
        plan = r.groups()[0].plan().clone();
    }
}

#[test]
fn students_hear_of_a_server_that_came_back_once_it_has_the_active_version() {
    let mut r = run(vec![
        group("t", GroupKind::Teacher, 1),
        group("s", GroupKind::Student, 1),
    ]);
    let server = join(&mut r, Role::TeacherServer, "server", 0).unwrap();
    let teacher = join(&mut r, Role::StudentWorker, "x", 0).unwrap();
    join(&mut r, Role::StudentWorker, "y", 0).unwrap();
    publish(&mut r, &teacher.session, &teacher.start.as_ref().unwrap().1);
    let mut staged = Heartbeat::default();
    staged.staged.insert(0);
    r.heartbeat(&server.session, staged.clone(), Millis(0)).unwrap();
    let again = join(&mut r, Role::TeacherServer, "server", 1).unwrap();
    assert_eq!((again.stage, again.active), (vec![0], Some(0)));
    let addresses = |r: &mut Run| {
        commands(r).into_iter().rev().find_map(|c| match c {
            Command::Send {
                worker,
                message: Message::Endpoints(e),
            } if worker == "y" => Some(e.addresses.len()),
            _ => None,
        })
    };
    assert_eq!(addresses(&mut r), Some(0), "it can answer nothing yet");
    r.heartbeat(&again.session, staged, Millis(1)).unwrap();
    assert_eq!(addresses(&mut r), Some(1));
}

#[test]
fn a_stopping_run_ends_even_if_a_replica_is_lost_with_its_state() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    publish(&mut r, &a.session, &plan);
    r.lease(&a.session, Millis(0)).unwrap();
    r.contribute(&a.session, work(&plan, 0, 0..4), Millis(0)).unwrap();
    r.stop("test", Millis(0));
    assert_eq!(
        r.state().0,
        State::Stopping,
        "what is merged can still be published"
    );
    r.handle_timeout(Millis(TTL));
    assert_eq!(r.state().0, State::Stopped);
}

#[test]
fn alpha_follows_the_measured_lead() {
    let mut r = run(vec![
        group("t", GroupKind::Teacher, 1),
        group("s", GroupKind::Student, 1),
    ]);
    let server = join(&mut r, Role::TeacherServer, "server", 0).unwrap();
    let teacher = join(&mut r, Role::StudentWorker, "x", 0).unwrap();
    let student = join(&mut r, Role::StudentWorker, "y", 0).unwrap();
    let loss = |loss| {
        Some(Evaluation {
            loss,
            accuracy: 0.5,
            samples: 10,
        })
    };
    let plan = teacher.start.unwrap().1;
    let ticket = r.ticket(&teacher.session, plan.generation, plan.round).unwrap();
    r.published(&ticket, loss(0.5), Millis(0));
    let mut staged = Heartbeat::default();
    staged.staged.insert(0);
    r.heartbeat(&server.session, staged, Millis(0)).unwrap();
    let plan = student.start.unwrap().1;
    publish(&mut r, &student.session, &plan);
    assert_eq!(plan.alpha, 0.0, "nothing is measured yet");
    r.lease(&student.session, Millis(0)).unwrap();
    let mut first = work(&plan, 0, 0..4);
    first.held_out = loss(2.0);
    r.contribute(&student.session, first, Millis(0)).unwrap();
    let plan = r.groups()[1].plan();
    assert_eq!(plan.gate.unwrap().lead, 0.75);
    assert!((plan.alpha - 0.8 * 0.75).abs() < 1e-12);
}

/// Session, whether it joins, what it holds, whether its contribution waits.
type Replica = (Session, bool, Vec<(u32, std::ops::Range<u64>)>, bool);

proptest! {
    /// Whatever replicas do and however they die, the lineage of durable versions holds every
    /// position of every closed epoch exactly once (P2); P1 is asserted inside.
    #[test]
    fn lineage_holds_each_position_once(events in prop::collection::vec((0u8..6, 0usize..3), 20..400)) {
        let mut r = run(vec![group("s", GroupKind::Baseline, 3)]);
        let names = ["a", "b", "c"];
        let mut sessions: BTreeMap<&str, Replica> = BTreeMap::new();
        let mut lineage: Vec<(u32, RangeSet)> = Vec::new();
        let mut now = 0;
        for (event, who) in events {
            now += 1;
            let name = names[who];
            match event {
                0 => if !sessions.contains_key(name) && let Ok(a) = join(&mut r, Role::StudentWorker, name, now) {
                    let joining = matches!(a.start, Some((Start::Join(_), _)));
                    sessions.insert(name, (a.session, joining, Vec::new(), false));
                },
                1 => if let Some((session, false, held, false)) = sessions.get_mut(name)
                    && let Ok(Answer::Granted { epoch, positions, .. }) = r.lease(session, Millis(now)) {
                    held.push((epoch, positions));
                },
                2 | 3 => if let Some((session, joining, held, waiting)) = sessions.get_mut(name) && !*waiting {
                    let plan = r.groups()[0].plan().clone();
                    let mut w = Work { generation: plan.generation, round: plan.round, joining: *joining, ..Work::default() };
                    if !*joining && let Some((epoch, positions)) = held.pop() {
                        w = work(&plan, epoch, positions);
                    }
                    prop_assert!(r.contribute(session, w, Millis(now)).is_ok());
                    *waiting = true;
                },
                4 => if let Some((session, ..)) = sessions.remove(name) {
                    r.leave(&session, Millis(now)).unwrap();
                },
                _ => {
                    // Whoever was asked to publish does.
                    let plan = r.groups()[0].plan().clone();
                    for round in 0..=plan.round {
                        for (session, ..) in sessions.values() {
                            if let Ok(ticket) = r.ticket(session, plan.generation, round) {
                                for merge in &ticket.merges {
                                    for cut in merge.contributions.iter().flat_map(|c| &c.trained) {
                                        lineage.push((cut.epoch, cut.positions.clone()));
                                    }
                                }
                                r.published(&ticket, None, Millis(now));
                            }
                        }
                    }
                }
            }
            for command in commands(&mut r) {
                match command {
                    Command::CloseRound(closed) => for (member, _) in &closed.members {
                        if let Some(s) = sessions.get_mut(member.as_str()) {
                            s.1 = false;
                            s.3 = false;
                        }
                    },
                    Command::AbortRound { workers } => for worker in workers {
                        if let Some((session, ..)) = sessions.remove(worker.as_str()) {
                            let _ = r.leave(&session, Millis(now));
                        }
                    },
                    Command::Send { .. } => {}
                }
            }
        }
        let ledger = &r.groups()[0].ledger;
        for epoch in 0..=ledger.epoch() {
            let mut seen = RangeSet::new();
            for (_, positions) in lineage.iter().filter(|(e, _)| *e == epoch) {
                for range in positions.iter() {
                    prop_assert_eq!(seen.insert(range.clone()), range.end - range.start, "{:?} twice", range);
                }
            }
            let expected = if epoch < ledger.epoch() { POSITIONS } else { ledger.counts()[3] };
            prop_assert_eq!(seen.len(), expected);
        }
    }
}
