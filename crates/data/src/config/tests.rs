use super::*;

fn named(name: &str) -> DatasetConfig {
    DatasetConfig {
        name: Some(name.to_owned()),
        ..DatasetConfig::default()
    }
}

fn keys(config: &DatasetConfig) -> Vec<String> {
    config.problems().into_iter().map(|p| p.key).collect()
}

#[test]
fn known_names_are_fine_as_they_are() {
    for name in ["digits", "mnist1d", "fashion-mnist"] {
        assert_eq!(named(name).problems(), []);
    }
}

#[test]
fn wants_one_source() {
    assert_eq!(keys(&DatasetConfig::default()), ["name"]);
    assert_eq!(keys(&named("mnist")), ["name"]);
    let mut config = named("digits");
    config.format = Some(Format::Idx);
    assert_eq!(keys(&config), ["name"]);
    config.name = None;
    assert_eq!(keys(&config), ["path"]);
    config.path = Some("data".to_owned());
    assert_eq!(config.problems(), []);
    config.path = Some("s3://bucket/data".to_owned());
    assert_eq!(config.problems(), []);
    config.path = Some("https://host/data".to_owned());
    let problem = &config.problems()[0];
    assert!(problem.expected.contains("copy"), "{problem}");
}

#[test]
fn names_every_problem_at_once() {
    let mut config = named("digits");
    config.path = Some("x".to_owned());
    config.labelled = Some(0);
    config.block_samples = Some(0);
    config.views.flip = true;
    config.views.noise = f32::NAN;
    config.views.mixup = 4.1;
    let expected = [
        "path",
        "labelled",
        "block_samples",
        "views.flip",
        "views.noise",
        "views.mixup",
    ];
    assert_eq!(keys(&config), expected);
}

#[test]
fn mixup_is_off_or_within_what_can_be_drawn() {
    let mut config = named("digits");
    for (mixup, sound) in [
        (0.0, true),
        (0.05, true),
        (4.0, true),
        (0.04, false),
        (-1.0, false),
        (f32::NAN, false),
    ] {
        config.views.mixup = mixup;
        assert_eq!(config.problems().is_empty(), sound, "{mixup}");
    }
}

#[test]
fn knows_the_bounds_without_reading() {
    let mut config = named("digits");
    config.labelled = Some(2_000);
    config.views.shift = 8;
    let problems: Vec<String> = config.problems().iter().map(|p| p.to_string()).collect();
    assert_eq!(
        problems,
        [
            "labelled = 2000: expected at most 1297, the training samples; leave it out for all",
            "views.shift = 8: expected less than 8, the shorter side of a 1x8x8 sample",
        ]
    );
    config = named("mnist1d");
    config.views.shift = 39;
    assert_eq!(config.problems(), []);
    config.validation = Some(4_500);
    config.test = Some(1_001);
    assert_eq!(keys(&config), ["validation", "test"]);
}

#[test]
fn refuses_unknown_keys_and_keeps_json() {
    let read = serde_json::from_str::<DatasetConfig>;
    let config = read(r#"{"name":"digits","labelled":100,"views":{"shift":1}}"#).expect("read");
    let text = serde_json::to_string(&config).expect("write");
    assert_eq!(read(&text).expect("read again"), config);
    assert!(read(r#"{"name":"digits","label":1}"#).is_err());
    assert!(read(r#"{"name":"digits","views":{"rotate":1}}"#).is_err());
    let error = read(r#"{"format":"parquet"}"#).expect_err("format");
    assert!(error.to_string().contains("idx"), "{error}");
}

#[test]
fn text_has_keys_of_its_own() {
    let read = serde_json::from_str::<DatasetConfig>;
    let plain = read(r#"{"format":"text","path":"x"}"#).expect("read");
    assert_eq!(plain.problems(), []);
    let full = r#"{"format":"text","path":"x","unlabelled":"y.txt","views":{"drop":0.1},"text":{"text":"sentence",
        "label":"lang","length":64,"tokens":{"kind":"words-hashed","ngrams":[1,3],"buckets":100}}}"#;
    let full = read(full).expect("read");
    assert_eq!(full.problems(), []);
    let written = serde_json::to_string(&full).expect("write");
    assert_eq!(read(&written).expect("read again"), full);
    assert!(read(r#"{"format":"text","text":{"tokens":{"kind":"bytes","buckets":3}}}"#).is_err());
    assert!(read(r#"{"format":"text","text":{"tokens":{"kind":"words"}}}"#).is_err());
    let wrong = r#"{"format":"text","unlabelled":"gs://b","views":{"shift":1,"flip":true,"noise":1,"drop":1,"mixup":1},
        "text":{"label":"text","length":0,"tokens":{"kind":"characters-hashed","ngrams":[3,2],"buckets":65536}}}"#;
    let expected = [
        "path",
        "views.drop",
        "views.shift",
        "views.flip",
        "views.noise",
        "views.mixup",
        "text.label",
        "text.tokens.ngrams",
        "text.tokens.buckets",
        "text.length",
        "unlabelled",
    ];
    assert_eq!(keys(&read(wrong).expect("read")), expected);
    let of_images = r#"{"name":"digits","unlabelled":"y.txt","text":{},"views":{"drop":0.5}}"#;
    assert_eq!(
        keys(&read(of_images).expect("read")),
        ["views.drop", "text", "unlabelled"]
    );
}

#[test]
fn any_format_may_have_samples_without_labels() {
    for format in ["idx", "images", "wav", "text"] {
        let config = format!(r#"{{"format":"{format}","path":"x","unlabelled":"y"}}"#);
        assert_eq!(
            keys(&serde_json::from_str(&config).expect("read")),
            Vec::<String>::new()
        );
        let config = config.replace("\"y\"", "\"gs://y\"");
        assert_eq!(
            keys(&serde_json::from_str(&config).expect("read")),
            ["unlabelled"]
        );
    }
    let mut config = named("fashion-mnist");
    config.unlabelled = Some("y".to_owned());
    assert_eq!(keys(&config), ["unlabelled"]);
}
