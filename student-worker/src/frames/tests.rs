use retort_codec::{Encoding, encode, soften};

use super::*;

const ROWS: usize = 4;
const CLASSES: usize = 3;
const TEMPERATURE: f32 = 2.0;

fn link() -> Link {
    Link {
        terms: Arc::new(Terms {
            run: "r".into(),
            reader: "w".into(),
            dataset_digest: "d".into(),
            temperature: f64::from(TEMPERATURE),
            encoding: "f32".into(),
            grid: Grid {
                positions: 8,
                block: ROWS as u32,
            },
            classes: CLASSES,
            prefetch: 1,
        }),
        teacher: "t".into(),
        address: "http://127.0.0.1:1".into(),
        events: mpsc::channel(1).0,
    }
}

fn want() -> Want {
    Want {
        teacher: "t".into(),
        id: BlockId { epoch: 0, block: 1 },
        floor: 0,
        exact: None,
    }
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
    link().receive(want(), &answer)
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
    assert_eq!((version, frame.log_probs.len()), (7, ROWS * CLASSES));
}

#[test]
fn a_frame_of_another_shape_or_temperature_is_refused() {
    assert_eq!(refused(frame(ROWS - 1, CLASSES, TEMPERATURE)), "wrong shape");
    assert_eq!(refused(frame(ROWS, CLASSES + 1, TEMPERATURE)), "wrong shape");
    assert_eq!(refused(frame(ROWS, CLASSES, TEMPERATURE + 1.0)), "wrong shape");
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
        }),
        ..Default::default()
    };
    assert!(matches!(
        link().receive(want(), &answer),
        Event::FrameFailed { .. }
    ));
    let answer = pb::SoftTargets {
        error: Some(pb::ItemError {
            code: pb::item_error::Code::NotFinite.into(),
            message: "NaN".into(),
        }),
        ..Default::default()
    };
    assert!(matches!(
        link().receive(want(), &answer),
        Event::FrameRefused {
            reason: "not finite",
            ..
        }
    ));
}

#[test]
fn students_agree_on_the_server_of_a_block_and_a_loss_moves_its_blocks_only() {
    let tasks = || TaskGroup::new(tokio_util::sync::CancellationToken::new());
    let frames = |addresses: &[&str]| {
        let mut frames = Frames::new((*link().terms).clone(), mpsc::channel(1).0, tasks());
        frames.endpoints(&Endpoints {
            teacher: "t".into(),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            active: Some(0),
            floor: 0,
        });
        frames
    };
    let at = |block| Want {
        id: BlockId { epoch: 0, block },
        ..want()
    };
    let three = frames(&["http://a", "http://b", "http://c"]);
    let other_order = frames(&["http://c", "http://a", "http://b"]);
    let two = frames(&["http://a", "http://b"]);
    let mut on_c = 0;
    for block in 0..300 {
        let route = three.route(&at(block));
        assert_eq!(route, other_order.route(&at(block)));
        if route.as_deref() == Some("http://c") {
            on_c += 1;
        } else {
            assert_eq!(route, two.route(&at(block)));
        }
    }
    assert!(
        (50..150).contains(&on_c),
        "{on_c} of 300 blocks on one of three servers"
    );
}
