use super::*;

#[test]
fn says_what_is_wrong_with_the_job() {
    let folder = folder();
    let problems = |change: &dyn Fn(&mut DatasetConfig)| -> Vec<String> {
        let mut config = config(&folder, audio());
        change(&mut config);
        config.problems().iter().map(ToString::to_string).collect()
    };
    let in_audio = |change: fn(&mut Audio)| problems(&|c| change(c.audio.as_mut().expect("audio")));
    assert_eq!(problems(&|_| {}), Vec::<String>::new());
    assert_eq!(
        in_audio(|a| a.rate = Some(0)),
        ["audio.rate = 0: expected 2000 to 192000 Hz"]
    );
    assert_eq!(in_audio(|a| a.mels = 0), ["audio.mels = 0: expected 1 to 256"]);
    assert_eq!(
        in_audio(|a| a.seconds = 0.024),
        ["audio.seconds = 0.024: expected 0.025 (a window) to 60"]
    );
    assert_eq!(
        in_audio(|a| (a.seconds, a.window_ms, a.hop_ms) = (f64::NAN, 4, 5)),
        [
            "audio.window_ms = 4: expected 5 to 200",
            "audio.hop_ms = 5: expected 1 to 4, the length of a window",
            "audio.seconds = NaN: expected 0.004 (a window) to 60",
        ]
    );
    assert_eq!(
        problems(&|c| c.path = None),
        [
            "path = unset: expected the folder that holds a folder for each class, or train and test with these"
        ]
    );
    assert_eq!(
        problems(&|c| c.views.flip = true),
        ["views.flip = true: expected false: a mirrored spectrum is no sound"]
    );
    assert_eq!(
        problems(&|c| c.views.gain = 41.0),
        ["views.gain = 41: expected 0 to 40 decibels"]
    );
    assert_eq!(
        problems(&|c| (c.format, c.name, c.path, c.views.gain) = (None, Some("digits".to_owned()), None, 1.0)),
        [
            "views.gain = 1: expected 0: only what format = \"wav\" reads has decibels",
            "audio = { ... }: expected no such table: it belongs to format = \"wav\"",
        ]
    );
    let mut long = config(&folder, audio());
    long.views.shift = 24;
    let error = crate::load(&long, Path::new("."), 1)
        .expect_err("shift")
        .to_string();
    assert_eq!(
        error,
        "dataset: views.shift = 24: expected less than 24, the frames of a 1x24x16 sample"
    );
    let error = refused(folder.path(), &Audio { mels: 128, ..audio() });
    assert!(
        error.starts_with("dataset: audio.mels = 128: expected at most 86 with windows of 25 ms"),
        "{error}"
    );
}

/// Why a folder is refused, where no file may be bad.
fn refused(folder: &Path, audio: &Audio) -> String {
    let mut intake = Intake::new(Some(0), u64::MAX);
    let loaded = load(folder, None, audio, &mut intake);
    intake.bad.judge(loaded).err().expect("an error").to_string()
}

