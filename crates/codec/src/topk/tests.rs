use std::num::NonZeroU16;

use half::f16;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::frame::{Targets, decode, encode};

fn top(k: u16) -> Encoding {
    Encoding::TopK(NonZeroU16::new(k).unwrap())
}

/// The classes of the largest values, ascending; the lower of equal ones.
fn selected(row: &[f32], kept: usize) -> Vec<u32> {
    let mut best = vec![7; 5]; // what was in there does not matter
    select(row, kept, &mut best);
    let mut ids: Vec<u32> = best.into_iter().map(id).collect();
    ids.sort_unstable();
    ids
}

/// The same by sorting all of them.
fn reference(row: &[f32], kept: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    // Stable, so equal values stay by class.
    ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
    ids.truncate(kept);
    ids.sort_unstable();
    ids
}

fn decoded(log_probs: &[f32], classes: usize, k: u16) -> Result<TopK, Error> {
    let mut bytes = Vec::new();
    encode(log_probs, classes, 1.0, top(k), &mut bytes);
    match decode(&bytes)?.targets {
        Targets::TopK(top) => Ok(top),
        Targets::Dense(values) => panic!("expected top-K, not {values:?}"),
    }
}

/// A row of f16 values as [`write`] lays it out.
fn row(tail: f32, log_probs: &[f32], ids: &[u32], classes: usize) -> Vec<u8> {
    let mut bytes = tail.to_le_bytes().to_vec();
    bytes.extend(
        log_probs
            .iter()
            .flat_map(|&value| f16::from_f32(value).to_le_bytes()),
    );
    pack(ids, id_bits(classes), &mut bytes);
    bytes
}

/// The tail as it is written.
fn tail(row: &[f32], kept: usize) -> f64 {
    let mut bytes = Vec::new();
    write(row, row.len(), kept, &mut bytes);
    f64::from(f32::from_le_bytes(
        *bytes.first_chunk().expect("a row begins with its tail"),
    ))
}

/// In f64, over the classes that a sort leaves out.
fn reference_tail(row: &[f32], kept: usize) -> f64 {
    let ids = reference(row, kept);
    let rest = (0..row.len()).filter(|&id| ids.binary_search(&(id as u32)).is_err());
    let rest: Vec<f64> = rest.map(|id| f64::from(row[id])).collect();
    let most = rest.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    rest.iter().map(|value| (value - most).exp()).sum::<f64>().ln() + most
}

proptest! {
    #[test]
    fn selects_what_a_sort_selects(
        (row, kept) in vec(prop_oneof![(0..6).prop_map(|i| i as f32 * -0.5), -1e4f32..0.0], 1..1500)
            .prop_flat_map(|row| { let all = row.len(); (Just(row), prop_oneof![1..=all, 1..=all.min(70)]) })
    ) {
        // `select` has no negative zero to tell from zero: their sum would be 2.
        let row: Vec<f32> = row.into_iter().map(|value| value + 0.0).collect();
        prop_assert_eq!(selected(&row, kept), reference(&row, kept));
    }

    #[test]
    fn the_tail_is_the_sum_of_what_was_left_out(
        (row, kept) in vec(-30f32..0.0, 2..300)
            .prop_flat_map(|row| { let most = row.len() - 1; (Just(row), 1..=most) })
    ) {
        let (got, expected) = (tail(&row, kept), reference_tail(&row, kept));
        prop_assert!((got - expected).abs() <= 5e-6 + 1e-6 * expected.abs(), "{} for {}", got, expected);
    }

    #[test]
    fn ids_of_any_width_come_back(bits in 0u32..=28, ids in vec(any::<u32>(), 0..40)) {
        let ids: Vec<u32> = ids.into_iter().map(|id| id & ((1 << bits) - 1)).collect();
        let mut bytes = Vec::new();
        pack(&ids, bits, &mut bytes);
        prop_assert_eq!(bytes.len(), (ids.len() * bits as usize).div_ceil(8));
        let mut got = vec![u32::MAX; ids.len()];
        prop_assert!(unpack(bytes.iter().copied(), bits, &mut got));
        prop_assert_eq!(&got, &ids);
        // Each bit that pads must be zero.
        for bit in ids.len() * bits as usize..8 * bytes.len() {
            let mut padded = bytes.clone();
            padded[bit / 8] |= 1 << (bit % 8);
            prop_assert!(!unpack(padded.into_iter(), bits, &mut got), "bit {}", bit);
        }
    }
}

/// Ascending rows make every chunk a candidate; equal ones none but the first.
#[test]
fn selects_from_rows_that_are_hard_on_it() {
    const CLASSES: usize = 50_000;
    let rows: [fn(usize) -> f32; 5] = [
        |i| i as f32 - CLASSES as f32,
        |i| -(i as f32),
        |_| -3.0,
        |i| ((i * 7919) % CLASSES) as f32 * -0.01,
        |i| -((CLASSES - i) as f32 / 500.0).floor(),
    ];
    for (n, value) in rows.into_iter().enumerate() {
        let row: Vec<f32> = (0..CLASSES).map(value).collect();
        for kept in [1, 64, 256, 1000, 49_999, CLASSES] {
            assert_eq!(
                selected(&row, kept),
                reference(&row, kept),
                "row {n}, {kept} kept"
            );
        }
    }
}

