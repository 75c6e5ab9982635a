mod committing;
mod standing;

use proptest::prelude::*;
use retort_data::ranges::RangeSet;

use super::*;
use crate::group::Contributed;
use crate::ids::Refusal;
use crate::lease::{Answer, Reason};
use crate::round::{Claim, Evaluation, Member, Sums, Ticket, Work};
use crate::spec::{GroupKind, GroupSpec, Pace, Source, TeacherSpec, Which};

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
        alpha: 0.8.into(),
        round_steps: 2,
        exchange: replicas > 1,
        hands_over: false,
        shared: None,
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
            source: Source::Group {
                of: g.name.clone(),
                which: Which::Every,
            },
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
        gate: true,
        max_staleness: 1,
        pace: Pace::Students,
    };
    Run::new(spec, 3, Millis(0))
}

fn join(run: &mut Run, role: Role, worker: &str, now: u64) -> Result<Admission, Refusal> {
    run.register(registration(role, worker), Millis(now))
}

fn registration(role: Role, worker: &str) -> Registration {
    Registration {
        role,
        worker: worker.into(),
        dataset_digest: "d".into(),
        address: "http://a".into(),
        process: next(),
        attempt: 1,
        claim: None,
        floors: BTreeMap::new(),
    }
}

/// Numbers requests for work.
fn next() -> u64 {
    static SEQUENCE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    SEQUENCE.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Lets time pass, and the run look at it whenever it wants to.
fn pass(run: &mut Run, until: u64) {
    while let Some(at) = run.poll_timeout().filter(|at| *at <= Millis(until)) {
        run.handle_timeout(at);
    }
}

#[test]
fn nobody_is_silent_because_the_coordinator_was_stopped() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    join(&mut r, Role::StudentWorker, "w", 0).unwrap();
    r.handle_timeout(Millis(10 * TTL));
    assert_eq!(r.members().count(), 1);
    pass(&mut r, 11 * TTL);
    assert_eq!(r.members().count(), 0);
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
        process: next(),
        attempt: 1,
        claim: None,
        floors: BTreeMap::new(),
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
        matches!(
            r.lease(&first.session, (next(), u64::MAX), Millis(1)),
            Err(Refusal::Fenced { .. })
        ),
        "P3"
    );
    let old_term = Session {
        term: 2,
        ..second.session.clone()
    };
    assert!(
        matches!(
            r.lease(&old_term, (next(), u64::MAX), Millis(1)),
            Err(Refusal::Fenced { .. })
        ),
        "P3"
    );
    assert!(matches!(
        r.lease(&second.session, (next(), u64::MAX), Millis(1)),
        Ok(Answer::Granted { .. })
    ));
}

#[test]
fn silence_ends_a_session_and_returns_its_leases() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "w", 0).unwrap();
    r.lease(&a.session, (next(), u64::MAX), Millis(0)).unwrap();
    pass(&mut r, TTL - 1);
    assert_eq!(r.members().count(), 1);
    pass(&mut r, TTL);
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
    let Ok(Answer::Granted { positions, .. }) = r.lease(&a.session, (next(), u64::MAX), Millis(0)) else {
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
    assert_eq!(again, Ok(Contributed::Waiting), "a retry changes nothing");
    let other = r.contribute(&a.session, work(&plan, 0, 4..8), Millis(0));
    assert!(matches!(other, Err(Refusal::Gone(_))), "one contribution a round");
    r.leave(&b.session, Millis(1)).unwrap();
    let closed = commands(&mut r).into_iter().find_map(|c| match c {
        Command::CloseRound(closed) => Some(closed),
        _ => None,
    });
    let closed = closed.unwrap();
    assert_eq!(
        closed
            .members
            .iter()
            .map(|m| (m.worker.as_str(), m.samples))
            .collect::<Vec<_>>(),
        [("a", 4)]
    );
    // The joiner has to wait for the next merge: the state is ahead of version 0.
    let b = join(&mut r, Role::StudentWorker, "b", 2).unwrap();
    assert_eq!(b.start.unwrap().0, Start::Join(Some(0)));
}

