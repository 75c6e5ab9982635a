mod problems;

use std::collections::BTreeSet;
use std::fs;

use tempfile::TempDir;

use super::*;
use crate::{Dataset, DatasetConfig, Format, Part, Views};

const RATE: u32 = 8_000;

fn spec(channels: u16, bits: u16, rate: u32) -> hound::WavSpec {
    hound::WavSpec {
        channels,
        sample_rate: rate,
        bits_per_sample: bits,
        sample_format: hound::SampleFormat::Int,
    }
}

fn put(folder: &TempDir, name: &str, spec: hound::WavSpec, samples: &[i32]) {
    let file = folder.path().join(name);
    fs::create_dir_all(file.parent().expect("a folder")).expect("folder");
    let mut writer = hound::WavWriter::create(file, spec).expect("create");
    samples
        .iter()
        .for_each(|&s| writer.write_sample(s).expect("write"));
    writer.finalize().expect("write");
}

/// A rough wave of 16 bits that repeats itself after `period` samples.
fn wave(period: usize, len: usize) -> Vec<i32> {
    (0..len)
        .map(|i| (i % period) as i32 * 20_000 / period as i32 - 10_000)
        .collect()
}

fn tone(folder: &TempDir, name: &str, period: usize, len: usize) {
    put(folder, name, spec(1, 16, RATE), &wave(period, len));
}

/// Two classes of 20 files of half a second.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("folder");
    for i in 0..20 {
        tone(&folder, &format!("high/{i}.wav"), 20 + i, 4_000);
        tone(&folder, &format!("low/some/{i}.WAV"), 60 + i, 4_000);
    }
    folder
}

fn audio() -> Audio {
    Audio {
        seconds: 0.5,
        mels: 16,
        hop_ms: 20,
        ..Audio::default()
    }
}

fn config(folder: &TempDir, audio: Audio) -> DatasetConfig {
    DatasetConfig {
        format: Some(Format::Wav),
        path: Some(folder.path().display().to_string()),
        audio: Some(audio),
        ..DatasetConfig::default()
    }
}

fn loaded(config: &DatasetConfig) -> Dataset {
    crate::load(config, Path::new("."), 1).expect("load")
}

fn rows(set: &Dataset, part: Part) -> Vec<Vec<u32>> {
    let part = set.split(part);
    let row = |sample| {
        let mut out = vec![0.0; set.shape().len()];
        part.write(sample, &mut out);
        out.iter().map(|value| value.to_bits()).collect()
    };
    (0..part.len()).map(row).collect()
}

#[test]
fn a_folder_for_each_class_is_split_by_name() {
    let folder = folder();
    fs::write(folder.path().join("README"), "no class").expect("write");
    fs::write(folder.path().join("high/.hidden.wav"), "no sound").expect("write");
    fs::write(folder.path().join("high/notes.txt"), "no sound").expect("write");
    let set = loaded(&config(&folder, audio()));
    assert_eq!(
        (set.name(), set.class_names()),
        ("wav", &["high".to_owned(), "low".to_owned()][..])
    );
    assert_eq!(set.shape().to_string(), "1x24x16");
    let parts = [Part::Train, Part::Validation, Part::Test];
    let [train, validation, test] = parts.map(|part| rows(&set, part));
    assert_eq!(train.len() + validation.len() + test.len(), 40);
    assert!((4..=12).contains(&test.len()), "{}", test.len());
    let all: BTreeSet<_> = [train, validation, test.clone()].concat().into_iter().collect();
    assert_eq!(all.len(), 40, "no sound twice");
    assert_eq!(
        set.digest()[..16],
        *"743db9fcbd092bbe",
        "every machine must get these bits"
    );
    // More files leave the others in their part.
    tone(&folder, "low/more.wav", 100, 4_000);
    let more = rows(&loaded(&config(&folder, audio())), Part::Test);
    assert!(test.iter().all(|row| more.contains(row)) && more.len() <= test.len() + 1);
}

#[test]
fn a_fifth_of_the_names_is_chosen() {
    let chosen = (0..10_000).filter(|i| folder::is_test(Path::new(&format!("class/{i}.wav"))));
    assert!((1_900..2_100).contains(&chosen.count()));
}

#[test]
fn folders_train_and_test_decide() {
    let folder = TempDir::new().expect("folder");
    for i in 0..12 {
        tone(&folder, &format!("train/a/{i}.wav"), 20 + i, 4_000);
        tone(&folder, &format!("train/b/{i}.wav"), 60 + i, 4_000);
        tone(&folder, &format!("train/c/{i}.wav"), 90 + i, 4_000);
        tone(&folder, &format!("test/c/{i}.wav"), 110 + i, 4_000);
    }
    let set = loaded(&config(&folder, audio()));
    assert_eq!((set.classes(), set.split(Part::Test).len()), (3, 12));
    assert!((0..12).all(|sample| set.split(Part::Test).label(sample) == 2));
}

