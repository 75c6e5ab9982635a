use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{BadRows, DatasetConfig, Part as Split, Views};

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().expect("folder");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("write");
    }
    folder
}

/// With what is left out, and an error that tells of it.
fn load_all(config: &TextConfig, path: &Path, more: Option<&Path>) -> Result<(Set, BadRows), crate::Error> {
    let mut intake = Intake::new(None, u64::MAX);
    let texts = super::load(config, path, more, &mut intake).map(|(set, _)| set);
    intake.bad.judge(texts)
}

/// Where nothing is left out.
fn load(config: &TextConfig, path: &Path, more: Option<&Path>) -> Result<Set, crate::Error> {
    let (texts, bad) = load_all(config, path, more)?;
    assert_eq!(bad.first(), []);
    Ok(texts)
}

fn bytes(length: u32) -> TextConfig {
    TextConfig {
        tokens: Tokens::Bytes {},
        length,
        ..TextConfig::default()
    }
}

/// The text that a sample of bytes stands for.
fn text(set: &Set, row: u32) -> String {
    let mut ids = vec![0.0; set.shape.len()];
    set.store.read(row, &mut ids);
    let bytes = ids.into_iter().filter(|&id| id > 0.0).map(|id| (id - 1.0) as u8);
    String::from_utf8(bytes.collect()).expect("text")
}

fn texts(set: &Set, samples: &Samples) -> Vec<(String, u32)> {
    let rows = samples.rows.iter().zip(&samples.labels);
    rows.map(|(&row, &label)| (text(set, row), label)).collect()
}

fn message(folder: &TempDir, name: &str) -> String {
    let error = load(&bytes(4), &folder.path().join(name), None)
        .err()
        .expect("an error");
    error
        .to_string()
        .replace(&folder.path().display().to_string(), "")
}

const JSONL: &[u8] = b"\xef\xbb\xbf{\"text\":\"one\",\"label\":\"b\"}\r\n\n{\"label\":\"a\",\"text\":\"two\",\"more\":1}\n\
    {\"text\":\"x\"}\n{\"text\":\"y\",\"label\":null}\n{\"text\":\"z\",\"label\":\"\"}\n{\"text\":\"three\",\"label\":7}";
const CSV: &[u8] = b"label,text\nb,one\n\"a\",\"two\"\n,x\n\"\",y\n,z\n7,three\n";
const TSV: &[u8] = b"text\tmore\tlabel\none\t\tb\ntwo\t\ta\nx\t\t\ny\t\t\nz\t\t\nthree\t\t7\n";

#[test]
fn all_formats_say_the_same() {
    let test = b"text,label\ntest,b\n";
    for (name, content) in [("train.jsonl", JSONL), ("train.csv", CSV), ("train.tsv", TSV)] {
        let folder = folder(&[(name, content), ("test.csv", test)]);
        let set = load(&bytes(5), folder.path(), None).expect(name);
        assert_eq!(set.class_names, ["7", "a", "b"], "{name}");
        let pool = [("one", 2), ("two", 1), ("three", 0)];
        let pool = pool.map(|(text, class)| (text.to_owned(), class));
        assert_eq!(texts(&set, &set.pool), pool, "{name}");
        assert_eq!(texts(&set, &set.test), [("test".to_owned(), 2)], "{name}");
        let rest = ["x", "y", "z"].map(|text| (text.to_owned(), UNLABELLED));
        assert_eq!(texts(&set, &set.unlabelled), rest, "{name}");
    }
}

#[test]
fn files_are_read_by_their_list_and_classes_come_in_the_order_given() {
    let list = b"{\"text\":\"a/x.rs\",\"label\":\"rust\"}\n{\"text\":\"y\"}\n";
    let folder = folder(&[
        ("train.jsonl", list),
        ("test.csv", b"text,label\ny,python\n"),
        ("classes.txt", b"rust\npython\nada\n"),
        ("y", b"  import re\n"),
    ]);
    fs::create_dir(folder.path().join("a")).expect("create");
    fs::write(folder.path().join("a/x.rs"), b"fn").expect("write");
    let config = TextConfig {
        tokens: Tokens::FileBytes {},
        length: 8,
        ..TextConfig::default()
    };
    let set = load(&config, folder.path(), None).expect("load");
    assert_eq!(set.class_names, ["rust", "python", "ada"]);
    assert_eq!(texts(&set, &set.pool), [("fnfn".to_owned(), 0)]);
    assert_eq!(texts(&set, &set.test), [("impot re".to_owned(), 1)]);
    assert_eq!(
        texts(&set, &set.unlabelled),
        [("impot re".to_owned(), UNLABELLED)]
    );

    fs::write(folder.path().join("classes.txt"), b"rust\n\n").expect("write");
    let message = load(&config, folder.path(), None)
        .err()
        .expect("an error")
        .to_string();
    assert!(
        message.ends_with("classes.txt line 2: line = \"\": expected the name of a class, each once"),
        "{message}"
    );
    fs::write(folder.path().join("classes.txt"), b"ada\n").expect("write");
    let message = load(&config, folder.path(), None)
        .err()
        .expect("an error")
        .to_string();
    assert!(
        message.contains("label = \"rust\": expected one of the 1 names in classes.txt: mend"),
        "{message}"
    );
    fs::write(folder.path().join("classes.txt"), b"rust\npython\n").expect("write");
    fs::remove_file(folder.path().join("y")).expect("remove");
    let message = load(&config, folder.path(), None)
        .err()
        .expect("an error")
        .to_string();
    assert!(
        message.contains("line 2: text = \"y\": expected a file that can be read"),
        "{message}"
    );
}

