use std::sync::Arc;

use retort_codec::Encoding;
use retort_data::DatasetConfig;
use retort_data::order::{Grid, Order};

use super::*;
use crate::blocks::Blocks;

const CLASSES: usize = 10;

fn blocks(seed: u64) -> Blocks {
    let config = DatasetConfig {
        name: Some("digits".into()),
        ..Default::default()
    };
    let dataset = retort_data::load(&config, Path::new("."), 0).expect("digits come with the program");
    Blocks {
        order: Order::new_all(seed, dataset.train_len()),
        orders: Default::default(),
        grid: Grid {
            positions: u64::from(dataset.train_len()),
            block: 100,
        },
        dataset: Arc::new(dataset),
    }
}

fn identity(blocks: &Blocks) -> Identity {
    Identity {
        teacher: "wide".into(),
        weights: "w".into(),
        dataset_digest: blocks.dataset.digest().into(),
        samples: blocks.dataset.train_len(),
        classes: CLASSES,
        rows: None,
    }
}

fn terms() -> Terms {
    Terms::new(2.0, Encoding::F16)
}

/// Logits that tell the sample.
fn frame(blocks: &Blocks, epoch: u32, block: u64) -> Vec<u8> {
    frame_of(1, samples(blocks, epoch, block))
}

/// Logits of so many rows a sample that tell sample and row.
fn frame_of(rows: usize, samples: impl Iterator<Item = u32>) -> Vec<u8> {
    let row = |sample: u32, row: usize| {
        (0..CLASSES).map(move |c| ((sample as usize * 7 + row * 3 + c * c) % 13) as f32)
    };
    let logits: Vec<f32> = samples
        .flat_map(|sample| (0..rows).flat_map(move |r| row(sample, r)))
        .collect();
    let mut soft = vec![0f32; logits.len()];
    retort_codec::soften(&logits, CLASSES, 2.0, &mut soft);
    let mut bytes = Vec::new();
    retort_codec::encode(&soft, CLASSES, 2.0, Encoding::F16, &mut bytes);
    bytes
}

fn samples(blocks: &Blocks, epoch: u32, block: u64) -> impl Iterator<Item = u32> {
    blocks
        .places(&blocks.order, epoch, block)
        .map(|(_, sample)| sample)
}

fn record_epoch(store: &Store, blocks: &Blocks, epoch: u32) {
    for block in 0..blocks.grid.blocks() {
        store.record(
            terms(),
            &frame(blocks, epoch, block),
            samples(blocks, epoch, block).map(Some),
        );
    }
}

#[test]
fn one_epoch_is_replayed_in_any_order_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = blocks(1);
    let store = Store::open(folder.path(), &identity(&recorded), [terms()]).unwrap();
    assert_eq!(store.recorded().0, 0);
    assert_eq!(store.gather(terms(), samples(&recorded, 0, 0)), None);
    record_epoch(&store, &recorded, 0);
    assert_eq!(
        store.recorded(),
        (recorded.dataset.train_len(), recorded.dataset.train_len())
    );
    drop(store);
    // Another run with another seed, from the files.
    let other = blocks(2);
    let store = Store::open(folder.path(), &identity(&other), [terms()]).unwrap();
    for (epoch, block) in [(0, 0), (5, 3), (9, other.grid.blocks() - 1)] {
        let replayed = store
            .gather(terms(), samples(&other, epoch, block))
            .expect("recorded");
        assert_eq!(replayed, frame(&other, epoch, block));
    }
}

#[test]
fn rows_of_another_identity_or_on_other_terms_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks(1);
    let ours = identity(&blocks);
    let store = Store::open(folder.path(), &ours, [terms()]).unwrap();
    record_epoch(&store, &blocks, 0);
    let others = [
        Identity {
            teacher: "narrow".into(),
            ..ours.clone()
        },
        Identity {
            weights: "other".into(),
            ..ours.clone()
        },
        Identity {
            dataset_digest: "other".into(),
            ..ours.clone()
        },
        Identity {
            classes: 5,
            ..ours.clone()
        },
        Identity {
            rows: Some(2),
            ..ours.clone()
        },
    ];
    for other in others {
        let store = Store::open(folder.path(), &other, [terms()]).unwrap();
        assert_eq!(store.recorded().0, 0, "{other:?}");
    }
    for other in [Terms::new(2.5, Encoding::F16), Terms::new(2.0, Encoding::Bf16)] {
        assert_eq!(
            store.gather(other, samples(&blocks, 0, 0)),
            None,
            "not among its terms"
        );
        let store = Store::open(folder.path(), &ours, [other]).unwrap();
        assert_eq!(store.recorded().0, 0);
    }
}

#[test]
fn all_rows_of_a_sample_are_replayed_in_another_epochs_order() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks(1);
    let ours = Identity {
        rows: Some(3),
        ..identity(&blocks)
    };
    let store = Store::open(folder.path(), &ours, [terms()]).unwrap();
    for block in 0..blocks.grid.blocks() {
        let frame = frame_of(3, samples(&blocks, 0, block));
        store.record(terms(), &frame, samples(&blocks, 0, block).map(Some));
    }
    let all = blocks.dataset.train_len();
    assert_eq!(store.recorded(), (all, all));
    let found = store.gather(terms(), samples(&blocks, 5, 2)).unwrap();
    assert_eq!(found, frame_of(3, samples(&blocks, 5, 2)));
}

#[test]
fn a_damaged_or_torn_row_counts_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks(1);
    let store = Store::open(folder.path(), &identity(&blocks), [terms()]).unwrap();
    record_epoch(&store, &blocks, 0);
    let all = blocks.dataset.train_len();
    let rows = &store.files[&terms()];
    let slot = (rows.len + CHECKSUM) as u64;
    let victim = blocks.order.sample(0, 42);
    let mut byte = [0];
    rows.file
        .read_exact_at(&mut byte, u64::from(victim) * slot + 3)
        .unwrap();
    rows.file
        .write_all_at(&[byte[0] ^ 1], u64::from(victim) * slot + 3)
        .unwrap();
    assert_eq!(store.recorded(), (all - 1, all));
    assert_eq!(store.gather(terms(), samples(&blocks, 0, 0)), None);
    assert!(store.gather(terms(), samples(&blocks, 0, 1)).is_some());
    // A row in another's place is none either.
    let mut row = vec![0; slot as usize];
    rows.file.read_exact_at(&mut row, 0).unwrap();
    rows.file.write_all_at(&row, slot).unwrap();
    assert_eq!(store.recorded(), (all - 2, all));
    // Scored again, recorded again.
    record_epoch(&store, &blocks, 3);
    assert_eq!(store.recorded(), (all, all));
}

#[test]
fn samples_that_could_not_be_read_are_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks(1);
    let store = Store::open(folder.path(), &identity(&blocks), [terms()]).unwrap();
    let readable = samples(&blocks, 0, 0)
        .enumerate()
        .map(|(i, sample)| (i != 17).then_some(sample));
    store.record(terms(), &frame(&blocks, 0, 0), readable);
    assert_eq!(store.recorded().0, 99);
}
