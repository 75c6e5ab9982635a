//! What a standing fleet has beside a run's own members: servers to spare, and a history.

use super::*;

fn fixed(names: [&str; 2]) -> Run {
    let mut student = group("s", GroupKind::Student, 1);
    student.teachers = names.map(str::to_owned).to_vec();
    let spec = run(vec![student.clone()]).spec;
    let teachers = names.map(|name| TeacherSpec {
        name: name.into(),
        source: Source::Fixed,
        replicas: 1,
    });
    let mut r = Run::new(
        RunSpec {
            teachers: teachers.into(),
            ..spec
        },
        3,
        Millis(0),
    );
    for name in names {
        r.provided(name, None, Millis(0)).unwrap();
    }
    r
}

#[test]
fn servers_beyond_what_the_job_wants_go_where_the_fewest_are() {
    let mut r = fixed(["t", "u"]);
    let parts: Vec<String> = ["a", "b", "c", "d", "e"]
        .into_iter()
        .map(|name| {
            assert!(r.wants(Role::TeacherServer, name));
            join(&mut r, Role::TeacherServer, name, 0).unwrap().part
        })
        .collect();
    assert_eq!(parts, ["t", "u", "t", "u", "t"]);
    // Students beyond the replicas of their group have nothing to do.
    join(&mut r, Role::StudentWorker, "x", 0).unwrap();
    assert!(!r.wants(Role::StudentWorker, "y"));
}

#[test]
fn a_teacher_that_lost_its_server_gets_another_ones() {
    let mut r = fixed(["t", "u"]);
    let student = join(&mut r, Role::StudentWorker, "x", 0).unwrap();
    let joined = ["a", "b", "c"].map(|name| join(&mut r, Role::TeacherServer, name, 0).unwrap());
    assert_eq!(joined.each_ref().map(|a| a.part.as_str()), ["t", "u", "t"]);
    r.leave(&joined[1].session, Millis(1)).unwrap();
    commands(&mut r);
    let asked = |r: &mut Run| {
        let leaves = commands(r).into_iter().filter_map(|c| match c {
            Command::Send {
                worker,
                message: Message::Finish(why),
            } => Some((worker, why)),
            _ => None,
        });
        leaves.collect::<Vec<_>>()
    };
    for at in (10..=TTL).step_by(10) {
        for member in [&joined[0], &joined[2], &student] {
            r.heartbeat(&member.session, Heartbeat::default(), Millis(at))
                .unwrap();
        }
        pass(&mut r, at);
    }
    assert!(asked(&mut r).is_empty(), "it may come back");
    for at in (TTL + 10..=3 * TTL).step_by(10) {
        for member in [&joined[0], &joined[2], &student] {
            r.heartbeat(&member.session, Heartbeat::default(), Millis(at))
                .unwrap();
        }
        pass(&mut r, at);
    }
    let first = asked(&mut r).into_iter().next();
    assert_eq!(first, Some(("a".into(), "teacher u has nobody".into())));
    r.leave(&joined[0].session, Millis(3 * TTL)).unwrap();
    assert_eq!(join(&mut r, Role::TeacherServer, "a", 3 * TTL).unwrap().part, "u");
}

#[test]
fn what_was_ordered_and_who_left_is_known_after_a_restart_and_revisions_go_on() {
    let mut r = run(vec![group("s", GroupKind::Baseline, 1)]);
    let a = join(&mut r, Role::StudentWorker, "a", 0).unwrap();
    r.pause(Millis(1)).unwrap();
    r.asked("the operator", "pause", Millis(1));
    let seen = r.revision();
    let mut r = restart(&mut r, 2);
    assert!(r.revision() > seen, "who saw {seen} hears of what is new");
    let told: Vec<(Kind, &str)> = r.events().map(|e| (e.kind, e.text.as_str())).collect();
    assert_eq!(
        told,
        [
            (Kind::Member, "student-worker a joined as s (incarnation 1)"),
            (Kind::Run, "run is paused: asked to pause"),
            (Kind::Order, "the operator asks: pause"),
            (Kind::Run, "the coordinator started again: term 4"),
        ]
    );
    drop(a);
    let numbers: Vec<u64> = r.events().map(|e| e.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    r.resume(Millis(3)).unwrap();
    let written = r.take_writes().into_iter().map(|(key, _)| key);
    let events: Vec<Key> = written.filter(|key| matches!(key, Key::Event(_))).collect();
    assert_eq!(
        events,
        [Key::Event(3), Key::Event(4)],
        "those that nobody wrote yet"
    );
}
