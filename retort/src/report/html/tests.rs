use super::super::curves::{GroupCurve, Point};
use super::super::tests::report;
use super::*;

/// Curves as an online run leaves them: three groups by `seeds` seeds, smooth noise, falling losses.
fn curves(seeds: u64) -> Curves {
    let groups = [
        ("small", "student", 0.84),
        ("small@alone", "baseline", 0.79),
        ("wide", "teacher", 0.947),
    ];
    let one = |seed: u64, (group, kind, best): (&str, &str, f64)| GroupCurve {
        run: format!("digits-online-s{seed}"),
        group: group.to_owned(),
        kind: kind.to_owned(),
        points: (0..820).map(|step| point(step, seed, kind, best)).collect(),
    };
    Curves {
        groups: (1..=seeds).flat_map(|s| groups.map(|g| one(s, g))).collect(),
    }
}

fn point(step: u64, seed: u64, kind: &str, best: f64) -> Point {
    let (x, phase) = (step as f64 / 820.0, seed as f64);
    let noise = 0.05 * ((step as f64 * 1.7 + phase).sin() + (step as f64 * 0.37 * phase).cos());
    let learned = 1.0 - (-6.0 * x).exp();
    let measured = step.is_multiple_of(41).then_some(());
    let taught = (kind == "student").then_some(());
    Point {
        step,
        positions: step * 32,
        epoch: (step / 41) as u32,
        hard_loss: Some((2.3 * (1.0 - 0.93 * learned) + noise).max(0.01)),
        kl: taught.map(|()| (1.4 * (1.0 - 0.85 * learned) + noise).max(0.01)),
        feature_loss: None,
        held_out_loss: measured.map(|()| 2.3 - 1.6 * learned * best + 0.2 * noise),
        held_out_accuracy: measured.map(|()| 0.1 + (best - 0.1) * learned + 0.2 * noise),
        alpha: taught.map(|()| 0.9 * (4.0 * x).min(0.8)),
        teacher_version: taught.map(|()| step / 20),
        gradient_share: taught.map(|()| (3.0 * x).min(0.7) + 0.3 * noise),
        samples_per_s: step.is_multiple_of(10).then_some(18_000.0 + 30_000.0 * noise),
        replicas: 2,
        staleness: taught.map(|()| (0.4 + noise).max(0.0)),
    }
}

fn reliability() -> Vec<(String, Vec<Bin>)> {
    let bin = |i: u64, bend: f64| {
        let (low, high) = (i as f64 / 15.0, (i + 1) as f64 / 15.0);
        let confidence = (low + high) / 2.0;
        Bin {
            low,
            high,
            samples: if i < 4 { 0 } else { i * i * i },
            confidence,
            accuracy: confidence.powf(bend),
        }
    };
    let model = |name: &str, bend: f64| (name.to_owned(), (0..15).map(|i| bin(i, bend)).collect());
    vec![model("small", 1.1), model("small@alone", 1.7), model("wide", 0.8)]
}

fn page(seeds: u64) -> String {
    render(&report(seeds), &curves(seeds), &reliability())
}

