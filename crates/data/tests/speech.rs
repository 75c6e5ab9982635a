//! Real sounds: the spoken digits of `examples/data/speech-digits.sh`, where espeak-ng is installed.

use std::path::Path;
use std::process::Command;

use retort_data::{Audio, Dataset, DatasetConfig, Format, Part};

mod skip;

fn rows(set: &Dataset, part: Part) -> Vec<(u32, Vec<f32>)> {
    let part = set.split(part);
    let row = |sample| {
        let mut out = vec![0.0; set.shape().len()];
        part.write(sample, &mut out);
        (part.label(sample), out)
    };
    (0..part.len()).map(row).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

#[test]
fn digits_of_voices_never_heard_are_near_those_of_others() {
    if Command::new("espeak-ng").arg("--version").output().is_err() {
        skip::skipped("no spoken digits, for espeak-ng is not installed");
        return;
    }
    let out = tempfile::TempDir::new().expect("folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/speech-digits.sh");
    let made = Command::new("bash")
        .arg(script)
        .arg(out.path())
        .arg("--few")
        .output();
    let made = made.expect("start bash");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = DatasetConfig {
        format: Some(Format::Wav),
        path: Some(out.path().display().to_string()),
        audio: Some(Audio {
            rate: Some(8_000), // espeak-ng makes 22,050
            seconds: 0.8,
            mels: 24,
            hop_ms: 20,
            ..Audio::default()
        }),
        ..DatasetConfig::default()
    };
    let set = retort_data::load(&config, Path::new("."), 1).expect("load");
    assert_eq!(set.shape().to_string(), "1x39x24");
    assert_eq!(set.class_names().concat(), "0123456789");
    let parts = [Part::Train, Part::Validation, Part::Test].map(|part| set.split(part).len());
    assert_eq!(parts, [180, 20, 90]);
    let train = rows(&set, Part::Train);
    let values = train.iter().flat_map(|(_, row)| row);
    assert!(values.clone().all(|&v| (0.0..1.3).contains(&v)));
    assert!(values.filter(|&&v| v > 0.0).count() > train.len() * set.shape().len() / 4);
    let test = rows(&set, Part::Test);
    let right = test.iter().filter(|(label, row)| {
        let by_distance =
            |a: &&(u32, Vec<f32>), b: &&(u32, Vec<f32>)| distance(&a.1, row).total_cmp(&distance(&b.1, row));
        train.iter().min_by(by_distance).expect("some").0 == *label
    });
    let right = right.count();
    assert!(
        right > 45,
        "{right} of {} by the nearest neighbour, 9 by chance",
        test.len()
    );
}