#[test]
fn all_windows_of_a_file_are_in_one_part() {
    let folder = TempDir::new().expect("folder");
    // Of period and half a second, so that all windows of a file are alike, and those of no other.
    for i in 0..30 {
        let (period, halves) = (20 + 2 * i, 1 + i % 7);
        let class = ["a", "b"][i % 2];
        let len = 4_000 / period * period;
        let mut sound = wave(period, len);
        sound.resize(4_000, 0);
        let sound = sound.repeat(halves);
        put(&folder, &format!("{class}/{i}.wav"), spec(1, 16, RATE), &sound);
    }
    let mut config = config(
        &folder,
        Audio {
            windows: Windows::All,
            ..audio()
        },
    );
    for validation in 1..40 {
        config.validation = Some(validation);
        let set = loaded(&config);
        let parts = [Part::Train, Part::Validation, Part::Test].map(|part| rows(&set, part));
        assert_eq!(parts[1].len(), validation as usize);
        let distinct = parts.map(|part| part.into_iter().collect::<BTreeSet<_>>());
        assert_eq!(
            distinct.iter().map(BTreeSet::len).sum::<usize>(),
            30,
            "{validation}"
        );
    }
}

#[test]
fn windows_are_whole_and_heard() {
    let folder = TempDir::new().expect("folder");
    let mut long = wave(40, 4_000);
    long.extend([0; 4_000]);
    long.extend(wave(40, 7_999));
    put(&folder, "a/long.wav", spec(1, 16, RATE), &long);
    tone(&folder, "b/short.wav", 40, 1_000);
    put(&folder, "c/empty.wav", spec(1, 16, RATE), &[]);
    let files = [("a/long.wav", 0), ("b/short.wav", 1), ("c/empty.wav", 2)].map(|(name, class)| File {
        path: folder.path().join(name),
        class,
    });
    let samples = |windows, files: &[File]| {
        let mut bad = Quarantine::new(Some(1));
        let mut reader = Reader::new(&Audio { windows, ..audio() }, RATE).expect("reader");
        let mut store = Writer::new(Form::Floats, reader.shape.len(), u64::MAX);
        let (samples, numbers) = reader
            .samples(files.iter(), &mut store, &mut bad)
            .expect("at most one is bad");
        let (_, bad) = bad.judge(Ok::<_, Error>(())).expect("as before");
        (samples.labels, numbers, bad.count())
    };
    let first = samples(Windows::First, &files[..2]);
    assert_eq!(first, (vec![0, 1], vec![0, 1], 0));
    let with_empty = samples(Windows::First, &files);
    assert_eq!(with_empty, (vec![0, 1], vec![0, 1], 1));
    let all = samples(Windows::All, &files);
    assert_eq!(all, (vec![0, 0, 1], vec![0, 0, 1], 0));
}

#[test]
fn a_single_file_is_heard_as_in_the_data_set() {
    let folder = folder();
    for windows in [Windows::First, Windows::All] {
        let front_end = Audio { windows, ..audio() };
        let set = loaded(&config(&folder, front_end.clone()));
        let ours = set.audio().expect("sounds");
        assert_eq!(
            (ours.rate, ours.shape().expect("sound")),
            (Some(RATE), set.shape())
        );
        assert!(
            ours.hears_like(&Audio {
                rate: Some(RATE),
                ..audio()
            }) && !ours.hears_like(&audio())
        );
        let known: BTreeSet<_> = [Part::Train, Part::Validation, Part::Test]
            .into_iter()
            .flat_map(|part| rows(&set, part))
            .collect();
        for file in ["high/3.wav", "low/some/7.WAV"] {
            let samples = ours.samples_of(&folder.path().join(file)).expect("samples");
            assert_eq!(samples.len(), 1);
            let bits = samples[0].iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert!(known.contains(&bits), "{file} {windows:?}");
        }
        put(&folder, "long.wav", spec(1, 16, RATE), &wave(40, 9_000));
        let long = ours.samples_of(&folder.path().join("long.wav")).expect("samples");
        assert_eq!(long.len(), if windows == Windows::All { 2 } else { 1 });
        put(&folder, "silent.wav", spec(1, 16, RATE), &[0; 9_000]);
        let silent = ours.samples_of(&folder.path().join("silent.wav"));
        match windows {
            Windows::First => assert_eq!(silent.expect("a sample").len(), 1),
            Windows::All => assert!(matches!(silent, Err(Error::Silent { .. }))),
        }
        fs::remove_file(folder.path().join("long.wav")).expect("remove");
        fs::remove_file(folder.path().join("silent.wav")).expect("remove");
    }
    assert_eq!(
        audio().shape().expect_err("no rate").to_string(),
        "audio.rate = unset: expected the rate of the data set"
    );
    let wrong = Audio {
        hop_ms: 0,
        rate: Some(RATE),
        ..audio()
    };
    let error = wrong
        .samples_of(Path::new("x.wav"))
        .expect_err("no front end")
        .to_string();
    assert_eq!(
        error,
        "audio.hop_ms = 0: expected 1 to 25, the length of a window"
    );
}

