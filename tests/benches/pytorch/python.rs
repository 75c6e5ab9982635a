//! PyTorch's side, a process that answers a line of JSON with a line of JSON.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Options;

pub(crate) struct Arm {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) hello: Hello,
}

/// What it is.
#[derive(Deserialize)]
pub(crate) struct Hello {
    pub(crate) torch: String,
    pub(crate) device: String,
    /// By model.
    pub(crate) parameters: BTreeMap<String, usize>,
}

impl Arm {
    /// `None`: there is no PyTorch.
    pub(crate) fn start(options: &Options) -> anyhow::Result<Option<Self>> {
        let python = crate::interpreter();
        let probe = Command::new(&python)
            .args(["-c", "import torch"])
            .stderr(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let mut child = Command::new(&python)
            .arg(crate::script("arm.py"))
            .args(["--threads", &options.threads.to_string()])
            .args(["--device", if options.cuda { "cuda" } else { "cpu" }])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {python}"))?;
        let questions = child.stdin.take().context("stdin")?;
        let mut answers = BufReader::new(child.stdout.take().context("stdout")?);
        let mut questions = questions;
        let hello = serde_json::from_value(ask(&mut questions, &mut answers, &json!({"do": "hello"}))?)?;
        Ok(Some(Self {
            child,
            questions,
            answers,
            hello,
        }))
    }

    /// What it measured, in seconds: one number, or one for each step.
    pub(crate) fn seconds(&mut self, question: &Value) -> anyhow::Result<Vec<f64>> {
        let answer = ask(&mut self.questions, &mut self.answers, question)?;
        let seconds = &answer["seconds"];
        match seconds.as_f64() {
            Some(one) => Ok(vec![one]),
            None => Ok(serde_json::from_value(seconds.clone())?),
        }
    }

    /// Seconds of the parts of each step, by their names.
    pub(crate) fn phases(&mut self, question: &Value) -> anyhow::Result<Vec<BTreeMap<String, f64>>> {
        let answer = ask(&mut self.questions, &mut self.answers, question)?;
        Ok(serde_json::from_value(answer["phases"].clone())?)
    }
}

fn ask(
    questions: &mut ChildStdin,
    answers: &mut BufReader<ChildStdout>,
    question: &Value,
) -> anyhow::Result<Value> {
    writeln!(questions, "{question}")?;
    questions.flush()?;
    let mut line = String::new();
    answers.read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line).with_context(|| format!("{question} got {line:?}"))?;
    match answer["error"].as_str() {
        Some(error) => bail!("{question}: {error}"),
        None => Ok(answer),
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