#[test]
fn a_grant_is_repeated_until_it_has_arrived() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let first = r.lease(&a.session, (1, 0), Millis(0)).unwrap();
    assert!(matches!(first, Answer::Granted { .. }));
    // Its answer was lost: the worker asks again, and a late copy of the first request comes too.
    assert_eq!(r.lease(&a.session, (2, 0), Millis(0)).unwrap(), first);
    assert_eq!(r.lease(&a.session, (1, 0), Millis(0)).unwrap(), first);
    assert_ne!(r.lease(&a.session, (3, 2), Millis(0)).unwrap(), first);
}

#[test]
fn a_late_copy_of_a_release_takes_nothing_that_was_leased_again() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let session = join(&mut r, Role::StudentWorker, "w", 0).unwrap().session;
    let granted = |r: &mut Run, sequence| match r.lease(&session, (sequence, sequence - 1), Millis(0)) {
        Ok(Answer::Granted { positions, .. }) => RangeSet::from(positions),
        other => panic!("{other:?}"),
    };
    let first = granted(&mut r, 1);
    let held = |r: &Run| r.groups[0].ledger.held_by("w");
    r.release(&session, 1, (0, &first)).unwrap();
    assert_eq!(held(&r), 0);
    assert_eq!(granted(&mut r, 2), first, "leased again");
    r.release(&session, 1, (0, &first)).unwrap();
    assert_eq!(held(&r), first.len());
    r.release(&session, 2, (0, &first)).unwrap();
    assert_eq!(held(&r), 0);
}

#[test]
fn a_publisher_that_never_heard_of_it_blocks_nothing() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    r.lease(&a.session, (1, 0), Millis(0)).unwrap();
    // It was asked for version 0 and contributes without having made it.
    r.contribute(&a.session, work(&plan, 0, 0..8), Millis(0)).unwrap();
    let closed = commands(&mut r).into_iter().find_map(|c| match c {
        Command::CloseRound(closed) => Some(closed),
        _ => None,
    });
    let next = closed.unwrap().plan_of("a");
    assert!(next.publish, "it is asked again");
    assert_eq!(publish(&mut r, &a.session, &next).version, 0);
}

/// A coordinator that starts again with what this one wrote.
fn restart(r: &mut Run, now: u64) -> Run {
    let records = r
        .take_writes()
        .into_iter()
        .filter_map(|(_, record)| record)
        .collect();
    Run::restore(r.spec.clone(), (4, Millis(now)), records, &BTreeMap::new())
}

fn claim(r: &mut Run, worker: &str, claim: Claim, now: u64) -> Result<Admission, Refusal> {
    let registration = Registration {
        role: Role::StudentWorker,
        worker: worker.into(),
        dataset_digest: "d".into(),
        address: String::new(),
        process: next(),
        attempt: 1,
        claim: Some(claim),
        floors: BTreeMap::new(),
    };
    r.register(registration, Millis(now))
}

#[test]
fn after_a_restart_replicas_claim_what_they_hold_and_nobody_else_gets_it() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 2)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    join(&mut r, Role::StudentWorker, "b", 0).unwrap();
    r.lease(&a.session, (1, 0), Millis(0)).unwrap();
    let mut r = restart(&mut r, 1);
    assert!(matches!(
        r.lease(&a.session, (2, 1), Millis(1)),
        Err(Refusal::Fenced { .. })
    ));
    let held = Claim {
        part: "s".into(),
        trained: (0..4).into(),
        held: (4..16).into(),
        ..Claim::default()
    };
    let a = claim(&mut r, "a", held, 2).unwrap();
    assert_eq!((a.session.term, a.session.incarnation), (4, 2));
    assert_eq!(a.start.unwrap().0, Start::Resume((4..16).into()));
    // b may still come back with leases of its own.
    let waits = r.lease(&a.session, (1, 0), Millis(3)).unwrap();
    assert_eq!(waits, Answer::Idle(Reason::Reclaim));
    let newcomer = join(&mut r, Role::StudentWorker, "c", 4);
    assert!(matches!(
        newcomer,
        Err(Refusal::NoPart { .. } | Refusal::Wait { .. })
    ));
    for at in [50, 100, 101] {
        r.heartbeat(&a.session, Heartbeat::default(), Millis(at)).unwrap();
        pass(&mut r, at);
    }
    let granted = r.lease(&a.session, (2, 0), Millis(102)).unwrap();
    assert!(matches!(granted, Answer::Granted { positions, .. } if positions.start == 16));
}