#[test]
fn the_lower_of_equal_classes_is_kept() {
    let quarter = 0.25f32.ln();
    let got = decoded(&[quarter; 4], 4, 2).expect("decode");
    assert_eq!(got.ids, [0, 1]);
    let eighth = 0.125f32.ln();
    let got = decoded(&[eighth, 0.5f32.ln(), eighth, eighth, eighth], 5, 3).expect("decode");
    assert_eq!(got.ids, [0, 1, 2]);
}

#[test]
fn nan_is_never_left_out() {
    let mut classes = vec![-(50f32.ln()); 600];
    classes[50..].fill(FLOOR);
    for nan in [f32::NAN, -f32::NAN] {
        for at in [0, 1, 15, 16, 300, 599] {
            let mut row = classes.clone();
            row[at] = nan;
            assert!(selected(&row, 1) == [at as u32], "{nan} at {at}");
            for k in [1, 3, 64, 600] {
                let error = decoded(&row, 600, k).expect_err("NaN");
                assert!(
                    matches!(error, Error::NotFinite { row: 0, class, .. } if class == at),
                    "{nan} at {at} in top-{k}: {error}"
                );
            }
        }
        // More of them than are kept.
        for k in [1, 3, 64] {
            assert!(matches!(
                decoded(&[nan; 600], 600, k),
                Err(Error::NotFinite { .. })
            ));
        }
    }
    let error = decoded(&[0.0, f32::INFINITY, -20.0], 3, 1).expect_err("infinity");
    assert!(matches!(error, Error::NotFinite { row: 0, class: 1, .. }));
}

#[test]
fn a_tail_of_a_trillionth_is_exact() {
    // One less the sum of what was kept is 0 here, even in f64 it would have four digits.
    for left_out in [1, 10, 1000] {
        let mut row = vec![(1e-12f32 / left_out as f32).ln(); left_out + 2];
        row[0] = 0.75f32.ln();
        row[left_out / 2 + 1] = 0.25f32.ln();
        let (got, expected) = (tail(&row, 2), reference_tail(&row, 2));
        assert!((expected - 1e-12f64.ln()).abs() < 1e-4, "{expected}");
        assert!(
            (got - expected).abs() <= 1e-6 * expected.abs(),
            "{got} for {expected}"
        );
        let decoded = decoded(&row, row.len(), 2).expect("decode").log_tail[0];
        let bound = f64::from(top(2).error_bound(0.0, row.len())) + 1e-6 * expected.abs();
        assert!(
            (f64::from(decoded) - expected).abs() <= bound,
            "{decoded} for {expected}"
        );
    }
}

#[test]
fn a_tail_of_nothing_is_the_floor() {
    let mut row = vec![f32::NEG_INFINITY; 100];
    row[40] = 0.0;
    assert_eq!(tail(&row, 1), f64::from(FLOOR));
    row[41] = -9_000.0;
    assert_eq!(tail(&row, 1), -9_000.0);
}

#[test]
fn normalising_stops_at_the_floor() {
    let mut top1 = TopK::default();
    let bytes = row(-9_999.999, &[0.01], &[0], 5);
    assert_eq!(read(&bytes, top(1), 5, &mut top1), Ok(()));
    assert_eq!(top1.log_tail, [FLOOR]);
}

#[test]
fn classes_out_of_order_or_range_are_refused() {
    let half = 0.5f32.ln();
    let mut top2 = TopK::default();
    for a in 0..8 {
        for b in 0..8 {
            let bytes = row(FLOOR, &[half, half], &[a, b], 5);
            let got = read(&bytes, top(2), 5, &mut top2);
            if a < b && b < 5 {
                assert_eq!((got, top2.ids.as_slice()), (Ok(()), [a, b].as_slice()));
            } else {
                assert_eq!(got, Err(Error::Ids { row: 0 }), "{a} {b}");
            }
        }
    }
    let second = [row(FLOOR, &[0.0], &[4], 5), row(FLOOR, &[0.0], &[5], 5)].concat();
    assert_eq!(read(&second, top(1), 5, &mut top2), Err(Error::Ids { row: 1 }));
    let mut padded = row(FLOOR, &[0.0], &[4], 5);
    *padded.last_mut().expect("a row has its classes") |= 1 << 3;
    assert_eq!(read(&padded, top(1), 5, &mut top2), Err(Error::Ids { row: 0 }));
}

#[test]
fn nothing_is_left_out_of_few_classes() {
    let log_probs = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
    for k in [3, 4, 64, u16::MAX] {
        let got = decoded(&log_probs, 3, k).expect("decode");
        assert_eq!((got.kept, got.ids.as_slice()), (3, [0, 1, 2].as_slice()));
        assert_eq!(got.log_tail, [FLOOR]);
    }
    assert_eq!(decoded(&[0.0], 1, 1).expect("decode").ids, [0]);
    // No class could have what this tail says.
    let mut top1 = TopK::default();
    let half = 0.5f32.ln();
    let error = read(&row(half, &[half], &[0], 1), top(1), 1, &mut top1);
    assert_eq!(error, Err(Error::Tail { row: 0, value: half }));
}
