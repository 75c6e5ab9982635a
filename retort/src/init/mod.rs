//! `retort init`: a commented job file from a few answers, given as flags or asked for in a terminal.

mod sample;
mod template;

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::{Args as Arguments, ValueEnum};

use self::sample::Data;
use self::template::Answers;
use crate::failure::Failure;

#[derive(Debug, Arguments)]
pub(crate) struct Args {
    /// The job file to write.
    #[arg(default_value = "job.toml")]
    file: PathBuf,
    /// digits, mnist1d, fashion-mnist, or a folder or file of yours; asked for in a terminal, else digits.
    #[arg(long)]
    data: Option<String>,
    /// Where the teacher comes from; asked for in a terminal, else online.
    #[arg(long, value_enum)]
    teacher: Option<Kind>,
    /// Folder of the fixed teacher, with --teacher offline.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Training samples that keep their label; all unless given.
    #[arg(long)]
    labelled: Option<u32>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    /// Ask nothing, and print JSON.
    #[arg(long)]
    json: bool,
}

/// Where the teacher's versions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A larger model that learns at the same time.
    Online,
    /// A fixed model: an export, or one that was imported.
    Offline,
    /// The moving average of the student itself.
    Own,
    /// Two students that teach each other.
    Mutual,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("", |v| v.get_name()))
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, true)
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(args: Args) -> Result<(), Failure> {
    let file = args.file.clone();
    if file.exists() && !args.force {
        let message = format!(
            "{} is there already: name another file, or --force",
            file.display()
        );
        return Err(Failure::input(message));
    }
    let json = args.json;
    let asks = !json && io::stdin().is_terminal() && io::stderr().is_terminal();
    let mut asker = asks.then(|| Asker(io::stdin().lock()));
    let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
    let answers = answers(args, &folder, asker.as_mut())?;
    std::fs::write(&file, template::job(&answers)).with_context(|| format!("write {}", file.display()))?;
    let shown = file.display();
    if json {
        println!("{:#}", serde_json::json!({ "job": shown.to_string() }));
        return Ok(());
    }
    println!(
        "{shown} is written. Next:\n  retort check {shown}\n  retort run {shown} --out retort-runs/first"
    );
    Ok(())
}

/// What the job is made of: flags first, then what the user says, then defaults.
fn answers<R: BufRead>(
    args: Args,
    folder: &Path,
    mut asker: Option<&mut Asker<R>>,
) -> Result<Answers, Failure> {
    let data = match args.data {
        Some(data) => Data::of(&data, folder).map_err(Failure::input)?,
        None => ask(
            asker.as_deref_mut(),
            "data (digits, mnist1d, fashion-mnist, or a folder or file of yours)",
            "digits",
            |text| Data::of(text, folder),
        )?,
    };
    let kind = match args.teacher {
        Some(kind) => kind,
        None if args.checkpoint.is_some() => Kind::Offline,
        None => ask(
            asker.as_deref_mut(),
            "teacher (online, offline, own, mutual)",
            "online",
            str::parse,
        )?,
    };
    let checkpoint = match (kind, args.checkpoint) {
        (Kind::Offline, Some(path)) => Some(path),
        (Kind::Offline, None) => Some(ask(
            asker.as_deref_mut(),
            "folder of the fixed teacher (an export, or what retort import made)",
            "teacher",
            |text| Ok(PathBuf::from(text)),
        )?),
        (_, Some(_)) => {
            return Err(Failure::input(format!(
                "--checkpoint belongs to --teacher offline, not {kind}"
            )));
        }
        (_, None) => None,
    };
    let labelled = match args.labelled {
        Some(0) => return Err(Failure::input("--labelled is 0, expected at least 1")),
        Some(labelled) => Some(labelled),
        None => ask(
            asker,
            "labelled training samples (empty: all)",
            "",
            |text| match text {
                "" => Ok(None),
                text => match text.parse() {
                    Ok(0) | Err(_) => Err("a number of at least 1, or nothing".to_owned()),
                    Ok(labelled) => Ok(Some(labelled)),
                },
            },
        )?,
    };
    Ok(Answers {
        data,
        kind,
        checkpoint,
        labelled,
    })
}

