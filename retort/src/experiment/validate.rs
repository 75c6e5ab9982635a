//! What an experiment must satisfy by itself, before any of its jobs is read.

use std::collections::BTreeSet;

use retort_job::Problem;

use super::file::{Arm, File, Lists, Settings, Step};
use super::placeholder;
use super::quantity::Quantity;

/// Most seeds, and most trials of an arm's search: more is a typing error.
const MOST: usize = 1_000;
/// Keys that the experiment sets itself.
const RESERVED: [&str; 2] = ["run.seed", "run.name"];

impl File {
    /// Everything that is wrong with it.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut out = Vec::new();
        let e = &self.experiment;
        name("experiment.name", &e.name, &mut out);
        for (key, value) in [
            ("experiment.seeds", e.seeds),
            ("experiment.tuning_seeds", e.tuning_seeds),
        ] {
            if !(1..=MOST).contains(&(value as usize)) {
                out.push(Problem::new(
                    key,
                    value,
                    format!("a whole number from 1 to {MOST}"),
                ));
            }
        }
        self.check_quantities(&mut out);
        settings("experiment.set", &e.set, &mut out);
        lists("experiment.axes", &e.axes, &mut out);
        lists("search", &self.search.keys, &mut out);
        self.check_arms(&mut out);
        if out.is_empty() {
            self.check_budget(&mut out);
        }
        out
    }

    fn check_quantities(&self, out: &mut Vec<Problem>) {
        let e = &self.experiment;
        let columns = e.columns.iter();
        let columns = columns.map(|(heading, path)| (format!("experiment.columns.{heading:?}"), path));
        let named = [
            ("experiment.metric".to_owned(), &e.metric),
            ("search.metric".to_owned(), &self.search.metric),
        ];
        for (key, path) in named.into_iter().chain(columns) {
            if let Err(expected) = path.parse::<Quantity>() {
                out.push(Problem::new(key, format!("{path:?}"), expected));
            }
        }
        let measure = self.search.metric.rsplit('.').next().unwrap_or_default();
        if !measure.starts_with("validation") {
            out.push(Problem::new(
                "search.metric",
                format!("{:?}", self.search.metric),
                "a figure of the validation split (validation_accuracy): what is chosen on test data flatters the arm \
                 with the most trials",
            ));
        }
    }

    fn check_arms(&self, out: &mut Vec<Problem>) {
        if self.arms.is_empty() {
            out.push(Problem::new("arms", "[]", "at least one arm"));
        }
        let mut seen = BTreeSet::new();
        for (i, arm) in self.arms.iter().enumerate() {
            let key = |k: &str| format!("arms.{i}.{k}");
            name(&key("name"), &arm.name, out);
            if !seen.insert(&arm.name) {
                let value = format!("{:?}", arm.name);
                out.push(Problem::new(key("name"), value, "a name that no other arm has"));
            }
            if arm.job.is_none() && self.experiment.job.is_none() {
                let expected = "a job file, since [experiment] names none";
                out.push(Problem::new(key("job"), "nothing", expected));
            }
            settings(&key("set"), &arm.set, out);
            lists(&key("search"), &arm.search, out);
            for axis in self
                .search_of(arm)
                .keys()
                .filter(|k| self.experiment.axes.contains_key(*k))
            {
                out.push(Problem::new(
                    format!("search.{axis:?}"),
                    format!("a value to search in arm {:?}", arm.name),
                    "a key that is no axis",
                ));
            }
            self.check_axes(&key("without_axes"), &arm.without_axes, out);
            self.check_steps(i, arm, out);
        }
        if let Some(against) = &self.compare.against
            && !seen.contains(against)
        {
            let arms: Vec<&str> = self.arms.iter().map(|a| a.name.as_str()).collect();
            let expected = format!("the name of an arm ({})", arms.join(", "));
            out.push(Problem::new("compare.against", format!("{against:?}"), expected));
        }
    }

    fn check_axes(&self, key: &str, axes: &[String], out: &mut Vec<Problem>) {
        for axis in axes.iter().filter(|a| !self.experiment.axes.contains_key(*a)) {
            let known: Vec<&str> = self.experiment.axes.keys().map(String::as_str).collect();
            let expected = format!("an axis of the experiment ({})", known.join(", "));
            out.push(Problem::new(key, format!("{axis:?}"), expected));
        }
    }

    /// Steps have names of their own, and each setting names only folders that are there by then.
    fn check_steps(&self, i: usize, arm: &Arm, out: &mut Vec<Problem>) {
        let mut known: Vec<&str> = Vec::new();
        let common = self.experiment.prepare.len();
        for (j, step) in self.steps_of(arm).enumerate() {
            let at = match j.checked_sub(common) {
                Some(own) => format!("arms.{i}.prepare.{own}"),
                None => format!("experiment.prepare.{j}"),
            };
            // Common steps are the same for every arm, and said once.
            if i == 0 || j >= common {
                self.check_step(&at, step, &known, out);
            }
            known.push(&step.name);
        }
        placeholders("experiment.set", &self.experiment.set, &known, out);
        placeholders(&format!("arms.{i}.set"), &arm.set, &known, out);
    }

    fn check_step(&self, at: &str, step: &Step, known: &[&str], out: &mut Vec<Problem>) {
        name(&format!("{at}.name"), &step.name, out);
        if known.contains(&step.name.as_str()) {
            let value = format!("{:?}", step.name);
            out.push(Problem::new(
                format!("{at}.name"),
                value,
                "a name that no other step has",
            ));
        }
        settings(&format!("{at}.set"), &step.set, out);
        placeholders(&format!("{at}.set"), &step.set, known, out);
        self.check_axes(&format!("{at}.without_axes"), &step.without_axes, out);
    }

    /// The same search for every arm, counted in trials.
    fn check_budget(&self, out: &mut Vec<Problem>) {
        let trials = |arm: &Arm| self.search_of(arm).values().map(Vec::len).product::<usize>();
        let Some(first) = self.arms.first() else {
            return;
        };
        let expected = trials(first);
        if expected > MOST {
            let value = format!("{expected} trials for arm {:?}", first.name);
            out.push(Problem::new("search", value, format!("at most {MOST} trials")));
        }
        for (i, arm) in self.arms.iter().enumerate().skip(1) {
            let count = trials(arm);
            if count != expected {
                out.push(Problem::new(
                    format!("arms.{i}.search"),
                    format!("{count} trials for arm {:?}", arm.name),
                    format!(
                        "{expected} trials, as many as arm {:?} has: each arm is tuned with the same effort",
                        first.name
                    ),
                ));
            }
        }
    }
}

