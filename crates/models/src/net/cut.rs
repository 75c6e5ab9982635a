//! Smaller networks out of larger ones.

use super::{Net, Spec, SpecError};

/// Weights of a [`Head`](super::Head), by the beginning of their names.
const HEAD: [&str; 2] = ["classifier.", "norm."];

impl Net {
    /// The network without its projection, if it has one.
    pub fn without_projection(mut self) -> Self {
        self.projection = None;
        self.spec.projection = None;
        self
    }

    /// The network that ends at an exit, named by where it is, with the exit's classifier as its own.
    pub fn cut(&self, exit: u32) -> Result<Self, SpecError> {
        let at = self.spec.model.exits_at();
        let number = at.iter().position(|&at| at == exit).ok_or_else(|| {
            let known: Vec<String> = at.iter().map(u32::to_string).collect();
            SpecError::Exit {
                exit,
                known: if known.is_empty() {
                    "none, the model has no exits".into()
                } else {
                    known.join(", ")
                },
            }
        })?;
        let spec = Spec {
            model: self.spec.model.cut(exit),
            projection: None,
            ..self.spec.clone()
        };
        let cut = Self::new(&spec, 0, &self.device())?;
        Ok(cut.with_weights_of(self, |name| {
            if HEAD.iter().any(|head| name.starts_with(head)) {
                format!("exits.{number}.{name}")
            } else {
                name.into()
            }
        }))
    }
}
