use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;

/// `docs/metrics.md`, made from the table.
fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         What `GET /metrics` of the coordinator's HTTP port says, for Prometheus. This page is made from the table in\n\
         `coordinator/src/http/metrics/table.rs`; a test holds them equal.\n\n\
         Told are the runs that have not ended and the 8 newest others. A metric without a value yet (no teacher version, no\n\
         evaluation) has no sample. Counters begin again from their last durable value when the coordinator was restarted.\n\
         `kind` is `teacher` (a teacher that learns), `student` or `baseline` (a student alone).\n\n",
    );
    let subjects = [
        ("Coordinator", 0),
        ("Run", 1),
        ("Group", 2),
        ("Worker", 3),
        ("Teacher", 4),
        ("Teacher server", 5),
    ];
    for (title, number) in subjects {
        let _ = writeln!(text, "## {title}\n");
        text += "| name | type | labels | meaning |\n| --- | --- | --- | --- |\n";
        for m in TABLE.iter().filter(|m| subject(&m.of) == number) {
            let labels = m.of.labels().iter().copied().chain(m.by);
            let labels: Vec<String> = labels.map(|l| format!("`{l}`")).collect();
            let (name, kind, labels) = (m.name, m.kind.name(), labels.join(", "));
            let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {} |", m.help);
        }
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

fn subject(of: &Of) -> u8 {
    match of {
        Of::Coordinator(_) => 0,
        Of::Run(_) => 1,
        Of::Group(_) => 2,
        Of::Worker(_) => 3,
        Of::Teacher(_) => 4,
        Of::Server(_) => 5,
    }
}

#[test]
fn the_document_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("RETORT_WRITE_DOCS").is_some() {
        std::fs::write(&path, document()).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == document(),
        "docs/metrics.md is not what the table says; RETORT_WRITE_DOCS=1 cargo test -p retort-coordinator writes it"
    );
}

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for m in TABLE {
        let name = m.name;
        let legal = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.starts_with("retort_") && name.chars().all(legal), "{name}");
        assert_eq!(name.ends_with("_total"), m.kind == Kind::Counter, "{name}");
        assert!(m.help.ends_with('.'), "{name}");
        assert!(names.insert(name), "{name} is there twice");
        assert!(m.by.is_none_or(|by| !m.of.labels().contains(&by)), "{name}");
    }
}

fn facts() -> Facts {
    let server = pb::ServerStatus {
        worker: "t\\1".into(),
        samples_per_s: 1234.5,
        queued_samples: 64,
        counters: BTreeMap::from([("misses".into(), 2), ("hits".into(), 40)]),
        ..Default::default()
    };
    let group = pb::GroupStatus {
        name: "sm\"all\"\nnet".into(),
        kind: "student".into(),
        ledger: Some(pb::LedgerStatus {
            available: 3,
            committed: 7,
            total_committed: 17,
            ..Default::default()
        }),
        totals: Some(pb::TrainingSums {
            staleness: vec![5, 4, 3, 2, 1],
            spent: vec![1.5, 0.0, 2.0, 0.25, 0.0, 0.0],
            ..Default::default()
        }),
        last: Some(pb::CurvePoint {
            hard_loss: Some(f64::INFINITY),
            ..Default::default()
        }),
        workers: vec![
            pb::WorkerStatus {
                worker: "w".into(),
                leased: 32,
                ..Default::default()
            },
            pb::WorkerStatus::default(),
        ],
        ..Default::default()
    };
    let run = pb::RunStatus {
        run: "r-1".into(),
        state: "running".into(),
        groups: vec![group],
        teachers: vec![pb::TeacherStatus {
            name: "wide".into(),
            active: Some(4),
            servers: vec![server],
            ..Default::default()
        }],
        ..Default::default()
    };
    Facts {
        fleet: Fleet {
            term: 2,
            states: vec!["done".into(), "running".into()],
            runs: vec![run],
        },
        watchers: 3,
    }
}

#[test]
fn values_come_with_their_labels_escaped() {
    let text = exposition(&facts());
    let group = r#"run="r-1",group="sm\"all\"\nnet",kind="student""#;
    for line in [
        "# TYPE retort_ledger_committed_samples_total counter".to_owned(),
        "retort_coordinator_term 2".to_owned(),
        r#"retort_coordinator_runs{state="done"} 1"#.to_owned(),
        "retort_coordinator_watchers 3".to_owned(),
        r#"retort_run_state{run="r-1",state="running"} 1"#.to_owned(),
        r#"retort_run_state{run="r-1",state="done"} 0"#.to_owned(),
        format!("retort_ledger_committed_samples_total{{{group}}} 17"),
        format!("retort_ledger_samples{{{group},place=\"available\"}} 3"),
        format!("retort_group_taught_samples_total{{{group},behind=\"4+\"}} 1"),
        format!("retort_group_spent_seconds_total{{{group},activity=\"teacher\"}} 2"),
        format!("retort_group_hard_loss_nats{{{group}}} +Inf"),
        format!("retort_group_workers{{{group},state=\"working\"}} 1"),
        format!("retort_group_workers{{{group},state=\"idle\"}} 1"),
        r#"retort_teacher_active_version{run="r-1",teacher="wide"} 4"#.to_owned(),
        r#"retort_server_samples_per_second{run="r-1",teacher="wide",worker="t\\1"} 1234.5"#.to_owned(),
        r#"retort_server_events_total{run="r-1",teacher="wide",worker="t\\1",event="hits"} 40"#.to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("retort_teacher_published_version{"), "none yet");
}

#[test]
fn without_a_run_there_are_only_the_coordinators_own() {
    let text = exposition(&Facts::default());
    let samples: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(samples.len(), 2 + 7, "{text}");
    assert_eq!(text.matches("# TYPE ").count(), TABLE.len());
}

/// Names and labels of a query in Grafana's dashboard: `retort_x{run=~"$run"}`, `sum by (group) (...)`.
fn asked(query: &str) -> Vec<(String, Vec<String>)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in query.match_indices("retort_") {
        let rest = &query[at..];
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let labels = match rest[end..].strip_prefix('{').and_then(|l| l.split_once('}')) {
            Some((labels, _)) => labels
                .split(',')
                .filter_map(|l| l.split(['=', '!']).next())
                .map(|l| l.trim().to_owned())
                .collect(),
            None => Vec::new(),
        };
        found.push((rest[..end].to_owned(), labels));
    }
    found
}

#[test]
fn every_query_of_the_grafana_dashboard_names_metrics_and_labels_that_exist() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring/grafana/retort.json");
    let dashboard: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let asked = asked(query);
            assert!(!asked.is_empty(), "{title}: no metric in {query}");
            let mut labels_there = BTreeSet::new();
            for (name, labels) in asked {
                let metric = TABLE.iter().find(|m| m.name == name);
                let metric = metric.unwrap_or_else(|| panic!("{title}: no metric {name}"));
                labels_there.extend(metric.of.labels().iter().copied().chain(metric.by));
                for label in labels {
                    assert!(
                        labels_there.contains(label.as_str()),
                        "{title}: {name} has no label {label}"
                    );
                }
            }
            for named in target["legendFormat"].as_str().unwrap().split("{{").skip(1) {
                let label = named.split("}}").next().unwrap();
                assert!(
                    labels_there.contains(label),
                    "{title}: no label {label} in {query}"
                );
            }
        }
    }
}