#[test]
fn a_merge_that_nobody_received_is_undone_and_brought_again() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    publish(&mut r, &a.session, &plan);
    r.lease(&a.session, (1, 0), Millis(0)).unwrap();
    r.contribute(&a.session, work(&plan, 0, 0..8), Millis(0)).unwrap();
    let manifests = BTreeMap::from([(
        "s".to_owned(),
        crate::manifest::Manifest {
            group: "s".into(),
            ..Default::default()
        },
    )]);
    let records = r
        .take_writes()
        .into_iter()
        .filter_map(|(_, record)| record)
        .collect();
    let mut r = Run::restore(r.spec.clone(), (4, Millis(1)), records, &manifests);
    assert_eq!(r.groups()[0].ledger.counts()[2], 8, "recorded as merged");
    let held = Claim {
        part: "s".into(),
        trained: (0..8).into(),
        ..Claim::default()
    };
    let a = claim(&mut r, "a", held, 2).unwrap();
    let (start, plan) = a.start.unwrap();
    assert_eq!((start, plan.generation), (Start::Resume(RangeSet::new()), 1));
    assert_eq!(r.groups()[0].ledger.counts()[1..3], [8, 0]);
    r.contribute(&a.session, work(&plan, 0, 0..8), Millis(3)).unwrap();
    assert_eq!(r.groups()[0].ledger.counts()[1..3], [0, 8]);
}

#[test]
fn a_late_copy_of_a_registration_fences_nobody() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let registration = |attempt| Registration {
        role: Role::StudentWorker,
        worker: "a".into(),
        dataset_digest: "d".into(),
        address: String::new(),
        process: 7,
        attempt,
        claim: None,
        floors: BTreeMap::new(),
    };
    let a = r.register(registration(2), Millis(0)).unwrap();
    assert!(matches!(
        r.register(registration(1), Millis(1)),
        Err(Refusal::Gone(_))
    ));
    assert!(r.lease(&a.session, (1, 0), Millis(1)).is_ok());
    assert!(
        r.register(registration(3), Millis(2)).is_ok(),
        "its own next attempt"
    );
}

#[test]
fn an_overdue_replica_loses_its_leases_to_the_others() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 2)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let b = join(&mut r, Role::StudentWorker, "b", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    r.lease(&a.session, (1, 0), Millis(0)).unwrap();
    r.lease(&b.session, (1, 0), Millis(0)).unwrap();
    r.contribute(&a.session, work(&plan, 0, 0..8), Millis(10))
        .unwrap();
    for at in (20..200).step_by(10) {
        for session in [&a.session, &b.session] {
            r.heartbeat(session, Heartbeat::default(), Millis(at)).unwrap();
        }
        pass(&mut r, at);
    }
    let told = commands(&mut r);
    assert!(
        told.iter()
            .any(|c| matches!(c, Command::Send { worker, message: Message::Revoke { .. } } if worker == "b"))
    );
    assert!(
        told.iter().any(|c| matches!(c, Command::CloseRound(_))),
        "a waits no longer"
    );
    assert_eq!(r.groups()[0].ledger.held_by("b"), 0);

    // b joins the next merge; then a copy of its old request arrives.
    let joins = Work {
        joining: true,
        ..Work::default()
    };
    r.contribute(&b.session, joins, Millis(200)).unwrap();
    let plan = r.groups()[0].plan().clone();
    r.contribute(&a.session, work(&plan, 0, 8..8), Millis(200))
        .unwrap();
    assert!(r.groups()[0].holds_state("b"));
    let told = r.lease(&b.session, (1, 0), Millis(200)).unwrap();
    assert_eq!(
        told,
        Answer::Idle(Reason::Contribute),
        "nobody would hear of a grant"
    );
    assert_eq!(r.groups()[0].ledger.held_by("b"), 0);
    let told = r.lease(&b.session, (2, 0), Millis(200)).unwrap();
    assert!(matches!(told, Answer::Granted { .. }));
}

