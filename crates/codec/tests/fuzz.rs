//! Throws broken frames at the decoder: whatever it takes must be rows of log-probabilities.
//!
//! `RETORT_FUZZ` says how many inputs, the same ones each time; 10 million take about ten seconds in release.

use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use retort_codec::{
    Encoding, Error, FLOOR, Frame, HEADER_LEN, MAX_VALUES, Targets, TopK, decode_into, encode, soften,
};

const SEED: u64 = 0x5eed_0002;
const INPUTS: u64 = 200_000;

/// Rows and classes.
const SHAPES: [(usize, usize); 6] = [(2, 3), (1, 1), (3, 17), (4, 40), (1, 300), (0, 5)];

/// xorshift64*: enough for a mutator, and the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() >> 33) as usize % bound
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

/// A frame as broken as can be, or nearly whole.
fn input(dice: &mut Dice, originals: &[Vec<u8>], bytes: &mut Vec<u8>) -> usize {
    let which = dice.below(originals.len());
    bytes.clear();
    bytes.extend_from_slice(&originals[which]);
    match dice.below(16) {
        // Nothing but noise.
        0 => {
            bytes.clear();
            let len = dice.below(200);
            bytes.extend((0..len).map(|_| dice.roll() as u8));
        }
        // Rows of noise.
        1 => bytes[HEADER_LEN..]
            .iter_mut()
            .for_each(|byte| *byte = dice.roll() as u8),
        // Any frame's header before any other's rows.
        2 => {
            let other = &originals[dice.below(originals.len())];
            bytes.truncate(HEADER_LEN);
            bytes.extend_from_slice(&other[HEADER_LEN..]);
        }
        3..7 => (0..=dice.below(3)).for_each(|_| mutate(dice, 0, bytes)),
        // Half of them keep their header and length, so that they reach the values.
        _ => (0..=dice.below(3)).for_each(|_| mutate(dice, HEADER_LEN, bytes)),
    }
    which
}

/// Changes something at or after `from`, or anywhere if nothing is there; the length too, if that is 0.
fn mutate(dice: &mut Dice, from: usize, bytes: &mut Vec<u8>) {
    const WORDS: [f32; 16] = [
        0.0,
        -0.0,
        1.0,
        -0.5,
        -24.0,
        FLOOR,
        -1.000_1e4,
        24.0 / 255.0,
        0.095,
        1e-45,
        88.0,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let len = bytes.len();
    let from = if from < len { from } else { 0 }; // a frame without rows has but its header
    if len == 0 {
        bytes.push(dice.roll() as u8);
        return;
    }
    let at = from + dice.below(len - from);
    let word = match dice.below(3) {
        0 => dice.one_of(&WORDS).to_bits(),
        1 => dice.one_of(&[0, 1, 2, 3, 5, 64, 65_535, 65_536, 1 << 28, u32::MAX]),
        // What the frame holds elsewhere.
        _ => {
            let at = from + dice.below(len - from);
            bytes[at..]
                .iter()
                .take(4)
                .fold(0, |word, &byte| word << 8 | u32::from(byte))
                .swap_bytes()
        }
    };
    match dice.below(if from == 0 { 9 } else { 6 }) {
        0..3 => bytes[at] ^= 1 << dice.below(8),
        3 => bytes[at] = dice.one_of(&[0, 1, 2, 4, 5, 0x7c, 0x7f, 0x80, 0xfc, 0xff]),
        // Where fields, rows and values begin in most cases.
        4 => (bytes[at / 2 * 2..].iter_mut().zip(word.to_le_bytes())).for_each(|(byte, new)| *byte = new),
        5 => bytes[at] = bytes[at].wrapping_add(dice.one_of(&[1, 0xff, 7])),
        6 => bytes.truncate(at),
        7 => bytes.extend((0..=dice.below(9)).map(|i| i as u8)),
        _ => drop(bytes.remove(at)),
    }
}

/// Makes the checksum right, where there is place for one.
fn sign(bytes: &mut [u8]) {
    if bytes.len() < HEADER_LEN {
        return;
    }
    let mut hash = crc32fast::Hasher::new();
    hash.update(&bytes[..20]);
    hash.update(&bytes[HEADER_LEN..]);
    bytes[20..HEADER_LEN].copy_from_slice(&hash.finalize().to_le_bytes());
}

/// In f64, and of nothing but log-probabilities.
fn mass<'a>(log_probs: impl IntoIterator<Item = &'a f32>) -> f64 {
    let probability = |&log_prob: &f32| {
        assert!(
            log_prob.is_finite() && log_prob >= FLOOR,
            "log-probability {log_prob}"
        );
        f64::from(log_prob).exp()
    };
    log_probs.into_iter().map(probability).sum()
}

