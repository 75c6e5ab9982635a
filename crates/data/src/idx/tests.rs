use std::fs;
use std::io::Write;

use tempfile::TempDir;

use super::*;

fn bytes(magic: u32, dimensions: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    dimensions
        .iter()
        .for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("compress");
    encoder.finish().expect("compress")
}

/// Three training and two test images of 2 x 3.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("folder");
    let pixels: Vec<u8> = (0..18).map(|i| i * 15).collect();
    put(&folder, 0, &bytes(IMAGES, &[3, 2, 3], &pixels));
    put(&folder, 1, &bytes(LABELS, &[3], &[0, 2, 1]));
    put(&folder, 2, &bytes(IMAGES, &[2, 2, 3], &pixels[..12]));
    put(&folder, 3, &bytes(LABELS, &[2], &[1, 2]));
    folder
}

fn put(folder: &TempDir, which: usize, data: &[u8]) {
    fs::write(folder.path().join(FILES[which]), data).expect("write");
}

fn load(folder: &Path, more: Option<&Path>) -> Result<Set, Error> {
    super::load(folder, more, &Intake::new(None, u64::MAX))
}

fn message(folder: &TempDir) -> String {
    let error = load(folder.path(), None).err().expect("an error").to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn reads_plain_and_gzipped_files() {
    let folder = folder();
    let plain = folder.path().join(FILES[0]);
    let zipped = folder.path().join(format!("{}.gz", FILES[0]));
    fs::write(zipped, gzip(&fs::read(&plain).expect("read"))).expect("write");
    fs::remove_file(plain).expect("remove");
    let set = load(folder.path(), None).expect("load");
    assert_eq!(
        (set.shape.to_string().as_str(), set.class_names.len()),
        ("1x2x3", 3)
    );
    assert_eq!((set.pool.len(), set.test.len()), (3, 2));
    assert_eq!(set.pool.labels, [0, 2, 1]);
    let mut out = [0.0; 6];
    set.store.read(set.pool.rows[2], &mut out);
    assert_eq!(out[5], 1.0);
}

#[test]
fn another_file_adds_images_without_labels() {
    let folder = folder();
    let more = folder.path().join("more");
    let images = bytes(IMAGES, &[2, 2, 3], &(0..12).collect::<Vec<u8>>());
    fs::write(&more, &images).expect("write");
    fs::write(folder.path().join("other.gz"), gzip(&images)).expect("write");
    for name in ["more", "other", "other.gz"] {
        let set = load(folder.path(), Some(&folder.path().join(name))).expect(name);
        let more = &set.unlabelled;
        assert_eq!(
            (more.labels.as_slice(), set.pool.len()),
            (&[UNLABELLED; 2][..], 3)
        );
        let mut out = [0.0; 6];
        set.store.read(more.rows[1], &mut out);
        assert_eq!(out[5], 11.0 / 255.0);
    }
    fs::write(&more, bytes(IMAGES, &[1, 3, 2], &[0; 6])).expect("write");
    let error = load(folder.path(), Some(&more)).err().expect("another shape");
    let text = error.to_string();
    assert!(
        text.ends_with("more holds images of 1x3x2, expected 1x2x3 like the training images"),
        "{text}"
    );
    let error = load(folder.path(), Some(&folder.path().join("none")))
        .err()
        .expect("missing");
    assert!(
        error
            .to_string()
            .ends_with("none is missing, plain and with .gz: set dataset.unlabelled to a file of images")
    );
}

#[test]
fn says_what_is_wrong() {
    let cases: [(usize, Vec<u8>, &str); 9] = [
        (
            0,
            bytes(IMAGES, &[3, 2, 3], &[0; 17]),
            "train-images-idx3-ubyte holds 33 bytes, expected 34: copy it again",
        ),
        (
            0,
            bytes(IMAGES, &[3, 2, 3], &[0; 30]),
            "train-images-idx3-ubyte holds 35 bytes, expected 34: copy it again",
        ),
        (
            0,
            bytes(IMAGES, &[3], &[]),
            "train-images-idx3-ubyte holds 8 bytes, expected 16: copy it again",
        ),
        (
            1,
            bytes(IMAGES, &[3], &[0, 2, 1]),
            "train-labels-idx1-ubyte starts with 0x00000803, expected 0x00000801: it is not this kind of idx file",
        ),
        (
            0,
            bytes(IMAGES, &[u32::MAX, u32::MAX, u32::MAX], &[]),
            "train-images-idx3-ubyte announces dimensions [4294967295, 4294967295, 4294967295], expected 1 to 4294967295 samples and at most 2^40 bytes",
        ),
        (
            0,
            bytes(IMAGES, &[1 << 19, 1 << 10, 1 << 10], &[1; 9]),
            "train-images-idx3-ubyte holds 25 bytes, expected 549755813904: copy it again",
        ),
        (
            1,
            bytes(LABELS, &[2], &[0, 2]),
            "train-labels-idx1-ubyte holds 2 labels for 3 images",
        ),
        (
            3,
            bytes(LABELS, &[2], &[1, 3]),
            "t10k-labels-idx1-ubyte holds label 3 at index 1, expected less than 3, the number of classes",
        ),
        (
            2,
            bytes(IMAGES, &[2, 3, 2], &[0; 12]),
            "t10k-images-idx3-ubyte holds images of 1x3x2, expected 1x2x3 like the training images",
        ),
    ];
    for (which, data, expected) in cases {
        let folder = folder();
        put(&folder, which, &data);
        assert_eq!(message(&folder), expected);
    }
}

#[test]
fn says_what_is_missing_and_what_is_not_the_published_set() {
    let folder = folder();
    let error = load_fashion_mnist(folder.path(), &Intake::new(None, u64::MAX))
        .err()
        .expect("hash")
        .to_string();
    assert!(
        error.contains("expected f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        "{error}"
    );
    fs::remove_file(folder.path().join(FILES[0])).expect("remove");
    let error = load_fashion_mnist(folder.path(), &Intake::new(None, u64::MAX))
        .err()
        .expect("missing")
        .to_string();
    assert!(
        error.contains("install the Debian package dataset-fashion-mnist"),
        "{error}"
    );
    assert!(message(&folder).starts_with("train-images-idx3-ubyte is missing, plain and with .gz"));
}

#[test]
fn sees_broken_gzip_streams() {
    let folder = folder();
    let plain = folder.path().join(FILES[0]);
    let whole = gzip(&fs::read(&plain).expect("read"));
    fs::remove_file(plain).expect("remove");
    let zipped = folder.path().join(format!("{}.gz", FILES[0]));
    for cut in 1..whole.len() {
        fs::write(&zipped, &whole[..cut]).expect("write");
        load(folder.path(), None).err().expect("truncated");
    }
    let mut wrong = whole.clone();
    let sum = wrong.len() - 8;
    wrong[sum] ^= 1;
    fs::write(&zipped, wrong).expect("write");
    assert!(message(&folder).starts_with("read "));
}
