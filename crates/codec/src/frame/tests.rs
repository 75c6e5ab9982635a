use std::num::NonZeroU16;

use half::{bf16, f16};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{FLOOR, soften};

fn top(k: u16) -> Encoding {
    Encoding::TopK(NonZeroU16::new(k).unwrap())
}

fn encodings() -> [Encoding; 7] {
    use Encoding::{Bf16, F16, F32, U8};
    [F32, F16, Bf16, U8, top(1), top(3), top(64)]
}

fn softened(logits: &[f32], classes: usize, temperature: f32) -> Vec<f32> {
    let mut out = vec![0.0; logits.len()];
    soften(logits, classes, temperature, &mut out);
    out
}

fn frame(log_probs: &[f32], classes: usize, encoding: Encoding) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(log_probs, classes, 4.0, encoding, &mut bytes);
    bytes
}

/// Two rows of three classes.
fn small(encoding: Encoding) -> Vec<u8> {
    frame(&softened(&[1.0, -2.0, 3.0, 0.0, 9.0, 0.5], 3, 4.0), 3, encoding)
}

/// Makes the checksum right again.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = checksum(&bytes);
    bytes[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn patched(encoding: Encoding, at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = small(encoding);
    bytes[at..at + with.len()].copy_from_slice(with);
    signed(bytes)
}

fn dense(frame: &Frame) -> &[f32] {
    match &frame.targets {
        Targets::Dense(log_probs) => log_probs,
        Targets::TopK(top) => panic!("expected all classes, not {top:?}"),
    }
}

fn sparse(frame: &Frame) -> &TopK {
    match &frame.targets {
        Targets::TopK(top) => top,
        Targets::Dense(values) => panic!("expected top-K, not {values:?}"),
    }
}

/// In f64. Nothing but the floor is nothing.
fn log_sum(values: impl Iterator<Item = f32> + Clone) -> f64 {
    if values.clone().all(|value| value <= FLOOR) {
        return f64::from(FLOOR);
    }
    let most = f64::from(values.clone().fold(f32::NEG_INFINITY, f32::max));
    values.map(|v| (f64::from(v) - most).exp()).sum::<f64>().ln() + most
}

/// Encodes normalised rows, decodes them, and holds what comes back against them.
fn assert_comes_back(log_probs: &[f32], classes: usize, encoding: Encoding) {
    let bytes = frame(log_probs, classes, encoding);
    let rows = log_probs.len() / classes;
    assert_eq!(bytes.len(), encoding.frame_len(rows, classes));
    let got = decode(&bytes).expect("decode");
    assert_eq!((got.rows, got.classes, got.temperature), (rows, classes, 4.0));
    let close = |expected: f32, got: f32| {
        let bound = encoding.error_bound(expected, classes);
        let error = (expected - got).abs();
        assert!(error <= bound, "{encoding}: {got} for {expected}, bound {bound}");
        assert!(got.is_finite() && got >= FLOOR, "{encoding}: {got}");
    };
    let normalised = |log_mass: f64| assert!(log_mass.abs() < 1e-5, "{encoding}: log of the mass {log_mass}");
    match &got.targets {
        Targets::Dense(values) => {
            assert_eq!(values.len(), log_probs.len());
            log_probs.iter().zip(values).for_each(|(&e, &g)| close(e, g));
            for row in values.chunks(classes) {
                normalised(log_sum(row.iter().copied()));
            }
        }
        Targets::TopK(top) => {
            let kept = encoding.kept(classes);
            assert_eq!(
                (top.kept, top.ids.len(), top.log_probs.len(), top.log_tail.len()),
                (kept, rows * kept, rows * kept, rows)
            );
            for (row, log_probs) in log_probs.chunks(classes).enumerate() {
                let at = row * kept..(row + 1) * kept;
                let (ids, values, tail) = (&top.ids[at.clone()], &top.log_probs[at], top.log_tail[row]);
                assert!(ids.is_sorted_by(|a, b| a < b));
                let mut rest = log_probs.to_vec();
                let mut least = f32::INFINITY;
                for (&id, &value) in ids.iter().zip(values) {
                    least = least.min(rest[id as usize]);
                    close(rest[id as usize], value);
                    rest[id as usize] = f32::NEG_INFINITY;
                }
                assert!(
                    rest.iter().all(|&value| value <= least),
                    "{encoding}: not the largest"
                );
                let expected = log_sum(rest.iter().copied());
                let bound = f64::from(encoding.error_bound(0.0, classes)) + 1e-6 * expected.abs();
                let error = (expected - f64::from(tail)).abs();
                assert!(
                    error <= bound,
                    "{encoding}: tail {tail} for {expected}, bound {bound}"
                );
                assert!(tail.is_finite() && tail >= FLOOR, "{encoding}: tail {tail}");
                normalised(log_sum(values.iter().copied().chain([tail])));
            }
        }
    }
}

/// Logits of rows, from flat to very peaked.
fn logits() -> impl Strategy<Value = (usize, Vec<f32>)> {
    let scale = prop::sample::select(vec![0.01f32, 1.0, 10.0, 100.0, 1e4]);
    (1usize..50, 0usize..6, scale)
        .prop_flat_map(|(classes, rows, scale)| (Just(classes), vec(-scale..=scale, classes * rows)))
}

proptest! {
    #[test]
    fn f32_comes_back_bit_for_bit((classes, logits) in logits(), temperature in 0.1f32..50.0) {
        let log_probs = softened(&logits, classes, temperature);
        let mut bytes = b"before".to_vec();
        encode(&log_probs, classes, temperature, Encoding::F32, &mut bytes);
        prop_assert!(bytes.starts_with(b"before"));
        let got = decode(&bytes[6..]).expect("decode");
        prop_assert_eq!((got.temperature, got.classes), (temperature, classes));
        prop_assert_eq!(got.rows, log_probs.len() / classes);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(dense(&got)), bits(&log_probs));
    }

    #[test]
    fn every_encoding_comes_back_normalised_and_within_its_bound((classes, logits) in logits()) {
        let log_probs = softened(&logits, classes, 1.0);
        for encoding in encodings() {
            assert_comes_back(&log_probs, classes, encoding);
        }
    }

    /// Rounding adds to what the mass was off before.
    #[test]
    fn what_checking_takes_decoding_takes((classes, logits) in logits(), off in -9e-4f32..9e-4) {
        let mut log_probs = softened(&logits, classes, 1.0);
        log_probs.iter_mut().for_each(|value| *value += off);
        prop_assert_eq!(check(&log_probs, classes), Ok(()));
        for encoding in encodings() {
            prop_assert_eq!(decode(&frame(&log_probs, classes, encoding)).err(), None, "{}", encoding);
        }
    }

    #[test]
    fn rows_kept_one_by_one_make_the_same_frame((classes, logits) in logits(), temperature in 0.1f32..50.0) {
        let log_probs = softened(&logits, classes, temperature);
        for encoding in encodings() {
            let mut whole = Vec::new();
            encode(&log_probs, classes, temperature, encoding, &mut whole);
            let rows: Vec<Vec<u8>> = (log_probs.chunks(classes))
                .map(|row| {
                    let mut bytes = Vec::new();
                    encode_rows(row, classes, encoding, &mut bytes);
                    assert_eq!(bytes.len(), encoding.row_len(classes));
                    bytes
                })
                .collect();
            let header = Header { encoding, temperature, rows: rows.len(), classes };
            let mut assembled = b"before".to_vec();
            assemble(header, rows.iter().map(Vec::as_slice), &mut assembled);
            prop_assert_eq!(&assembled[6..], &whole);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_frame(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }
}

#[test]
fn many_classes_stay_within_the_bound() {
    // 4096 different logits, so that every one has its equals.
    let logits: Vec<f32> = (0..200_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 * 1e-3)
        .collect();
    for temperature in [1.0, 0.05] {
        let log_probs = softened(&logits, logits.len(), temperature);
        assert_eq!(check(&log_probs, logits.len()), Ok(()));
        for encoding in encodings().into_iter().chain([top(u16::MAX)]) {
            assert_comes_back(&log_probs, logits.len(), encoding);
        }
    }
}

#[test]
fn probability_zero_becomes_the_floor() {
    let log_probs = [0.0, f32::NEG_INFINITY, -5e4];
    assert_eq!(check(&log_probs, 3), Ok(()));
    for (encoding, floor) in [
        (Encoding::F32, FLOOR),
        (Encoding::F16, FLOOR),
        (Encoding::Bf16, -9984.0),
        (Encoding::U8, -24.0),
    ] {
        let got = decode(&frame(&log_probs, 3, encoding)).expect("decode");
        assert_eq!(dense(&got), [0.0, floor, floor], "{encoding}");
    }
    for (encoding, log_probs) in [
        (top(1), vec![0.0]),
        (top(2), vec![0.0, FLOOR]),
        (top(64), vec![0.0, FLOOR, FLOOR]),
    ] {
        let got = decode(&frame(&[0.0, f32::NEG_INFINITY, -5e4], 3, encoding)).expect("decode");
        let expected = TopK {
            kept: log_probs.len(),
            ids: (0..log_probs.len() as u32).collect(),
            log_probs,
            log_tail: vec![FLOOR],
        };
        assert_eq!(sparse(&got), &expected, "{encoding}");
    }
}

/// Built by hand, the checksums with zlib.
#[test]
fn the_bytes_are_pinned() {
    let half = 0.5f32.ln();
    let skewed = [0.0625f32, 0.25, 0.0625, 0.5, 0.125].map(f32::ln);
    #[rustfmt::skip]
    let cases: [(&[f32], Encoding, &[u8]); 5] = [
        (&[half, half], Encoding::F32, &[
            b'R', b'T', 2, 1, 0, 0, 0x80, 0x40, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0,
            0x13, 0xed, 0xdf, 0xbb,
            0x18, 0x72, 0x31, 0xbf, 0x18, 0x72, 0x31, 0xbf,
        ]),
        (&[half, half], Encoding::F16, &[
            b'R', b'T', 2, 2, 0, 0, 0x80, 0x40, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0,
            0xc0, 0xee, 0xed, 0x56,
            0x8c, 0xb9, 0x8c, 0xb9,
        ]),
        (&[half, half], Encoding::Bf16, &[
            b'R', b'T', 2, 3, 0, 0, 0x80, 0x40, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0,
            0x6b, 0xf2, 0xaa, 0x9a,
            0x31, 0xbf, 0x31, 0xbf,
        ]),
        // -24 and 24 / 255; 18 / (24 / 255) = 191.25 steps.
        (&[0.0, FLOOR, -6.0], Encoding::U8, &[
            b'R', b'T', 2, 4, 0, 0, 0x80, 0x40, 1, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0,
            0xa8, 0x99, 0x23, 0x15,
            0x00, 0x00, 0xc0, 0xc1, 0xc1, 0xc0, 0xc0, 0x3d, 255, 0, 191,
        ]),
        // The log of 1/8; those of 1/4, 1/2 and 1/8; classes 1, 3 and 4 in three bits each.
        (&skewed, top(3), &[
            b'R', b'T', 2, 5, 0, 0, 0x80, 0x40, 1, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0,
            0xfd, 0xe7, 0x87, 0x25,
            0x92, 0x15, 0x05, 0xc0, 0x8c, 0xbd, 0x8c, 0xb9, 0x29, 0xc0, 0x19, 0x01,
        ]),
    ];
    for (log_probs, encoding, expected) in cases {
        assert_eq!(
            frame(log_probs, log_probs.len(), encoding),
            expected,
            "{encoding}"
        );
    }
}

#[test]
fn refuses_what_is_no_frame() {
    use Encoding::{Bf16, F16, F32, U8};
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let word = |at: usize, with: f32| patched(F32, at, &with.to_le_bytes());
    let long = [small(F32), vec![0]].concat();
    let mut damaged = small(F32);
    damaged[30] ^= 4;
    damaged[20..24].copy_from_slice(&[1, 0, 0, 0]);
    let damage = format!(
        "frame has checksum {:#010x}, expected 0x00000001: it was damaged on the way",
        checksum(&damaged)
    );
    let ids = "classes kept of row 0 are out of range, out of order or not padded with zeros";
    let tail = |value: &str| {
        format!(
            "log-probability of what row 0 left out is {value}, expected a finite number, -10000 for nothing"
        )
    };
    let (infinite, left_over) = (tail("inf"), tail("-0.5"));
    let cases: &[(Vec<u8>, &str)] = &[
        (vec![], "frame holds 0 bytes, expected 24"),
        (small(F32)[..23].to_vec(), "frame holds 23 bytes, expected 24"),
        (small(F32)[..30].to_vec(), "frame holds 30 bytes, expected 48"),
        (small(top(2))[..30].to_vec(), "frame holds 30 bytes, expected 42"),
        (long, "frame holds 49 bytes, expected 48"),
        (patched(F32, 8, &[3]), "frame holds 48 bytes, expected 60"),
        (patched(U8, 3, &[2]), "frame holds 46 bytes, expected 36"),
        (
            patched(F32, 0, b"XY"),
            "frame starts with [58, 59], expected [52, 54]",
        ),
        (
            patched(F32, 2, &[1]),
            "frame has version 1, expected 2: run the same release on both sides",
        ),
        (
            patched(F32, 3, &[6]),
            "frame: unknown encoding 6, expected f32 (1), f16 (2), bf16 (3), u8 (4) or top-K with K from 1 to 65535 (5)",
        ),
        (
            patched(F32, 3, &[0]),
            "frame: unknown encoding 0, expected f32 (1)",
        ),
        (
            word(4, 0.0),
            "frame has temperature 0, expected a finite number above 0",
        ),
        (word(4, -4.0), "frame has temperature -4, expected"),
        (word(4, f32::NAN), "frame has temperature NaN, expected"),
        (word(4, f32::INFINITY), "frame has temperature inf, expected"),
        (
            patched(F32, 12, &words(&[0, 0])),
            "frame announces 2 rows of 0 classes, 0 of them kept: expected 1 to 268435456 classes and at most 268435456 values",
        ),
        (
            patched(F32, 8, &words(&[u32::MAX; 3])),
            "frame announces 4294967295 rows of 4294967295 classes, 4294967295 of them kept",
        ),
        (
            patched(top(1), 8, &words(&[0, (1 << 28) + 1, 1])),
            "frame announces 0 rows of 268435457 classes, 1 of them kept",
        ),
        (
            patched(top(1), 8, &words(&[(1 << 27) + 1, 3, 2])),
            "frame announces 134217729 rows of 3 classes, 2 of them kept",
        ),
        (
            patched(U8, 16, &[2]),
            "frame keeps 2 of 3 classes: expected all, or 1 to 65535 of them in top-K",
        ),
        (patched(top(1), 16, &[0]), "frame keeps 0 of 3 classes"),
        (patched(top(1), 16, &[4]), "frame keeps 4 of 3 classes"),
        (
            patched(top(1), 12, &words(&[1 << 17, 1 << 16])),
            "frame keeps 65536 of 131072 classes",
        ),
        (damaged, &damage),
        (
            word(28, f32::NEG_INFINITY),
            "log-probability of row 0, class 1 is -inf, expected a finite number",
        ),
        (
            patched(F16, 32, &f16::NAN.to_le_bytes()),
            "log-probability of row 1, class 1 is NaN",
        ),
        (
            patched(Bf16, 34, &bf16::INFINITY.to_le_bytes()),
            "log-probability of row 1, class 2 is inf",
        ),
        (
            patched(U8, 35, &f32::NAN.to_le_bytes()),
            "log-probability of row 1, class 0 is NaN",
        ),
        (
            patched(U8, 28, &f32::INFINITY.to_le_bytes()),
            "log-probability of row 0, class",
        ),
        (
            patched(top(2), 30, &f16::NAN.to_le_bytes()),
            "log-probability of row 0, class 2 is NaN",
        ),
        (patched(top(2), 24, &f32::INFINITY.to_le_bytes()), &infinite),
        (patched(top(3), 24, &(-0.5f32).to_le_bytes()), &left_over),
        (
            patched(U8, 28, &0.1f32.to_le_bytes()),
            "step of row 0 is 0.1, expected 0 to 24 / 255",
        ),
        (
            patched(U8, 39, &(-0.01f32).to_le_bytes()),
            "step of row 1 is -0.01, expected",
        ),
        (patched(top(2), 32, &[2]), ids),
        (patched(top(2), 32, &[5]), ids),
        (patched(top(2), 32, &[12]), ids),
        (patched(top(2), 32, &[8 | 1 << 4]), ids),
        (word(24, 1.0), "probabilities of row 0 sum to 3.3"),
        (
            patched(F16, 24, &f16::MIN.to_le_bytes()),
            "probabilities of row 0 sum to 0.",
        ),
        (patched(Bf16, 30, &[0, 0]), "probabilities of row 1 sum to 1."),
        (
            patched(U8, 24, &1f32.to_le_bytes()),
            "probabilities of row 0 sum to",
        ),
        (
            patched(top(2), 24, &0f32.to_le_bytes()),
            "probabilities of row 0 sum to 1.",
        ),
    ];
    for (bytes, expected) in cases {
        let error = decode(bytes).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}, expected {expected}");
    }
    let error = decode(&patched(F32, 24, &0f32.to_le_bytes()))
        .expect_err("mass")
        .to_string();
    assert!(error.ends_with(", expected 1 within 0.001"), "{error}");
}

fn row(error: &Error) -> Option<usize> {
    match error {
        Error::NotFinite { row, .. }
        | Error::Tail { row, .. }
        | Error::Step { row, .. }
        | Error::Mass { row, .. } => Some(*row),
        _ => None,
    }
}

#[test]
fn checking_names_the_row_that_decoding_would_refuse() {
    const INF: f32 = f32::INFINITY;
    let half = 0.5f32.ln();
    let bad = [
        // The others are a distribution without it.
        [0.0, -20.0, f32::NAN],
        [-f32::NAN, 0.0, -INF],
        [f32::NAN; 3],
        [INF, 0.0, FLOOR],
        [-INF, INF, -INF],
        [-INF; 3],
        [-2e4, -3e4, -2e4],
        [0.0, 0.0, FLOOR],
        [-5.0; 3],
        [100.0, 0.0, FLOOR],
    ];
    for bad in bad {
        let rows = [[half, half, FLOOR], bad, [FLOOR, half, half]].concat();
        let error = check(&rows, 3).expect_err("check");
        assert_eq!(row(&error), Some(1), "{error}");
        for encoding in encodings() {
            let error = decode(&frame(&rows, 3, encoding)).expect_err("decode");
            assert_eq!(row(&error), Some(1), "{encoding} of {bad:?}: {error}");
        }
    }
    let not_finite = check(&[half, half, 0.0, f32::NAN], 2);
    assert!(matches!(
        not_finite,
        Err(Error::NotFinite { row: 1, class: 1, .. })
    ));
    assert!(matches!(check(&[0.0, 0.0], 2), Err(Error::Mass { row: 0, .. })));
}

#[test]
fn every_single_bit_counts() {
    for encoding in encodings() {
        let whole = small(encoding);
        assert!(decode(&whole).is_ok());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "{encoding} bit {bit}");
        }
    }
}

