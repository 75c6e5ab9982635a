//! Data sets that a program of somebody else's reads.
//!
//! Such a program registers its readers by [`register`] before anything is loaded. It starts the processes of a fleet from
//! itself, so that all of them have the same readers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::ConfigProblem;
use crate::dataset::Shape;
use crate::quarantine::Intake;
use crate::split::{self, Samples, UNLABELLED};
use crate::store::{Form, Writer};

/// What a program brings along, by name, with parameters that only it knows: the `custom` table of a data set or a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Custom {
    /// What it is registered as.
    pub name: String,
    /// All other keys.
    #[serde(flatten)]
    pub parameters: Map<String, Value>,
}

impl Custom {
    /// The parameters as their owner knows them.
    ///
    /// # Errors
    ///
    /// What is wrong with them, in words.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, String> {
        T::deserialize(Value::Object(self.parameters.clone())).map_err(|e| e.to_string())
    }
}

/// A data set before it is split. Which sample is where must depend on nothing but parameters and files.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// Sizes of every sample.
    pub shape: Shape,
    /// A name for each class.
    pub classes: Vec<String>,
    /// What training and validation share. Samples without a label are all for training.
    pub pool: Vec<Sample>,
    /// What measures the result; all with labels.
    pub test: Vec<Sample>,
}

impl Set {
    /// Of these parts.
    pub fn new<S: Into<String>>(
        shape: Shape,
        classes: impl IntoIterator<Item = S>,
        pool: Vec<Sample>,
        test: Vec<Sample>,
    ) -> Self {
        Self {
            shape,
            classes: classes.into_iter().map(Into::into).collect(),
            pool,
            test,
        }
    }
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// As many finite numbers as [`Shape::len`] says, channel by channel, row by row; pixels from 0 to 1.
    pub values: Vec<f32>,
    /// Number of its class.
    pub label: Option<u32>,
}

impl Sample {
    /// With a label or without.
    pub fn new(values: impl Into<Vec<f32>>, label: Option<u32>) -> Self {
        Self {
            values: values.into(),
            label,
        }
    }
}

/// Reads a data set: its parameters, and `dataset.path` if that is given. An error says in words what is wrong.
pub type Read = fn(&Custom, Option<&Path>) -> Result<Set, String>;

// A lock: written before a program begins its work, read when it loads data.
static READERS: Mutex<BTreeMap<String, Read>> = Mutex::new(BTreeMap::new());

fn readers() -> MutexGuard<'static, BTreeMap<String, Read>> {
    READERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a data set known by a name; a later one of the same name takes its place.
pub fn register(name: &str, read: Read) {
    readers().insert(name.to_owned(), read);
}

/// What is wrong with the table, keys within `[dataset]`.
pub(crate) fn problem(custom: Option<&Custom>) -> Option<ConfigProblem> {
    let known: Vec<String> = readers().keys().cloned().collect();
    let expected = match known.as_slice() {
        [] => {
            "a data set of this program, which has none of its own: run the program that brings it".to_owned()
        }
        known => format!("one of {known:?}, the data sets of this program: run the one that brings it"),
    };
    let (key, value) = match custom {
        None => ("custom", "unset".to_owned()),
        Some(custom) if known.contains(&custom.name) => return None,
        Some(custom) => ("custom.name", format!("{:?}", custom.name)),
    };
    Some(ConfigProblem {
        key: key.to_owned(),
        value,
        expected,
    })
}

/// What is wrong with a set that a program read.
#[derive(Debug, thiserror::Error)]
#[error("dataset.custom {name:?}: {reason}")]
pub struct Error {
    name: String,
    reason: String,
}

/// Reads a set that [`problem`] had nothing against.
pub(crate) fn load(
    custom: &Custom,
    path: Option<&Path>,
    intake: &Intake,
) -> Result<split::Set, crate::Error> {
    let refused = |reason| Error {
        name: custom.name.clone(),
        reason,
    };
    let read = readers().get(&custom.name).copied();
    let read = read.ok_or_else(|| refused("this program does not have it".to_owned()))?;
    let set = read(custom, path).map_err(refused)?;
    check(&set).map_err(refused)?;
    let Set {
        shape,
        classes,
        pool,
        test,
    } = set;
    let (pool, unlabelled): (Vec<Sample>, Vec<Sample>) =
        pool.into_iter().partition(|sample| sample.label.is_some());
    let mut store = Writer::new(Form::Floats, shape.len(), intake.memory);
    let [pool, test, unlabelled] = [pool, test, unlabelled].map(|samples| {
        let mut stored = Samples::default();
        for Sample { values, label } in samples {
            stored.push(store.push_floats(&values), label.unwrap_or(UNLABELLED));
        }
        stored
    });
    Ok(split::Set {
        shape,
        class_names: classes,
        store: store.finish()?,
        pool,
        test,
        unlabelled,
        files: Vec::new(),
    })
}