#[test]
fn says_what_is_wrong_with_the_files() {
    let message = |break_it: &dyn Fn(&TempDir)| {
        let folder = folder();
        break_it(&folder);
        let message =
            refused(folder.path(), &audio()).replace(&folder.path().display().to_string(), "FOLDER");
        let named = message.strip_prefix("dataset.bad_rows = 0: 1 row cannot be used: ");
        named.map_or(message.clone(), |named| {
            named.replace(": mend them, or set dataset.bad_rows to let so many go", "")
        })
    };
    let remove = |folder: &TempDir, name: &str| fs::remove_dir_all(folder.path().join(name)).expect("remove");
    let write =
        |folder: &TempDir, bytes: &[u8]| fs::write(folder.path().join("high/3.wav"), bytes).expect("write");
    let undecodable = |break_it: &dyn Fn(&TempDir)| {
        let message = message(break_it);
        let start = "FOLDER/high/3.wav: no WAV file of 8, 16, 24 or 32 bits PCM: ";
        assert!(message.starts_with(start), "{message}");
    };
    undecodable(&|f| write(f, b"no sound"));
    undecodable(&|f| write(f, b""));
    undecodable(&|f| {
        let whole = fs::read(f.path().join("high/3.wav")).expect("read");
        write(f, &whole[..whole.len() - 1]);
    });
    undecodable(&|f| {
        let mut law = fs::read(f.path().join("high/3.wav")).expect("read");
        law[20] = 7; // mu-law
        write(f, &law);
    });
    assert_eq!(
        message(&|f| {
            let float = hound::WavSpec {
                sample_format: hound::SampleFormat::Float,
                ..spec(1, 32, RATE)
            };
            let file = hound::WavWriter::create(f.path().join("high/3.wav"), float);
            let mut file = file.expect("create");
            file.write_sample(0.5f32).expect("write");
            file.finalize().expect("write");
        }),
        "FOLDER/high/3.wav: floating-point samples, expected 8, 16, 24 or 32 bits PCM: convert it"
    );
    assert_eq!(
        message(&|f| put(f, "high/3.wav", spec(1, 16, RATE), &[])),
        "FOLDER/high/3.wav: no samples: record it again, or remove it"
    );
    assert_eq!(
        message(&|f| put(f, "high/3.wav", spec(1, 16, 100), &[1])),
        "FOLDER/high/3.wav: 100 samples a second, expected 2000 to 192000"
    );
    assert_eq!(
        message(&|f| fs::create_dir(f.path().join("none")).expect("create")),
        "FOLDER/none holds no .wav file, expected some of this class: add some, or remove the folder"
    );
    assert!(message(&|f| remove(f, "low")).starts_with("FOLDER holds 1 folders, expected at least 2"));
    assert_eq!(message(&|f| remove(f, "")), "read FOLDER");
    let copy = |folder: &TempDir, from: &str, to: &str| {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().expect("a folder")).expect("create");
        fs::copy(folder.path().join(from), to).expect("copy");
    };
    assert_eq!(
        message(&|f| {
            for to in ["train/a/1.wav", "train/b/1.wav", "test/a/1.wav", "test/c/1.wav"] {
                copy(f, "high/1.wav", to);
            }
        }),
        "FOLDER/test/c has no counterpart among the training samples' folders: add one, or remove it"
    );
    let few = |names: &[&str]| {
        message(&|f| {
            names.iter().for_each(|to| copy(f, "high/1.wav", to));
            remove(f, "high");
            remove(f, "low");
        })
    };
    let chosen = |class: &str, test: bool| {
        let name = |i: u32| format!("{class}/{i}.wav");
        let mut names = (0..100).map(name);
        names
            .find(|name| folder::is_test(Path::new(name)) == test)
            .expect("a fifth")
    };
    assert!(few(&[&chosen("a", false), &chosen("b", false)]).starts_with("FOLDER has no test sample"));
    assert!(few(&[&chosen("a", true), &chosen("b", true)]).contains("no training sample of class \"a\""));
    let error = few(&[&chosen("a", false), &chosen("b", true)]);
    assert!(
        error.starts_with("FOLDER leaves no training sample of class \"b\""),
        "{error}"
    );
}

#[test]
fn no_header_makes_it_panic() {
    let folder = TempDir::new().expect("folder");
    tone(&folder, "a.wav", 50, 96);
    let file = folder.path().join("a.wav");
    let whole = fs::read(&file).expect("read");
    let mut refused = 0;
    for place in 0..48 {
        for value in [0, 1, 2, 3, 7, 8, 15, 24, 64, 127, 128, 254, 255] {
            let mut bytes = whole.clone();
            bytes[place] = value;
            fs::write(&file, bytes).expect("write");
            refused += u32::from(read(&file).is_err());
        }
    }
    // 128 bits, all sizes in keeping with that.
    let mut wide = whole.clone();
    wide[28..36].copy_from_slice(&[0, 0xf4, 1, 0, 16, 0, 128, 0]);
    fs::write(&file, wide).expect("write");
    let error = read(&file).expect_err("too wide");
    assert!(matches!(error, Fault::Decode(hound::Error::TooWide)), "{error:?}");
    assert!((200..600).contains(&refused), "{refused} of 624");
}

#[test]
fn damaged_files_are_left_out_and_named() {
    let folder = folder();
    let config = config(&folder, audio());
    let whole = loaded(&config);
    fs::write(folder.path().join("high/0.wav"), b"no sound").expect("write");
    let damaged = loaded(&config);
    let bad: Vec<String> = damaged
        .bad_rows()
        .first()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        bad.len() == 1 && bad[0].contains("high/0.wav: no WAV file"),
        "{bad:?}"
    );
    fs::remove_file(folder.path().join("high/0.wav")).expect("remove");
    let without = loaded(&config);
    assert_eq!(damaged.digest(), without.digest());
    assert_ne!(damaged.digest(), whole.digest());
    assert_eq!((without.bad_rows().count(), whole.bad_rows().count()), (0, 0));
}
