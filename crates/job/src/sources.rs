//! Teachers whose versions other groups make: what would never start, or teach nothing, is refused.

use std::collections::BTreeSet;

use crate::validate::range;
use crate::{Gate, Job, Mixture, Pace, Problem, SnapshotAt, Source, Versions};

impl Job {
    pub(crate) fn check_sources(&self, out: &mut Vec<Problem>) {
        for (i, teacher) in self.teachers.iter().enumerate() {
            let key = |k: &str| format!("teachers.{i}.source.{k}");
            let mut publishes = None;
            match &teacher.source {
                Source::Checkpoint { .. } => {}
                Source::Trained { teachers, .. } => {
                    self.check_mixture(&key("teachers"), &teacher.name, teachers, out);
                    if !teachers.is_empty() {
                        self.refuse_in_lockstep(&key("teachers"), out);
                    }
                }
                Source::Ema {
                    of,
                    decay,
                    publish_every,
                } => {
                    self.check_student(&key("of"), of, out);
                    if !(0.0..1.0).contains(decay) {
                        out.push(Problem::new(
                            key("decay"),
                            decay,
                            "0 <= decay < 1, of one optimizer step",
                        ));
                    }
                    publishes = Some(*publish_every);
                }
                Source::Snapshot { of, .. } => self.check_student(&key("of"), of, out),
                Source::Peers { of, publish_every } => {
                    let mut seen = BTreeSet::new();
                    if of.is_empty() {
                        out.push(Problem::new(
                            key("of"),
                            "[]",
                            "the names of students, at least one",
                        ));
                    }
                    for (j, name) in of.iter().enumerate() {
                        self.check_student(&key(&format!("of.{j}")), name, out);
                        if !seen.insert(name) {
                            let once = "each student once";
                            out.push(Problem::new(key(&format!("of.{j}")), format!("{name:?}"), once));
                        }
                    }
                    publishes = Some(*publish_every);
                }
            }
            if let Some(every) = publishes {
                range(out, &key("publish_every"), every, 1, 1_000_000);
            }
            if !matches!(teacher.source, Source::Checkpoint { .. } | Source::Trained { .. }) {
                self.refuse_in_lockstep(&key("kind"), out);
            }
        }
        self.check_lead(out);
        self.check_waiting(out);
    }

    fn check_student(&self, key: &str, name: &str, out: &mut Vec<Problem>) {
        if self.students.iter().all(|s| s.name != name) {
            let known: Vec<&str> = self.students.iter().map(|s| s.name.as_str()).collect();
            let expected = format!("the name of a student of this job ({})", known.join(", "));
            out.push(Problem::new(key, format!("{name:?}"), expected));
        }
    }

    fn refuse_in_lockstep(&self, key: &str, out: &mut Vec<Problem>) {
        if self.distillation.pace == Pace::Lockstep {
            out.push(Problem::new(
                "distillation.pace",
                "\"lockstep\"",
                format!("\"students\" or \"free\" with {key}: the timetable knows teachers that learn from labels alone"),
            ));
        }
    }

    /// Whom a student, or an online teacher, learns from.
    pub(crate) fn check_mixture(
        &self,
        key: &str,
        learner: &str,
        mixture: &[Mixture],
        out: &mut Vec<Problem>,
    ) {
        let mut streams = BTreeSet::new();
        for (j, m) in mixture.iter().enumerate() {
            let name = format!("{key}.{j}.name");
            let Some(teacher) = self.teachers.iter().find(|t| t.name == m.name) else {
                let known: Vec<&str> = self.teachers.iter().map(|t| t.name.as_str()).collect();
                let expected = format!("the name of a teacher of this job ({})", known.join(", "));
                out.push(Problem::new(name, format!("{:?}", m.name), expected));
                continue;
            };
            let is_self = match &teacher.source {
                Source::Peers { of, .. } => of.iter().any(|s| s == learner),
                Source::Snapshot {
                    of,
                    at: SnapshotAt::End,
                } => of == learner,
                _ => teacher.name == learner,
            };
            if is_self {
                let expected = "teachers other than itself: \"ema\" or \"snapshot\" at \"epoch\" are its own earlier states";
                out.push(Problem::new(name.clone(), format!("{:?}", m.name), expected));
            }
            let parts = self.by_stream(std::slice::from_ref(m));
            if !parts.into_iter().all(|s| streams.insert(s.name)) {
                out.push(Problem::new(name, format!("{:?}", m.name), "each teacher once"));
            }
            if !(m.weight.is_finite() && m.weight > 0.0) {
                out.push(Problem::new(
                    format!("{key}.{j}.weight"),
                    m.weight,
                    "a finite number > 0",
                ));
            }
        }
    }