#[test]
fn top_k_is_cut_after_softening() {
    let log_probs = softened(&[4.0, 3.0, 2.0, 1.0, 0.0, -1.0], 6, 4.0);
    let encoding = top(2);
    let got = decode(&frame(&log_probs, 6, encoding)).expect("decode");
    let got = sparse(&got);
    assert_eq!(got.ids, [0, 1]);
    for (expected, got) in log_probs.iter().zip(&got.log_probs) {
        assert!((expected - got).abs() <= encoding.error_bound(*expected, 6));
    }
    // A softmax of the two alone would leave nothing to the others.
    let left_out: f64 = log_probs[2..].iter().map(|&value| f64::from(value).exp()).sum();
    assert!(left_out > 0.4);
    assert!((f64::from(got.log_tail[0]).exp() - left_out).abs() < 1e-3);
}

#[test]
fn buffers_are_used_again() {
    let wide = softened(&(0..60).map(|i| (i % 7) as f32).collect::<Vec<_>>(), 20, 1.0);
    let mut reused = Frame::default();
    let mut at = None;
    for encoding in [Encoding::F32, Encoding::F16, Encoding::Bf16, Encoding::U8] {
        for bytes in [frame(&wide, 20, encoding), small(encoding)] {
            decode_into(&bytes, &mut reused).expect("decode");
            assert_eq!(Ok(&reused), decode(&bytes).as_ref());
            let buffer = dense(&reused).as_ptr();
            assert_eq!(*at.get_or_insert(buffer), buffer, "{encoding}");
        }
    }
    let mut at = None;
    for encoding in [top(20), top(3), top(1)] {
        for bytes in [frame(&wide, 20, encoding), small(encoding)] {
            decode_into(&bytes, &mut reused).expect("decode");
            assert_eq!(Ok(&reused), decode(&bytes).as_ref());
            let top = sparse(&reused);
            let buffers = (top.ids.as_ptr(), top.log_probs.as_ptr(), top.log_tail.as_ptr());
            assert_eq!(*at.get_or_insert(buffers), buffers, "{encoding}");
        }
    }
    // An error in between does no harm.
    assert!(decode_into(&patched(top(2), 32, &[5]), &mut reused).is_err());
    decode_into(&small(Encoding::F32), &mut reused).expect("decode");
    assert_eq!(Ok(reused), decode(&small(Encoding::F32)));
}

/// Frames of so many rows of 10 bytes.
fn header(rows: usize) -> Header {
    Header {
        encoding: Encoding::U8,
        temperature: 1.0,
        rows,
        classes: 2,
    }
}

#[test]
#[should_panic(expected = "bytes of a frame of 2 rows")]
fn a_frame_is_not_assembled_of_too_few_rows() {
    assemble(header(2), [[0; 10].as_slice()], &mut Vec::new());
}

#[test]
#[should_panic(expected = "bytes of a row")]
fn a_frame_is_not_assembled_of_rows_of_other_lengths() {
    assemble(header(2), [[0; 9].as_slice(), &[0; 11]], &mut Vec::new());
}

/// Multiplied by 2 they are none.
#[test]
#[should_panic(expected = "rows that keep 2 of 2 classes do not fit a frame")]
fn a_frame_is_not_assembled_of_more_rows_than_fit() {
    assemble(header(usize::MAX / 2 + 1), [], &mut Vec::new());
}

#[test]
#[should_panic(expected = "temperature -1 is not a finite number above 0")]
fn a_frame_has_a_temperature() {
    encode(&[0.0], 1, -1.0, Encoding::F32, &mut Vec::new());
}
