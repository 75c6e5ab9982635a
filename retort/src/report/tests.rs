use super::*;

/// A student or baseline with this accuracy by seed.
pub(super) fn student(name: &str, parameters: u64, accuracies: &[f64]) -> Student {
    let metric = |f: fn(f64) -> f64| Metric::from(accuracies.iter().map(|a| f(*a)).collect::<Vec<_>>());
    let inherited = |samples: f64| {
        let errors = || accuracies.iter().map(move |a| samples * (1.0 - a));
        let shared: Vec<SharedErrors> = errors()
            .map(|errors| SharedErrors {
                errors: errors.round() as u64,
                shared: (0.6 * errors).round() as u64,
                expected: 0.2 * errors,
            })
            .collect();
        Inherited::of(&shared)
    };
    let row = |class: u32| ClassRow {
        class: class.to_string(),
        accuracy: Some(metric(|a| a)),
        agreement: Some(metric(|a| a * 0.9)),
        gain: None,
        inherited: inherited(36.0),
        support: 36,
    };
    Student {
        name: name.to_owned(),
        parameters,
        bytes: 4 * parameters + 300,
        flops_per_sample: Some(2 * parameters),
        test_accuracy: metric(|a| a),
        test_nll: metric(|a| -a.ln()),
        test_perplexity: None,
        test_bits_per_byte: None,
        ece: metric(|a| 0.2 * (1.0 - a)),
        agreement_with_teacher: Some(metric(|a| a * 0.95)),
        compared_with: Some("wide".into()),
        kl_to_teacher: Some(metric(|a| 1.0 - a)),
        kl_to_teacher_at_temperature: Some(metric(|a| 0.1 * (1.0 - a))),
        temperature: Some(4.0),
        inherited: inherited(360.0),
        validation_accuracy: Some(metric(|a| a * 0.99)),
        churn: (accuracies.len() > 1).then_some(0.08),
        cost: Some(cost(parameters)),
        weights_blake3: digests(accuracies),
        time: Time::of([50.0, 2.0, 20.0, 8.0, 15.0, 5.0]),
        exits: vec![ExitRow {
            at: 1,
            parameters: parameters / 2,
            flops_per_sample: Some(parameters),
            test_accuracy: metric(|a| a * 0.8),
        }],
        left_out: Some(LeftOut {
            accuracy: Some(metric(|a| a * 0.5)),
            corrected: Some(metric(|a| a * 0.9)),
            test_accuracy: metric(|a| a * 1.01),
            bias: metric(|_| 2.5),
        }),
        per_class: (0..10).map(row).collect(),
    }
}

/// Of weights that differ from seed to seed as their accuracy does.
fn digests(accuracies: &[f64]) -> Vec<String> {
    let of = |a: &f64| blake3::hash(&a.to_le_bytes()).to_hex().to_string();
    accuracies.iter().map(of).collect()
}

fn cost(parameters: u64) -> Cost {
    let latency_ms = 0.03 + 1e-6 * parameters as f64;
    Cost {
        latency_ms,
        latency_p95_ms: 1.5 * latency_ms,
        latency_calls: 1_000,
        batch: 64,
        samples_per_s: 64e3 / latency_ms,
        joules_per_1000: Some(0.02 * latency_ms),
    }
}

pub(super) fn teacher(name: &str, parameters: u64, accuracies: &[f64]) -> Teacher {
    Teacher {
        name: name.to_owned(),
        parameters,
        bytes: 4 * parameters + 300,
        flops_per_sample: Some(2 * parameters),
        test_accuracy: accuracies.to_vec().into(),
        test_nll: accuracies.iter().map(|a| -a.ln()).collect::<Vec<_>>().into(),
        test_perplexity: None,
        test_bits_per_byte: None,
        ece: accuracies
            .iter()
            .map(|a| 0.3 * (1.0 - a))
            .collect::<Vec<_>>()
            .into(),
        churn: (accuracies.len() > 1).then_some(0.03),
        cost: Some(cost(parameters)),
        weights_blake3: digests(accuracies),
        versions: 40,
        versions_trained_on: 38,
    }
}

