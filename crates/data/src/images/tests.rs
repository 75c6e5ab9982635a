use std::fs;

use image::{GrayImage, Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::{DatasetConfig, Format, Part};

/// Two classes, some files each, red on the left in `a` and on the right in `b`.
fn folder(width: u32, height: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (class, part, files) in [
        ("a", "train", 6),
        ("b", "train", 6),
        ("a", "test", 2),
        ("b", "test", 2),
    ] {
        let path = folder.path().join(part).join(class);
        fs::create_dir_all(&path).unwrap();
        for file in 0..files {
            let image = RgbImage::from_fn(width, height, |x, y| {
                let red = (x < width / 2) == (class == "a");
                Rgb([if red { 200 } else { 0 }, (10 * y) as u8, file])
            });
            image.save(path.join(format!("{file}.png"))).unwrap();
        }
    }
    folder
}

fn config(folder: &TempDir, images: Images) -> DatasetConfig {
    DatasetConfig {
        format: Some(Format::Images),
        path: Some(folder.path().display().to_string()),
        images: Some(images),
        validation: Some(2),
        ..DatasetConfig::default()
    }
}

#[test]
fn a_single_file_is_read_as_in_the_data_set() {
    let folder = folder(4, 2);
    let small = Images {
        height: Some(3),
        width: Some(5),
        grey: true,
        ..Images::default()
    };
    for (images, shape) in [(Images::default(), [3, 2, 4]), (small, [1, 3, 5])] {
        let data = crate::load(&config(&folder, images), Path::new("."), 1).unwrap();
        assert_eq!(
            data.shape().to_string(),
            shape.map(|side| side.to_string()).join("x")
        );
        let test = data.split(Part::Test);
        let mut known = vec![vec![0.0; data.shape().len()]; 4];
        for (sample, values) in (0..).zip(&mut known) {
            test.write(sample, values);
        }
        let file = folder.path().join("test/b/1.png");
        let values = read_image(&file, data.shape()).unwrap();
        assert!(known.contains(&values), "{values:?}");
    }
    let error = read_image(
        &folder.path().join("none.png"),
        Shape {
            channels: 1,
            height: 2,
            width: 2,
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("none.png: no image in PNG"), "{error}");
}

#[test]
fn channels_lie_one_after_the_other() {
    let folder = folder(4, 2);
    let data = crate::load(&config(&folder, Images::default()), Path::new("."), 1).unwrap();
    assert_eq!(data.shape().to_string(), "3x2x4");
    assert_eq!(data.class_names(), ["a", "b"]);
    assert_eq!((data.train_len(), data.split(Part::Test).len()), (10, 4));
    let mut values = vec![0.0; 24];
    let test = data.split(Part::Test);
    for sample in 0..4 {
        test.write(sample, &mut values);
        let red = 200.0 / 255.0;
        let row = match test.label(sample) {
            0 => [red, red, 0.0, 0.0],
            _ => [0.0, 0.0, red, red],
        };
        assert_eq!(values[..4], row);
        assert_eq!(values[4..8], row);
        assert_eq!(values[8..12], [0.0; 4]);
        assert_eq!(values[12..16], [10.0 / 255.0; 4]);
    }
}

#[test]
fn other_sizes_are_scaled_where_a_size_is_set() {
    let folder = folder(8, 4);
    let wide = folder.path().join("train/a/0.png");
    GrayImage::from_pixel(30, 7, image::Luma([99]))
        .save(&wide)
        .unwrap();
    let refused = crate::load(&config(&folder, Images::default()), Path::new("."), 1).unwrap_err();
    let text = refused.to_string();
    // The first file is the odd one, so the second is named.
    assert!(
        text.contains("1.png: 8x4 pixels, expected 30x7 like the first one: set images.height"),
        "{text}"
    );
    let images = Images {
        height: Some(4),
        width: Some(8),
        grey: true,
        ..Images::default()
    };
    let data = crate::load(&config(&folder, images), Path::new("."), 1).unwrap();
    assert_eq!(data.shape().to_string(), "1x4x8");
    let (part, mut values) = (data.split(Part::Train), vec![0.0; 32]);
    let grey = (0..part.len()).filter(|&sample| {
        part.write(sample, &mut values);
        values.iter().all(|&value| value == 99.0 / 255.0)
    });
    let held_out = data.split(Part::Validation);
    let mut others = vec![0.0; 32];
    let elsewhere = (0..held_out.len()).filter(|&sample| {
        held_out.write(sample, &mut others);
        others.iter().all(|&value| value == 99.0 / 255.0)
    });
    assert_eq!(grey.count() + elsewhere.count(), 1);
}

#[test]
fn damaged_files_are_left_out_and_named() {
    let folder = folder(4, 2);
    let (first, file) = (
        folder.path().join("train/a/0.png"),
        folder.path().join("train/b/3.png"),
    );
    let whole = fs::read(&file).unwrap();
    let mut config = config(&folder, Images::default());
    config.bad_rows = Some(2);
    let load = |config: &DatasetConfig| crate::load(config, Path::new("."), 1);
    for bytes in [&whole[..whole.len() / 2], b"no image", b""] {
        fs::write(&file, bytes).unwrap();
        fs::write(&first, bytes).unwrap();
        let data = load(&config).unwrap();
        let bad: Vec<String> = data.bad_rows().first().iter().map(ToString::to_string).collect();
        assert_eq!((bad.len(), data.bad_rows().count()), (2, 2));
        assert!(bad[0].contains("train/a/0.png: no image in PNG, JPEG"), "{bad:?}");
        assert!(bad[1].contains("train/b/3.png: no image in PNG, JPEG"), "{bad:?}");
        // The same set as without the files.
        for file in [&file, &first] {
            fs::remove_file(file).unwrap();
        }
        let without = load(&config).unwrap();
        assert_eq!((data.digest(), data.train_len()), (without.digest(), 8));
        assert_eq!(without.bad_rows().count(), 0);
    }
    fs::write(&file, b"no image").unwrap();
    config.bad_rows = Some(0);
    let text = load(&config).unwrap_err().to_string();
    assert!(
        text.starts_with("dataset.bad_rows = 0: 1 row cannot be used: ")
            && text.contains("train/b/3.png: no image"),
        "{text}"
    );
}

#[test]
fn sizes_are_checked_before_a_file_is_read() {
    let nowhere = config(
        &tempfile::tempdir().unwrap(),
        Images {
            height: Some(0),
            width: None,
            ..Images::default()
        },
    );
    let problems: Vec<String> = nowhere.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "images.height = 0: expected 1 to 1024",
            "images.width = unset: expected a size, since the other is set"
        ]
    );
    let digits = DatasetConfig {
        name: Some("digits".to_owned()),
        images: Some(Images::default()),
        ..DatasetConfig::default()
    };
    let problems: Vec<String> = digits.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["images = a table: expected absent: only format = \"images\" has it"]
    );
}