#[test]
fn bits_channels_and_rates_come_to_the_same() {
    let folder = TempDir::new().expect("folder");
    let bytes: Vec<i32> = wave(50, 8_000).iter().map(|s| s / 256).collect();
    let sound_of = |name: &str| read(&folder.path().join(name)).expect("read");
    for bits in [8, 16, 24, 32] {
        let scaled: Vec<i32> = bytes.iter().map(|s| s << (bits - 8)).collect();
        put(&folder, "mono.wav", spec(1, bits, RATE), &scaled);
        let (sound, rate) = sound_of("mono.wav");
        assert_eq!((sound.len(), rate), (8_000, RATE));
        assert!(sound.iter().zip(&bytes).all(|(x, &s)| *x == f64::from(s) / 128.0));
    }
    let both: Vec<i32> = wave(50, 100).iter().flat_map(|&s| [s, -s, 300]).collect();
    put(&folder, "three.wav", spec(3, 16, RATE), &both);
    let (sound, _) = sound_of("three.wav");
    assert_eq!(sound, [100.0 / 32_768.0; 100]);

    // The same tone of 500 Hz, written at another rate, differs little.
    let sine = |rate: u32| -> Vec<i32> {
        let turn = std::f64::consts::TAU * 500.0 / f64::from(rate);
        (0..rate)
            .map(|i| ((turn * f64::from(i)).sin() * 10_000.0) as i32)
            .collect()
    };
    let mut reader = Reader::new(&audio(), RATE).expect("reader");
    let mut spectra = |rate: u32| {
        put(&folder, "tone.wav", spec(1, 16, rate), &sine(rate));
        reader
            .windows(&folder.path().join("tone.wav"))
            .expect("read")
            .remove(0)
    };
    let (plain, resampled) = (spectra(RATE), spectra(22_050));
    let peak = |values: &[f32]| (0..16).max_by(|&a, &b| values[160 + a].total_cmp(&values[160 + b]));
    assert_eq!(peak(&plain), peak(&resampled));
    let mel = 160 + peak(&plain).expect("some");
    assert!(
        (plain[mel] - resampled[mel]).abs() < 0.5 / 80.0,
        "within half a decibel"
    );
}

#[test]
fn views_move_in_time_and_change_the_level() {
    let folder = folder();
    let mut config = config(&folder, audio());
    config.views = Views {
        shift: 3,
        gain: 8.0,
        ..Views::default()
    };
    let set = loaded(&config);
    let frames = set.shape().height;
    let mut plain = vec![0.0; set.shape().len()];
    set.split(Part::Train).write(0, &mut plain);
    let (mut shifts, mut most, mut least) = (BTreeSet::new(), 0f32, 0f32);
    for seed in 0..200 {
        let mut view = vec![0.0; plain.len()];
        set.view(0, seed, &mut view);
        let heard = |shift: isize| {
            let moved = |i: usize| {
                let frame = (i / 16) as isize - shift;
                (0..frames as isize)
                    .contains(&frame)
                    .then(|| plain[frame as usize * 16 + i % 16])
            };
            let gains = (0..view.len()).filter_map(|i| match moved(i) {
                Some(value) if value > 0.0 => Some(view[i] - value),
                _ => (view[i] != 0.0).then_some(f32::NAN),
            });
            let gains: Vec<f32> = gains.collect();
            let same = gains.iter().all(|gain| (gain - gains[0]).abs() < 1e-5);
            same.then(|| gains[0] * 80.0)
        };
        let (shift, gain) = (-3..=3)
            .find_map(|shift| Some((shift, heard(shift)?)))
            .expect("moved");
        shifts.insert(shift);
        (most, least) = (most.max(gain), least.min(gain));
    }
    assert_eq!(shifts.len(), 7);
    assert!(
        (7.0..=8.01).contains(&most) && (-8.01..=-7.0).contains(&least),
        "{least} {most}"
    );
}

#[test]
fn another_folder_adds_sounds_without_labels() {
    let folder = folder();
    let mut config = config(
        &folder,
        Audio {
            windows: Windows::All,
            ..audio()
        },
    );
    let few = loaded(&config);
    let more = TempDir::new().expect("folder");
    tone(&more, "1.wav", 33, 9_000);
    tone(&more, "deep/2.wav", 44, 4_000);
    config.unlabelled = Some(more.path().display().to_string());
    let many = loaded(&config);
    // Two windows of the first, one of the second.
    assert_eq!((many.unlabelled(), many.train_len()), (3, few.train_len() + 3));
    assert_eq!(many.labelled(), few.labelled());
    assert_ne!(many.digest(), few.digest());
    crate::dataset::tests::is_the_same_in_a_file(&config);
}