pub(super) fn report(seeds: u64) -> Report {
    let spread = |accuracy: f64| -> Vec<f64> {
        (0..seeds)
            .map(|s| accuracy + 0.006 * ((s * 7 % 5) as f64 - 2.0))
            .collect()
    };
    let teachers = vec![teacher("wide", 101_770, &spread(0.947))];
    let mut students = vec![student("small", 2_410, &spread(0.841))];
    let baselines = vec![Student {
        agreement_with_teacher: Some(spread(0.77).into()),
        ..student(
            "small@alone",
            2_410,
            &spread(0.79).into_iter().rev().collect::<Vec<_>>(),
        )
    }];
    students[0].gain_over(&baselines[0]);
    let samples = 1_297 * 20 * seeds;
    Report {
        run: Run {
            name: "digits-online".into(),
            seeds: (1..=seeds).collect(),
            wall_s: 71.4,
            command: "retort run examples/digits-online.toml --seeds 5".into(),
            retort: "0.0.0".into(),
            job: "[run]\nname = \"digits\"\n".into(),
            retuned: Vec::new(),
        },
        dataset: Dataset {
            name: "digits".into(),
            digest: "5f0c0e3a9d1b7c42a4c6e0d81f4ab2c3".into(),
            train: 1_297,
            labelled: 100,
            unlabelled: 200,
            validation: 140,
            test: 360,
            classes: 10,
            bad_rows: BadRows {
                count: 2,
                first: vec!["data/<b>.png: no image".into(), "data/c.png: no image".into()],
            },
            targets_per_sample: 1,
            text_bytes_per_target: None,
        },
        verdict: Verdict::new(&teachers, &students, &baselines),
        teachers,
        students,
        baselines,
        soft_targets: SoftTargets {
            samples,
            frames: samples / 32,
            bytes: samples * 24,
            bytes_per_target: Some(24.0),
            encoding: Some("f16".into()),
            temperature: Some(4.0),
            samples_without: 0,
            max_staleness_seen: Some(1),
            samples_by_staleness: [samples - 64, 64, 0, 0, 0],
            teacher_gradient_share: Some(0.62),
            rejected: 0,
        },
        ledger: Ledger {
            epochs: 20,
            samples,
            committed: samples - 2,
            quarantined: 2,
            redelivered: 64,
            ..Ledger::default()
        },
        sync: Sync {
            rounds: 40,
            bytes: 1_234_567,
            seconds: 3.5,
        },
        throughput: Throughput {
            samples_per_s: Some(18_345.6),
        },
        machine: Machine {
            device: "flex".into(),
            processor: Some("A processor".into()),
            threads: 2,
        },
    }
}

/// The smallest report: a teacher and nothing to teach.
fn teacher_only() -> Report {
    Report {
        students: Vec::new(),
        baselines: Vec::new(),
        soft_targets: SoftTargets::default(),
        ledger: Ledger::default(),
        sync: Sync {
            rounds: 40,
            bytes: 1_234_567,
            seconds: 3.5,
        },
        throughput: Throughput { samples_per_s: None },
        ..report(1)
    }
}

#[test]
fn a_report_follows_its_schema_and_reads_back() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/report.schema.json")).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let without_teacher = Student {
        compared_with: None,
        agreement_with_teacher: None,
        kl_to_teacher: None,
        kl_to_teacher_at_temperature: None,
        temperature: None,
        inherited: None,
        cost: None,
        ..student("s", 1, &[0.5])
    };
    for report in [
        report(5),
        report(1),
        teacher_only(),
        Report {
            students: vec![without_teacher],
            ..teacher_only()
        },
    ] {
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&json)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}

#[test]
fn a_report_of_an_older_version_is_read() {
    let mut json = serde_json::to_value(report(2)).unwrap();
    for model in ["/teachers/0", "/students/0", "/baselines/0"] {
        let model = json.pointer_mut(model).unwrap().as_object_mut().unwrap();
        assert!(model.remove("weights_blake3").is_some());
    }
    assert!(
        json["verdict"]
            .as_object_mut()
            .unwrap()
            .remove("finding")
            .is_some()
    );
    let read: Report = serde_json::from_value(json).unwrap();
    assert_eq!(read.students[0].weights_blake3, Vec::<String>::new());
    assert_eq!(read.verdict.finding, Finding::Open);
    let origin = tables::origin(&read);
    assert!(origin.pairs.iter().all(|(name, _)| !name.contains("weights")));
    assert_eq!(origin.note, "");
}

