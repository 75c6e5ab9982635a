use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{FLOOR, soften};

const BOTH: [Encoding; 2] = [Encoding::F32, Encoding::F16];

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

/// Logits of rows, from flat to very peaked.
fn logits() -> impl Strategy<Value = (usize, Vec<f32>)> {
    let scale = prop::sample::select(vec![0.01f32, 1.0, 10.0, 1e4]);
    (1usize..50, 0usize..6, scale)
        .prop_flat_map(|(classes, rows, scale)| (Just(classes), vec(-scale..=scale, classes * rows)))
}

proptest! {
    #[test]
    fn f32_comes_back_bit_for_bit((classes, logits) in logits(), temperature in 0.1f32..50.0) {
        let log_probs = softened(&logits, classes, temperature);
        prop_assert_eq!(check(&log_probs, classes), Ok(()));
        let mut bytes = b"before".to_vec();
        encode(&log_probs, classes, temperature, Encoding::F32, &mut bytes);
        let rows = log_probs.len() / classes;
        prop_assert_eq!(decode(&bytes[6..]), Ok(Frame { temperature, classes, rows, log_probs }));
    }

    #[test]
    fn f16_comes_back_normalised_and_within_its_bound((classes, logits) in logits()) {
        let log_probs = softened(&logits, classes, 1.0);
        let got = decode(&frame(&log_probs, classes, Encoding::F16)).expect("decode");
        prop_assert_eq!(got.log_probs.len(), log_probs.len());
        for (expected, got) in log_probs.iter().zip(&got.log_probs) {
            let bound = Encoding::F16.error_bound(*expected, classes);
            prop_assert!((expected - got).abs() <= bound, "{} for {}, bound {}", got, expected, bound);
            prop_assert!(*got >= FLOOR && *got <= 1e-6);
        }
        for row in got.log_probs.chunks(classes) {
            prop_assert!((mass(row) - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_frame(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }
}

#[test]
fn many_classes_stay_within_the_bound() {
    let logits: Vec<f32> = (0..200_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 * 1e-3)
        .collect();
    let log_probs = softened(&logits, logits.len(), 1.0);
    assert_eq!(check(&log_probs, logits.len()), Ok(()));
    let got = decode(&frame(&log_probs, logits.len(), Encoding::F16)).expect("decode");
    for (expected, got) in log_probs.iter().zip(&got.log_probs) {
        assert!((expected - got).abs() <= Encoding::F16.error_bound(*expected, logits.len()));
    }
}

#[test]
fn probability_zero_becomes_the_floor() {
    for encoding in BOTH {
        let got = decode(&frame(&[0.0, f32::NEG_INFINITY, -5e4], 3, encoding)).expect("decode");
        assert_eq!(got.log_probs, [0.0, FLOOR, FLOOR]);
    }
    assert_eq!(check(&[0.0, f32::NEG_INFINITY], 2), Ok(()));
}

#[test]
fn the_bytes_are_pinned() {
    let log_probs = softened(&[0.0, 0.0], 2, 1.0);
    let expected = [
        b'R', b'T', 1, 2, 0, 0, 0x80, 0x40, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x8c, 0xb9, 0x8c, 0xb9,
    ];
    assert_eq!(frame(&log_probs, 2, Encoding::F16), signed(expected.to_vec()));
}

#[test]
fn refuses_what_is_no_frame() {
    use Encoding::{F16, F32};
    let whole = small(F32);
    let cut = whole[..30].to_vec();
    let long = [whole.clone(), vec![0]].concat();
    let mut damaged = whole.clone();
    damaged[25] ^= 4;
    let huge = [u32::MAX.to_le_bytes(), u32::MAX.to_le_bytes()].concat();
    let cases = [
        (vec![], "frame holds 0 bytes, expected 20"),
        (cut, "frame holds 30 bytes, expected 44"),
        (long, "frame holds 45 bytes, expected 44"),
        (
            patched(F32, 0, b"XY"),
            "frame starts with [58, 59], expected [52, 54]",
        ),
        (patched(F32, 2, &[9]), "frame has version 9, expected 1"),
        (
            patched(F32, 3, &[7]),
            "frame: unknown encoding 7, expected f32 (1) or f16 (2)",
        ),
        (
            patched(F32, 4, &0f32.to_le_bytes()),
            "frame has temperature 0, expected",
        ),
        (
            patched(F32, 4, &f32::NAN.to_le_bytes()),
            "frame has temperature NaN",
        ),
        (patched(F32, 12, &[0; 4]), "frame announces 2 rows of 0 classes"),
        (
            patched(F32, 8, &huge),
            "frame announces 4294967295 rows of 4294967295 classes",
        ),
        (
            patched(F32, 8, &[3, 0, 0, 0]),
            "frame holds 44 bytes, expected 56",
        ),
        (damaged, "frame has checksum"),
        (
            patched(F32, 24, &f32::NEG_INFINITY.to_le_bytes()),
            "log-probability of row 0, class 1 is -inf, expected a finite number",
        ),
        (
            patched(F16, 28, &f16::NAN.to_le_bytes()),
            "log-probability of row 1, class 1 is NaN",
        ),
        (
            patched(F32, 20, &1f32.to_le_bytes()),
            "probabilities of row 0 sum to",
        ),
        (
            patched(F16, 20, &f16::MIN.to_le_bytes()),
            "probabilities of row 0 sum to",
        ),
    ];
    for (bytes, expected) in cases {
        let error = decode(&bytes).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn checking_names_the_row_that_decoding_would_refuse() {
    let rows = [0.5f32.ln(), 0.5f32.ln(), f32::NAN, 0.0];
    assert!(matches!(
        check(&rows, 2),
        Err(Error::NotFinite { row: 1, class: 0, .. })
    ));
    for encoding in BOTH {
        let error = decode(&frame(&rows, 2, encoding));
        assert!(matches!(error, Err(Error::NotFinite { row: 1, class: 0, .. })));
    }
    assert!(matches!(check(&[0.0, 0.0], 2), Err(Error::Mass { row: 0, .. })));
}

/// xorshift64*: enough for a mutator, and the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// Flips, overwrites, cuts, lengthens or copies within.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len().max(1));
            match self.below(6) {
                0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => bytes.truncate(at),
                4 => bytes.extend((0..=self.below(9)).map(|i| i as u8)),
                _ if !bytes.is_empty() => {
                    let from = self.below(bytes.len());
                    bytes[at] = bytes[from];
                }
                _ => bytes.push(0),
            }
        }
    }
}

#[test]
fn every_single_bit_counts() {
    for encoding in BOTH {
        let whole = small(encoding);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "{encoding} bit {bit}");
        }
    }
}

#[test]
fn mutated_frames_never_panic_nor_pass() {
    let seed = 0x5eed;
    let mut dice = Dice(seed);
    let originals = BOTH.map(small);
    let mut log_probs = Vec::new();
    let mut valid = 0;
    for round in 0..200_000 {
        let original = &originals[round % 2];
        let mut bytes = original.clone();
        dice.mutate(&mut bytes);
        if bytes != *original {
            let got = decode_into(&bytes, &mut log_probs);
            assert!(
                got.is_err(),
                "seed {seed:#x} round {round}: {got:?} of {bytes:02x?}"
            );
        }
        if bytes.len() < HEADER_LEN {
            continue;
        }
        // With a right checksum it may pass, but only as rows of log-probabilities.
        if let Ok(header) = decode_into(&signed(bytes), &mut log_probs) {
            valid += 1;
            assert_eq!(log_probs.len(), header.rows * header.classes);
            assert!(log_probs.iter().all(|value| value.is_finite() && *value >= FLOOR));
            let tolerance = header.encoding.mass_tolerance();
            assert!(
                log_probs
                    .chunks(header.classes)
                    .all(|row| (mass(row) - 1.0).abs() <= tolerance)
            );
        }
    }
    assert!(valid > 100, "only {valid} mutants got as far as their values");
}
