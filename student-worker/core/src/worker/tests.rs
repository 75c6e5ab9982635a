use std::ops::Range;

use retort_coordinator_core::ids::Role;

use super::*;

fn plan(round: u64, steps: u32) -> RoundPlan {
    RoundPlan {
        generation: 0,
        round,
        steps,
        alpha: 0.5,
        gate: None,
        publish: false,
        evaluate: false,
        exchange: false,
        hand_over: false,
        positions: 0,
    }
}

fn session(incarnation: u64) -> Session {
    Session {
        run: "r".into(),
        role: Role::StudentWorker,
        worker: "w".into(),
        incarnation,
        term: 1,
    }
}

fn admitted(incarnation: u64, start: Start, plan: RoundPlan, teachers: &[&str]) -> Admitted {
    let endpoints = |t: &&str| Endpoints {
        teacher: (*t).to_owned(),
        addresses: Vec::new(),
        active: Some(3),
        floor: 2,
    };
    Admitted {
        session: session(incarnation),
        start,
        plan,
        teachers: teachers.iter().map(endpoints).collect(),
        poison: Vec::new(),
    }
}

fn fresh(teachers: &[&str]) -> Worker<u8> {
    fresh_with(teachers, OnMissing::Wait)
}

fn fresh_with(teachers: &[&str], on_missing: OnMissing) -> Worker<u8> {
    Worker::new(Setup {
        part: "g".into(),
        grid: Grid {
            positions: 20,
            block: 4,
        },
        order: Order::new_all(1, 20),
        batch: 2,
        prefetch: 2,
        on_missing,
        teachers: teachers.iter().map(|t| (*t).to_owned()).collect(),
    })
}

fn worker(teachers: &[&str]) -> Worker<u8> {
    started(fresh(teachers), teachers)
}

fn started(mut w: Worker<u8>, teachers: &[&str]) -> Worker<u8> {
    w.admitted(admitted(1, Start::Init, plan(0, 4), teachers), false);
    assert_eq!(w.poll_command(), Some(Command::Become(Start::Init)));
    w
}

/// Answers the request for work that is open.
fn answer(w: &mut Worker<u8>, answer: Answer) {
    let (session, sequence) = (w.session.clone().unwrap(), w.sequence);
    w.lease_answer(&session, sequence, answer);
}

fn asks(command: &Command<u8>) -> bool {
    matches!(command, Command::AskLease { .. })
}

fn commands(w: &mut Worker<u8>) -> Vec<Command<u8>> {
    std::iter::from_fn(|| w.poll_command()).collect()
}

fn granted(positions: Range<u64>) -> Answer {
    Answer::Granted {
        epoch: 0,
        positions,
        exact: BTreeMap::new(),
        temperature: None,
    }
}