#[test]
fn the_origin_has_the_digest_of_every_exported_model() {
    let row = |report: &Report, name: &str| {
        let origin = tables::origin(report);
        assert!(origin.note.contains("BLAKE3"));
        let found = origin.pairs.into_iter().find(|(n, _)| n == name);
        found.and_then(|(_, value)| value)
    };
    let mut report = report(2);
    let digests = report.students[0].weights_blake3.clone();
    let expected = format!("one for each seed\n1: `{}`\n2: `{}`", digests[0], digests[1]);
    assert_eq!(row(&report, "Digest of small's weights"), Some(expected));
    // A fixed teacher is the same under every seed.
    report.teachers[0].weights_blake3 = vec!["ab".repeat(32); 2];
    let expected = format!("`{}`", "ab".repeat(32));
    assert_eq!(row(&report, "Digest of wide's weights"), Some(expected));
    // A student that teaches its peers is one model.
    report.teachers[0].name = "small".into();
    let origin = tables::origin(&report);
    let rows = origin.pairs.iter().filter(|(name, _)| name.contains("weights"));
    assert_eq!(rows.count(), 1);
}

#[test]
fn the_schema_refuses_an_unknown_field() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/report.schema.json")).unwrap();
    let mut json = serde_json::to_value(report(2)).unwrap();
    json["students"][0]["test_accuracy"]["median"] = 0.5.into();
    assert!(!jsonschema::draft202012::is_valid(&schema, &json));
}

#[test]
fn a_metric_is_its_values_and_what_follows_from_them() {
    let metric = Metric::from(vec![0.25, 0.75]);
    assert_eq!((metric.mean, metric.sd), (0.5, 0.125_f64.sqrt()));
    assert_eq!(
        serde_json::to_string(&Metric::from(vec![0.5])).unwrap(),
        r#"{"mean":0.5,"sd":0.0,"values":[0.5]}"#
    );
    assert_eq!(Metric::of([Some(0.5), None]), None);
    assert_eq!(Metric::of([]), None);
    assert_eq!(Metric::of([Some(0.5)]), Some(vec![0.5].into()));
}

#[test]
fn gains_are_paired_by_seed_and_class() {
    let (with, without) = ([0.5, 0.75, 1.0], [0.25, 0.75, 0.5]);
    let mut taught = student("small", 1, &with);
    let mut alone = student("small@alone", 1, &without);
    alone.per_class[3].accuracy = None;
    taught.gain_over(&alone);
    let gain = taught.per_class[0].gain.as_ref().unwrap();
    assert_eq!((gain.mean, &gain.values), (0.25, &vec![0.25, 0.0, 0.5]));
    assert_eq!(taught.per_class[3].gain, None, "a class without test samples");
}

#[test]
fn inherited_errors_are_pooled_where_a_seed_has_none() {
    let seed = |errors, shared, expected| SharedErrors {
        errors,
        shared,
        expected,
    };
    let inherited = Inherited::of(&[seed(4, 3, 1.0), seed(0, 0, 0.0)]).unwrap();
    assert_eq!(inherited.errors.values, [4.0, 0.0]);
    assert_eq!((inherited.excess.clone(), inherited.pooled()), (None, Some(0.5)));
    let right = Inherited::of(&[seed(0, 0, 0.0)]).unwrap();
    assert_eq!((right.excess.clone(), right.pooled()), (None, None));
    assert_eq!(Inherited::of(&[]), None);
}

#[test]
fn the_ledger_counts_students_only() {
    let group = |kind: &str, committed| audit::GroupAudit {
        kind: kind.to_owned(),
        epochs: vec![audit::EpochAudit {
            counts: audit::Counts {
                samples: 10,
                committed,
                lost: 10 - committed,
                ..Default::default()
            },
            ..Default::default()
        }],
        ..Default::default()
    };
    let audit = Audit {
        groups: vec![
            group("student", 10),
            group("student", 9),
            group("baseline", 5),
            group("teacher", 5),
        ],
    };
    let ledger = Ledger::new(&audit, 3, 4);
    let expected = Ledger {
        epochs: 1,
        samples: 20,
        committed: 19,
        lost: 1,
        redelivered: 3,
        rolled_back: 4,
        ..Ledger::default()
    };
    assert_eq!(ledger, expected);
}
