//! A set that is larger than the memory it may have. Alone in its process, whose peak is measured.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use retort_data::{DatasetConfig, Format, Part, Size};

mod skip;

const IMAGES: u32 = 100_000;
const SIDE: u32 = 28;
/// Of samples. The set has 78 MB of them.
const BOUND: u64 = 4 << 20;
/// Rows and labels, 12 bytes a sample, their copies in the split, buffers and whatever the process loads on the way.
const BESIDE: u64 = 12 << 20;

/// A number of the kernel's on this process, in bytes.
fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

fn write(folder: &Path, part: &str, images: u32) {
    let open =
        |name: &str| BufWriter::new(File::create(folder.join(format!("{part}-{name}"))).expect("create"));
    let (mut pixels, mut labels) = (open("images-idx3-ubyte"), open("labels-idx1-ubyte"));
    for number in [0x0803, images, SIDE, SIDE] {
        pixels.write_all(&number.to_be_bytes()).expect("write");
    }
    for number in [0x0801, images] {
        labels.write_all(&number.to_be_bytes()).expect("write");
    }
    for image in 0..images {
        let row: Vec<u8> = (0..SIDE * SIDE).map(|i| (i * 7 + image * 31) as u8).collect();
        pixels.write_all(&row).expect("write");
        labels.write_all(&[(image % 10) as u8]).expect("write");
    }
}

#[test]
fn reading_and_training_hold_no_more_than_the_bound() {
    let Some(before) = status("VmRSS:") else {
        skip::skipped("no /proc/self/status on this system");
        return;
    };
    let folder = tempfile::TempDir::new().expect("folder");
    write(folder.path(), "train", IMAGES);
    write(folder.path(), "t10k", 1_000);
    let config = DatasetConfig {
        format: Some(Format::Idx),
        path: Some(folder.path().display().to_string()),
        memory: Some(Size(BOUND)),
        ..DatasetConfig::default()
    };
    let set = retort_data::load(&config, Path::new("."), 1).expect("load");
    let mut values = vec![0.0; set.shape().len()];
    for sample in 0..set.train_len() {
        set.view(sample, 1, &mut values);
    }
    assert_eq!(set.split(Part::Validation).len(), 5_000);
    let most = status("VmHWM:").expect("as before") - before;
    println!("{} KiB beyond what the process began with", most >> 10);
    assert!(
        most < BOUND + BESIDE,
        "{most} bytes for samples of {}",
        IMAGES * SIDE * SIDE
    );
}