    /// A lead is measured on versions that somebody evaluates; an average is made without a trainer.
    fn check_lead(&self, out: &mut Vec<Problem>) {
        let average = |name: &str| {
            let found = self.teachers.iter().find(|t| t.name == name);
            found.is_some_and(|t| matches!(t.source, Source::Ema { .. }))
        };
        let unmeasured =
            |s: &&crate::Student| !s.teachers.is_empty() && s.teachers.iter().all(|m| average(&m.name));
        if self.distillation.gate == Some(Gate::Lead)
            && let Some(student) = self.students.iter().find(unmeasured)
        {
            out.push(Problem::new(
                "distillation.gate",
                "\"lead\"",
                format!(
                    "\"none\" for {:?}, whose teachers are averages, which nobody evaluates while they teach",
                    student.name
                ),
            ));
        }
    }

    /// Whoever learns from the last version of a student must not be needed by that student.
    fn check_waiting(&self, out: &mut Vec<Problem>) {
        let streams = self.streams();
        let groups = self.groups();
        let sources = |group: &str| -> Vec<(&str, bool)> {
            let learner = groups.iter().find(|g| g.name == group);
            let names = learner.into_iter().flat_map(|g| &g.teachers);
            let found = names.filter_map(|m| streams.iter().find(|s| s.name == m.name));
            let edge = |s: &'_ crate::Stream| matches!(s.versions, Versions::Last(_));
            found.filter_map(|s| Some((s.versions.of()?, edge(s)))).collect()
        };
        for (i, student) in self.students.iter().enumerate() {
            let waited: Vec<&str> = sources(&student.name)
                .iter()
                .filter(|(_, last)| *last)
                .map(|(of, _)| *of)
                .collect();
            let mut reached: BTreeSet<&str> = BTreeSet::new();
            let mut open = waited;
            while let Some(group) = open.pop() {
                if reached.insert(group) {
                    open.extend(sources(group).into_iter().map(|(of, _)| of));
                }
            }
            if reached.contains(student.name.as_str()) {
                out.push(Problem::new(
                    format!("students.{i}.teachers"),
                    format!("{:?}", student.name),
                    "no student whose last version it waits for, and which learns from it: neither could begin",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{Job, Versions, parse};

    const JOB: &str = r#"
        [run]
        name = "t"
        epochs = 2
        [dataset]
        name = "digits"
        [[students]]
        name = "a"
        model = { architecture = "mlp", hidden = [8] }
        teachers = [{ name = "others" }]
        [[students]]
        name = "b"
        model = { architecture = "mlp", hidden = [8] }
        teachers = []
        [[students]]
        name = "c"
        model = { architecture = "mlp", hidden = [8] }
        teachers = []
        [[teachers]]
        name = "others"
        source = { kind = "peers", of = ["b", "c"], publish_every = 7 }
    "#;

    fn job(settings: &[&str]) -> Result<Job, String> {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        parse(JOB, Path::new("j.toml"), &settings).map_err(|e| e.to_string())
    }

    #[test]
    fn peers_are_the_streams_of_their_groups_and_share_a_weight() {
        let job = job(&[
            "students.1.teachers=[{ name = \"others\", weight = 2.0 }]",
            "teachers.0.source.of=[\"c\"]",
        ])
        .unwrap();
        assert_eq!(job.streams().len(), 1, "one server for all who learn from c");
        let job = self::job(&["students.0.teachers.0.weight=3"]).unwrap();
        let streams = job.streams();
        assert_eq!(
            streams.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["b", "c"]
        );
        assert_eq!(streams[1].versions, Versions::Every("c".into()));
        let a = job.group("a").unwrap();
        assert_eq!(
            a.teachers
                .iter()
                .map(|m| (m.name.as_str(), m.weight))
                .collect::<Vec<_>>(),
            [("b", 1.5), ("c", 1.5)]
        );
        assert_eq!((a.publish_every, job.group("b").unwrap().publish_every), (0, 7));
    }

    #[test]
    fn what_nobody_makes_or_everybody_waits_for_is_refused() {
        for (settings, parts) in [
            (
                vec!["teachers.0.source.of=[\"b\", \"x\"]"],
                vec!["teachers.0.source.of.1 = \"x\"", "(a, b, c)"],
            ),
            (
                vec!["teachers.0.source.of=[\"b\", \"b\"]"],
                vec!["each student once"],
            ),
            (vec!["teachers.0.source.of=[]"], vec!["at least one"]),
            (
                vec!["teachers.0.source.of=[\"a\"]"],
                vec!["students.0.teachers.0.name", "other than itself"],
            ),
            (
                vec!["teachers.0.source.publish_every=0"],
                vec!["teachers.0.source.publish_every = 0"],
            ),
            (
                vec!["teachers.0.model={ architecture = \"mlp\", hidden = [] }"],
                vec!["teachers.0.model", "none"],
            ),
            (
                vec!["distillation.pace=lockstep"],
                vec!["distillation.pace", "teachers.0.source.kind"],
            ),
            (
                vec!["teachers.0.source={ kind = \"ema\", of = \"z\" }"],
                vec!["teachers.0.source.of = \"z\""],
            ),
            (
                vec!["teachers.0.source={ kind = \"ema\", of = \"a\", decay = 1.0 }"],
                vec!["decay = 1"],
            ),
            (
                vec![
                    "teachers.0.source={ kind = \"ema\", of = \"a\" }",
                    "distillation.gate=lead",
                ],
                vec!["distillation.gate", "averages"],
            ),
            (
                vec!["teachers.0.source={ kind = \"snapshot\", of = \"a\", at = \"end\" }"],
                vec!["other than itself"],
            ),
            (
                vec![
                    "teachers=[{ name = \"last\", source = { kind = \"snapshot\", of = \"b\", at = \"end\" } }, \
                     { name = \"peer\", source = { kind = \"peers\", of = [\"a\"] } }]",
                    "students.0.teachers=[{ name = \"last\" }]",
                    "students.1.teachers=[{ name = \"peer\" }]",
                ],
                vec!["students.0.teachers = \"a\"", "neither could begin"],
            ),
        ] {
            let text = job(&settings).expect_err("must be refused");
            assert!(
                parts.iter().all(|part| text.contains(part)),
                "{settings:?}: {text}"
            );
        }
    }

    #[test]
    fn a_student_may_learn_from_its_own_earlier_states() {
        let ema = job(&["teachers.0.source={ kind = \"ema\", of = \"a\", decay = 0.9, publish_every = 3 }"])
            .unwrap();
        assert_eq!(ema.group("a").unwrap().publish_every, 3);
        let average = Versions::Average {
            of: "a".into(),
            decay: 0.9,
        };
        assert_eq!(ema.streams()[0].versions, average);
        let epoch = job(&["teachers.0.source={ kind = \"snapshot\", of = \"a\", at = \"epoch\" }"]).unwrap();
        assert_eq!(epoch.streams()[0].versions, Versions::EpochEnds("a".into()));
        assert_eq!(epoch.group("a").unwrap().teachers[0].name, "others");
    }
}
