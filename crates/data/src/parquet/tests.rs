use std::fs::{self, File};
use std::io::Cursor;
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::parser::parse_message_type;
use image::{ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::{Dataset, DatasetConfig, Format, Images, Part, TextConfig, Tokens};

/// The values of one column; levels are of optional ones within a struct.
enum Values {
    Bytes(Vec<Option<Vec<u8>>>),
    /// Of a column in an optional struct.
    InStruct(Vec<Option<Vec<u8>>>),
    Int32(Vec<Option<i32>>),
    Int64(Vec<i64>),
    Truth(Vec<Option<bool>>),
    Double(Vec<f64>),
}

impl Values {
    fn rows(&self, from: usize, to: usize) -> Self {
        match self {
            Self::Bytes(all) => Self::Bytes(all[from..to].to_vec()),
            Self::InStruct(all) => Self::InStruct(all[from..to].to_vec()),
            Self::Int32(all) => Self::Int32(all[from..to].to_vec()),
            Self::Int64(all) => Self::Int64(all[from..to].to_vec()),
            Self::Truth(all) => Self::Truth(all[from..to].to_vec()),
            Self::Double(all) => Self::Double(all[from..to].to_vec()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Bytes(all) | Self::InStruct(all) => all.len(),
            Self::Int32(all) => all.len(),
            Self::Int64(all) => all.len(),
            Self::Truth(all) => all.len(),
            Self::Double(all) => all.len(),
        }
    }

    fn write(self, column: &mut SerializedColumnWriter<'_>) {
        fn split<T, U>(all: Vec<Option<T>>, level: i16, to: fn(T) -> U) -> (Vec<U>, Vec<i16>) {
            let levels = all
                .iter()
                .map(|value| if value.is_some() { level } else { 0 })
                .collect();
            (all.into_iter().flatten().map(to).collect(), levels)
        }
        let written = match self {
            Self::Bytes(all) => {
                let (values, levels) = split(all, 1, ByteArray::from);
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&values, Some(&levels), None)
            }
            Self::InStruct(all) => {
                let (values, levels) = split(all, 2, ByteArray::from);
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&values, Some(&levels), None)
            }
            Self::Int32(all) => {
                let (values, levels) = split(all, 1, |value| value);
                column
                    .typed::<Int32Type>()
                    .write_batch(&values, Some(&levels), None)
            }
            Self::Truth(all) => {
                let (values, levels) = split(all, 1, |value| value);
                column
                    .typed::<BoolType>()
                    .write_batch(&values, Some(&levels), None)
            }
            Self::Int64(all) => column.typed::<Int64Type>().write_batch(&all, None, None),
            Self::Double(all) => column.typed::<DoubleType>().write_batch(&all, None, None),
        };
        written.expect("write");
    }
}

fn write(file: &Path, schema: &str, columns: &[Values], compression: Compression) {
    let schema = format!("message schema {{ {schema} }}");
    let schema = Arc::new(parse_message_type(&schema).expect("schema"));
    let properties = WriterProperties::builder().set_compression(compression).build();
    let open = File::create(file).expect("create");
    let mut writer = SerializedFileWriter::new(open, schema, Arc::new(properties)).expect("begin");
    let rows = columns[0].len();
    // Row groups of odd sizes.
    for from in (0..rows).step_by(7) {
        let mut group = writer.next_row_group().expect("group");
        for values in columns {
            let mut column = group.next_column().expect("column").expect("one more");
            values.rows(from, (from + 7).min(rows)).write(&mut column);
            column.close().expect("close");
        }
        group.close().expect("close");
    }
    writer.close().expect("close");
}

fn strings(rows: impl Iterator<Item = Option<String>>) -> Values {
    Values::Bytes(rows.map(|row| row.map(String::into_bytes)).collect())
}

fn texts(folder: &TempDir) -> DatasetConfig {
    DatasetConfig {
        format: Some(Format::Text),
        path: Some(folder.path().display().to_string()),
        validation: Some(3),
        text: Some(TextConfig {
            tokens: Tokens::Bytes {},
            length: 8,
            ..TextConfig::default()
        }),
        ..DatasetConfig::default()
    }
}