#[test]
fn what_comes_next_is_the_label() {
    let folder = folder(&[
        ("train.txt", b"abcabd\n"),
        ("test.txt", b"caba"),
        ("one.txt", b"0123456789"),
    ]);
    let next = |stride| {
        let next = Next {
            targets: Some(1),
            stride,
            documents: None,
            border: None,
        };
        TextConfig {
            next: Some(next),
            ..bytes(3)
        }
    };
    let set = load(&next(None), folder.path(), None).expect("load");
    assert_eq!(set.class_names, ["\\n", "a", "b", "c", "d"]);
    let pool = [("abc", 1), ("bca", 2), ("cab", 4), ("abd", 0)];
    let pool = pool.map(|(text, class)| (text.to_owned(), class));
    assert_eq!(texts(&set, &set.pool), pool);
    assert_eq!(texts(&set, &set.test), [("cab".to_owned(), 1)]);
    assert_eq!((set.unlabelled.len(), &set.files), (0, &vec![0; 4]));
    let set = load(&next(Some(3)), folder.path(), None).expect("load");
    assert_eq!(texts(&set, &set.pool), [pool[0].clone(), pool[3].clone()]);
    assert!(set.files.is_empty(), "windows side by side share nothing");

    let message = |name: &str| {
        let error = load(&next(None), &folder.path().join(name), None).err();
        error.expect("an error").to_string()
    };
    assert!(
        message("one.txt")
            .ends_with("one.txt gives 0 windows of 3 tokens and the next one, expected 1 to 2147483647")
    );
    assert!(message("none.txt").starts_with("read "));
    let wrong = Next {
        targets: Some(200),
        stride: Some(0),
        documents: None,
        border: Some("</s>".to_owned()),
    };
    let config = TextConfig {
        next: Some(wrong),
        ..TextConfig::default()
    };
    let keys: Vec<String> = config.problems().into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, ["next.border", "next.targets", "next.stride", "tokens"]);
}

#[test]
fn a_language_model_has_a_target_at_every_position_but_padding() {
    let folder = folder(&[
        ("train.txt", &b"ab\n\nba\nb\n".repeat(9)),
        ("test.txt", b"ab\n"),
        ("nul.txt", b"a\nb\0"),
    ]);
    let next = |documents| TextConfig {
        next: Some(Next {
            documents,
            ..Next::default()
        }),
        ..bytes(4)
    };
    let of = |text: &TextConfig, labelled| {
        let config = DatasetConfig {
            labelled,
            text: Some(text.clone()),
            ..config(&folder)
        };
        crate::load(&config, folder.path(), 1).expect("load")
    };
    let lines = next(Some(Documents::Lines));
    let set = of(&lines, Some(5));
    assert_eq!(
        (set.rows(), set.class_names()),
        (4, &["end", "a", "b"].map(str::to_owned)[..])
    );
    // 27 lines with a border before each and behind the last: 73 bytes, 18 windows.
    assert_eq!((set.train_len(), set.labelled().len()), (15, 5));
    let hidden = (0..15).find(|sample| set.label(*sample).is_none()).expect("some");
    let targets: Vec<(usize, Option<u32>)> = set.targets(hidden).collect();
    assert_eq!(targets, [(0, None), (1, None), (2, None), (3, None)]);
    assert_ne!(
        of(&next(None), None).digest(),
        of(&next(Some(Documents::Paragraphs)), None).digest()
    );

    // The border, a, b; the border behind them is the last target.
    let test = set.split(crate::Part::Test).held_out(u32::MAX);
    assert_eq!(test.inputs, [1.0, 98.0, 99.0, 0.0]);
    assert_eq!(test.labels, [1, 2, 0]);
    assert_eq!(test.counted(vec![0.5, 1.5, 2.5, 3.5], 1), [0.5, 1.5, 2.5]);

    let error = load(&lines, &folder.path().join("nul.txt"), None).err();
    let error = error.expect("an error").to_string();
    assert!(
        error.ends_with(
            "nul.txt line 2: byte = 0: expected a text without byte 0, which \
         text.next.documents puts between documents"
        ),
        "{error}"
    );
}

