//! Which soft loss students minimise.

use std::fmt;

use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The soft loss: a name, or a table of a name and its parameters (`{ kind = "jsd", beta = 0.5 }`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Hinton, Vinyals and Dean 2015: forward KL at temperature T, times T².
    Kd,
    /// KL of the student from the teacher at temperature T, times T².
    ReverseKl,
    /// Agarwal et al. 2024: generalised Jensen-Shannon divergence at temperature T, times T².
    Jsd {
        /// The teacher's share of the mixture, within 0..=1; 0 is `kd`, 1 is `reverse-kl`.
        beta: f64,
    },
    /// Ba and Caruana 2014: mean squared error of centred logits. Whole distributions only.
    Mse,
    /// Zhao et al. 2022: decoupled distillation at temperature T, times T². Whole distributions, and every sample's label.
    Dkd {
        /// Of the part about the label's class, >= 0.
        alpha: f64,
        /// Of the part about the other classes, >= 0.
        beta: f64,
    },
}

impl Loss {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kd => "kd",
            Self::ReverseKl => "reverse-kl",
            Self::Jsd { .. } => "jsd",
            Self::Mse => "mse",
            Self::Dkd { .. } => "dkd",
        }
    }

    /// Whether it compares all classes, so that a teacher may not leave any out.
    pub const fn whole(self) -> bool {
        matches!(self, Self::Mse | Self::Dkd { .. })
    }
}

/// A loss that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Error {
    #[error("unknown loss {0:?}, expected kd, reverse-kl, jsd, mse or dkd")]
    Unknown(String),
    #[error("loss {kind:?} with parameters, expected {expected}")]
    Parameters { kind: String, expected: &'static str },
}

/// As it is written. The defaults are the papers'.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beta: Option<f64>,
}

impl TryFrom<Table> for Loss {
    type Error = Error;

    fn try_from(Table { kind, alpha, beta }: Table) -> Result<Self, Error> {
        let expected = match (kind.as_str(), alpha, beta) {
            ("kd", None, None) => return Ok(Self::Kd),
            ("reverse-kl", None, None) => return Ok(Self::ReverseKl),
            ("mse", None, None) => return Ok(Self::Mse),
            ("jsd", None, beta) => {
                let beta = beta.unwrap_or(0.5);
                return Ok(Self::Jsd { beta });
            }
            ("dkd", alpha, beta) => {
                let (alpha, beta) = (alpha.unwrap_or(1.0), beta.unwrap_or(8.0));
                return Ok(Self::Dkd { alpha, beta });
            }
            ("kd" | "reverse-kl" | "mse", ..) => "none",
            ("jsd", ..) => "beta only",
            _ => return Err(Error::Unknown(kind)),
        };
        Err(Error::Parameters { kind, expected })
    }
}

impl Serialize for Loss {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let (alpha, beta) = match *self {
            Self::Kd | Self::ReverseKl | Self::Mse => return out.serialize_str(self.name()),
            Self::Jsd { beta } => (None, Some(beta)),
            Self::Dkd { alpha, beta } => (Some(alpha), Some(beta)),
        };
        let kind = self.name().to_owned();
        Table { kind, alpha, beta }.serialize(out)
    }
}

impl<'de> Deserialize<'de> for Loss {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(NameOrTable)
    }
}

struct NameOrTable;

impl<'de> Visitor<'de> for NameOrTable {
    type Value = Loss;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the name of a loss (kd, reverse-kl, jsd, mse or dkd), or a table with its kind and parameters",
        )
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Loss, E> {
        let (alpha, beta) = (None, None);
        let kind = name.to_owned();
        Table { kind, alpha, beta }.try_into().map_err(E::custom)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Loss, M::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        table.try_into().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Job {
        loss: Loss,
    }

    fn read(loss: &str) -> Result<Loss, String> {
        let job = toml::from_str::<Job>(&format!("loss = {loss}"));
        job.map(|job| job.loss).map_err(|e| e.to_string())
    }

    #[test]
    fn losses_are_read_by_name_and_as_tables_and_survive_a_round_trip() {
        for (text, expected) in [
            ("\"kd\"", Loss::Kd),
            ("{ kind = \"kd\" }", Loss::Kd),
            ("\"reverse-kl\"", Loss::ReverseKl),
            ("\"mse\"", Loss::Mse),
            ("\"jsd\"", Loss::Jsd { beta: 0.5 }),
            ("{ kind = \"jsd\", beta = 0.1 }", Loss::Jsd { beta: 0.1 }),
            ("{ kind = \"jsd\", beta = 1 }", Loss::Jsd { beta: 1.0 }),
            (
                "\"dkd\"",
                Loss::Dkd {
                    alpha: 1.0,
                    beta: 8.0,
                },
            ),
            (
                "{ kind = \"dkd\", alpha = 0.5 }",
                Loss::Dkd {
                    alpha: 0.5,
                    beta: 8.0,
                },
            ),
        ] {
            let loss = read(text).unwrap();
            assert_eq!(loss, expected, "{text}");
            let written = toml::to_string(&Job { loss }).unwrap();
            assert_eq!(toml::from_str::<Job>(&written).unwrap().loss, loss, "{written}");
        }
    }

    #[test]
    fn what_is_no_loss_says_what_is() {
        for (text, parts) in [
            ("\"hinton\"", ["\"hinton\"", "kd, reverse-kl, jsd, mse or dkd"]),
            ("{ kind = \"js\" }", ["\"js\"", "kd, reverse-kl, jsd, mse or dkd"]),
            ("{ beta = 0.5 }", ["missing field", "kind"]),
            ("{ kind = \"jsd\", gamma = 0.5 }", ["gamma", "`beta`"]),
            (
                "{ kind = \"jsd\", alpha = 0.5 }",
                ["loss \"jsd\"", "expected beta only"],
            ),
            (
                "{ kind = \"mse\", beta = 0.5 }",
                ["loss \"mse\"", "expected none"],
            ),
            ("3", ["integer", "the name of a loss"]),
        ] {
            let error = read(text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
