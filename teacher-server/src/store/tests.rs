use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

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

/// A folder of this machine.
fn here(folder: &Path) -> Place {
    Place::of(folder, Path::new("elsewhere")).unwrap()
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
    let store = Store::open(&here(folder.path()), &identity(&recorded), [terms()]).unwrap();
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
    let store = Store::open(&here(folder.path()), &identity(&other), [terms()]).unwrap();
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
    let store = Store::open(&here(folder.path()), &ours, [terms()]).unwrap();
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
        let store = Store::open(&here(folder.path()), &other, [terms()]).unwrap();
        assert_eq!(store.recorded().0, 0, "{other:?}");
    }
    for other in [Terms::new(2.5, Encoding::F16), Terms::new(2.0, Encoding::Bf16)] {
        assert_eq!(
            store.gather(other, samples(&blocks, 0, 0)),
            None,
            "not among its terms"
        );
        let store = Store::open(&here(folder.path()), &ours, [other]).unwrap();
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
    let store = Store::open(&here(folder.path()), &ours, [terms()]).unwrap();
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
    let store = Store::open(&here(folder.path()), &identity(&blocks), [terms()]).unwrap();
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
    let store = Store::open(&here(folder.path()), &identity(&blocks), [terms()]).unwrap();
    let readable = samples(&blocks, 0, 0)
        .enumerate()
        .map(|(i, sample)| (i != 17).then_some(sample));
    store.record(terms(), &frame(&blocks, 0, 0), readable);
    assert_eq!(store.recorded().0, 99);
}

/// A bucket in memory that can be away.
#[derive(Debug, Default)]
struct Memory {
    values: Mutex<BTreeMap<String, Bytes>>,
    away: AtomicBool,
    puts: AtomicUsize,
}

impl Memory {
    fn values(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.values.lock().unwrap()
    }
}

impl Shelf for Memory {
    fn get(&self, name: &str) -> io::Result<Option<Bytes>> {
        if self.away.load(Ordering::SeqCst) {
            return Err(io::Error::other("away"));
        }
        Ok(self.values().get(name).cloned())
    }

    fn put(&self, name: &str, value: Bytes) -> io::Result<()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.values().insert(name.to_owned(), value);
        Ok(())
    }
}

/// The store of a machine that shares the bucket.
fn machine(folder: &Path, shelf: &Arc<Memory>, blocks: &Blocks) -> Store {
    let place = Place {
        folder: folder.to_owned(),
        shelf: Some(shelf.clone()),
    };
    Store::open(&place, &identity(blocks), [terms()]).unwrap()
}

fn record_block(store: &Store, blocks: &Blocks, block: u64) {
    let frame = frame(blocks, 0, block);
    store.record(terms(), &frame, samples(blocks, 0, block).map(Some));
}

#[test]
fn machines_that_share_no_disk_share_rows_through_a_bucket() {
    let blocks = blocks(1);
    let shelf = Arc::new(Memory::default());
    let [a, b, c] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (first, second) = (
        machine(a.path(), &shelf, &blocks),
        machine(b.path(), &shelf, &blocks),
    );
    assert!(first.is_mirrored());
    record_block(&first, &blocks, 0);
    record_block(&second, &blocks, 1);
    first.bring().unwrap();
    second.bring().unwrap();
    assert_eq!(second.recorded().0, 200, "the second has the first's rows too");
    let third = machine(c.path(), &shelf, &blocks);
    for block in [0, 1] {
        let replayed = third.gather(terms(), samples(&blocks, 0, block));
        assert_eq!(replayed.unwrap(), frame(&blocks, 0, block));
    }
    assert_eq!(third.recorded().0, 200);

    let puts = shelf.puts.load(Ordering::SeqCst);
    third.bring().unwrap();
    second.bring().unwrap();
    assert_eq!(
        shelf.puts.load(Ordering::SeqCst),
        puts,
        "nothing new goes nowhere"
    );
}

#[test]
fn rows_wait_for_a_bucket_that_is_away() {
    let blocks = blocks(1);
    let shelf = Arc::new(Memory::default());
    let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let store = machine(a.path(), &shelf, &blocks);
    record_block(&store, &blocks, 0);
    shelf.away.store(true, Ordering::SeqCst);
    assert!(store.bring().is_err());
    shelf.away.store(false, Ordering::SeqCst);
    store.bring().unwrap();
    assert_eq!(machine(b.path(), &shelf, &blocks).recorded().0, 100);
}

#[test]
fn a_damaged_segment_costs_its_rows_only() {
    let blocks = blocks(1);
    let shelf = Arc::new(Memory::default());
    let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let store = machine(a.path(), &shelf, &blocks);
    record_epoch(&store, &blocks, 0);
    store.bring().unwrap();
    for value in shelf.values().values_mut() {
        let mut bytes = value.to_vec();
        bytes[0] ^= 1;
        bytes.truncate(bytes.len() - 1);
        *value = bytes.into();
    }
    let (recorded, all) = machine(b.path(), &shelf, &blocks).recorded();
    assert_eq!(recorded, all - 2, "one was changed, and the last one cut off");
    // Whoever has them mends it.
    record_block(&store, &blocks, 0);
    store.bring().unwrap();
    assert_eq!(machine(b.path(), &shelf, &blocks).recorded(), (all, all));
}