/// A reader is code like any other: what it gives is not trusted.
fn check(set: &Set) -> Result<(), String> {
    if set.shape.is_empty() {
        return Err(format!("a shape of {}, expected sizes of at least 1", set.shape));
    }
    let mut seen = BTreeSet::new();
    if let Some(name) = set.classes.iter().find(|name| !seen.insert(*name)) {
        return Err(format!("class {name:?} twice, expected different names"));
    }
    if set.classes.len() < 2 {
        return Err(format!("{} classes, expected at least 2", set.classes.len()));
    }
    for (part, samples) in [("pool", &set.pool), ("test", &set.test)] {
        if u32::try_from(samples.len()).is_err() {
            return Err(format!(
                "{part}: {} samples, expected at most {}",
                samples.len(),
                u32::MAX
            ));
        }
        if !samples.iter().any(|sample| sample.label.is_some()) {
            return Err(format!("{part}: no sample with a label, expected some"));
        }
        for (row, sample) in samples.iter().enumerate() {
            check_sample(set, sample, part == "test")
                .map_err(|reason| format!("{part}, sample {row}: {reason}"))?;
        }
    }
    Ok(())
}

fn check_sample(set: &Set, sample: &Sample, labelled: bool) -> Result<(), String> {
    let (found, expected) = (sample.values.len(), set.shape.len());
    if found != expected {
        return Err(format!(
            "{found} values, expected {expected} of a {} sample",
            set.shape
        ));
    }
    if let Some(value) = sample.values.iter().find(|value| !value.is_finite()) {
        return Err(format!("{value}, expected finite numbers"));
    }
    match sample.label {
        Some(label) if label as usize >= set.classes.len() => {
            Err(format!("label {label}, expected one below {}", set.classes.len()))
        }
        None if labelled => Err("no label, which only training samples may lack".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DatasetConfig, Format, Part};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sizes {
        samples: u32,
    }

    /// Two classes of two numbers; every third sample of the pool has no label.
    fn pairs(custom: &Custom, path: Option<&Path>) -> Result<Set, String> {
        if let Some(path) = path {
            return Err(format!("no file needed, found {}", path.display()));
        }
        let Sizes { samples } = custom.parameters()?;
        let sample = |i: u32, label| Sample::new([i as f32, 0.5], label);
        let pool = (0..samples).map(|i| sample(i, (i % 3 > 0).then_some(i % 2)));
        let test = (0..4).map(|i| sample(i, Some(i % 2)));
        let shape = Shape::new(1, 1, 2);
        Ok(Set::new(shape, ["even", "odd"], pool.collect(), test.collect()))
    }

    fn config(name: &str, parameters: Value) -> DatasetConfig {
        let Value::Object(parameters) = parameters else {
            panic!("a table");
        };
        DatasetConfig {
            format: Some(Format::Custom),
            custom: Some(Custom {
                name: name.into(),
                parameters,
            }),
            validation: Some(5),
            ..DatasetConfig::default()
        }
    }

    #[test]
    fn a_registered_set_is_split_like_any_other() {
        register("pairs", pairs);
        let config = config("pairs", serde_json::json!({ "samples": 30 }));
        let load = || crate::load(&config, Path::new("."), 1).unwrap();
        let set = load();
        assert_eq!((set.name(), set.classes()), ("pairs", 2));
        assert_eq!((set.train_len(), set.labelled().len()), (25, 15));
        assert_eq!(set.split(Part::Validation).len(), 5);
        assert_eq!(set.split(Part::Test).label(3), 1);
        assert_eq!(set.digest(), load().digest());
        let mut out = [0.0; 2];
        set.view(0, 0, &mut out);
        assert_eq!(out[1], 0.5);
    }

    #[test]
    fn what_is_wrong_is_said() {
        register("pairs", pairs);
        let refuse = |config: &DatasetConfig, part: &str| {
            let error = crate::load(config, Path::new("."), 1).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        };
        let good = || config("pairs", serde_json::json!({ "samples": 30 }));
        refuse(
            &config("pears", serde_json::json!({})),
            "custom.name = \"pears\": expected one of [",
        );
        refuse(
            &config("pairs", serde_json::json!({ "sample": 30 })),
            "unknown field `sample`",
        );
        refuse(
            &config("pairs", serde_json::json!({ "samples": 0 })),
            "pool: no sample with a label",
        );
        let mut other = good();
        other.path = Some("x".into());
        refuse(&other, "no file needed, found ./x");
        other = good();
        other.custom = None;
        refuse(&other, "custom = unset");
        other = good();
        (other.format, other.name) = (None, Some("digits".into()));
        refuse(&other, "only format = \"custom\"");
    }

    #[test]
    fn readers_are_not_trusted() {
        let Value::Object(parameters) = serde_json::json!({ "samples": 6 }) else {
            panic!("a table");
        };
        let name = "pairs".to_owned();
        let set = pairs(&Custom { name, parameters }, None).unwrap();
        assert_eq!(check(&set), Ok(()));
        let refuse = |change: &dyn Fn(&mut Set), part: &str| {
            let mut set = set.clone();
            change(&mut set);
            let reason = check(&set).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        };
        refuse(&|set| set.shape.height = 0, "sizes of at least 1");
        refuse(&|set| set.classes[1] = "even".into(), "class \"even\" twice");
        refuse(&|set| set.classes.truncate(1), "at least 2");
        refuse(&|set| set.test.clear(), "test: no sample");
        refuse(
            &|set| set.pool[4].values.push(1.0),
            "pool, sample 4: 3 values, expected 2 of a 1x1x2",
        );
        refuse(&|set| set.pool[4].values[0] = f32::NAN, "NaN, expected finite");
        refuse(
            &|set| set.test[1].label = Some(2),
            "test, sample 1: label 2, expected one below 2",
        );
        refuse(&|set| set.test[1].label = None, "no label");
    }
}