fn name(key: &str, name: &str, out: &mut Vec<Problem>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fine = !name.starts_with('.') && (1..=64).contains(&name.len()) && name.chars().all(plain);
    if !fine {
        out.push(Problem::new(
            key,
            format!("{name:?}"),
            "1 to 64 letters, digits, '-', '_' or '.'",
        ));
    }
}

fn settings(at: &str, settings: &Settings, out: &mut Vec<Problem>) {
    for (key, value) in settings {
        reserved(&format!("{at}.{key:?}"), key, value, out);
    }
}

fn lists(at: &str, lists: &Lists, out: &mut Vec<Problem>) {
    for (key, values) in lists {
        let at = format!("{at}.{key:?}");
        let value = toml::Value::Array(values.clone());
        reserved(&at, key, &value, out);
        let twice = values.iter().enumerate().any(|(i, v)| values[..i].contains(v));
        if values.is_empty() || twice {
            out.push(Problem::new(at, value, "a list of at least one value, each once"));
        }
    }
}

fn reserved(at: &str, key: &str, value: &toml::Value, out: &mut Vec<Problem>) {
    if RESERVED.contains(&key) {
        let expected = "another key: the experiment sets it (seeds start at experiment.seed)";
        out.push(Problem::new(at, value, expected));
    }
}

fn placeholders(at: &str, settings: &Settings, known: &[&str], out: &mut Vec<Problem>) {
    for (key, value) in settings {
        for name in placeholder::names(value)
            .iter()
            .filter(|n| !known.contains(&n.as_str()))
        {
            let expected = format!("the name of a step before it ({})", known.join(", "));
            out.push(Problem::new(
                format!("{at}.{key:?}"),
                format!("{{{name}}}"),
                expected,
            ));
        }
    }
}