#[test]
fn an_open_round_names_the_replica_that_the_others_wait_for() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 2)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let b = join(&mut r, Role::StudentWorker, "b", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    let awaited = |r: &Run| ["a", "b"].map(|worker| r.groups()[0].waits_for(worker));
    assert_eq!(awaited(&r), [false, false], "nobody waits yet");
    let nothing = work(&plan, 0, 0..0);
    r.contribute(&a.session, nothing.clone(), Millis(0)).unwrap();
    assert_eq!(awaited(&r), [false, true]);
    r.contribute(&b.session, nothing, Millis(0)).unwrap();
    assert_eq!(awaited(&r), [false, false], "the round has closed");
}

#[test]
fn a_drained_replica_hands_over_and_does_not_come_back() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 2)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    join(&mut r, Role::StudentWorker, "b", 0).unwrap();
    publish(&mut r, &a.session, &a.start.as_ref().unwrap().1);
    r.drain("a", Millis(0)).unwrap();
    let told = r.lease(&a.session, (1, 0), Millis(0)).unwrap();
    assert!(matches!(told, Answer::Finish(_)), "b has the state too: {told:?}");
    r.leave(&a.session, Millis(0)).unwrap();
    assert!(!r.wants(Role::StudentWorker, "a"));
    assert!(matches!(
        join(&mut r, Role::StudentWorker, "a", 1),
        Err(Refusal::Gone(_))
    ));
    r.resume(Millis(2)).unwrap();
    assert!(join(&mut r, Role::StudentWorker, "a", 3).is_ok());
}

#[test]
fn a_paused_run_gives_no_work_and_a_stopped_one_can_go_on() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    r.pause(Millis(0)).unwrap();
    let told = r.lease(&a.session, (1, 0), Millis(0)).unwrap();
    assert_eq!(told, Answer::Idle(Reason::Paused));
    r.resume(Millis(1)).unwrap();
    assert!(matches!(
        r.lease(&a.session, (2, 0), Millis(1)),
        Ok(Answer::Granted { .. })
    ));
    r.stop("test", Millis(2)).unwrap();
    r.leave(&a.session, Millis(3)).unwrap();
    assert_eq!(r.state().0, State::Stopped);
    r.resume(Millis(4)).unwrap();
    assert!(join(&mut r, Role::StudentWorker, "a", 5).is_ok());
}

#[test]
fn a_run_that_was_stopped_when_all_was_done_ends_when_it_is_resumed() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let mut plan = a.start.as_ref().unwrap().1.clone();
    publish(&mut r, &a.session, &plan);
    for epoch in 0..2 {
        while let Ok(Answer::Granted { positions, .. }) = r.lease(&a.session, (next(), u64::MAX), Millis(0)) {
            let all = work(&plan, epoch, positions);
            r.contribute(&a.session, all, Millis(0)).unwrap();
            plan = r.groups()[0].plan().clone();
        }
        publish(&mut r, &a.session, &plan);
    }
    assert_eq!(r.state().0, State::Done);
    // As if the stop had come first.
    r.state = State::Stopped;
    r.resume(Millis(1)).unwrap();
    assert_eq!(r.state().0, State::Done);
}

