//! Tables in Parquet files over a real fleet: pictures in one column and their labels in another, and texts.
#![cfg(feature = "parquet")]
#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use image::{GrayImage, ImageFormat};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use retort_data::{DatasetConfig, Part};
use retort_tests::Harness;
use retort_tests::online::{exactly_once, text};
use serde_json::Value;

/// Rows of a group.
const ROWS: usize = 50;

/// Writes a column of bytes and one of labels, where there are some.
fn write(file: &Path, names: [&str; 2], rows: &[(Vec<u8>, Option<i32>)]) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let [content, label] = names;
    let schema = format!("message rows {{ required binary {content}; optional int32 {label}; }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer =
        SerializedFileWriter::new(File::create(file).unwrap(), schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(ROWS) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let contents: Vec<ByteArray> = rows.iter().map(|(content, _)| content.clone().into()).collect();
        column
            .typed::<ByteArrayType>()
            .write_batch(&contents, None, None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let labels: Vec<i32> = rows.iter().filter_map(|(_, label)| *label).collect();
        let there: Vec<i16> = rows.iter().map(|(_, label)| i16::from(label.is_some())).collect();
        column
            .typed::<Int32Type>()
            .write_batch(&labels, Some(&there), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Teacher and student of a data set, both under way.
fn job(dataset: &str, models: [&str; 2]) -> String {
    let [teacher, student] = models;
    format!(
        r#"
[run]
name = "tables"
seed = 2
epochs = 12
batch_size = 20

{dataset}

[[teachers]]
name = "wide"
model = {teacher}
source = {{ kind = "trained", learning_rate = 0.01, publish_every = 10 }}

[[students]]
name = "small"
model = {student}
learning_rate = 0.02
replicas = 2
teachers = [{{ name = "wide" }}]

[distillation]
temperature = 2.0
alpha = 0.5
gate = "none"
"#
    )
}

/// Runs a job of so many training samples, of which some have no label, and gives the student's accuracy.
fn accuracy(h: &Harness, job: &str, (samples, unlabelled): (u64, u64)) -> f64 {
    let file = h.job("job.toml", job);
    let checked: Value = serde_json::from_str(&h.ok(&["check", text(&file), "--json"])).unwrap();
    assert_eq!(
        (&checked["samples"], &checked["unlabelled"]),
        (&samples.into(), &unlabelled.into())
    );
    assert_eq!(checked["bad_rows"], 1, "{checked}");
    let row = checked["left_out"][0].as_str().unwrap();
    assert!(row.contains("train-00001-of-00002.parquet row 11: "), "{row}");
    let report: Value = serde_json::from_str(&h.ok(&["run", text(&file), "--out", "out", "--json"])).unwrap();
    exactly_once(h, &h.path("out"), &report, 12 * samples);
    let evaluated = h.ok(&["evaluate", text(&h.path("out/students/small")), "--json"]);
    let evaluated: Value = serde_json::from_str(&evaluated).unwrap();
    let accuracy = &report["students"][0]["test_accuracy"]["values"][0];
    assert_eq!(
        evaluated["test_accuracy"], *accuracy,
        "a fresh process reads the tables as well"
    );
    accuracy.as_f64().unwrap()
}

/// Two shards for training, of which the second has a row that cannot be used.
fn shards(h: &Harness, names: [&str; 2], rows: &[(Vec<u8>, Option<i32>)]) {
    let (first, second) = rows.split_at(rows.len() / 2);
    let mut second = second.to_vec();
    second.insert(10, (vec![0xff], Some(0)));
    for (i, rows) in [first.to_vec(), second].iter().enumerate() {
        write(
            &h.path(&format!("data/train-0000{i}-of-00002.parquet")),
            names,
            rows,
        );
    }
}

#[test]
fn a_fleet_learns_from_pictures_in_tables() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let config = DatasetConfig {
        name: Some("digits".into()),
        ..DatasetConfig::default()
    };
    let digits = retort_data::load(&config, Path::new("."), 1).unwrap();
    let rows = |part: Part, count: u32| -> Vec<(Vec<u8>, Option<i32>)> {
        let split = digits.split(part);
        let row = |sample: u32| {
            let mut values = [0.0; 64];
            split.write(sample, &mut values);
            let picture = GrayImage::from_raw(8, 8, values.map(|v| (v * 255.0) as u8).to_vec()).unwrap();
            let mut png = Cursor::new(Vec::new());
            picture.write_to(&mut png, ImageFormat::Png).unwrap();
            let label = i32::try_from(split.label(sample)).unwrap();
            // The test part has all of its labels.
            let hidden = matches!(part, Part::Train) && sample % 4 == 3;
            (png.into_inner(), (!hidden).then_some(label))
        };
        (0..count).map(row).collect()
    };
    let names = ["picture", "digit"];
    shards(&h, names, &rows(Part::Train, 600));
    write(&h.path("data/test.parquet"), names, &rows(Part::Test, 200));
    let dataset = r#"
[dataset]
format = "images"
path = "data"
validation = 60
images = { height = 8, width = 8, grey = true, image = "picture", label = "digit" }
"#;
    let models = [
        r#"{ architecture = "cnn", width = 8, depth = 2 }"#,
        r#"{ architecture = "mlp", hidden = [32] }"#,
    ];
    let accuracy = accuracy(&h, &job(dataset, models), (600 - 60, 150));
    assert!(accuracy > 0.6, "{accuracy}");
}

#[test]
fn a_fleet_learns_from_texts_in_tables() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    // Words that only sentences about one thing have, between words that all have.
    let row = |i: usize| {
        let topic = ["rain", "salt", "rail"][i % 3];
        let text = format!("the {topic}{} and {topic}{} or so", i % 5, i / 3 % 5);
        let label = i32::try_from(i % 3).unwrap();
        (text.into_bytes(), (i % 4 != 3).then_some(label))
    };
    let names = ["said", "about"];
    shards(&h, names, &(0..300).map(row).collect::<Vec<_>>());
    let test: Vec<_> = (0..60).map(|i| (row(4 * i).0, row(4 * i).1)).collect();
    write(&h.path("data/test.parquet"), names, &test);
    let dataset = r#"
[dataset]
format = "text"
path = "data"
validation = 30

[dataset.text]
text = "said"
label = "about"
tokens = { kind = "words-hashed", ngrams = [1, 1], buckets = 200 }
length = 8
"#;
    let models = [
        r#"{ architecture = "embedding-bag", embedding = 8 }"#,
        r#"{ architecture = "embedding-bag", embedding = 4 }"#,
    ];
    let accuracy = accuracy(&h, &job(dataset, models), (300 - 30, 75));
    assert!(accuracy > 0.6, "{accuracy}");
}
