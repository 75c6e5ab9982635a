//! A manifest takes its time: what may happen meanwhile, and what must not.

use super::*;

/// A run whose only replica has merged the first 8 positions and is about to publish them.
fn publishing() -> (Run, Admission, RoundPlan) {
    let (mut r, a, plan) = merged();
    assert!(r.groups_mut()[0].take_over_publishing("a", Millis(0)));
    (r, a, plan)
}

/// The same before anybody is asked to publish.
fn merged() -> (Run, Admission, RoundPlan) {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    let plan = a.start.as_ref().unwrap().1.clone();
    publish(&mut r, &a.session, &plan);
    r.lease(&a.session, (next(), u64::MAX), Millis(0)).unwrap();
    r.contribute(&a.session, work(&plan, 0, 0..8), Millis(0)).unwrap();
    let plan = r.groups()[0].plan().clone();
    (r, a, plan)
}

#[test]
fn what_a_manifest_is_about_to_say_is_not_taken_back() {
    let (mut r, a, plan) = publishing();
    let ticket = r.ticket(&a.session, plan.generation, plan.round).unwrap();
    assert_eq!(ticket.committed.len(), 8);
    let again = r.ticket(&a.session, plan.generation, plan.round);
    assert!(matches!(again, Err(Refusal::Busy(_))), "{again:?}");
    // The only one who has the state dies. Whoever comes would start from the version before.
    r.leave(&a.session, Millis(1)).unwrap();
    let early = join(&mut r, Role::StudentWorker, "b", 2);
    assert!(matches!(early, Err(Refusal::Wait { .. })), "{early:?}");
    assert_eq!(r.groups()[0].ledger.counts()[2], 8, "still merged");
    r.published(&ticket, None, Millis(3));
    assert_eq!(r.groups()[0].ledger.counts()[3], 8);
    let b = join(&mut r, Role::StudentWorker, "b", 4).unwrap();
    assert_eq!(b.start.unwrap().0, Start::Restore(1));
    assert_eq!(r.groups()[0].ledger.rolled_back(), 0);
}

#[test]
fn a_manifest_that_could_not_be_written_leaves_all_as_it_was() {
    let (mut r, a, plan) = publishing();
    let ticket = r.ticket(&a.session, plan.generation, plan.round).unwrap();
    r.leave(&a.session, Millis(1)).unwrap();
    r.commit_failed(&ticket, "no space left", Millis(2));
    let b = join(&mut r, Role::StudentWorker, "b", 3).unwrap();
    assert_eq!(b.start.unwrap().0, Start::Restore(0), "from the version before");
    assert_eq!(r.groups()[0].ledger.rolled_back(), 8);
}

#[test]
fn a_run_that_is_stopped_waits_for_the_manifest() {
    let (mut r, a, plan) = publishing();
    let ticket = r.ticket(&a.session, plan.generation, plan.round).unwrap();
    r.stop("enough", Millis(1)).unwrap();
    r.leave(&a.session, Millis(2)).unwrap();
    assert_eq!(r.state().0, State::Stopping);
    r.published(&ticket, None, Millis(3));
    assert_eq!(r.state().0, State::Stopped);
}

/// A sample that is taken out while the last manifest of an epoch is written is in the next one.
#[test]
fn an_epoch_ends_with_a_manifest_that_says_all_of_it() {
    let (mut r, a, plan) = merged();
    // It was granted 16 and brought 8.
    let mut held: Vec<u64> = (8..16).collect();
    while let Answer::Granted { positions, .. } = r.lease(&a.session, (next(), u64::MAX), Millis(0)).unwrap()
    {
        held.extend(positions);
    }
    assert!(r.groups_mut()[0].take_over_publishing("a", Millis(0)));
    let ticket = r.ticket(&a.session, plan.generation, plan.round).unwrap();
    for position in held.clone() {
        let rejected = Rejected {
            epoch: 0,
            position,
            sample: 0,
            reason: "not finite".into(),
        };
        r.reject(&a.session, &rejected, Millis(1)).unwrap();
    }
    r.published(&ticket, None, Millis(2));
    assert_eq!(
        r.groups()[0].ledger.epoch(),
        0,
        "no manifest names the samples yet"
    );
    assert!(r.groups_mut()[0].take_over_publishing("a", Millis(2)));
    let ticket = r.ticket(&a.session, plan.generation, plan.round).unwrap();
    assert_eq!(ticket.quarantined.len(), held.len() as u64);
    r.published(&ticket, None, Millis(3));
    assert_eq!(r.groups()[0].ledger.epoch(), 1);
}
