use std::num::NonZeroU16;

use retort_codec::Encoding;

use super::*;
use crate::targets::Terms;

const BYTES: usize = 100 * size_of::<f32>();

fn key() -> Key {
    Key {
        epoch: 3,
        block: 7,
        source: 11,
        version: 5,
        terms: None,
        layer: None,
    }
}

fn block(block: u64) -> Key {
    Key { block, ..key() }
}

/// 400 bytes of logits that tell the version.
fn targets(version: u64) -> Arc<Targets> {
    Arc::new(Targets::new(
        version,
        10,
        vec![0f32; 100].into(),
        true,
        Vec::new(),
    ))
}

fn groups(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn cache(budget: usize) -> Cache {
    Cache::new(budget, groups(&["a", "b"]))
}

#[test]
fn keys_that_differ_in_one_part_only_are_different_blocks() {
    let now = Instant::now();
    let top = |k| Encoding::TopK(NonZeroU16::new(k).unwrap());
    let terms = |t, e| Some(Terms::new(t, e));
    let others = [
        Key { epoch: 4, ..key() },
        Key { block: 8, ..key() },
        Key { source: 12, ..key() },
        Key { version: 6, ..key() },
        Key {
            terms: terms(2.0, top(64)),
            ..key()
        },
        Key {
            terms: terms(3.0, top(64)),
            ..key()
        },
        Key {
            terms: terms(2.0, top(65)),
            ..key()
        },
        Key {
            layer: Some(1),
            ..key()
        },
        Key {
            layer: Some(2),
            ..key()
        },
    ];
    let mut cache = cache(1 << 20);
    cache.insert(key(), targets(0), groups(&["a"]), now);
    for (i, other) in (1..).zip(others) {
        cache.insert(other, targets(i), groups(&["a"]), now);
    }
    // The second group reads each of them, and each is the one that was put there.
    let read = |cache: &mut Cache, key: &Key| cache.read(key, "b", now).map(|t| t.version);
    assert_eq!(read(&mut cache, &key()), Some(0));
    for (i, other) in (1..).zip(&others) {
        assert_eq!(read(&mut cache, other), Some(i), "{other:?}");
    }
    assert_eq!(
        (cache.bytes(), cache.evicted()),
        (0, 0),
        "both groups have read all"
    );
}

#[test]
fn a_block_goes_once_every_group_has_read_it() {
    let now = Instant::now();
    let mut cache = cache(1 << 20);
    cache.insert(key(), targets(5), groups(&["a"]), now);
    assert_eq!(cache.bytes(), BYTES);
    assert!(
        cache.read(&key(), "a", now).is_some(),
        "again, for a lease that went back"
    );
    assert!(cache.read(&key(), "b", now).is_some());
    assert_eq!(cache.bytes(), 0);
    // Nobody else learns from this teacher: nothing is kept.
    let mut alone = Cache::new(1 << 20, groups(&["a"]));
    alone.insert(key(), targets(5), groups(&["a"]), now);
    assert_eq!(alone.bytes(), 0);
}

#[test]
fn what_no_group_will_ask_for_again_goes() {
    let now = Instant::now();
    let mut cache = cache(1 << 20);
    for i in 0..100 {
        cache.read(&block(i), "a", now);
        cache.insert(block(i), targets(5), groups(&["a"]), now);
    }
    assert_eq!(
        cache.bytes(),
        100 * BYTES,
        "the other group may stand at the beginning"
    );
    cache.read(&block(90), "b", now);
    let kept = 100 - (90 - BEHIND as usize) - 1; // and the one that was read
    assert_eq!(cache.bytes(), kept * BYTES);
    // The next epoch comes after all blocks of this one.
    let next = |i| Key { epoch: 4, ..block(i) };
    cache.read(&next(0), "a", now);
    cache.read(&next(0), "b", now);
    assert_eq!(cache.bytes(), 0);
}

#[test]
fn what_is_read_last_makes_room() {
    let now = Instant::now();
    let mut cache = cache(10 * BYTES);
    for i in 0..50 {
        cache.insert(block(i), targets(5), groups(&["a"]), now);
    }
    assert_eq!((cache.bytes(), cache.evicted()), (10 * BYTES, 40));
    for i in 0..10 {
        assert!(
            cache.read(&block(i), "b", now).is_some(),
            "the slow group reads {i} next"
        );
    }
    // A block larger than all there is room for is not kept.
    let large = Arc::new(Targets::new(5, 10, vec![0f32; 2_000].into(), true, Vec::new()));
    cache.insert(block(60), large, groups(&["a"]), now);
    assert_eq!(cache.bytes(), 0);
}

#[test]
fn a_group_that_asks_for_nothing_is_not_waited_for() {
    let now = Instant::now();
    let mut cache = cache(1 << 20);
    cache.read(&block(0), "b", now);
    cache.read(&block(0), "a", now);
    cache.insert(block(0), targets(5), groups(&["a"]), now);
    assert_eq!(cache.bytes(), BYTES);
    let later = now + SILENT;
    cache.read(&block(200), "a", later);
    assert_eq!(cache.bytes(), 0, "the one that goes on is past it");
    cache.insert(block(200), targets(5), groups(&["a"]), later);
    assert_eq!(cache.bytes(), 0, "nobody is expected to read it");
}

#[test]
fn frames_count_and_old_versions_go() {
    let now = Instant::now();
    let mut cache = cache(1 << 20);
    let shared = targets(5);
    cache.insert(key(), shared.clone(), groups(&["a"]), now);
    let terms = Terms::new(2.0, Encoding::F16);
    let (frame, fresh) = shared.frame(terms).unwrap();
    cache.grown(&key());
    assert!(fresh);
    assert_eq!(cache.bytes(), BYTES + frame.len());
    let (again, fresh) = shared.frame(terms).unwrap();
    assert!(!fresh && again.as_ptr() == frame.as_ptr(), "encoded once, shared");
    cache.insert(Key { version: 6, ..key() }, targets(6), groups(&["a"]), now);
    cache.keep_from(6);
    assert_eq!(cache.bytes(), BYTES);
    assert!(cache.read(&key(), "b", now).is_none());
}