fn trained_positions(commands: &[Command<u8>]) -> Vec<Range<u64>> {
    commands
        .iter()
        .filter_map(|c| match c {
            Command::Train { batch, .. } => Some(batch.positions.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn labels_only_work_goes_straight_to_the_trainer_and_is_contributed() {
    let mut w = worker(&[]);
    let c = commands(&mut w);
    assert!(matches!(c.as_slice(), [c] if asks(c)), "{c:?}");
    answer(&mut w, granted(2..7));
    let c = commands(&mut w);
    assert_eq!(trained_positions(&c), [2..4, 4..6], "batches lie on the grid");
    w.trained(&StepDone::default());
    w.trained(&StepDone::default());
    assert_eq!(
        trained_positions(&commands(&mut w)),
        std::iter::once(6..7).collect::<Vec<_>>()
    );
    answer(&mut w, Answer::Idle(Reason::Contribute));
    assert!(commands(&mut w).is_empty(), "a batch is still at the trainer");
    w.trained(&StepDone::default());
    let c = commands(&mut w);
    let [Command::Contribute { work, .. }] = c.as_slice() else {
        panic!("expected a contribution, got {c:?}");
    };
    assert_eq!((work.steps, work.trained.len(), work.sums.samples), (3, 5, 5));
    w.merged(&session(1), plan(1, 4));
    let c = commands(&mut w);
    assert!(matches!(c.as_slice(), [c] if asks(c)), "{c:?}");
}

#[test]
fn no_step_without_every_teachers_frame() {
    let mut w = worker(&["t", "u"]);
    answer(&mut w, granted(0..4));
    let c = commands(&mut w);
    assert!(trained_positions(&c).is_empty());
    assert_eq!(c.iter().filter(|c| matches!(c, Command::Want { .. })).count(), 2);
    let id = BlockId { epoch: 0, block: 0 };
    w.frame("t", id, 3, 1).unwrap();
    assert!(trained_positions(&commands(&mut w)).is_empty());
    w.frame("u", id, 2, 2).unwrap();
    assert_eq!(trained_positions(&commands(&mut w)), [0..2, 2..4]);
}

#[test]
fn a_teacher_that_is_missing_is_waited_for_or_gone_without_as_configured() {
    let id = BlockId { epoch: 0, block: 0 };
    let alphas = |c: Vec<Command<u8>>| -> Vec<(usize, f64)> {
        c.into_iter()
            .filter_map(|c| match c {
                Command::Train { batch, alpha } => Some((batch.frames.len(), alpha)),
                _ => None,
            })
            .collect()
    };
    let teachers = ["t", "u"];
    let with = |on_missing| {
        let mut w = started(fresh_with(&teachers, on_missing), &teachers);
        answer(&mut w, granted(0..4));
        w.set_missing("u", true);
        w
    };
    for on_missing in [OnMissing::Wait, OnMissing::Renormalise, OnMissing::Hard] {
        let mut w = with(on_missing);
        w.frame("t", id, 2, 1).unwrap();
        let trained = alphas(commands(&mut w));
        let expected: &[(usize, f64)] = match on_missing {
            OnMissing::Wait => &[],
            _ => &[(1, 0.5), (1, 0.5)],
        };
        assert_eq!(trained, expected, "{on_missing:?} without one of two");

        let mut w = with(on_missing);
        w.set_missing("t", true);
        let trained = alphas(commands(&mut w));
        let expected: &[(usize, f64)] = match on_missing {
            OnMissing::Hard => &[(0, 0.0), (0, 0.0)],
            _ => &[],
        };
        assert_eq!(trained, expected, "{on_missing:?} without any");
    }
    let mut w = with(OnMissing::Hard);
    w.set_missing("u", false);
    w.frame("t", id, 2, 1).unwrap();
    assert!(
        alphas(commands(&mut w)).is_empty(),
        "it answers again: it is waited for"
    );
}

#[test]
fn a_floor_holds_only_after_older_frames_are_gone() {
    let mut w = worker(&["t"]);
    answer(&mut w, granted(0..8));
    w.frame("t", BlockId { epoch: 0, block: 0 }, 2, 1).unwrap();
    w.frame("t", BlockId { epoch: 0, block: 1 }, 2, 1).unwrap();
    commands(&mut w);
    w.floor("t", 3);
    let c = commands(&mut w);
    assert!(
        c.iter()
            .any(|c| matches!(c, Command::Want { id, floor: 3, .. } if id.block == 1)),
        "asked again"
    );
    assert_eq!(
        w.held_floors()["t"],
        2,
        "two batches of version 2 are at the trainer"
    );
    w.trained(&StepDone::default());
    assert_eq!(w.held_floors()["t"], 2);
    w.trained(&StepDone::default());
    assert_eq!(w.held_floors()["t"], 3);
    assert!(commands(&mut w).contains(&Command::Beat));
    assert!(
        w.frame("t", BlockId { epoch: 0, block: 1 }, 2, 1).is_err(),
        "too old now"
    );
}

fn exactly(version: u64, positions: Range<u64>) -> Answer {
    Answer::Granted {
        epoch: 0,
        positions,
        exact: BTreeMap::from([("t".to_owned(), version)]),
        temperature: None,
    }
}

#[test]
fn an_exact_version_is_waited_for() {
    let mut w = worker(&["t"]);
    answer(&mut w, exactly(2, 0..4));
    let id = BlockId { epoch: 0, block: 0 };
    assert!(w.frame("t", id, 3, 1).is_err(), "newer is as wrong as older");
    w.frame("t", id, 2, 1).unwrap();
    w.floor("t", 3);
    assert_eq!(w.held_floors()["t"], 2, "two batches are at the trainer");
    w.trained(&StepDone::default());
    w.trained(&StepDone::default());
    assert_eq!(w.held_floors()["t"], 3);
}

#[test]
fn a_block_for_a_version_below_the_floor_is_given_back() {
    let mut w = worker(&["t"]);
    answer(&mut w, exactly(2, 0..4));
    w.floor("t", 3);
    assert_eq!(w.held_floors()["t"], 3);
    let released = |c: &[Command<u8>], r: Range<u64>| {
        c.iter().any(
            |c| matches!(c, Command::Release { positions, .. } if *positions == RangeSet::from(r.clone())),
        )
    };
    assert!(released(&commands(&mut w), 0..4));
    // A grant that was long on its way.
    answer(&mut w, exactly(2, 4..8));
    assert!(released(&commands(&mut w), 4..8));
    w.frame("t", BlockId { epoch: 0, block: 1 }, 2, 1).unwrap();
    assert!(trained_positions(&commands(&mut w)).is_empty());
}

#[test]
fn blocks_are_asked_for_at_the_temperature_of_their_lease() {
    let mut w = worker(&["t"]);
    let tuned = |positions, temperature| Answer::Granted {
        epoch: 0,
        positions,
        exact: BTreeMap::new(),
        temperature,
    };
    answer(&mut w, tuned(0..4, None));
    answer(&mut w, tuned(4..8, Some(2.0)));
    let asked: Vec<Option<f64>> = commands(&mut w)
        .into_iter()
        .filter_map(|c| match c {
            Command::Want { temperature, .. } => Some(temperature),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [None, Some(2.0)]);
}

/// The version may have been lost while nobody answered: a new lease tells which one teaches now.
#[test]
fn blocks_for_an_exact_version_are_given_back_with_a_new_session() {
    let mut w = worker(&["t"]);
    answer(&mut w, exactly(2, 0..4));
    w.lost(&session(1));
    commands(&mut w);
    w.admitted(
        admitted(2, Start::Resume((0..4).into()), plan(0, 4), &["t"]),
        false,
    );
    assert!(
        commands(&mut w)
            .iter()
            .any(|c| matches!(c, Command::Release { positions, .. } if *positions == RangeSet::from(0..4)),)
    );
    w.frame("t", BlockId { epoch: 0, block: 0 }, 2, 1).unwrap();
    assert!(trained_positions(&commands(&mut w)).is_empty());
}

#[test]
fn stopping_gives_back_what_was_not_trained() {
    let mut w = worker(&["t"]);
    answer(&mut w, granted(0..4));
    commands(&mut w);
    answer(&mut w, Answer::Idle(Reason::Stopping));
    let c = commands(&mut w);
    assert!(
        matches!(&c[0], Command::Release { positions, .. } if positions.len() == 4),
        "{c:?}"
    );
    assert!(
        matches!(&c[1], Command::Contribute { work, .. } if work.steps == 0),
        "{c:?}"
    );
    w.merged(&session(1), plan(1, 4));
    answer(&mut w, Answer::Finish("stopped".into()));
    assert!(commands(&mut w).contains(&Command::Leave("stopped".into())));
}

#[test]
fn a_contribution_waits_for_the_version_before_it() {
    let mut w = worker(&[]);
    w.contributing = Some(Work::default());
    w.merged(
        &session(1),
        RoundPlan {
            publish: true,
            ..plan(1, 1)
        },
    );
    assert!(
        commands(&mut w)
            .iter()
            .any(|c| matches!(c, Command::BeginRound { snapshot: true, .. }))
    );
    w.began(None);
    answer(&mut w, granted(0..2));
    commands(&mut w);
    w.trained(&StepDone::default());
    assert!(
        !commands(&mut w)
            .iter()
            .any(|c| matches!(c, Command::Contribute { .. })),
        "not before it is durable"
    );
    w.published(&session(1));
    assert!(
        commands(&mut w)
            .iter()
            .any(|c| matches!(c, Command::Contribute { .. }))
    );
}

#[test]
fn a_joiner_contributes_nothing_first() {
    let mut w = fresh(&[]);
    w.admitted(admitted(1, Start::Join(Some(0)), plan(7, 4), &[]), false);
    assert_eq!(w.poll_command(), Some(Command::Become(Start::Join(Some(0)))));
    let c = commands(&mut w);
    assert!(
        matches!(&c[..], [Command::Contribute { work, .. }] if work.joining && work.round == 7),
        "{c:?}"
    );
    w.merged(&session(1), plan(8, 4));
    let c = commands(&mut w);
    assert!(matches!(c.as_slice(), [c] if asks(c)), "{c:?}");
}

#[test]
fn a_lost_session_is_claimed_back_with_everything_it_had() {
    let mut w = worker(&[]);
    commands(&mut w);
    answer(&mut w, granted(0..8));
    w.trained(&StepDone::default());
    commands(&mut w);
    w.lost(&session(1));
    let c = commands(&mut w);
    let [
        Command::Register {
            claim: Some(claim), ..
        },
    ] = c.as_slice()
    else {
        panic!("expected a registration, got {c:?}");
    };
    assert_eq!((claim.generation, claim.round, claim.epoch), (0, 0, 0));
    assert_eq!(
        claim.trained,
        RangeSet::from(0..6),
        "two batches are at the trainer"
    );
    assert_eq!(claim.held, RangeSet::from(6..8));
    w.trained(&StepDone::default());
    w.trained(&StepDone::default());
    assert!(commands(&mut w).is_empty(), "no step without a session");
    // Its place is kept; the rest of the lease is gone.
    w.admitted(
        admitted(2, Start::Resume(RangeSet::new()), plan(0, 3), &[]),
        false,
    );
    let c = commands(&mut w);
    assert!(
        c.iter()
            .any(|c| matches!(c, Command::Contribute { session, work, .. }
            if session.incarnation == 2 && work.trained == RangeSet::from(0..6))),
        "{c:?}"
    );
}

#[test]
fn what_is_refused_is_given_up() {
    let mut w = worker(&[]);
    answer(&mut w, granted(0..8));
    commands(&mut w);
    w.lost(&session(1));
    w.admitted(admitted(2, Start::Restore(4), plan(9, 4), &[]), false);
    let c = commands(&mut w);
    assert!(c.contains(&Command::Become(Start::Restore(4))), "{c:?}");
    w.trained(&StepDone::default());
    w.trained(&StepDone::default());
    answer(&mut w, granted(0..2));
    w.trained(&StepDone::default());
    assert_eq!(
        w.claim().unwrap().trained,
        RangeSet::from(0..2),
        "the old steps are void"
    );
}

#[test]
fn nothing_is_trained_or_contributed_once_the_lease_may_have_run_out() {
    let mut w = worker(&[]);
    commands(&mut w);
    answer(&mut w, granted(0..8));
    commands(&mut w);
    w.set_silent(true);
    w.trained(&StepDone::default());
    assert!(commands(&mut w).is_empty());
    w.set_silent(false);
    assert_eq!(
        trained_positions(&commands(&mut w)),
        std::iter::once(4..6).collect::<Vec<_>>()
    );
}

#[test]
fn answers_of_a_former_session_change_nothing() {
    let mut w = worker(&[]);
    commands(&mut w);
    w.lost(&session(1));
    w.admitted(
        admitted(2, Start::Resume(RangeSet::new()), plan(0, 4), &[]),
        false,
    );
    w.lease_answer(&session(1), 1, granted(0..4));
    w.published(&session(1));
    assert!(!w.merged(&session(1), plan(1, 4)));
    assert!(trained_positions(&commands(&mut w)).is_empty());
}

#[test]
fn a_snapshot_outlives_its_session() {
    let mut w = fresh(&[]);
    let publish = RoundPlan {
        publish: true,
        ..plan(0, 4)
    };
    w.admitted(admitted(1, Start::Init, publish.clone(), &[]), false);
    w.lost(&session(1));
    assert!(w.claim().unwrap().snapshot);
    w.began(None);
    commands(&mut w);
    w.admitted(admitted(2, Start::Resume(RangeSet::new()), publish, &[]), false);
    let c = commands(&mut w);
    assert!(
        c.iter()
            .any(|c| matches!(c, Command::Publish { session, .. } if session.incarnation == 2)),
        "{c:?}"
    );
}

#[test]
fn a_revoked_replica_joins_with_nothing() {
    let mut w = worker(&[]);
    answer(&mut w, granted(0..8));
    commands(&mut w);
    w.revoked(0, 9);
    assert!(w.claim().is_some(), "of another round");
    w.revoked(0, 0);
    let c = commands(&mut w);
    assert!(
        matches!(&c[..], [Command::Contribute { work, .. }] if work.joining),
        "{c:?}"
    );
    w.trained(&StepDone::default());
    w.trained(&StepDone::default());
    assert!(w.claim().is_none());
    w.merged(&session(1), plan(1, 4));
    assert!(w.claim().unwrap().trained.is_empty());
}

#[test]
fn an_unreadable_sample_is_rejected_and_the_rest_of_its_batch_trained() {
    let mut w = worker(&[]);
    commands(&mut w);
    answer(&mut w, granted(0..4));
    commands(&mut w);
    w.unreadable(1, "torn");
    let c = commands(&mut w);
    assert!(
        c.iter()
            .any(|c| matches!(c, Command::Reject { position: 1, reason, .. } if reason == "torn")),
        "{c:?}"
    );
    assert_eq!(trained_positions(&c), std::iter::once(0..1).collect::<Vec<_>>());
}

#[test]
fn what_turned_out_unreadable_while_the_session_was_lost_is_rejected_then() {
    let mut w = worker(&[]);
    commands(&mut w);
    answer(&mut w, granted(0..4));
    w.lost(&session(1));
    let told = commands(&mut w);
    let claim = told.iter().find_map(|c| match c {
        Command::Register { claim, .. } => claim.clone(),
        _ => None,
    });
    let claimed = claim.expect("it has a state").trained;
    assert!(claimed.contains(1), "the trainer has it");
    w.unreadable(1, "torn");
    w.admitted(
        admitted(2, Start::Resume(RangeSet::new()), plan(0, 2), &[]),
        false,
    );
    let c = commands(&mut w);
    assert!(
        c.iter().any(|c| matches!(c, Command::Reject { position: 1, .. })),
        "{c:?}"
    );
    assert!(
        trained_positions(&c).contains(&(0..1)),
        "the rest of its batch is trained: {c:?}"
    );
}

#[test]
fn a_second_answer_to_an_earlier_contribution_is_not_the_next_ones() {
    let mut w = worker(&[]);
    commands(&mut w);
    answer(&mut w, granted(0..8));
    for _ in 0..4 {
        w.trained(&StepDone::default());
    }
    assert!(w.merged(&session(1), plan(1, 2)));
    commands(&mut w);
    answer(&mut w, granted(8..12));
    commands(&mut w);
    for _ in 0..2 {
        w.trained(&StepDone::default());
    }
    assert!(!w.merged(&session(1), plan(1, 2)), "that was answered");
    assert!(w.merged(&session(1), plan(2, 2)));
}

#[test]
fn known_poison_is_rejected_when_leased() {
    let mut w = worker(&[]);
    let order = Order::new_all(1, 20);
    w.poisoned(0, 3);
    let bad = order.sample(0, 3);
    let again = (0..20).find(|p| order.sample(1, *p) == bad).unwrap();
    let block = again - again % 4;
    commands(&mut w);
    answer(
        &mut w,
        Answer::Granted {
            epoch: 1,
            positions: block..block + 4,
            exact: BTreeMap::new(),
            temperature: None,
        },
    );
    let c = commands(&mut w);
    assert!(
        c.iter()
            .any(|c| matches!(c, Command::Reject { epoch: 1, position, .. } if *position == again)),
        "{c:?}"
    );
}

#[test]
fn two_leases_of_one_block_share_its_frame() {
    let mut w = worker(&["t"]);
    commands(&mut w);
    answer(&mut w, granted(0..1));
    answer(&mut w, granted(2..4));
    w.frame("t", BlockId { epoch: 0, block: 0 }, 3, 1).unwrap();
    assert_eq!(trained_positions(&commands(&mut w)), [0..1, 2..4]);
}

#[test]
fn what_a_teacher_cannot_read_is_not_trained_on() {
    let mut w = worker(&["t"]);
    commands(&mut w);
    answer(&mut w, granted(0..4));
    let id = BlockId { epoch: 0, block: 0 };
    w.unteachable(id, 1, "t can't read it");
    w.frame("t", id, 3, 1).unwrap();
    let c = commands(&mut w);
    assert!(
        c.iter().any(|c| matches!(c, Command::Reject { position: 1, .. })),
        "{c:?}"
    );
    assert_eq!(trained_positions(&c), [0..1, 2..4]);
}

#[test]
fn an_admission_that_comes_too_late_starts_nothing() {
    let mut w = worker(&[]);
    commands(&mut w);
    answer(&mut w, granted(0..8));
    commands(&mut w);
    w.lost(&session(1));
    w.trained(&StepDone::default());
    commands(&mut w);
    w.admitted(admitted(2, Start::Resume((4..8).into()), plan(0, 4), &[]), true);
    assert!(trained_positions(&commands(&mut w)).is_empty());
    w.set_silent(false);
    assert!(!trained_positions(&commands(&mut w)).is_empty());
}

#[test]
fn nothing_is_trained_before_all_floors_of_an_admission_have_risen() {
    let mut w = worker(&["a", "b"]);
    commands(&mut w);
    answer(&mut w, granted(0..4));
    commands(&mut w);
    let id = BlockId { epoch: 0, block: 0 };
    w.frame("b", id, 2, 1).unwrap();
    w.lost(&session(1));
    w.frame("a", id, 4, 1).unwrap();
    commands(&mut w);
    let mut again = admitted(2, Start::Resume((0..4).into()), plan(0, 4), &["a", "b"]);
    for endpoints in &mut again.teachers {
        endpoints.floor = 3;
    }
    w.admitted(again, false);
    assert!(
        trained_positions(&commands(&mut w)).is_empty(),
        "b's frame is of version 2"
    );
    w.frame("b", id, 3, 1).unwrap();
    assert_eq!(trained_positions(&commands(&mut w)), [0..2, 2..4]);
}

#[test]
fn a_worker_says_what_it_waits_for() {
    let mut w = worker(&["t"]);
    commands(&mut w);
    assert_eq!(w.activity(), Activity::Lease);
    answer(&mut w, granted(0..4));
    commands(&mut w);
    assert_eq!(w.activity(), Activity::Teacher);
    let id = BlockId { epoch: 0, block: 0 };
    w.frame("t", id, 3, 1).unwrap();
    assert_eq!(w.activity(), Activity::Compute);
    w.trained(&StepDone::default());
    w.trained(&StepDone::default());
    commands(&mut w);
    answer(&mut w, Answer::Idle(Reason::Contribute));
    assert_eq!(w.activity(), Activity::Sync);
    let publish = RoundPlan {
        publish: true,
        ..plan(1, 4)
    };
    w.merged(&session(1), publish);
    assert_eq!(w.activity(), Activity::Checkpoint);
}
