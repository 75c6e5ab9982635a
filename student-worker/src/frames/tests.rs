use retort_codec::{Encoding, Features, encode, soften};
use retort_proto::pb;

use super::*;

const ROWS: usize = 4;
const CLASSES: usize = 3;
const TEMPERATURE: f32 = 2.0;

fn link() -> Link {
    Link {
        terms: Arc::new(Terms {
            run: "r".into(),
            reader: "w".into(),
            group: "g".into(),
            dataset_digest: "d".into(),
            temperature: f64::from(TEMPERATURE).into(),
            epochs: 1,
            encoding: Encoding::F32,
            grid: Grid {
                positions: 300 * ROWS as u64,
                block: ROWS as u32,
            },
            classes: CLASSES,
            rows: 1,
            prefetch: 1,
            layer: None,
        }),
        dialer: Dialer::plaintext(),
        teacher: "t".into(),
        address: "http://127.0.0.1:1".into(),
        load: Arc::default(),
        several: Arc::default(),
        events: mpsc::channel(1).0,
        tasks: tasks(),
    }
}

fn want() -> Want {
    Want {
        teacher: "t".into(),
        id: BlockId { epoch: 0, block: 1 },
        floor: 0,
        exact: None,
        temperature: None,
        within: Duration::ZERO,
    }
}

fn tasks() -> TaskGroup {
    TaskGroup::new(tokio_util::sync::CancellationToken::new())
}

fn frame(rows: usize, classes: usize, temperature: f32) -> Vec<u8> {
    let logits: Vec<f32> = (0..rows * classes).map(|i| (i % 5) as f32).collect();
    let mut soft = vec![0f32; logits.len()];
    soften(&logits, classes, temperature, &mut soft);
    let mut bytes = Vec::new();
    encode(&soft, classes, temperature, Encoding::F32, &mut bytes);
    bytes
}

fn receive(bytes: Vec<u8>) -> Event {
    let answer = pb::SoftTargets {
        version: 7,
        frame: bytes.into(),
        ..Default::default()
    };
    link().receive(want(), &answer, tracing::Span::none())
}

fn refused(bytes: Vec<u8>) -> &'static str {
    match receive(bytes) {
        Event::FrameRefused { reason, .. } => reason,
        _ => panic!("the frame was accepted"),
    }
}

#[test]
fn a_good_frame_is_taken_with_its_version() {
    let Event::Frame { version, frame, .. } = receive(frame(ROWS, CLASSES, TEMPERATURE)) else {
        panic!("the frame was refused");
    };
    let retort_codec::Targets::Dense(log_probs) = &frame.targets else {
        panic!("f32 is dense");
    };
    assert_eq!((version, log_probs.len()), (7, ROWS * CLASSES));
}

#[test]
fn a_frame_of_another_shape_or_temperature_is_refused() {
    assert_eq!(refused(frame(ROWS - 1, CLASSES, TEMPERATURE)), "wrong shape");
    assert_eq!(refused(frame(ROWS, CLASSES + 1, TEMPERATURE)), "wrong shape");
    assert_eq!(refused(frame(ROWS, CLASSES, TEMPERATURE + 1.0)), "wrong shape");
}

#[test]
fn a_language_models_frame_has_its_rows_for_each_sample() {
    let mut link = link();
    Arc::make_mut(&mut link.terms).rows = 3;
    let receive = |rows| {
        let answer = pb::SoftTargets {
            frame: frame(rows, CLASSES, TEMPERATURE).into(),
            ..Default::default()
        };
        link.receive(want(), &answer, tracing::Span::none())
    };
    let Event::Frame { frame: taken, .. } = receive(3 * ROWS) else {
        panic!("the frame was refused");
    };
    let bytes = Encoding::F32.frame_len(3 * ROWS, CLASSES) as u64;
    assert_eq!(taken.bytes, bytes);
    assert_eq!(
        link.terms.frame_len("t", ROWS as u64),
        bytes,
        "what a want costs of the credit"
    );
    assert!(matches!(
        receive(ROWS),
        Event::FrameRefused {
            reason: "wrong shape",
            ..
        }
    ));
}