/// Questions in a terminal, on stderr.
struct Asker<R>(R);

/// Asks until the answer is understood; without a terminal, or at its end, the default it is.
#[expect(clippy::print_stderr, reason = "questions to the user")]
fn ask<R: BufRead, T>(
    asker: Option<&mut Asker<R>>,
    question: &str,
    default: &str,
    understand: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Failure> {
    let by_default = || understand(default).map_err(Failure::input);
    let Some(Asker(input)) = asker else {
        return by_default();
    };
    loop {
        eprint!("{question} [{default}]: ");
        io::stderr().flush().context("ask")?;
        let mut line = String::new();
        if input.read_line(&mut line).context("read the answer")? == 0 {
            return by_default();
        }
        let answer = match line.trim() {
            "" => default,
            answer => answer,
        };
        match understand(answer) {
            Ok(understood) => return Ok(understood),
            Err(reason) => eprintln!("  {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use retort_job::Gate;

    use super::*;

    fn args(data: Option<&str>, teacher: Option<Kind>) -> Args {
        Args {
            file: "job.toml".into(),
            data: data.map(str::to_owned),
            teacher,
            checkpoint: None,
            labelled: None,
            force: false,
            json: false,
        }
    }

    /// Every job that can come out is a sound one.
    #[test]
    fn all_answers_make_jobs_without_problems() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, file) in [
            ("pictures", "train/cat/a.png"),
            ("sounds", "yes/a.wav"),
            ("texts", "train.jsonl"),
            ("pairs", "train-images-idx3-ubyte.gz"),
        ] {
            let file = at(name).join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        fs::write(at("mails.csv"), "text,label\n").unwrap();
        let datas = [
            "digits",
            "mnist1d",
            "fashion-mnist",
            "pictures",
            "sounds",
            "texts",
            "pairs",
            "mails.csv",
        ];
        for data in datas {
            for kind in [Kind::Online, Kind::Offline, Kind::Own, Kind::Mutual] {
                for labelled in [None, Some(100)] {
                    let given = Args {
                        labelled,
                        ..args(Some(data), Some(kind))
                    };
                    let made = answers::<&[u8]>(given, folder.path(), None).unwrap();
                    let text = template::job(&made);
                    let job = retort_job::parse(&text, Path::new("job.toml"), &[])
                        .unwrap_or_else(|e| panic!("{data} {kind} {labelled:?}: {e}\n{text}"));
                    assert_eq!(job.dataset.labelled, labelled);
                    assert!(!job.students.is_empty() && !job.teachers.is_empty());
                }
            }
        }
    }

    #[test]
    fn few_labels_leave_the_gate_open() {
        let folder = tempfile::tempdir().unwrap();
        for (labelled, gate) in [(None, Gate::Lead), (Some(100), Gate::None)] {
            let given = Args {
                labelled,
                ..args(Some("digits"), Some(Kind::Online))
            };
            let made = answers::<&[u8]>(given, folder.path(), None).unwrap();
            let job = retort_job::parse(&template::job(&made), Path::new("job.toml"), &[]).unwrap();
            assert_eq!(job.distillation.gate, Some(gate), "{labelled:?}");
        }
    }

    #[test]
    fn questions_are_asked_again_until_the_answer_is_understood() {
        let mut asker = Asker(&b"nowhere\nmnist1d\nmagic\nown\n0\n500\n"[..]);
        let folder = tempfile::tempdir().unwrap();
        let made = answers(args(None, None), folder.path(), Some(&mut asker)).unwrap();
        assert_eq!((made.kind, made.labelled), (Kind::Own, Some(500)));
        assert!(template::job(&made).contains("name = \"mnist1d\""));
    }

    #[test]
    fn what_is_no_data_is_refused_with_what_would_be() {
        let folder = tempfile::tempdir().unwrap();
        let refused = answers::<&[u8]>(args(Some("nowhere"), None), folder.path(), None).unwrap_err();
        assert!(format!("{refused:?}").contains("digits"), "{refused:?}");
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let refused = answers::<&[u8]>(args(Some("empty"), None), folder.path(), None).unwrap_err();
        assert!(format!("{refused:?}").contains("train.jsonl"), "{refused:?}");
    }
}
