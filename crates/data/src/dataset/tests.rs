use std::collections::BTreeSet;

use super::*;
use crate::Views;

fn config(name: &str) -> DatasetConfig {
    DatasetConfig {
        name: Some(name.to_owned()),
        ..DatasetConfig::default()
    }
}

fn loaded(config: &DatasetConfig, seed: u64) -> Dataset {
    load(config, Path::new("."), seed).expect("load")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn row(part: SplitRef<'_>, sample: u32, shape: Shape) -> Vec<u32> {
    let mut out = vec![0.0; shape.len()];
    part.write(sample, &mut out);
    bits(&out)
}

/// A set means the same whether memory holds its samples or a file does.
pub(crate) fn is_the_same_in_a_file(config: &DatasetConfig) {
    let mut spilled = config.clone();
    spilled.memory = Some(crate::Size(100));
    let (held, spilled) = (loaded(config, 1), loaded(&spilled, 1));
    assert!(held.store.held() > 0 && spilled.store.held() == 0);
    assert_eq!(spilled.digest(), held.digest());
    for part in [Part::Train, Part::Validation, Part::Test] {
        let (a, b) = (held.split(part), spilled.split(part));
        assert_eq!(a.len(), b.len());
        for sample in 0..a.len() {
            assert_eq!(row(a, sample, held.shape()), row(b, sample, held.shape()));
        }
    }
    let view = |set: &Dataset, sample| {
        let mut out = vec![f32::NAN; set.shape().len()];
        set.view(sample, 5, &mut out);
        bits(&out)
    };
    for sample in 0..held.train_len() {
        assert_eq!(view(&spilled, sample), view(&held, sample));
        assert_eq!(spilled.label(sample), held.label(sample));
    }
    assert_eq!(spilled.pixel_stats(), held.pixel_stats());
}

#[test]
fn known_sets_are_the_same_in_a_file() {
    let mut config = config("mnist1d");
    is_the_same_in_a_file(&config);
    config.name = Some("digits".to_owned());
    config.views = Views {
        shift: 1,
        noise: 0.1,
        ..Views::default()
    };
    is_the_same_in_a_file(&config);
}

#[test]
fn digits_is_split_as_documented() {
    let set = loaded(&config("digits"), 1);
    assert_eq!((set.name(), set.classes()), ("digits", 10));
    assert_eq!(set.shape().to_string(), "1x8x8");
    let len = |part| set.split(part).len();
    let lens = (len(Part::Train), len(Part::Validation), len(Part::Test));
    assert_eq!(lens, (1_297, 200, 300));
}

#[test]
fn parts_share_no_samples_and_ignore_each_others_size() {
    let whole = loaded(&config("digits"), 1);
    let mut small = config("digits");
    small.validation = Some(50);
    small.train = Some(100);
    small.test = Some(10);
    let small = loaded(&small, 1);
    assert_eq!(small.train_len(), 100);
    for (part, samples) in [(Part::Train, 100), (Part::Test, 10)] {
        for sample in 0..samples {
            let (a, b) = (whole.split(part), small.split(part));
            assert_eq!(row(a, sample, whole.shape()), row(b, sample, whole.shape()));
            assert_eq!(a.label(sample), b.label(sample));
        }
    }
    let mut rows = BTreeSet::new();
    let mut count = 0;
    for part in [Part::Train, Part::Validation, Part::Test] {
        let part = whole.split(part);
        count += part.len() as usize;
        rows.extend((0..part.len()).map(|sample| row(part, sample, whole.shape())));
    }
    assert_eq!((rows.len(), count), (1_797, 1_797), "no image occurs twice");
}

#[test]
fn the_digest_covers_the_split_and_nothing_of_the_run() {
    let set = loaded(&config("digits"), 1);
    let mut run = config("digits");
    run.labelled = Some(100);
    run.views.shift = 1;
    run.block_samples = Some(64);
    assert_eq!(loaded(&run, 2).digest(), set.digest());
    for change in [
        |c: &mut DatasetConfig| c.train = Some(1_000),
        |c: &mut DatasetConfig| c.validation = Some(100),
        |c: &mut DatasetConfig| c.test = Some(100),
        |c: &mut DatasetConfig| c.name = Some("mnist1d".to_owned()),
    ] {
        let mut changed = config("digits");
        change(&mut changed);
        assert_ne!(loaded(&changed, 1).digest(), set.digest());
    }
    let digests = [set.digest(), loaded_mnist1d().digest()].map(|digest| digest[..16].to_owned());
    assert_eq!(
        digests,
        ["2b93430da457d38d", "9b6b792f4ac88ab5"],
        "recorded runs name these"
    );
}

fn loaded_mnist1d() -> &'static Dataset {
    static SET: std::sync::OnceLock<Dataset> = std::sync::OnceLock::new();
    SET.get_or_init(|| loaded(&config("mnist1d"), 1))
}