#[test]
fn quotes_mean_themselves_between_tabs() {
    let folder = folder(&[
        ("train.tsv", b"text\tlabel\n\"half a quote\ta\n"),
        ("test.csv", b"text,label\n\"a, b\n\"\"c\"\"\",a\n"),
    ]);
    let set = load(&bytes(20), folder.path(), None).expect("load");
    assert_eq!(text(&set, set.pool.rows[0]), "\"half a quote");
    assert_eq!(text(&set, set.test.rows[0]), "a, b\n\"c\"");
}

#[test]
fn without_a_test_file_a_fifth_of_the_texts_is_held_out() {
    let lines = |range: std::ops::Range<u32>| -> String {
        let line = |i| format!("{{\"text\":\"text {}\",\"label\":{}}}\n", i % 1_000, i % 2);
        range.map(line).collect()
    };
    let folder = folder(&[("all.jsonl", lines(0..2_000).as_bytes())]);
    let set = load(&bytes(10), &folder.path().join("all.jsonl"), None).expect("load");
    assert_eq!(set.pool.len() + set.test.len(), 2_000);
    assert!((320..480).contains(&set.test.len()), "{}", set.test.len());
    let of = |samples: &Samples| -> BTreeMap<String, u32> { texts(&set, samples).into_iter().collect() };
    let (pool, test) = (of(&set.pool), of(&set.test));
    assert!(
        test.keys().all(|text| !pool.contains_key(text)),
        "equal texts stay together"
    );
}

#[test]
fn another_file_adds_samples_whose_labels_are_not_read() {
    let train = b"text,label\none,b\ntwo,a\n";
    for (name, content) in [
        ("more.txt", b"x\n\ny, \"1\"\n".as_slice()),
        (
            "more.jsonl",
            b"{\"text\":\"x\",\"label\":\"unknown\"}\n{\"text\":\"y, \\\"1\\\"\"}\n",
        ),
        ("more.csv", b"text\nx\n\"y, \"\"1\"\"\"\n"),
    ] {
        let folder = folder(&[("train.csv", train), ("test.csv", train), (name, content)]);
        let more = folder.path().join(name);
        let set = load(&bytes(8), folder.path(), Some(&more)).expect(name);
        let expected = ["x", "y, \"1\""].map(|text| (text.to_owned(), UNLABELLED));
        assert_eq!(texts(&set, &set.unlabelled), expected, "{name}");
        assert_eq!(set.class_names, ["a", "b"]);
    }
}

