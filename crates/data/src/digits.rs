//! The embedded handwritten digits: 1,797 images of 8 x 8 pixels (see `assets/README.md` for their source).

use std::io::Read;

use crate::config::Extent;
use crate::dataset::{Shape, numbers};
use crate::quarantine::Intake;
use crate::split::{Samples, Set, shuffled};
use crate::store::{self, Form, Writer};

const FILE: &[u8] = include_bytes!("../assets/digits.csv.gz");
const COUNT: u32 = 1_797;
const TEST: u32 = 300;
/// The pixel value of full ink.
const WHITE: u8 = 16;
const FORM: Form = Form::Bytes { white: WHITE };

pub(crate) const VALIDATION: u32 = 200;
pub(crate) const EXTENT: Extent = Extent {
    shape: Shape {
        channels: 1,
        height: 8,
        width: 8,
    },
    pool: COUNT - TEST,
    test: TEST,
};

/// The samples that training and validation share, and the test samples, cut by a fixed permutation.
pub(crate) fn load(intake: &Intake) -> Result<Set, store::Error> {
    let mut store = Writer::new(FORM, EXTENT.shape.len(), intake.memory);
    let all = parse(&mut store);
    let order = shuffled(COUNT);
    Ok(Set {
        shape: EXTENT.shape,
        class_names: numbers(10),
        store: store.finish()?,
        test: all.gather(order.clone().take(TEST as usize)),
        pool: all.gather(order.skip(TEST as usize)),
        unlabelled: Samples::default(),
        files: Vec::new(),
    })
}

fn parse(store: &mut Writer) -> Samples {
    const PROOF: &str = "the embedded file holds small integers: a test reads it";
    let mut text = String::new();
    flate2::read::GzDecoder::new(FILE)
        .read_to_string(&mut text)
        .expect(PROOF);
    let mut samples = Samples::default();
    for line in text.lines() {
        let mut row: Vec<u8> = line.split(',').map(|cell| cell.parse().expect(PROOF)).collect();
        let label = row.pop().expect(PROOF).into();
        samples.push(store.push(row), label);
    }
    assert_eq!(samples.len(), COUNT);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_its_source_says() {
        let mut store = Writer::new(FORM, EXTENT.shape.len(), u64::MAX);
        let samples = parse(&mut store);
        let store = store.finish().expect("memory");
        let mut counts = [0u32; 10];
        for &label in &samples.labels {
            counts[label as usize] += 1;
        }
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        let mut first = [0.0; 64];
        store.read(0, &mut first);
        assert_eq!(
            first[..6],
            [0.0, 0.0, 5.0 / 16.0, 13.0 / 16.0, 9.0 / 16.0, 1.0 / 16.0]
        );
        let most = |row| store.with(row, |record| record.iter().copied().max());
        assert_eq!((0..COUNT).filter_map(most).max(), Some(WHITE));
    }

    #[test]
    fn test_and_pool_share_no_row() {
        let order: Vec<u32> = shuffled(COUNT).collect();
        let distinct: std::collections::BTreeSet<_> = order.iter().collect();
        assert_eq!(distinct.len(), COUNT as usize);
        let set = load(&Intake::new(None, u64::MAX)).expect("memory");
        assert_eq!((set.pool.len(), set.test.len()), (1_497, 300));
    }
}