#[test]
fn labels_are_hidden_by_seed() {
    let mut few = config("digits");
    few.labelled = Some(100);
    let set = loaded(&few, 1);
    assert_eq!(set.labelled().len(), 100);
    let visible: Vec<u32> = (0..set.train_len()).filter(|&s| set.label(s).is_some()).collect();
    assert_eq!(visible, set.labelled());
    let mut counts = [0; 10];
    for &sample in set.labelled() {
        let label = set.label(sample).expect("visible");
        assert_eq!(label, set.split(Part::Train).label(sample));
        counts[label as usize] += 1;
    }
    assert_eq!(counts, [10; 10]);
    assert_ne!(loaded(&few, 2).labelled(), set.labelled());
    assert_eq!(loaded(&config("digits"), 1).labelled().len(), 1_297);
}

#[test]
fn views_are_a_function_of_sample_and_seed() {
    let mut with_views = config("digits");
    with_views.views = Views {
        shift: 1,
        crop: 1,
        noise: 0.05,
        ..Views::default()
    };
    let (a, b) = (loaded(&with_views, 1), loaded(&with_views, 2));
    let view = |set: &Dataset, sample, seed| {
        let mut out = [f32::NAN; 64];
        set.view(sample, seed, &mut out);
        assert!(out.iter().all(|value| value.is_finite()));
        bits(&out)
    };
    assert_eq!(view(&a, 7, 3), view(&b, 7, 3));
    assert_ne!(view(&a, 7, 3), view(&a, 7, 4));
    assert_ne!(view(&a, 7, 3), view(&a, 8, 3));
    let plain = loaded(&config("digits"), 1);
    assert_eq!(
        view(&plain, 7, 3),
        row(plain.split(Part::Train), 7, plain.shape())
    );
    let hash = blake3::hash(
        &view(&a, 7, 3)
            .iter()
            .flat_map(|b| b.to_le_bytes())
            .collect::<Vec<_>>(),
    );
    assert_eq!(
        hash.to_hex()[..16],
        *"955c8396ecfd2998",
        "every machine must get these bits"
    );
}

fn mixed(labelled: u32, mixup: f32) -> DatasetConfig {
    DatasetConfig {
        labelled: Some(labelled),
        views: Views {
            shift: 1,
            mixup,
            ..Views::default()
        },
        ..config("digits")
    }
}

#[test]
fn mixed_views_are_means_of_two_views() {
    let (plain, set) = (loaded(&mixed(100, 0.0), 1), loaded(&mixed(100, 1.0), 1));
    assert_eq!(plain.digest(), set.digest());
    let view = |set: &Dataset, sample, seed| {
        let mut out = [f32::NAN; 64];
        set.view(sample, seed, &mut out);
        out
    };
    let mut shares = Vec::new();
    for (sample, seed) in (0..200).flat_map(|sample| [(sample, 3), (sample, 4)]) {
        assert_eq!(plain.mixed_in(sample, seed), None);
        let other = set.mixed_in(sample, seed).expect("mixed");
        let a = view(&plain, sample, seed);
        let b = view(&plain, other.sample, key(&[MIXUP, seed]));
        let expected: Vec<f32> = (a.iter().zip(b))
            .map(|(a, b)| a * (1.0 - other.share) + b * other.share)
            .collect();
        assert_eq!(bits(&view(&set, sample, seed)), bits(&expected));
        assert_eq!(set.label(sample).is_some(), set.label(other.sample).is_some());
        shares.push(other.share);
    }
    let mean = shares.iter().sum::<f32>() / shares.len() as f32;
    assert!((mean - 0.5).abs() < 0.05, "{mean}");
    let hash = blake3::hash(&view(&set, 7, 3).map(f32::to_le_bytes).concat());
    assert_eq!(
        hash.to_hex()[..16],
        *"edbe3f3cf7a17b01",
        "every machine must get these bits"
    );
}

#[test]
fn every_sample_of_a_kind_is_mixed_in_and_all_may_be_of_one() {
    for labelled in [100, 1_297] {
        let set = loaded(&mixed(labelled, 0.2), 1);
        let mut seen = BTreeSet::new();
        for kind in [true, false] {
            let of_kind = |sample: &u32| set.label(*sample).is_some() == kind;
            if let Some(sample) = (0..set.train_len()).find(of_kind) {
                let before = seen.len();
                seen.extend((0..20_000).filter_map(|seed| Some(set.mixed_in(sample, seed)?.sample)));
                let of_kind = (0..set.train_len()).filter(of_kind).count();
                assert_eq!(seen.len() - before, of_kind);
            }
        }
        assert_eq!(seen.len(), 1_297);
    }
}

