use super::*;

fn contribution() -> pb::Contribution {
    pb::Contribution {
        session: Some(pb::Session {
            run: "r".into(),
            role: pb::Role::StudentWorker.into(),
            worker: "w".into(),
            incarnation: 1,
            term: 1,
        }),
        sums: Some(pb::TrainingSums::default()),
        held_out: Some(pb::Evaluation::default()),
        ..pb::Contribution::default()
    }
}

/// JSON has no such numbers: a record with one could not be read again.
#[test]
fn numbers_that_a_record_cannot_hold_are_refused_by_their_field() {
    let taken = |c: pb::Contribution| <(Session, Work)>::try_from(c);
    let mut diverged = contribution();
    diverged.sums.as_mut().unwrap().hard_loss = f64::NAN;
    diverged.held_out.as_mut().unwrap().loss = f64::INFINITY;
    taken(diverged).expect("losses may be anything");
    type Spoil = fn(&mut pb::TrainingSums, &mut pb::Evaluation);
    let spoiled: [(&str, Spoil); 5] = [
        ("step_seconds", |sums, _| sums.step_seconds = f64::INFINITY),
        ("sync_seconds", |sums, _| sums.sync_seconds = f64::NAN),
        ("spent", |sums, _| sums.spent = vec![0.0, -1.0]),
        ("held_out.accuracy", |_, e| e.accuracy = f64::NAN),
        ("held_out.accuracy", |_, e| e.accuracy = 1.5),
    ];
    for (field, spoil) in spoiled {
        let mut bad = contribution();
        let (sums, held_out) = (bad.sums.as_mut().unwrap(), bad.held_out.as_mut().unwrap());
        spoil(sums, held_out);
        let refused = taken(bad).unwrap_err().to_string();
        assert!(refused.starts_with(field), "{refused}");
    }
}
