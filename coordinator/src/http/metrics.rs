//! Prometheus metrics: one table of what there is, from which come the exposition and `docs/metrics.md`.

mod table;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use retort_proto::pb;

use crate::status::Fleet;
use table::TABLE;

/// Of the text format, as Prometheus and OpenMetrics collectors negotiate it.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What all metrics are read from: one snapshot.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) fleet: Fleet,
    /// Readers of `/events`.
    pub(super) watchers: usize,
}

/// One line of the table.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    /// Label beside those of its subject: the values come with the samples.
    by: Option<&'static str>,
    of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// What a metric is about, and how it is read.
enum Of {
    Coordinator(fn(&Facts, &mut Samples<'_>)),
    Run(fn(&pb::RunStatus, &mut Samples<'_>)),
    Group(fn(&pb::GroupStatus, &mut Samples<'_>)),
    Worker(fn(&pb::WorkerStatus, &mut Samples<'_>)),
    Teacher(fn(&pb::TeacherStatus, &mut Samples<'_>)),
    Server(fn(&pb::ServerStatus, &mut Samples<'_>)),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

impl Of {
    fn labels(&self) -> &'static [&'static str] {
        match self {
            Self::Coordinator(_) => &[],
            Self::Run(_) => &["run"],
            Self::Group(_) => &["run", "group", "kind"],
            Self::Worker(_) => &["run", "group", "worker"],
            Self::Teacher(_) => &["run", "teacher"],
            Self::Server(_) => &["run", "teacher", "worker"],
        }
    }
}

/// Everything in the text format 0.0.4.
pub(super) fn exposition(facts: &Facts) -> String {
    let mut text = String::new();
    for metric in TABLE {
        let (name, kind) = (metric.name, metric.kind.name());
        let help = metric.help.replace('\\', r"\\").replace('\n', r"\n");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        metric.samples(facts, &mut text);
    }
    text
}

impl Metric {
    fn samples(&self, facts: &Facts, text: &mut String) {
        let runs = &facts.fleet.runs;
        match self.of {
            Of::Coordinator(read) => read(facts, &mut self.labelled(&[], text)),
            Of::Run(read) => runs
                .iter()
                .for_each(|r| read(r, &mut self.labelled(&[&r.run], text))),
            Of::Group(read) => {
                for (r, g) in runs.iter().flat_map(|r| r.groups.iter().map(move |g| (r, g))) {
                    read(g, &mut self.labelled(&[&r.run, &g.name, &g.kind], text));
                }
            }
            Of::Worker(read) => {
                for (r, g) in runs.iter().flat_map(|r| r.groups.iter().map(move |g| (r, g))) {
                    for w in &g.workers {
                        read(w, &mut self.labelled(&[&r.run, &g.name, &w.worker], text));
                    }
                }
            }
            Of::Teacher(read) => {
                for (r, t) in runs.iter().flat_map(|r| r.teachers.iter().map(move |t| (r, t))) {
                    read(t, &mut self.labelled(&[&r.run, &t.name], text));
                }
            }
            Of::Server(read) => {
                for (r, t) in runs.iter().flat_map(|r| r.teachers.iter().map(move |t| (r, t))) {
                    for s in &t.servers {
                        read(s, &mut self.labelled(&[&r.run, &t.name, &s.worker], text));
                    }
                }
            }
        }
    }

    fn labelled<'a>(&'a self, values: &[&str], text: &'a mut String) -> Samples<'a> {
        let labels = self.of.labels().iter().zip(values);
        let labels: Vec<String> = labels.map(|(name, value)| label(name, value)).collect();
        Samples {
            metric: self,
            labels: labels.join(","),
            text,
        }
    }
}

/// Takes the values of one metric for one subject.
struct Samples<'a> {
    metric: &'a Metric,
    /// Of the subject, as they are written.
    labels: String,
    text: &'a mut String,
}

impl Samples<'_> {
    fn count(&mut self, value: u64) {
        self.write("", &value.to_string());
    }

    fn value(&mut self, value: f64) {
        self.write("", &number(value));
    }

    /// Nothing where there is nothing yet.
    fn maybe(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.value(value);
        }
    }

    /// One value of the metric's own label.
    fn count_by(&mut self, by: &str, value: u64) {
        self.write(by, &value.to_string());
    }

    fn value_by(&mut self, by: &str, value: f64) {
        self.write(by, &number(value));
    }

    fn write(&mut self, by: &str, value: &str) {
        let own = self.metric.by.map(|name| label(name, by));
        let subject = (!self.labels.is_empty()).then(|| self.labels.clone());
        let labels: Vec<String> = subject.into_iter().chain(own).collect();
        let name = self.metric.name;
        let _ = if labels.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{{}}} {value}", labels.join(","))
        };
    }
}

fn label(name: &str, value: &str) -> String {
    let value = value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n");
    format!("{name}=\"{value}\"")
}

fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".into()
    } else if value == f64::NEG_INFINITY {
        "-Inf".into()
    } else {
        value.to_string()
    }
}
