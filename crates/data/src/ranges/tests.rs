use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const DOMAIN: u64 = 48;

type Model = BTreeSet<u64>;

fn range() -> impl Strategy<Value = Range<u64>> {
    (0..DOMAIN, 0..DOMAIN / 3).prop_map(|(low, len)| low..(low + len).min(DOMAIN))
}

fn sets() -> impl Strategy<Value = (RangeSet, Model)> {
    vec(range(), 0..12).prop_map(|ranges| {
        let model = ranges.iter().cloned().flatten().collect();
        (RangeSet::from_iter(ranges), model)
    })
}

fn values(set: &RangeSet) -> Model {
    set.iter().flatten().collect()
}

fn check(set: &RangeSet, model: &Model) {
    assert_eq!(&values(set), model);
    assert_eq!(set.len(), model.len() as u64);
    assert_eq!(set.is_empty(), model.is_empty());
    let canonical = RangeSet::try_from(Vec::from(set.clone()));
    assert_eq!(canonical.as_ref(), Ok(set), "not canonical");
}

proptest! {
    #[test]
    fn behaves_like_a_plain_set(steps in vec((any::<bool>(), range()), 0..40)) {
        let (mut set, mut model) = (RangeSet::new(), Model::new());
        for (insert, range) in steps {
            let before = model.len();
            if insert {
                let added = set.insert(range.clone());
                model.extend(range);
                prop_assert_eq!(added, (model.len() - before) as u64);
            } else {
                let removed = set.remove(range.clone());
                model.retain(|value| !range.contains(value));
                prop_assert_eq!(removed, (before - model.len()) as u64);
            }
            check(&set, &model);
        }
    }

    #[test]
    fn answers_like_a_plain_set((set, model) in sets(), range in range()) {
        let held = model.iter().filter(|value| range.contains(value)).count() as u64;
        prop_assert_eq!(set.count(range.clone()), held);
        prop_assert_eq!(set.overlaps(range.clone()), held > 0);
        prop_assert_eq!(set.contains_range(range.clone()), range.clone().all(|v| model.contains(&v)));
        for value in 0..=DOMAIN {
            prop_assert_eq!(set.contains(value), model.contains(&value));
        }
        let start = range.clone().find(|value| !model.contains(value));
        let gap = start.map(|start| {
            start..(start..range.end).find(|value| model.contains(value)).unwrap_or(range.end)
        });
        prop_assert_eq!(set.first_gap(range), gap);
    }

    #[test]
    fn combines_like_plain_sets((a, x) in sets(), (b, y) in sets()) {
        check(&a.union(&b), &x.union(&y).copied().collect());
        check(&a.intersect(&b), &x.intersection(&y).copied().collect());
        check(&a.difference(&b), &x.difference(&y).copied().collect());
    }

    #[test]
    fn refuses_an_overlap_and_stays_as_it_was((set, model) in sets(), range in range()) {
        let mut changed = set.clone();
        match changed.insert_disjoint(range.clone()) {
            Ok(()) => check(&changed, &model.iter().copied().chain(range).collect()),
            Err(Error::Overlap { held, .. }) => {
                prop_assert!(set.contains_range(held.clone()) && !held.is_empty());
                prop_assert!(range.start <= held.start && held.end <= range.end);
                prop_assert_eq!(changed, set);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn takes_the_lowest((set, model) in sets(), count in 0..DOMAIN) {
        let mut rest = set.clone();
        let taken = rest.take_first(count);
        check(&taken, &model.iter().copied().take(count as usize).collect());
        check(&rest, &model.iter().copied().skip(count as usize).collect());
        prop_assert_eq!(taken.union(&rest), set);
    }

    #[test]
    fn survives_json((set, _) in sets()) {
        let json = serde_json::to_string(&set).expect("serialise");
        prop_assert_eq!(serde_json::from_str::<RangeSet>(&json).expect("deserialise"), set);
    }
}

#[test]
fn reads_only_the_canonical_form() {
    let read = |json| serde_json::from_str::<RangeSet>(json).map_err(|e| e.to_string());
    assert_eq!(read("[[0,4],[6,9]]"), Ok([0..4, 6..9].into_iter().collect()));
    for (json, message) in [
        ("[[4,4]]", "interval [4, 4] is empty"),
        ("[[5,4]]", "interval [5, 4] is empty"),
        ("[[0,4],[4,6]]", "interval starts at 4, expected more than 4"),
        ("[[6,9],[0,4]]", "interval starts at 0, expected more than 9"),
    ] {
        let error = read(json).expect_err(json);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn names_the_overlap() {
    let mut set = RangeSet::from(5..10);
    let error = set.insert_disjoint(3..7).expect_err("overlap");
    assert_eq!(
        error.to_string(),
        "range 3..7 overlaps 5..7, which is already in the set"
    );
    assert_eq!(set.to_string(), "{5..10}");
    assert_eq!(set.first(), Some(5..10));
}

#[test]
fn holds_the_whole_domain() {
    let mut set = RangeSet::from(0..u64::MAX);
    assert_eq!(set.len(), u64::MAX);
    assert_eq!(set.remove(7..8), 1);
    assert_eq!(set.take_first(7).len(), 7);
    assert_eq!(set.first(), Some(8..u64::MAX));
}
