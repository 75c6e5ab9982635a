use super::*;

fn limits() -> Limits {
    Limits {
        batch_samples: 64,
        queue_delay: Duration::ZERO,
        queue_samples: 100,
        cache_bytes: 1 << 20,
        unread_bytes: 1 << 20,
    }
}

fn requests(limits: Limits) -> Requests {
    Requests::new(limits, ["a", "b"].map(String::from).into())
}

fn ask(block: u64, group: &str, reader: u64) -> Ask {
    Ask {
        key: Key {
            epoch: 0,
            block,
            source: 1,
            version: 0,
            terms: None,
            layer: None,
        },
        group: group.into(),
        reader,
        samples: 32,
        inputs: Inputs::Sent([].into()),
        layer: None,
        span: Span::none(),
        within: Duration::ZERO,
    }
}

fn answer() -> Scored {
    Ok(Arc::new(Targets::new(
        0,
        10,
        vec![0f32; 320].into(),
        true,
        Vec::new(),
    )))
}

fn later(asked: Asked) -> oneshot::Receiver<Scored> {
    match asked {
        Asked::Later(later) => later,
        Asked::Here(_) => panic!("it is here"),
        Asked::Overloaded(_) => panic!("too much waits"),
    }
}

fn batch(requests: &Requests) -> Vec<u64> {
    match requests.next(64) {
        Work::Score(batch) => batch.iter().map(|e| e.key.block).collect(),
        Work::Control(_) | Work::End => panic!("no batch"),
    }
}

#[test]
fn readers_of_one_block_share_a_forward_pass() {
    let r = requests(limits());
    let now = Instant::now();
    let mut first = later(r.ask(ask(0, "a", 1), now));
    let mut second = later(r.ask(ask(0, "b", 2), now));
    assert_eq!(batch(&r), [0]);
    // One that comes while the device computes joins as well.
    let mut third = later(r.ask(ask(0, "a", 3), now));
    r.scored(ask(0, "a", 1).key, &answer(), now);
    for waiting in [&mut first, &mut second, &mut third] {
        assert!(waiting.try_recv().unwrap().is_ok());
    }
    let counters = r.counters();
    assert_eq!((counters.misses, counters.coalesced, counters.hits), (1, 2, 0));
    assert_eq!(counters.cached_bytes, 0, "both groups have it");
}

#[test]
fn a_group_that_comes_later_reads_from_the_cache() {
    let r = requests(limits());
    let now = Instant::now();
    let _waits = later(r.ask(ask(0, "a", 1), now));
    batch(&r);
    r.scored(ask(0, "a", 1).key, &answer(), now);
    assert!(r.counters().cached_bytes > 0);
    assert!(matches!(r.ask(ask(0, "b", 2), now), Asked::Here(_)));
    let counters = r.counters();
    assert_eq!((counters.misses, counters.hits, counters.cached_bytes), (1, 1, 0));
}

#[test]
fn a_reader_that_has_gone_costs_no_forward_pass() {
    let r = requests(limits());
    let now = Instant::now();
    drop(later(r.ask(ask(0, "a", 1), now)));
    let shared = later(r.ask(ask(1, "a", 1), now));
    let stays = later(r.ask(ask(1, "b", 2), now));
    drop(shared);
    assert_eq!(batch(&r), [1], "somebody else waits for the second one");
    assert_eq!(r.counters().abandoned, 1);
    r.scored(ask(1, "a", 1).key, &answer(), now);
    drop(stays);
    // The one that was dropped can be asked for again.
    let _again = later(r.ask(ask(0, "a", 1), now));
    assert_eq!(batch(&r), [0]);
}

#[test]
fn what_does_not_fit_the_queue_is_refused_with_a_time() {
    let r = requests(limits());
    r.set_capacity(64.0);
    let now = Instant::now();
    let _held: Vec<_> = (0..3).map(|i| later(r.ask(ask(i, "a", 1), now))).collect();
    let Asked::Overloaded(wait) = r.ask(ask(3, "b", 2), now) else {
        panic!("96 of 100 samples wait already");
    };
    assert_eq!(wait, Duration::from_millis(1_500), "96 samples at 64 per second");
    // Who joins a block that waits already takes no room.
    let _joined = later(r.ask(ask(2, "b", 2), now));
    let counters = r.counters();
    assert_eq!((counters.overloaded, counters.queued), (1, 96));
    assert_eq!(batch(&r).len(), 2);
    let _fits = later(r.ask(ask(3, "b", 2), now));
}

#[test]
fn a_block_larger_than_the_queue_waits_where_nothing_else_does() {
    let r = requests(limits());
    let now = Instant::now();
    let large = |block| Ask {
        samples: 1_000,
        ..ask(block, "a", 1)
    };
    for block in 0..2 {
        let _waits = later(r.ask(large(block), now));
        assert!(matches!(r.ask(large(9), now), Asked::Overloaded(_)));
        assert!(matches!(r.ask(ask(9, "b", 2), now), Asked::Overloaded(_)));
        assert_eq!(batch(&r), [block]);
    }
}

#[test]
fn a_batch_is_held_open_until_it_is_full_or_all_wait_or_time_is_up() {
    let held = Limits {
        queue_delay: Duration::from_secs(3_600),
        ..limits()
    };
    let r = requests(held);
    let now = Instant::now();
    let (one, two) = (r.open(), r.open());
    let is_held = || {
        let state = r.state();
        r.held(&state, 64).is_some()
    };
    let _first = later(r.ask(ask(0, "a", one), now));
    assert!(is_held(), "the other stream may ask for something");
    let _second = later(r.ask(ask(0, "b", two), now));
    assert!(!is_held(), "both wait: the device idles");
    let three = r.open();
    assert!(is_held());
    r.close(three);
    assert!(!is_held());
    assert_eq!(batch(&r), [0]);
    let _full = [1, 2].map(|i| later(r.ask(ask(i, "a", one), now)));
    assert!(!is_held(), "64 samples fill it");
    // Time is up for what came an hour ago.
    let r = requests(Limits {
        queue_delay: Duration::from_millis(1),
        ..limits()
    });
    let (one, _two) = (r.open(), r.open());
    let _waits = later(r.ask(ask(0, "a", one), now));
    assert_eq!(batch(&r), [0]);
}

#[test]
fn control_comes_before_work_and_the_end_before_all() {
    let r = requests(limits());
    let _waits = later(r.ask(ask(0, "a", 1), Instant::now()));
    r.control(Control::Activate {
        version: 3,
        keep_from: 2,
    });
    assert!(matches!(
        r.next(64),
        Work::Control(Control::Activate {
            version: 3,
            keep_from: 2
        })
    ));
    r.end();
    assert!(matches!(r.next(64), Work::End));
}

#[test]
fn capacity_follows_what_is_measured() {
    let r = requests(limits());
    r.set_capacity(1_000.0);
    for _ in 0..100 {
        r.computed(50, Duration::from_millis(500));
    }
    let counters = r.counters();
    assert!((counters.capacity - 100.0).abs() < 1.0, "{}", counters.capacity);
    assert_eq!((counters.forwards, counters.scored), (100, 5_000));
}
