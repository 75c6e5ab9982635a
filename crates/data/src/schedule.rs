//! Values that change along the order of samples: a function of the place, so that neither restarts nor the
//! size of a fleet change them.

use serde::{Deserialize, Serialize};

/// A number, or one that changes over the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, { from, to, over } with after, shape or warm_up, or { from, factor, at } with warm_up"
)]
pub enum Schedule {
    /// The same throughout.
    Constant(f64),
    /// From one value to another.
    Ramp(Ramp),
    /// Multiplied by a factor now and then.
    Steps(Steps),
}

/// `{ from = 0.0, to = 0.9, over = 0.5 }`: linear over the first half of the run, then constant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Value until `after`.
    pub from: f64,
    /// Value once the ramp is over.
    pub to: f64,
    /// Share of the run that the ramp takes, 0 < over.
    pub over: f64,
    /// Share of the run before it; `after + over <= 1`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub after: f64,
    #[serde(default, skip_serializing_if = "Shape::is_linear")]
    pub shape: Shape,
    /// Share of the run in which the value first rises in a line from 0, `warm_up < 1`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warm_up: f64,
}

/// How a ramp goes from one value to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    #[default]
    Linear,
    /// Half a cosine: slow at both ends. Loshchilov and Hutter 2017, <https://arxiv.org/abs/1608.03983>, without restarts.
    Cosine,
}

/// `{ from = 0.1, factor = 0.1, at = [0.5, 0.75] }`: a tenth from half of the run on, a hundredth in its last quarter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// Value before the first step.
    pub from: f64,
    /// What each step multiplies it by, at least 0.
    pub factor: f64,
    /// Where the steps are, in shares of the run, ascending.
    pub at: Vec<f64>,
    /// As [`Ramp::warm_up`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warm_up: f64,
}

impl Shape {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    fn is_linear(&self) -> bool {
        *self == Self::Linear
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Schedule {
    /// The value after `progress` (0..=1) of the run's positions.
    pub fn at(&self, progress: f64) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Ramp(ramp) => {
                let share = ((progress - ramp.after) / ramp.over).clamp(0.0, 1.0);
                let share = match ramp.shape {
                    Shape::Linear => share,
                    Shape::Cosine => (1.0 - (std::f64::consts::PI * share).cos()) / 2.0,
                };
                risen(progress, ramp.warm_up) * (ramp.from + (ramp.to - ramp.from) * share)
            }
            Self::Steps(steps) => {
                let taken = steps.at.iter().filter(|at| progress >= **at).count();
                let value = (0..taken).fold(steps.from, |value, _| value * steps.factor);
                risen(progress, steps.warm_up) * value
            }
        }
    }

    /// It is the same throughout.
    pub fn is_constant(&self) -> bool {
        let (low, high) = self.bounds();
        low == high
    }

    /// Smallest and largest value it can take; what is not a number is one of them.
    pub fn bounds(&self) -> (f64, f64) {
        let (mut values, warm_up) = match self {
            Self::Constant(value) => (vec![*value], 0.0),
            Self::Ramp(ramp) => (vec![ramp.from, ramp.to], ramp.warm_up),
            Self::Steps(steps) => {
                let last = steps.at.iter().fold(steps.from, |value, _| value * steps.factor);
                (vec![steps.from, last], steps.warm_up)
            }
        };
        if warm_up > 0.0 {
            values.push(0.0);
        }
        let nan = values.iter().any(|v| v.is_nan());
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if nan { (f64::NAN, f64::NAN) } else { (low, high) }
    }

    /// What is wrong with its shape (key, value, what is expected); its values are for whoever uses it to judge.
    pub fn problems(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut out = Vec::new();
        let mut need = |fine: bool, key, value: String, expected| {
            if !fine {
                out.push((key, value, expected));
            }
        };
        let warm = |warm_up: f64| (0.0..1.0).contains(&warm_up);
        let within = "a share of the run, 0 <= warm_up < 1";
        match self {
            Self::Constant(_) => {}
            Self::Ramp(r) => {
                let begins = (0.0..1.0).contains(&r.after);
                need(
                    begins,
                    "after",
                    r.after.to_string(),
                    "a share of the run, 0 <= after < 1",
                );
                let ends = r.over > 0.0 && r.over + r.after.max(0.0) <= 1.0 + 1e-9;
                let bound = "a share of the run, 0 < over <= 1 - after, or the ramp never ends";
                need(ends, "over", r.over.to_string(), bound);
                need(warm(r.warm_up), "warm_up", r.warm_up.to_string(), within);
            }
            Self::Steps(s) => {
                let factor = s.factor.is_finite() && s.factor >= 0.0;
                need(
                    factor,
                    "factor",
                    s.factor.to_string(),
                    "a finite number, at least 0",
                );
                let shares = s.at.iter().all(|at| (0.0..1.0).contains(at));
                let fine = shares && s.at.is_sorted_by(|a, b| a < b) && !s.at.is_empty();
                let bound = "shares of the run, ascending, at least one, each at least 0 and less than 1";
                need(fine, "at", format!("{:?}", s.at), bound);
                need(warm(s.warm_up), "warm_up", s.warm_up.to_string(), within);
            }
        }
        out
    }
}