#[test]
fn mnist1d_has_its_sizes_and_statistics() {
    let set = loaded_mnist1d();
    assert_eq!(set.shape().to_string(), "1x1x40");
    assert_eq!((set.train_len(), set.classes()), (4_000, 10));
    let parts = [Part::Validation, Part::Test].map(|part| set.split(part).len());
    assert_eq!(parts, [500, 1_000]);
    let (mean, deviation) = set.pixel_stats();
    assert!(
        mean[0].abs() < 0.02 && (deviation[0] - 1.0).abs() < 0.02,
        "{mean:?} {deviation:?}"
    );
}

#[test]
fn fashion_mnist_is_the_published_one_where_installed() {
    let folder = Path::new(idx::FASHION_MNIST_FOLDER);
    if !folder.exists() {
        let error = load(&config("fashion-mnist"), Path::new("."), 1).expect_err("absent");
        assert!(error.to_string().contains("dataset-fashion-mnist"), "{error}");
        return;
    }
    let set = loaded(&config("fashion-mnist"), 1);
    assert_eq!(set.shape().to_string(), "1x28x28");
    assert_eq!(set.class_names()[9], "ankle boot");
    let parts = [Part::Train, Part::Validation, Part::Test].map(|part| set.split(part).len());
    assert_eq!(parts, [55_000, 5_000, 10_000]);
    let (mean, deviation) = set.pixel_stats();
    assert!((mean[0] - 0.286).abs() < 0.002, "{mean:?}");
    assert!((deviation[0] - 0.353).abs() < 0.002, "{deviation:?}");
    let mut own = DatasetConfig {
        format: Some(crate::Format::Idx),
        path: Some(format!("file://{}", folder.display())),
        ..DatasetConfig::default()
    };
    assert_eq!(loaded(&own, 1).digest(), set.digest());
    own.train = Some(60_000);
    let error = load(&own, Path::new("."), 1).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "dataset: train = 60000: expected at most 55000, what is left of 60000 after 5000 for validation"
    );
}

#[test]
fn what_lies_in_a_bucket_is_for_others_to_fetch() {
    for (key, path, unlabelled, tokenizer) in [
        ("path", "s3://b/x", "more.txt", "words.json"),
        ("unlabelled", "texts", "s3://b/x", "words.json"),
        ("text.tokens.path", "texts", "more.txt", "s3://b/x"),
    ] {
        let config = DatasetConfig {
            format: Some(crate::Format::Text),
            path: Some(path.to_owned()),
            unlabelled: Some(unlabelled.to_owned()),
            text: Some(crate::TextConfig {
                tokens: Tokens::Tokenizer {
                    path: tokenizer.to_owned(),
                    blake3: None,
                    ids: None,
                    border: None,
                },
                ..crate::TextConfig::default()
            }),
            ..DatasetConfig::default()
        };
        let error = load(&config, Path::new("."), 1).expect_err(key).to_string();
        let expected = format!("dataset: {key} = \"s3://b/x\": expected a path of this machine");
        assert!(
            error.starts_with(&expected) && error.contains("--features object-store"),
            "{error}"
        );
    }
}

#[test]
fn classes_that_are_left_out_are_missing_from_training_only() {
    let mut config = config("digits");
    let all = loaded(&config, 1);
    config.without_classes = vec![3, 5];
    let set = loaded(&config, 1);
    let of = |set: &Dataset, part: Part| -> Vec<u32> {
        let split = set.split(part);
        (0..split.len()).map(|i| split.label(i)).collect()
    };
    let kept: Vec<u32> = of(&all, Part::Train)
        .into_iter()
        .filter(|l| ![3, 5].contains(l))
        .collect();
    assert_eq!(of(&set, Part::Train), kept, "the others stay, in their order");
    for part in [Part::Validation, Part::Test] {
        assert_eq!(of(&set, part), of(&all, part));
    }
    assert_ne!(set.digest(), all.digest());
    assert_eq!((set.classes(), set.labelled().len()), (10, kept.len()));
    config.labelled = Some(50);
    let few = loaded(&config, 1);
    let labels: Vec<Option<u32>> = few.labelled().iter().map(|s| few.label(*s)).collect();
    assert_eq!(labels.len(), 50);
    assert!(labels.iter().all(|l| l.is_some_and(|l| ![3, 5].contains(&l))));
    for (classes, labelled, part) in [
        (
            vec![10],
            None,
            "without_classes = [10]: expected numbers of classes below 10",
        ),
        ((0..10).collect(), None, "some class"),
        (vec![3], Some(1_297), "labelled = 1297: expected at most"),
    ] {
        (config.without_classes, config.labelled) = (classes, labelled);
        let error = load(&config, Path::new("."), 1)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
}
