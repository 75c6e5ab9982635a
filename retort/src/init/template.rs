//! The text of a job file.

use std::path::PathBuf;

use super::Kind;
use super::sample::{Data, Form};

/// What a job is made of.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) data: Data,
    pub(super) kind: Kind,
    /// Of a fixed teacher.
    pub(super) checkpoint: Option<PathBuf>,
    pub(super) labelled: Option<u32>,
}

/// Networks that suit a kind of data.
struct Networks {
    teacher: &'static str,
    student: &'static str,
}

impl Data {
    fn networks(&self) -> Networks {
        let (teacher, student) = match self {
            Self::Digits => (
                "{ architecture = \"mlp\", hidden = [256, 256] }",
                "{ architecture = \"mlp\", hidden = [32] }",
            ),
            Self::Files(Form::Text, _) => (
                "{ architecture = \"embedding-bag\", embedding = 64, dropout = 0.5 }",
                "{ architecture = \"embedding-bag\", embedding = 4 }",
            ),
            _ => (
                "{ architecture = \"cnn\", width = 24, dropout = 0.3 }",
                "{ architecture = \"cnn\", width = 8 }",
            ),
        };
        Networks { teacher, student }
    }

    fn name(&self) -> &str {
        match self {
            Self::Digits => "digits",
            Self::Mnist1d => "mnist1d",
            Self::FashionMnist => "fashion-mnist",
            Self::Files(Form::Idx | Form::Images, _) => "images",
            Self::Files(Form::Wav, _) => "sounds",
            Self::Files(Form::Text, _) => "texts",
        }
    }

    fn table(&self) -> String {
        match self {
            Self::Digits | Self::Mnist1d | Self::FashionMnist => format!("name = \"{}\"\n", self.name()),
            Self::Files(form, path) => {
                let (format, more) = match form {
                    Form::Idx => ("idx", ""),
                    Form::Images => (
                        "images",
                        "# images = { height = 32, width = 32 }   # scale all to one size; unset: all have the first file's\n",
                    ),
                    Form::Wav => (
                        "wav",
                        "# audio = { rate = 16000, seconds = 1.0, mels = 32 }   # what a sample is (docs/data.md)\n",
                    ),
                    Form::Text => (
                        "text",
                        "# unlabelled = \"more.txt\"          # further texts, one a line: the teacher labels them\n\
                         # text = { text = \"text\", label = \"label\", length = 128 }   # columns, tokens (docs/data.md)\n",
                    ),
                };
                let path = toml::Value::String(path.clone());
                format!("format = \"{format}\"\npath = {path}\n{more}")
            }
        }
    }
}

pub(super) fn job(answers: &Answers) -> String {
    let name = answers.data.name();
    let labelled = match answers.labelled {
        Some(labelled) => format!("labelled = {labelled}                   # the others keep no label: the teacher labels them\n"),
        None => "# labelled = 100                  # keep so many labels: where labels are few a teacher gives most\n".to_owned(),
    };
    let (members, distillation) = members(answers);
    format!(
        r#"# Checked by `retort check`, run by `retort run`. Any key can be changed on the command line: --set run.epochs=3

[run]
name = "{name}-{kind}"
seed = 1
epochs = 20
batch_size = 64
baseline = true                   # also train the student alone, by as many steps: what did the teacher give?

[dataset]
{data}{labelled}
{members}
{distillation}"#,
        kind = answers.kind,
        data = answers.data.table(),
    )
}

/// Teachers and students, and how they distil.
fn members(answers: &Answers) -> (String, String) {
    let Networks { teacher, student } = answers.data.networks();
    let a_student = |name: &str, teacher: &str| {
        format!(
            r#"[[students]]
name = "{name}"
model = {student}
learning_rate = 0.003             # try three times as much and a third: it matters more than all that follows
replicas = 1                      # workers that train this one model together
teachers = [{{ name = "{teacher}" }}]
"#
        )
    };
    // The lead on held-out samples is small where labels are few, and would mute the teacher (docs/tuning.md).
    let gate = if answers.labelled.is_some() {
        "none"
    } else {
        "lead"
    };
    match answers.kind {
        Kind::Online => (
            format!(
                r#"[[teachers]]
name = "wide"
model = {teacher}
source = {{ kind = "trained", learning_rate = 0.002, publish_every = 50 }}   # learns while it teaches

{}"#,
                a_student("small", "wide")
            ),
            distillation(4.0, "0.9", gate),
        ),
        Kind::Offline => {
            let path = answers.checkpoint.as_ref().map(|p| p.display().to_string());
            let path = toml::Value::String(path.unwrap_or_default());
            let source = format!("{{ kind = \"checkpoint\", path = {path} }}");
            (
                format!(
                    r#"[[teachers]]
name = "wide"
source = {source}
# and store = "FOLDER" in source: what it says is recorded once and replayed by later runs

{}"#,
                    a_student("small", "wide")
                ),
                distillation(4.0, "0.9", "none"),
            )
        }
        Kind::Own => (
            format!(
                r#"[[teachers]]
name = "mean"
source = {{ kind = "ema", of = "small", decay = 0.99, publish_every = 20 }}   # the student's own moving average

{}"#,
                a_student("small", "mean")
            ),
            // The average of a beginner knows nothing.
            distillation(2.0, "{ from = 0.0, to = 0.5, over = 0.2 }", "none"),
        ),
        Kind::Mutual => (
            format!(
                r#"[[teachers]]
name = "of-left"
source = {{ kind = "peers", of = ["right"], publish_every = 20 }}

[[teachers]]
name = "of-right"
source = {{ kind = "peers", of = ["left"], publish_every = 20 }}

{}
{}"#,
                a_student("left", "of-left"),
                a_student("right", "of-right")
            ),
            distillation(1.0, "{ from = 0.0, to = 0.5, after = 0.1, over = 0.1 }", "none"),
        ),
    }
}

fn distillation(temperature: f64, alpha: &str, gate: &str) -> String {
    format!(
        r#"[distillation]                    # (1 - alpha) CE + alpha T² KL
temperature = {temperature:.1}                 # higher: more of what the teacher thinks of the wrong classes
alpha = {alpha}
gate = "{gate}"                   # lead: alpha times how far the teacher is ahead on held-out samples; none: as it is
"#
    )
}