#[test]
fn features_come_with_a_frame_where_they_were_asked_for_and_fit() {
    let encoded = |rows, channels, value: f32| {
        let features = Features {
            rows,
            channels,
            positions: 5,
            values: vec![value; rows * channels * 5],
        };
        let mut bytes = Vec::new();
        features.encode(&mut bytes);
        bytes
    };
    let receive = |teacher: &str, features: Vec<u8>| {
        let mut link = link();
        let layer = Layer {
            name: "conv1".into(),
            channels: 2,
            positions: 5,
        };
        Arc::get_mut(&mut link.terms).unwrap().layer = Some((teacher.into(), layer));
        let asked = link.open();
        let answer = pb::SoftTargets {
            frame: frame(ROWS, CLASSES, TEMPERATURE).into(),
            features: features.into(),
            ..Default::default()
        };
        (link.receive(want(), &answer, tracing::Span::none()), asked)
    };
    let (taken, asked) = receive("t", encoded(ROWS, 2, 0.5));
    let Event::Frame { frame: taken, .. } = taken else {
        panic!("the frame was refused");
    };
    assert_eq!(taken.features.as_ref().unwrap().values, [0.5; ROWS * 10]);
    let bytes = Encoding::F32.frame_len(ROWS, CLASSES) + retort_codec::features::frame_len(ROWS, 2, 5);
    assert_eq!(taken.bytes, bytes as u64);
    let Some(pb::distill_request::Part::Open(open)) = asked.part else {
        panic!("a stream is opened first");
    };
    assert_eq!(
        (open.layer.as_str(), open.credit_bytes),
        ("conv1", 2 * bytes as u64)
    );
    for (features, expected) in [
        (encoded(ROWS, 3, 0.5), "wrong shape"),
        (encoded(ROWS - 1, 2, 0.5), "wrong shape"),
        (encoded(ROWS, 2, f32::NAN), "not finite"),
        (Vec::new(), "corrupt"),
    ] {
        let (Event::FrameRefused { reason, .. }, _) = receive("t", features) else {
            panic!("{expected} was accepted");
        };
        assert_eq!(reason, expected);
    }
    let (Event::Frame { frame: taken, .. }, asked) = receive("another", Vec::new()) else {
        panic!("this teacher was not asked for features");
    };
    assert_eq!(taken.features, None);
    assert!(matches!(asked.part, Some(pb::distill_request::Part::Open(open)) if open.layer.is_empty()));
}

#[test]
fn a_frame_that_is_not_finite_or_was_changed_is_refused() {
    let mut bytes = Vec::new();
    encode(
        &[f32::NAN; ROWS * CLASSES],
        CLASSES,
        TEMPERATURE,
        Encoding::F32,
        &mut bytes,
    );
    assert_eq!(refused(bytes), "not finite");
    let mut bytes = frame(ROWS, CLASSES, TEMPERATURE);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(refused(bytes), "corrupt");
    assert_eq!(refused(Vec::new()), "corrupt");
}