fn load(config: &DatasetConfig) -> Dataset {
    crate::load(config, Path::new("."), 1).expect("load")
}

fn refused(config: &DatasetConfig) -> String {
    let error = crate::load(config, Path::new("."), 1).expect_err("refused");
    crate::quarantine::with_sources(&error)
}

const TEXT: &str = "optional binary text (UTF8); optional binary label (UTF8);";

#[test]
fn texts_are_those_of_json_lines() {
    let text = |i: usize| format!("text {i}");
    let label = |i: usize| (!i.is_multiple_of(5)).then(|| ["no", "yes"][i % 2].to_owned());
    let lines = |rows: usize, labelled: bool| -> String {
        let line = |i| {
            let label = label(i).or(labelled.then(|| "no".to_owned()));
            serde_json::json!({ "text": text(i), "label": label }).to_string() + "\n"
        };
        (0..rows).map(line).collect()
    };
    let folder = TempDir::new().expect("folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("train.jsonl"), lines(1_000, false)).expect("write");
    fs::write(at("test.jsonl"), lines(9, true)).expect("write");
    let expected = load(&texts(&folder));
    assert_eq!(expected.unlabelled(), 200);
    fs::remove_file(at("train.jsonl")).expect("remove");
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::ZSTD(Default::default()),
    ] {
        let columns = [
            strings((0..1_000).map(|i| Some(text(i)))),
            strings((0..1_000).map(label)),
        ];
        write(&at("train.parquet"), TEXT, &columns, compression);
        assert_eq!(
            load(&texts(&folder)).digest(),
            expected.digest(),
            "{compression:?}"
        );
    }
    // Shards are one after the other.
    fs::remove_file(at("train.parquet")).expect("remove");
    for (shard, from, to) in [(0, 0, 600), (1, 600, 1_000)] {
        let columns = [
            strings((from..to).map(|i| Some(text(i)))),
            strings((from..to).map(label)),
        ];
        let name = format!("train-0000{shard}-of-00002.parquet");
        write(&at(&name), TEXT, &columns, Compression::SNAPPY);
    }
    assert_eq!(load(&texts(&folder)).digest(), expected.digest());
}

#[test]
fn labels_may_be_numbers_and_truths_and_more_texts_need_none() {
    let folder = TempDir::new().expect("folder");
    let file = |name: &str| folder.path().join(name);
    let text = || strings((0..60).map(|i| Some(format!("text {i}"))));
    for (kind, labels, names) in [
        (
            "optional int32 label;",
            Values::Int32((0..60).map(|i| Some(i % 3)).collect()),
            vec!["0", "1", "2"],
        ),
        (
            "required int64 label;",
            Values::Int64((0..60).map(|i| i % 2 - 1).collect()),
            vec!["-1", "0"],
        ),
        (
            "optional boolean label;",
            Values::Truth((0..60).map(|i| (i < 50).then_some(i % 2 == 0)).collect()),
            vec!["false", "true"],
        ),
    ] {
        let schema = format!("optional binary text (UTF8); {kind}");
        write(
            &file("train.parquet"),
            &schema,
            &[text(), labels],
            Compression::SNAPPY,
        );
        write(
            &file("more.parquet"),
            "optional binary text (UTF8);",
            &[text()],
            Compression::SNAPPY,
        );
        let mut config = texts(&folder);
        let few = load(&config);
        assert_eq!(few.class_names(), names, "{kind}");
        config.unlabelled = Some(file("more.parquet").display().to_string());
        assert_eq!(load(&config).unlabelled(), few.unlabelled() + 60);
    }
}