#[test]
fn a_lost_state_rolls_the_ledger_back_to_the_manifest() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    publish(&mut r, &a.session, &plan);
    r.lease(&a.session, (next(), u64::MAX), Millis(0)).unwrap();
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
        let Ok(Answer::Granted { epoch, positions, .. }) =
            r.lease(&teacher.session, (next(), u64::MAX), Millis(0))
        else {
            panic!("no lease at version {version}");
        };
        let mut trained = work(&plan, epoch, positions);
        trained.steps = 2;
        r.contribute(&teacher.session, trained, Millis(0)).unwrap();
        // The student keeps pace, or the teacher would have to wait for it.
        let _ = r.lease(&student.session, (next(), u64::MAX), Millis(0));
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
    r.lease(&a.session, (next(), u64::MAX), Millis(0)).unwrap();
    r.contribute(&a.session, work(&plan, 0, 0..4), Millis(0)).unwrap();
    r.stop("test", Millis(0)).unwrap();
    assert_eq!(
        r.state().0,
        State::Stopping,
        "what is merged can still be published"
    );
    pass(&mut r, TTL);
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
    r.lease(&student.session, (next(), u64::MAX), Millis(0)).unwrap();
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
                    && let Ok(Answer::Granted { epoch, positions, .. }) = r.lease(session, (next(), u64::MAX), Millis(now)) {
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
                    Command::CloseRound(closed) => for Member { worker: member, .. } in &closed.members {
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
                    Command::Send { .. } | Command::Waits { .. } => {}
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

#[test]
fn a_server_that_its_students_find_slow_is_named_until_it_recovers() {
    let mut spec = run(vec![
        group("t", GroupKind::Teacher, 1),
        group("s", GroupKind::Student, 3),
    ])
    .spec;
    spec.teachers[0].replicas = 2;
    let mut r = Run::new(spec, 3, Millis(0));
    for (i, name) in ["fast", "gray"].into_iter().enumerate() {
        let registration = Registration {
            address: format!("http://{name}"),
            ..registration(Role::TeacherServer, name)
        };
        r.register(registration, Millis(i as u64)).unwrap();
    }
    let students: Vec<Session> = (0..4)
        .map(|i| {
            join(&mut r, Role::StudentWorker, &format!("w{i}"), 0)
                .unwrap()
                .session
        })
        .collect();
    let mut beat = |rates: [f64; 4], now: u64| {
        for (student, rate) in students.iter().zip(rates) {
            let answers = [
                ("http://fast".to_owned(), 1_000.0),
                ("http://gray".to_owned(), rate),
            ];
            let heartbeat = Heartbeat {
                answers: answers.into(),
                ..Heartbeat::default()
            };
            r.heartbeat(student, heartbeat, Millis(now)).unwrap();
        }
        r.handle_timeout(Millis(now));
        let said = r
            .events()
            .map(|e| &e.text)
            .filter(|text| text.contains("samples/s"));
        said.cloned().collect::<Vec<_>>()
    };
    assert!(beat([900.0; 4], 10).is_empty());
    assert!(
        beat([900.0, 900.0, 900.0, 10.0], 20).is_empty(),
        "one slow link is not the server"
    );
    assert_eq!(
        beat([100.0; 4], 30),
        ["teacher t: server gray is slow: 100 samples/s, the fastest 1000"]
    );
    assert_eq!(beat([400.0; 4], 40).len(), 1, "said once");
    assert!(beat([900.0; 4], 50)[1].contains("server gray has recovered"));
}

#[test]
fn who_is_handed_the_state_does_not_publish_it() {
    let mut spec = group("s", GroupKind::Baseline, 2);
    (spec.hands_over, spec.publish_every) = (true, 1);
    let mut r = run(vec![spec]);
    let close = |r: &mut Run| {
        let closed = commands(r).into_iter().find_map(|c| match c {
            Command::CloseRound(closed) => Some(closed),
            _ => None,
        });
        closed.expect("the round closes")
    };
    let z = join(&mut r, Role::StudentWorker, "z", 0).unwrap();
    let plan = z.start.as_ref().unwrap().1.clone();
    publish(&mut r, &z.session, &plan);
    r.lease(&z.session, (1, 0), Millis(0)).unwrap();
    r.contribute(&z.session, work(&plan, 0, 0..4), Millis(1)).unwrap();
    let closed = close(&mut r);
    assert_eq!((closed.publisher.as_deref(), closed.giver), (Some("z"), None));
    let plan = closed.plan.clone();
    // The first by name comes while the merge is not durable, and waits for a state of its own.
    let a = join(&mut r, Role::StudentWorker, "a", 2).unwrap();
    assert!(matches!(a.start, Some((Start::Join(_), _))), "{:?}", a.start);
    let joins = Work {
        joining: true,
        ..Work::default()
    };
    r.contribute(&a.session, joins, Millis(2)).unwrap();
    publish(&mut r, &z.session, &plan);
    r.contribute(&z.session, work(&plan, 0, 4..8), Millis(3)).unwrap();
    let closed = close(&mut r);
    assert_eq!(
        (closed.publisher.as_deref(), closed.giver.as_deref()),
        (Some("z"), Some("z"))
    );
    let asked = ["a", "z"]
        .map(|name| closed.plan_of(name))
        .map(|p| (p.publish, p.hand_over));
    assert_eq!(asked, [(false, false), (true, true)]);
}

#[test]
fn a_run_has_room_for_so_many_members_and_no_more() {
    let mut spec = run(vec![group("t", GroupKind::Teacher, 1)]).spec;
    spec.teachers[0].replicas = 10_000;
    let mut r = Run::new(spec, 3, Millis(0));
    let server = |i: usize| format!("t{i}");
    let mut last = None;
    for i in 0..4_096 {
        last = Some(join(&mut r, Role::TeacherServer, &server(i), 0).unwrap());
    }
    let full = join(&mut r, Role::TeacherServer, "more", 0).unwrap_err();
    assert!(matches!(full, Refusal::Full { limit: 4_096, .. }), "{full}");
    // Who is in may register again, and whoever leaves makes room.
    join(&mut r, Role::TeacherServer, &server(7), 0).unwrap();
    r.leave(&last.unwrap().session, Millis(0)).unwrap();
    join(&mut r, Role::TeacherServer, "more", 0).unwrap();
}

#[test]
fn an_operator_tunes_a_run_from_the_next_lease_and_round_on() {
    let groups = vec![
        group("t", GroupKind::Teacher, 1),
        group("s", GroupKind::Student, 1),
    ];
    let mut r = run(groups);
    r.spec.gate = false;
    r.spec.pace = Pace::Free;
    let t = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let s = join(&mut r, Role::StudentWorker, "b", 0).unwrap();
    assert_eq!((t.part.as_str(), s.part.as_str()), ("t", "s"));
    let lease = |r: &mut Run| match r.lease(&s.session, (next(), u64::MAX), Millis(1)) {
        Ok(Answer::Granted {
            positions,
            temperature,
            ..
        }) => (positions, temperature),
        other => panic!("{other:?}"),
    };
    let (first, before) = lease(&mut r);
    assert_eq!(before, None, "the job's own");
    for (alpha, temperature, wrong) in [
        (Some(1.5), None, "alpha = 1.5"),
        (None, Some(0.0), "temperature = 0"),
        (Some(f64::NAN), None, "NaN"),
    ] {
        let refused = r.retune(Retuned { alpha, temperature }, Millis(2)).unwrap_err();
        assert!(refused.to_string().contains(wrong), "{refused}");
    }
    let tuned = Retuned {
        alpha: Some(0.25),
        temperature: Some(2.0),
    };
    let of_student = |r: &Run| {
        r.groups()
            .iter()
            .find(|g| g.spec.name == "s")
            .unwrap()
            .plan()
            .clone()
    };
    let under_way = of_student(&r);
    r.retune(tuned, Millis(2)).unwrap();
    assert_eq!(of_student(&r), under_way, "the round under way keeps its alpha");
    let (second, after) = lease(&mut r);
    assert_eq!(
        (after, second.start),
        (Some(2.0), first.end),
        "what was leased before is as it was"
    );
    if under_way.publish {
        publish(&mut r, &s.session, &under_way);
    }
    let done = work(&under_way, 0, first.start..second.end);
    r.contribute(&s.session, done, Millis(3)).unwrap();
    assert_eq!(of_student(&r).alpha, 0.25);

    // It survives the coordinator.
    let records = r
        .take_writes()
        .into_iter()
        .filter_map(|(_, record)| record)
        .collect();
    let again = Run::restore(r.spec.clone(), (4, Millis(5)), records, &BTreeMap::new());
    assert_eq!(again.retuned(), tuned);
    let mut alone = run(vec![group("x", GroupKind::Baseline, 1)]);
    let refused = alone.retune(tuned, Millis(0)).unwrap_err();
    assert!(refused.to_string().contains("learns from a teacher"), "{refused}");
}