fn assert_rows(bytes: &[u8], frame: &Frame) {
    let &Frame {
        classes,
        rows,
        temperature,
        ..
    } = frame;
    assert!(
        temperature.is_finite() && temperature > 0.0,
        "temperature {temperature}"
    );
    assert!(classes >= 1 && classes as u64 <= MAX_VALUES, "{classes} classes");
    // What is not f32 was normalised.
    let tolerance = if bytes[3] == 1 { 1.001e-3 } else { 2e-5 };
    let one = |mass: f64| assert!((mass - 1.0).abs() <= tolerance, "mass {mass}");
    match &frame.targets {
        Targets::Dense(log_probs) => {
            assert_eq!(log_probs.len(), rows * classes);
            log_probs.chunks(classes).for_each(|row| one(mass(row)));
        }
        Targets::TopK(TopK {
            kept,
            ids,
            log_probs,
            log_tail,
        }) => {
            assert!((1..=classes).contains(kept), "{kept} kept of {classes}");
            assert_eq!(
                (ids.len(), log_probs.len(), log_tail.len()),
                (rows * kept, rows * kept, rows)
            );
            for ((ids, log_probs), tail) in ids.chunks(*kept).zip(log_probs.chunks(*kept)).zip(log_tail) {
                assert!(ids.is_sorted_by(|a, b| a < b), "classes {ids:?}");
                assert!(
                    ids.iter().all(|&id| (id as usize) < classes),
                    "classes {ids:?} of {classes}"
                );
                assert!(*kept < classes || *tail == FLOOR, "tail {tail} of nothing");
                one(mass(log_probs.iter().chain([tail])));
            }
        }
    }
}

/// How far inputs got that were no longer the original and had rows.
#[derive(Default)]
struct Reached {
    values: u64,
    accepted: u64,
}

/// Decodes `bytes`, and looks at what that allocated, also for those that are refused.
fn decoded(bytes: &[u8]) -> Result<Frame, Error> {
    let mut frame = Frame::default();
    let result = decode_into(bytes, &mut frame);
    let held = match &frame.targets {
        Targets::Dense(log_probs) => log_probs.capacity(),
        Targets::TopK(top) => top.ids.capacity() + top.log_probs.capacity() + top.log_tail.capacity(),
    };
    // A byte becomes at most one value of four bytes; a `Vec` starts with room for four of them.
    let bound = bytes.len() + 3 * 4;
    assert!(held <= bound, "{held} values of {} bytes", bytes.len());
    result.map(|()| frame)
}

/// Decodes `bytes` as they are and, signed in place, with a right checksum.
fn judge(original: &[u8], bytes: &mut [u8], frame: &mut Frame, reached: &mut Reached) {
    let as_is = decoded(bytes);
    let same = *bytes == *original;
    assert_eq!(as_is.is_ok(), same, "{as_is:?} without a right checksum");
    sign(bytes);
    let counts = u64::from(!same && bytes.len() > HEADER_LEN);
    let fresh = decoded(bytes);
    match decode_into(bytes, frame) {
        Ok(()) => {
            assert_rows(bytes, frame);
            assert_eq!(fresh.as_ref(), Ok(&*frame), "what was in the buffers shows");
            reached.values += counts;
            reached.accepted += counts;
        }
        Err(
            Error::NotFinite { .. }
            | Error::Tail { .. }
            | Error::Step { .. }
            | Error::Ids { .. }
            | Error::Mass { .. },
        ) => reached.values += counts,
        Err(Error::Checksum { .. }) => panic!("the checksum was made right"),
        Err(_) => {}
    }
}

/// A frame of each encoding and shape, with flat and peaked rows.
fn originals() -> Vec<Vec<u8>> {
    let tops = [1, 3, 64]
        .into_iter()
        .filter_map(NonZeroU16::new)
        .map(Encoding::TopK);
    let dense = [Encoding::F32, Encoding::F16, Encoding::Bf16, Encoding::U8];
    let mut frames = Vec::new();
    for encoding in dense.into_iter().chain(tops) {
        for (rows, classes) in SHAPES {
            for scale in [0.1, 3.0, 100.0] {
                let logits: Vec<f32> = (0..rows * classes)
                    .map(|i| (i * 37 % 101) as f32 * scale / 25.0)
                    .collect();
                let mut log_probs = vec![0.0; logits.len()];
                soften(&logits, classes, 2.0, &mut log_probs);
                let mut bytes = Vec::new();
                encode(&log_probs, classes, 2.0, encoding, &mut bytes);
                frames.push(bytes);
            }
        }
    }
    frames
}

#[test]
fn broken_frames_never_panic_nor_pass() {
    let inputs = std::env::var("RETORT_FUZZ").map_or(INPUTS, |inputs| inputs.parse().expect("RETORT_FUZZ"));
    let originals = originals();
    let mut dice = Dice(SEED);
    let (mut bytes, mut frame, mut reached) = (Vec::new(), Frame::default(), Reached::default());
    for round in 0..inputs {
        let which = input(&mut dice, &originals, &mut bytes);
        let judged = catch_unwind(AssertUnwindSafe(|| {
            judge(&originals[which], &mut bytes, &mut frame, &mut reached);
        }));
        assert!(judged.is_ok(), "seed {SEED:#x} round {round}: {bytes:02x?}");
    }
    let Reached { values, accepted } = reached;
    println!("{inputs} inputs, {values} reached their values, {accepted} accepted");
    assert!(
        values >= inputs / 3,
        "only {values} of {inputs} reached their values"
    );
    assert!(
        accepted >= inputs / 20,
        "only {accepted} of {inputs} were accepted"
    );
}