#[test]
fn wrong_columns_are_named_with_their_types() {
    let folder = TempDir::new().expect("folder");
    let file = folder.path().join("train.parquet");
    let config = texts(&folder);
    let text = || strings((0..60).map(|i| Some(format!("text {i}"))));
    let labels = || strings((0..60).map(|i| Some((i % 2).to_string())));
    for (schema, columns, expected) in [
        (
            "required double text; optional binary label (UTF8);",
            [Values::Double(vec![0.5; 60]), labels()],
            "column \"text\" is of type DOUBLE, expected a column of strings",
        ),
        (
            "optional binary words (UTF8); optional binary label (UTF8);",
            [text(), labels()],
            "column \"text\" is absent among words, label, expected a column of strings",
        ),
        (
            "optional binary text (UTF8); required double label;",
            [text(), Values::Double(vec![0.5; 60])],
            "column \"label\" is of type DOUBLE, expected a column of whole numbers, strings or booleans",
        ),
        (
            "optional binary text (UTF8); optional binary name (UTF8);",
            [text(), labels()],
            "column \"label\" is absent among text, name, expected a column of whole numbers",
        ),
        (
            "optional binary text (UTF8); optional group label { optional binary bytes; }",
            [text(), Values::InStruct(vec![None; 60])],
            "column \"label\" is a group of bytes, expected a column of whole numbers",
        ),
    ] {
        write(&file, schema, &columns, Compression::SNAPPY);
        let message = refused(&config);
        assert!(
            message.contains(&format!("train.parquet: {expected}")),
            "{message}"
        );
    }
    for bytes in [
        &b""[..],
        b"PAR1",
        b"no Parquet at all",
        b"PAR1\0\0\0\0\0\0\0\x7fPAR1",
    ] {
        fs::write(&file, bytes).expect("write");
        let message = refused(&config);
        assert!(
            message.contains("train.parquet, expected a Parquet file"),
            "{message}"
        );
    }
}

#[test]
fn bad_rows_are_left_out_and_named() {
    let folder = TempDir::new().expect("folder");
    let text = |i: usize| match i {
        3 => None,
        4 => Some(b"\xff".to_vec()),
        _ => Some(format!("text {i}").into_bytes()),
    };
    let columns = [
        Values::Bytes((0..60).map(text).collect()),
        strings((0..60).map(|i| Some(["a", "b"][i % 2].to_owned()))),
    ];
    write(
        &folder.path().join("train.parquet"),
        TEXT,
        &columns,
        Compression::SNAPPY,
    );
    let set = load(&texts(&folder));
    let bad: Vec<String> = set.bad_rows().first().iter().map(ToString::to_string).collect();
    assert_eq!(bad.len(), 2);
    assert!(
        bad[0].ends_with("train.parquet row 4: text = null: expected a string"),
        "{bad:?}"
    );
    assert!(
        bad[1].ends_with("row 5: text = bytes that are no UTF-8: expected a string"),
        "{bad:?}"
    );
}

fn png(i: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = RgbImage::from_fn(4, 2, |x, y| Rgb([x as u8, y as u8, i as u8]));
    image
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .expect("encode");
    bytes
}

fn images(folder: &TempDir) -> DatasetConfig {
    DatasetConfig {
        format: Some(Format::Images),
        path: Some(folder.path().display().to_string()),
        validation: Some(4),
        ..DatasetConfig::default()
    }
}