fn risen(progress: f64, warm_up: f64) -> f64 {
    if warm_up > 0.0 {
        (progress / warm_up).min(1.0)
    } else {
        1.0
    }
}

impl From<f64> for Schedule {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Schedule {
        serde_json::from_str(text).unwrap()
    }

    fn values(schedule: &Schedule, at: &[f64]) -> Vec<f64> {
        at.iter().map(|p| (schedule.at(*p) * 1e9).round() / 1e9).collect()
    }

    #[test]
    fn a_ramp_waits_reaches_its_end_and_stays() {
        let ramp = read(r#"{"from": 0.0, "to": 0.8, "over": 0.5}"#);
        assert_eq!(values(&ramp, &[0.0, 0.25, 0.5, 1.0]), [0.0, 0.4, 0.8, 0.8]);
        let late = read(r#"{"from": 0.1, "to": 0.5, "over": 0.5, "after": 0.25}"#);
        assert_eq!(
            values(&late, &[0.0, 0.25, 0.5, 0.75, 1.0]),
            [0.1, 0.1, 0.3, 0.5, 0.5]
        );
        let down = read(r#"{"from": 1.0, "to": 0.0, "over": 1.0, "shape": "cosine"}"#);
        assert_eq!(values(&down, &[0.0, 0.5, 1.0]), [1.0, 0.5, 0.0]);
        assert!(down.at(0.25) > 0.75 && down.at(0.75) < 0.25);
        assert_eq!(down.bounds(), (0.0, 1.0));
    }

    #[test]
    fn steps_multiply_and_a_warm_up_rises_from_nothing() {
        let steps = read(r#"{"from": 8.0, "factor": 0.5, "at": [0.5, 0.75], "warm_up": 0.25}"#);
        assert_eq!(
            values(&steps, &[0.0, 0.125, 0.25, 0.5, 0.75, 1.0]),
            [0.0, 4.0, 8.0, 4.0, 2.0, 2.0]
        );
        assert_eq!(steps.bounds(), (0.0, 8.0));
        assert!(!steps.is_constant() && Schedule::from(2.0).is_constant());
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        for text in [
            "0.5",
            r#"{"from":0.0,"to":0.9,"over":0.5}"#,
            r#"{"from":1.0,"to":0.0,"over":0.5,"after":0.5,"shape":"cosine","warm_up":0.1}"#,
            r#"{"from":0.1,"factor":0.1,"at":[0.5]}"#,
        ] {
            assert_eq!(serde_json::to_string(&read(text)).unwrap(), text);
        }
        let unknown = serde_json::from_str::<Schedule>(r#"{"from": 1, "too": 2}"#).unwrap_err();
        assert!(unknown.to_string().contains("{ from, factor, at }"), "{unknown}");
    }

    #[test]
    fn what_never_ends_is_a_problem() {
        for (text, keys) in [
            (r#"{"from": 0, "to": 1, "over": 0}"#, vec!["over"]),
            (r#"{"from": 0, "to": 1, "over": 0.6, "after": 0.5}"#, vec!["over"]),
            (
                r#"{"from": 0, "to": 1, "over": 0.1, "after": 1}"#,
                vec!["after", "over"],
            ),
            (
                r#"{"from": 0, "to": 1, "over": 0.1, "warm_up": 1}"#,
                vec!["warm_up"],
            ),
            (
                r#"{"from": 1, "factor": -1, "at": [0.5, 0.5]}"#,
                vec!["factor", "at"],
            ),
            (r#"{"from": 1, "factor": 1, "at": []}"#, vec!["at"]),
            (r#"{"from": 0, "to": 1, "over": 0.5, "after": 0.5}"#, vec![]),
        ] {
            let found: Vec<&str> = read(text).problems().iter().map(|p| p.0).collect();
            assert_eq!(found, keys, "{text}");
        }
        assert!(read(r#"{"from": 1, "to": 0, "over": 1}"#).bounds().0.is_finite());
        assert!(Schedule::Constant(f64::NAN).bounds().0.is_nan());
    }
}