#[test]
fn says_what_is_wrong_and_where() {
    let good = b"text,label\none,a\n".as_slice();
    let cases: [(&str, &[u8], &str); 15] = [
        (
            "a.jsonl",
            b"{\"text\":\"x\"}\n[1]",
            "/a.jsonl line 2: line = \"[1]\": expected a JSON object with \"text\"",
        ),
        (
            "a.jsonl",
            b"\n{\"text\":",
            "/a.jsonl line 2: line = \"{\\\"text\\\":\": expected a JSON object",
        ),
        (
            "a.jsonl",
            b"{\"label\":\"a\"}",
            "line 1: text = absent: expected a string",
        ),
        (
            "a.jsonl",
            b"{\"text\":3}",
            "line 1: text = \"3\": expected a string",
        ),
        (
            "a.jsonl",
            b"{\"text\":\"x\",\"label\":0.5}",
            "line 1: label = \"0.5\": expected a string, a whole number, true, false, or null",
        ),
        (
            "a.jsonl",
            b"{\"text\":\"x\"}\n\xff",
            "line 2: line = bytes that break off UTF-8 after 0",
        ),
        (
            "a.jsonl",
            b"{\"text\":\"x\"}",
            "/a.jsonl holds no label, expected some line with \"label\"",
        ),
        (
            "a.csv",
            b"",
            "line 1: text = absent: expected a header that names it, found \"\"",
        ),
        (
            "a.csv",
            b"text,class\nx,a",
            "line 1: label = absent: expected a header that names it, found \"text, class\"",
        ),
        (
            "a.csv",
            b"text,label\nx,a\ny",
            "line 3: line = 1 columns: expected 2, as many as the header",
        ),
        (
            "a.csv",
            b"text,label\nx,\xff",
            "line 2: line = bytes that break off UTF-8 in column 2",
        ),
        (
            "a.csv",
            b"text,label\nx,a\n",
            "/a.csv holds no test sample, expected some",
        ),
        (
            "a.txt",
            b"x",
            "/a.txt has an unknown ending, expected one of .jsonl, .csv, .tsv, .parquet",
        ),
        (
            "",
            b"",
            " holds none, expected one of train.jsonl, train.csv, train.tsv and train.parquet",
        ),
        (
            "no.csv",
            b"",
            "/no.csv holds none, expected one of train.jsonl, train.csv, train.tsv and train.parquet",
        ),
    ];
    for (name, content, expected) in cases {
        let folder = match name {
            "" | "no.csv" => folder(&[]),
            name => folder(&[(name, content)]),
        };
        let message = message(&folder, name);
        assert!(message.contains(expected), "{message}\n{expected}");
    }
    let two = folder(&[("train.csv", good), ("train.jsonl", b"")]);
    assert!(message(&two, "").contains("holds train.jsonl, train.csv, expected one of"));
    for (test, expected) in [
        (
            b"text,label\nx,a\ny,c\n".as_slice(),
            "/test.csv line 3: label = \"c\": expected one of the 1 labels of /train.csv",
        ),
        (
            b"text,label\nx,\n",
            "/test.csv line 2: label = absent: expected one of the 1 labels",
        ),
        (b"text,label\n", "/test.csv holds no test sample"),
    ] {
        let message = message(&folder(&[("train.csv", good), ("test.csv", test)]), "");
        assert!(message.contains(expected), "{message}");
    }
    let alone = folder(&[("train.csv", good), ("test.csv", good)]);
    let error = load(&bytes(4), alone.path(), Some(Path::new("no.txt")))
        .err()
        .expect("missing");
    assert_eq!(error.to_string(), "read no.txt");
}

#[test]
fn bad_rows_are_left_out_and_named() {
    let mut jsonl: Vec<u8> = Vec::new();
    let mut csv = b"text,label\n".to_vec();
    for i in 0..40 {
        let label = ["a", "b"][i % 2];
        jsonl.extend(format!("{{\"text\":\"{i}\",\"label\":\"{label}\"}}\n").bytes());
        csv.extend(format!("{i},{label}\n").bytes());
    }
    let good = (jsonl.clone(), csv.clone());
    jsonl.extend(b"{\"text\":\"x\",\"label\":[]}\n\xff\n{}\n");
    csv.extend(b"x\nx,\xff\n\"x\ny\nz\n");
    let rows = |name: &str, content: &[u8]| {
        let folder = folder(&[(name, content), ("test.csv", b"text,label\n1,a\n2,c\n3,b\n")]);
        let (set, bad) = load_all(&bytes(4), folder.path(), None).expect(name);
        let named = bad.first().iter().map(|row| {
            let text = row.to_string();
            text.replace(&folder.path().display().to_string(), "")
        });
        (
            texts(&set, &set.pool),
            texts(&set, &set.test),
            named.collect::<Vec<_>>(),
        )
    };
    let test = "/test.csv line 3: label = \"c\": expected one of the 2 labels of /train.";
    for (name, content, good, expected) in [
        (
            "train.jsonl",
            jsonl,
            good.0,
            [
                "/train.jsonl line 41: label = \"[]\": expected a string, a whole number",
                "/train.jsonl line 42: line = bytes that break off UTF-8 after 0: expected UTF-8",
                "/train.jsonl line 43: text = absent: expected a string",
                test,
            ],
        ),
        (
            "train.csv",
            csv,
            good.1,
            [
                "/train.csv line 42: line = 1 columns: expected 2, as many as the header",
                "/train.csv line 43: line = bytes that break off UTF-8 in column 2: expected UTF-8",
                "/train.csv line 44: line = 1 columns up to line 46: expected 2",
                test,
            ],
        ),
    ] {
        let (pool, held_out, bad) = rows(name, &content);
        assert_eq!((pool.len(), held_out.len(), bad.len()), (40, 2, 4), "{bad:?}");
        assert_eq!((pool, held_out), (rows(name, &good).0, rows(name, &good).1));
        for (row, expected) in bad.iter().zip(expected) {
            assert!(row.starts_with(expected), "{row}");
        }
    }
}