#[test]
fn images_are_columns_of_bytes_or_structs_with_bytes() {
    let folder = TempDir::new().expect("folder");
    let file = |name: &str| folder.path().join(name);
    let label = |i: usize| (i % 6 != 5).then_some((i % 11) as i32);
    let labels = || Values::Int32((0..66).map(label).collect());
    let bytes = |rows: std::ops::Range<usize>| rows.map(|i| Some(png(i))).collect::<Vec<_>>();
    let schema = "optional binary image; optional int32 label;";
    write(
        &file("train.parquet"),
        schema,
        &[Values::Bytes(bytes(0..66)), labels()],
        Compression::SNAPPY,
    );
    let set = load(&images(&folder));
    assert_eq!(set.shape().to_string(), "3x2x4");
    let names: Vec<String> = (0..11).map(|i| i.to_string()).collect();
    assert_eq!(set.class_names(), names, "in the order of numbers");
    assert_eq!(set.unlabelled(), 11);
    let lens = [Part::Train, Part::Validation, Part::Test].map(|part| set.split(part).len());
    assert!(
        lens.iter().sum::<u32>() == 66 && (2..25).contains(&lens[2]),
        "{lens:?}"
    );
    let mut values = vec![0.0; 24];
    let train = set.split(Part::Train);
    for sample in 0..train.len() {
        train.write(sample, &mut values);
        let i = (values[16] * 255.0).round() as usize;
        assert_eq!(set.label(sample), label(i).map(|label| label as u32));
        assert_eq!((values[3], values[12]), (3.0 / 255.0, 1.0 / 255.0));
    }
    // As Hugging Face's `datasets` has them.
    let schema =
        "optional group image { optional binary bytes; optional binary path (UTF8); } optional int32 label;";
    let path = (0..66).map(|i| Some(format!("{i}.png").into_bytes())).collect();
    let columns = [Values::InStruct(bytes(0..66)), Values::InStruct(path), labels()];
    write(&file("train.parquet"), schema, &columns, Compression::SNAPPY);
    assert_eq!(load(&images(&folder)).digest(), set.digest());
    // Of other names, with a file for testing and one without labels.
    let schema = "optional binary kind (UTF8); optional binary photo;";
    let kind = |rows: std::ops::Range<usize>| strings(rows.map(|i| Some(format!("k{}", i % 3))));
    for (name, rows) in [
        ("train.parquet", 0..40),
        ("test.parquet", 40..52),
        ("more.parquet", 52..60),
    ] {
        let columns = [kind(rows.clone()), Values::Bytes(bytes(rows))];
        write(&file(name), schema, &columns, Compression::SNAPPY);
    }
    let mut config = images(&folder);
    let message = refused(&config);
    assert!(
        message.contains("column \"image\" is absent among kind, photo, expected a column of bytes"),
        "{message}"
    );
    config.images = Some(Images {
        image: "photo".to_owned(),
        label: "kind".to_owned(),
        ..Images::default()
    });
    config.unlabelled = Some(file("more.parquet").display().to_string());
    let set = load(&config);
    assert_eq!(set.class_names(), ["k0", "k1", "k2"]);
    assert_eq!(
        (set.train_len(), set.unlabelled(), set.split(Part::Test).len()),
        (44, 8, 12)
    );
    crate::dataset::tests::is_the_same_in_a_file(&config);
}

#[test]
fn images_that_cannot_be_used_are_left_out() {
    let folder = TempDir::new().expect("folder");
    let image = |i: usize| match i {
        0 => Some(b"no image".to_vec()),
        9 => None,
        _ => Some(png(i)),
    };
    let schema = "optional binary image; optional binary label (UTF8);";
    let columns = [
        Values::Bytes((0..40).map(image).collect()),
        strings((0..40).map(|i| Some((i % 2).to_string()))),
    ];
    write(
        &folder.path().join("train.parquet"),
        schema,
        &columns,
        Compression::SNAPPY,
    );
    let test = [
        Values::Bytes((40..46).map(image).collect()),
        strings((40..46).map(|i| Some((i % 2 + i / 45).to_string()))),
    ];
    write(
        &folder.path().join("test.parquet"),
        schema,
        &test,
        Compression::SNAPPY,
    );
    let set = load(&images(&folder));
    assert_eq!((set.train_len(), set.split(Part::Test).len()), (34, 5));
    let bad: Vec<String> = set.bad_rows().first().iter().map(ToString::to_string).collect();
    assert_eq!(bad.len(), 3);
    assert!(
        bad[0].contains("train.parquet row 1: no image in PNG, JPEG"),
        "{bad:?}"
    );
    assert!(
        bad[1].ends_with("train.parquet row 10: image = null: expected an image"),
        "{bad:?}"
    );
    assert!(
        bad[2].ends_with("test.parquet row 6: label = \"2\": expected one of the 2 labels for training"),
        "{bad:?}"
    );
}

#[test]
fn no_damage_makes_it_panic() {
    let folder = TempDir::new().expect("folder");
    let file = folder.path().join("train.parquet");
    let columns = [
        strings((0..20).map(|i| Some(format!("text {i}")))),
        strings((0..20).map(|i| Some((i % 2).to_string()))),
    ];
    write(&file, TEXT, &columns, Compression::SNAPPY);
    let whole = fs::read(&file).expect("read");
    let config = texts(&folder);
    let mut refused = 0;
    for place in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[place] = value;
            fs::write(&file, &bytes).expect("write");
            refused += u32::from(crate::load(&config, Path::new("."), 1).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
}