#[test]
fn an_unavailable_version_is_asked_again_and_not_counted() {
    let answer = pb::SoftTargets {
        error: Some(pb::ItemError {
            code: pb::item_error::Code::VersionUnavailable.into(),
            message: "not here".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(matches!(
        link().receive(want(), &answer, tracing::Span::none()),
        Event::FrameFailed { .. }
    ));
    let answer = pb::SoftTargets {
        error: Some(pb::ItemError {
            code: pb::item_error::Code::NotFinite.into(),
            message: "NaN".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(matches!(
        link().receive(want(), &answer, tracing::Span::none()),
        Event::FrameRefused {
            reason: "not finite",
            ..
        }
    ));
}

fn frames(addresses: &[&str]) -> Frames {
    let mut frames = Frames::new(
        (*link().terms).clone(),
        Dialer::plaintext(),
        mpsc::channel(1).0,
        tasks(),
    );
    frames.endpoints(&endpoints(addresses));
    frames
}

fn endpoints(addresses: &[&str]) -> Endpoints {
    Endpoints {
        teacher: "t".into(),
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        active: Some(0),
        floor: 0,
    }
}

fn at(block: u64) -> Want {
    Want {
        id: BlockId { epoch: 0, block },
        ..want()
    }
}

/// A link without a task; what it measured is set by hand.
fn line(frames: &mut Frames, address: &str) -> Arc<Load> {
    let load = Arc::new(Load::default());
    let line = Line {
        wants: mpsc::channel(1).0,
        load: load.clone(),
    };
    frames.lines.insert(("t".into(), address.into()), line);
    load
}

/// Blocks of 4 samples that come one after the other, so many milliseconds each, in the time until `end`.
fn measured(load: &Load, ms: u64, end: Instant) {
    let time = |i: u64| end - Duration::from_millis((100 - i) * ms);
    for i in 0..100 {
        load.asked(ROWS as u64, time(i));
        load.answered(ROWS as u64, time(i + 1));
    }
}

/// How many of 300 blocks go to this server.
fn share(frames: &Frames, address: &str, now: Instant) -> usize {
    let routes = (0..300).filter_map(|block| frames.route(&at(block), now));
    routes.filter(|route| route == address).count()
}

/// Time for what is measured: an instant can't lie before the machine's start.
const HOUR: Duration = Duration::from_secs(3_600);
const A: &str = "http://a";
const B: &str = "http://b";
const C: &str = "http://c";

#[test]
fn students_agree_on_the_server_of_a_block_and_a_loss_moves_its_blocks_only() {
    let now = Instant::now();
    let three = frames(&[A, B, C]);
    let other_order = frames(&[C, A, B]);
    let two = frames(&[A, B]);
    let mut on_c = 0;
    for block in 0..300 {
        let route = three.route(&at(block), now);
        assert_eq!(route, other_order.route(&at(block), now));
        if route.as_deref() == Some(C) {
            on_c += 1;
        } else {
            assert_eq!(route, two.route(&at(block), now));
        }
    }
    assert!(
        (50..150).contains(&on_c),
        "{on_c} of 300 blocks on one of three servers"
    );
}

#[test]
fn small_differences_between_servers_move_no_block() {
    let mut frames = frames(&[A, B]);
    let now = Instant::now() + HOUR;
    let before = share(&frames, A, now);
    let (a, b) = (line(&mut frames, A), line(&mut frames, B));
    measured(&a, 30, now);
    measured(&b, 20, now);
    assert_eq!(share(&frames, A, now), before);
}

#[test]
fn a_server_that_became_ten_times_slower_loses_its_share() {
    let mut frames = frames(&[A, B]);
    let now = Instant::now() + HOUR;
    let before = share(&frames, A, now);
    let (a, b) = (line(&mut frames, A), line(&mut frames, B));
    measured(&a, 1_000, now);
    measured(&b, 100, now);
    assert_eq!(share(&frames, A, now), 0);
    // Not all goes to the other one: once its queue is as long, the slow one helps.
    for _ in 0..30 {
        b.asked(ROWS as u64, now);
    }
    assert!(share(&frames, A, now) > 0);
    // As fast as before, it is where its students meet again.
    b.given_up(30 * ROWS as u64, now);
    let now = now + HOUR;
    measured(&a, 100, now);
    assert_eq!(share(&frames, A, now), before);
}

#[test]
fn servers_that_are_down_are_passed_over_and_all_of_them_down_is_a_missing_teacher() {
    let mut frames = frames(&[A, B]);
    let (a, b) = (line(&mut frames, A), line(&mut frames, B));
    let start = Instant::now();
    let patience = Duration::from_secs(2);
    let missing = |frames: &mut Frames, s: u64| {
        let found = frames.look(start + Duration::from_secs(s), patience);
        found.into_iter().any(|(_, missing)| missing)
    };
    a.set_down(true, start);
    assert_eq!((share(&frames, A, start), share(&frames, B, start)), (0, 300));
    assert!(!missing(&mut frames, 0));
    b.set_down(true, start);
    assert_eq!(frames.route(&at(0), start), None);
    assert!(!missing(&mut frames, 10), "since now");
    assert!(missing(&mut frames, 12));
    // One that joins may answer.
    frames.endpoints(&endpoints(&[A, B, C]));
    assert_eq!(frames.route(&at(0), start).as_deref(), Some(C));
    assert!(!missing(&mut frames, 13));
    frames.endpoints(&endpoints(&[]));
    assert!(
        !missing(&mut frames, 14) && missing(&mut frames, 16),
        "nobody serves it"
    );
}

/// A want that comes while a broken stream rests before it is opened again, and whose link then ends, as when a server says that
/// it leaves: somebody else must be asked.
#[tokio::test]
async fn a_want_that_comes_during_a_links_pause_is_given_back() {
    let (events, mut failed) = mpsc::channel(8);
    let (wants, inbox) = mpsc::channel(WANTS);
    let link = Link { events, ..link() };
    let block = |block| Want {
        id: BlockId { epoch: 0, block },
        ..want()
    };
    let tasks = link.tasks.clone();
    tasks.spawn("link", OnError::Log, link.run(inbox));
    wants.send(block(1)).await.unwrap();
    let mut next = async || match failed.recv().await {
        Some(Event::FrameFailed { id, .. }) => id.block,
        _ => panic!("nobody is told"),
    };
    assert_eq!(next().await, 1, "nothing listens there");
    wants.try_send(block(2)).unwrap();
    drop(wants);
    assert_eq!(next().await, 2);
    tasks.end(Duration::from_secs(10)).await.unwrap();
}