fn config(folder: &TempDir) -> DatasetConfig {
    DatasetConfig {
        format: Some(crate::Format::Text),
        path: Some(folder.path().display().to_string()),
        text: Some(bytes(6)),
        validation: Some(3),
        ..DatasetConfig::default()
    }
}

/// 20 labelled samples and two without a label.
fn small() -> TempDir {
    let lines = |more: &str| -> String {
        let lines: String = (0..20)
            .map(|i| format!("text{i},{}\n", ["no", "yes"][i % 2]))
            .collect();
        format!("text,label\n{more}{lines}")
    };
    folder(&[
        ("train.csv", lines("first,\nsecond,\n").as_bytes()),
        ("test.csv", lines("").as_bytes()),
        ("more.txt", b"third\nfourth\nfifth\n"),
    ])
}

#[test]
fn samples_without_labels_train_and_nothing_else() {
    let folder = small();
    let load = |config: &DatasetConfig, seed| crate::load(config, folder.path(), seed).expect("load");
    let config = config(&folder);
    let few = load(&config, 1);
    assert_eq!(
        (few.train_len(), few.labelled().len(), few.classes()),
        (19, 17, 2)
    );
    assert_eq!(
        (few.vocabulary(), few.tokens()),
        (Some(257), Some(&Tokens::Bytes {}))
    );
    assert_eq!(few.shape().to_string(), "1x1x6");
    let mut config = DatasetConfig {
        unlabelled: Some("more.txt".to_owned()),
        labelled: Some(10),
        ..config
    };
    let many = load(&config, 1);
    assert_eq!((many.train_len(), many.labelled().len()), (22, 10));
    assert!(
        many.labelled()
            .iter()
            .all(|&sample| sample < 17 && many.label(sample).is_some())
    );
    assert!((17..22).all(|sample| many.label(sample).is_none()));
    for part in [Split::Validation, Split::Test] {
        let labels = |set: &crate::Dataset| -> Vec<u32> {
            let split = set.split(part);
            (0..split.len()).map(|i| split.label(i)).collect()
        };
        assert_eq!(labels(&many), labels(&few), "held-out samples stay");
    }
    assert_ne!(many.digest(), few.digest());
    crate::dataset::tests::is_the_same_in_a_file(&DatasetConfig {
        path: Some(folder.path().display().to_string()),
        unlabelled: None,
        ..config.clone()
    });
    let digests = [few.digest(), many.digest()].map(|digest| digest[..16].to_owned());
    assert_eq!(
        digests,
        ["91a161ac565ed154", "a3c8ad4765b23d1a"],
        "recorded runs name these"
    );
    config.without_classes = vec![1];
    config.labelled = None;
    let without = load(&config, 1);
    assert_eq!(without.train_len() as usize, without.labelled().len() + 5);
    config.labelled = Some(17);
    let error = crate::load(&config, folder.path(), 1)
        .expect_err("too many")
        .to_string();
    assert!(error.contains("labelled = 17: expected at most"), "{error}");
}

#[test]
fn views_of_text_drop_tokens() {
    let folder = small();
    let plain = config(&folder);
    let views = Views {
        drop: 0.5,
        ..Views::default()
    };
    let views = DatasetConfig {
        views,
        ..plain.clone()
    };
    let [plain, views] = [plain, views].map(|c| crate::load(&c, folder.path(), 1).expect("load"));
    let view = |set: &crate::Dataset, seed| {
        let mut out = [f32::NAN; 6];
        set.view(3, seed, &mut out);
        out
    };
    let whole = view(&plain, 1);
    assert_eq!(view(&views, 1), view(&views, 1));
    let dropped: BTreeMap<String, bool> = (0..50)
        .map(|seed| view(&views, seed))
        .inspect(|got| assert!(got.iter().zip(whole).all(|(a, b)| *a == 0.0 || *a == b)))
        .map(|got| (format!("{got:?}"), got == whole))
        .collect();
    assert!(dropped.len() > 10, "{dropped:?}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(content: Vec<u8>, kind in 0usize..3) {
        let name = ["train.jsonl", "train.csv", "train.tsv"][kind];
        let mut whole = [b"", b"text,label\n".as_slice(), b"label\ttext\n"][kind].to_vec();
        whole.extend(&content);
        let folder = folder(&[(name, &whole), ("test.csv", b"text,label\n"), ("more.txt", &content)]);
        let path = folder.path();
        let alone = load_all(&bytes(4), &path.join(name), Some(&path.join("more.txt")));
        prop_assert!(load(&bytes(4), path, None).is_err());
        if let Ok((set, _)) = alone {
            prop_assert!(set.pool.labels.iter().all(|&l| (l as usize) < set.class_names.len()));
        }
    }
}
