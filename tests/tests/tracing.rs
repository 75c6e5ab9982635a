//! The way of a block, as a collector of spans is told it.
#![cfg(feature = "otel")]

use std::net::TcpListener;

use retort_tests::collector::{Collector, Span, tree};
use retort_tests::online::{LIMIT, ONLINE, exactly_once, text};
use retort_tests::{Harness, eventually};
use serde_json::Value;

const SAMPLES: u64 = 1297 * 6;

fn run(endpoint: &str) -> (Harness, std::path::PathBuf, Value) {
    let mut h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    h.set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    let file = h.job("job.toml", ONLINE);
    let folder = h.path("out");
    let args = ["run", text(&file), "--out", text(&folder), "--json"];
    let (code, stdout) = h.start(&args).end(LIMIT).expect("the run ends");
    assert_eq!(code, 0, "{stdout}");
    let report = serde_json::from_str(&stdout).expect("a report");
    (h, folder, report)
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|s| s.name == name).collect()
}

#[test]
fn a_blocks_way_through_the_fleet_is_one_trace() {
    let collector = Collector::start().expect("a free port");
    let (h, folder, report) = run(&collector.endpoint);
    exactly_once(&h, &folder, &report, SAMPLES);

    let whole = |spans: &Vec<Span>| {
        ["block", "ask", "answer", "forward", "encode", "train"]
            .iter()
            .all(|name| !named(spans, name).is_empty())
    };
    let (_, spans) = eventually("a whole trace", LIMIT, || {
        collector.traces().into_iter().find(|(_, spans)| whole(spans))
    })
    .expect("the fleet's processes send what is left when they end");
    println!("{}", tree(&spans));

    let only = |name: &str| match named(&spans, name)[..] {
        [span] => span,
        ref found => panic!("{} times {name}: {found:?}", found.len()),
    };
    let (block, ask, answer) = (only("block"), only("ask"), only("answer"));
    let (forward, encode) = (only("forward"), only("encode"));
    assert_eq!(block.parent, Vec::<u8>::new());
    assert_eq!(ask.parent, block.id);
    assert_eq!(answer.parent, ask.id, "the context went along with the want");
    assert_eq!((&forward.parent, &encode.parent), (&answer.id, &answer.id));
    let trains = named(&spans, "train");
    assert!(trains.iter().all(|t| t.parent == block.id), "{trains:#?}");

    for span in &spans {
        let teachers = ["answer", "forward", "encode"].contains(&span.name.as_str());
        let service = if teachers {
            "retort-teacher-server"
        } else {
            "retort-student-worker"
        };
        assert_eq!(span.service, service, "{span:?}");
        // One host, one clock: what is asked for lies within what asks.
        if let Some(parent) = spans.iter().find(|p| p.id == span.parent) {
            assert!(
                parent.began <= span.began && span.ended <= parent.ended,
                "{span:#?} of {parent:#?}"
            );
        }
    }
    assert!(forward.ended <= encode.began && ask.ended <= trains[0].began);

    assert_eq!(answer.fields["met"], "forward pass");
    assert!(answer.fields["version"].parse::<u64>().is_ok(), "{answer:?}");
    assert_eq!(
        (&block.fields["group"], &block.fields["teacher"]),
        (&"small".into(), &"wide".into())
    );
    let samples = |span: &Span| span.fields["samples"].parse::<u64>().expect("a count");
    let trained: u64 = trains.iter().map(|t| samples(t)).sum();
    assert_eq!(trained, samples(answer), "all that was answered was trained on");
}

#[test]
fn a_collector_that_is_away_changes_nothing_but_a_line_of_the_log() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port");
    let (h, folder, report) = run(&format!("http://{nobody}"));
    exactly_once(&h, &folder, &report, SAMPLES);
    let log = std::fs::read_dir(folder.join("logs")).expect("logs");
    let told = log.filter_map(|f| std::fs::read_to_string(f.ok()?.path()).ok());
    assert!(
        told.into_iter().any(|text| text.contains("ExportError")),
        "the log says so"
    );
}