#[test]
fn another_folder_adds_images_without_labels() {
    let folder = folder(4, 2);
    let mut config = config(&folder, Images::default());
    let few = crate::load(&config, Path::new("."), 1).unwrap();
    assert_eq!(few.unlabelled(), 0);
    let more = folder.path().join("more/deep");
    fs::create_dir_all(&more).unwrap();
    config.unlabelled = Some(folder.path().join("more").display().to_string());
    let error = crate::load(&config, Path::new("."), 1).unwrap_err().to_string();
    assert!(error.contains("more holds no .png or .jpg"), "{error}");
    for name in ["more/1.png", "more/deep/2.png"] {
        fs::copy(folder.path().join("train/a/0.png"), folder.path().join(name)).unwrap();
    }
    fs::write(more.join("3.png"), b"no image").unwrap();
    let many = crate::load(&config, Path::new("."), 1).unwrap();
    assert_eq!(
        (many.train_len(), many.labelled().len(), many.unlabelled()),
        (12, 10, 2)
    );
    assert!((0..12).all(|sample| many.label(sample).is_some() == (sample < 10)));
    assert_eq!(many.bad_rows().count(), 1);
    crate::dataset::tests::is_the_same_in_a_file(&config);
    assert_ne!(many.digest(), few.digest());
    let (mut first, mut copy) = ([0.0; 24], [1.0; 24]);
    many.view(10, 1, &mut first);
    many.view(11, 1, &mut copy);
    assert_eq!(first, copy);
    for part in [Part::Validation, Part::Test] {
        let labels = |data: &crate::Dataset| -> Vec<u32> {
            let split = data.split(part);
            (0..split.len()).map(|i| split.label(i)).collect()
        };
        assert_eq!(labels(&many), labels(&few), "held-out samples stay");
    }
}