#[test]
fn the_page_stands_alone() {
    let page = page(5);
    for outside in ["http:", "https:", "<script", "<link", "<img", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for part in [
        "data/&lt;b&gt;.png: no image",
        "The teacher helped",
        "How it learned",
        "By class and confidence",
        "Mistakes",
        "What it costs",
        "Soft targets",
        "Samples",
        "Repeat this run",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("NaN"));
}

#[test]
fn every_chart_has_a_role_a_title_and_a_description() {
    let page = page(3);
    let charts = page.matches(r#"role="img""#).count();
    assert_eq!(charts, 21);
    assert_eq!(page.matches("<desc>").count(), charts);
}

#[test]
fn names_cannot_break_out_of_their_place() {
    let hostile = "</style><script>alert('x')</script>\"";
    let mut report = report(2);
    report.run.name = hostile.into();
    report.run.command = hostile.into();
    report.verdict.text = hostile.into();
    report.students[0].name = hostile.into();
    report.students[0].per_class[0].class = hostile.into();
    report.teachers[0].name = hostile.into();
    report.soft_targets.encoding = Some(hostile.into());
    report.dataset.name = hostile.into();
    let mut curves = curves(2);
    curves.groups[0].group = hostile.into();
    let page = render(&report, &curves, &[(hostile.into(), reliability()[0].1.clone())]);
    assert!(!page.contains("<script") && !page.contains("'x'"));
    assert_eq!(page.matches("</style>").count(), 1);
}

#[test]
fn a_run_that_only_trained_a_teacher_has_no_empty_sections() {
    let mut report = report(1);
    (report.students, report.baselines) = (Vec::new(), Vec::new());
    (report.soft_targets, report.ledger) = Default::default();
    let page = render(&report, &Curves::default(), &[]);
    for part in [
        "By class",
        "How it learned",
        "Mistakes",
        "Soft targets",
        "<h2>Samples",
    ] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("wide (teacher)"));
}

#[test]
fn a_ledger_that_does_not_add_up_is_said_aloud() {
    let mut report = report(1);
    assert!(render(&report, &Curves::default(), &[]).contains("exactly once, or is listed"));
    report.ledger.duplicates = 1;
    assert!(render(&report, &Curves::default(), &[]).contains("do not contain every sample exactly once"));
}

#[test]
fn a_student_stands_beside_itself_alone_in_gains_and_mistakes() {
    let mut report = report(3);
    let seeds = |values: [f64; 3]| Some(crate::report::Metric::from(values.to_vec()));
    report.students[0].per_class[4].gain = seeds([0.2, 0.4, 0.3]);
    report.students[0].per_class[7].gain = seeds([-0.2, -0.4, -0.3]);
    let page = render(&report, &Curves::default(), &[]);
    let chart = page.split("small: gain by class</title>").nth(1).unwrap();
    let told = chart
        .split("<desc>")
        .nth(1)
        .unwrap()
        .split("</desc>")
        .next()
        .unwrap();
    assert!(
        told.starts_with("4: small +30.0 points; "),
        "largest gain first: {told}"
    );
    assert!(told.ends_with("7: small -30.0 points"), "{told}");
    let shared = page
        .split("Mistakes shared with the teacher</title>")
        .nth(1)
        .unwrap();
    let told = shared.split("</desc>").next().unwrap();
    for (student, role) in [
        (&report.students[0], "student"),
        (&report.baselines[0], "without teacher"),
    ] {
        let excess = student.inherited.as_ref().unwrap().excess.as_ref().unwrap().mean;
        let name = &student.name;
        let row = format!("{name} ({role}): {name} {:+.1} points", 100.0 * excess);
        assert!(told.contains(&row), "{row} in {told}");
    }
    assert!(page.contains("Churn between seeds"));
}

#[test]
fn a_run_that_was_tuned_says_so() {
    let mut report = report(1);
    assert!(!render(&report, &Curves::default(), &[]).contains("Tuned while it ran"));
    report.run.retuned.push(crate::report::Retuned {
        seed: 3,
        alpha: Some(0.5),
        temperature: None,
    });
    let page = render(&report, &Curves::default(), &[]);
    assert!(
        page.contains("seed 3: alpha 0.5, temperature the job&#39;s at the end")
            || page.contains("seed 3: alpha 0.5, temperature the job's at the end")
    );
}

#[test]
fn one_seed_has_no_churn_and_no_seed_to_seed_dots() {
    let page = render(&report(1), &Curves::default(), &[]);
    assert!(!page.contains("Churn between seeds") && page.contains("small: gain by class"));
    assert!(!page.contains("class=\"seed\""));
}

#[test]
fn costs_are_drawn_and_what_this_machine_cannot_measure_is_said() {
    let mut report = report(2);
    let page = render(&report, &Curves::default(), &[]);
    for part in [
        "<title>Size</title>",
        "Latency of one prediction",
        "Energy of 1,000",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.contains("A processor, device flex, which may use 2 threads"));
    let forget = |cost: &mut Option<crate::report::Cost>| {
        cost.as_mut().unwrap().joules_per_1000 = None;
    };
    forget(&mut report.students[0].cost);
    forget(&mut report.teachers[0].cost);
    let page = render(&report, &Curves::default(), &[]);
    assert!(page.contains("Energy: not available on this machine"));
    assert!(!page.contains("Energy of 1,000") && page.contains("Latency of one prediction"));
    (report.students[0].cost, report.teachers[0].cost) = (None, None);
    let page = render(&report, &Curves::default(), &[]);
    assert!(page.contains("could not be measured") && page.contains("<title>Size</title>"));
}

#[test]
fn of_many_classes_the_chart_shows_those_that_moved_most() {
    let mut report = report(2);
    let row = report.students[0].per_class[0].clone();
    report.students[0].per_class = (0..60)
        .map(|i| {
            let mut row = row.clone();
            row.class = format!("class-{i}");
            row.gain = Some(vec![0.01 * f64::from(i); 2].into());
            row
        })
        .collect();
    let page = render(&report, &Curves::default(), &[]);
    let chart = page.split("small: gain by class</title>").nth(1).unwrap();
    let told = chart.split("</desc>").next().unwrap();
    for (class, shown) in [
        (59, true),
        (40, true),
        (39, false),
        (20, false),
        (19, true),
        (0, true),
    ] {
        assert_eq!(told.contains(&format!("class-{class}: ")), shown, "{class}");
    }
    assert!(page.contains("20 more classes are in the table"));
}
