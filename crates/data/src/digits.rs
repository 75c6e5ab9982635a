//! The embedded handwritten digits: 1,797 images of 8 x 8 pixels (see `assets/README.md` for their source).

use std::io::Read;

use crate::config::Extent;
use crate::dataset::Shape;
use crate::split::{Pixels, Samples, shuffled};

const FILE: &[u8] = include_bytes!("../assets/digits.csv.gz");
const COUNT: u32 = 1_797;
const TEST: u32 = 300;
/// The pixel value of full ink.
const WHITE: u8 = 16;

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
pub(crate) fn load() -> (Samples, Samples) {
    let all = parse();
    let order = shuffled(COUNT);
    let test = all.gather(order.clone().take(TEST as usize));
    (all.gather(order.skip(TEST as usize)), test)
}

fn parse() -> Samples {
    const PROOF: &str = "the embedded file holds small integers: a test reads it";
    let mut text = String::new();
    flate2::read::GzDecoder::new(FILE)
        .read_to_string(&mut text)
        .expect(PROOF);
    let mut data = Vec::new();
    let mut labels = Vec::new();
    for line in text.lines() {
        let mut row: Vec<u8> = line.split(',').map(|cell| cell.parse().expect(PROOF)).collect();
        labels.push(row.pop().expect(PROOF).into());
        data.extend(row);
    }
    let values = EXTENT.shape.len();
    assert_eq!(labels.len(), COUNT as usize);
    assert_eq!(data.len(), COUNT as usize * values);
    Samples {
        values,
        pixels: Pixels::Bytes { data, white: WHITE },
        labels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_its_source_says() {
        let samples = parse();
        let mut counts = [0u32; 10];
        for &label in &samples.labels {
            counts[label as usize] += 1;
        }
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        let mut first = [0.0; 64];
        samples.write(0, &mut first);
        assert_eq!(
            first[..6],
            [0.0, 0.0, 5.0 / 16.0, 13.0 / 16.0, 9.0 / 16.0, 1.0 / 16.0]
        );
        let Pixels::Bytes { data, .. } = &samples.pixels else {
            panic!("bytes");
        };
        assert_eq!(data.iter().max(), Some(&WHITE));
    }

    #[test]
    fn test_and_pool_share_no_row() {
        let order: Vec<u32> = shuffled(COUNT).collect();
        let distinct: std::collections::BTreeSet<_> = order.iter().collect();
        assert_eq!(distinct.len(), COUNT as usize);
        let (pool, test) = load();
        assert_eq!((pool.len(), test.len()), (1_497, 300));
    }
}
