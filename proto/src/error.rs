use std::fmt;

/// A message that can't be taken: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A required field is absent.
    #[error("{0} is required")]
    Missing(&'static str),
    /// A field's value is outside its bounds.
    #[error("{field} = {value} is not valid")]
    Invalid {
        /// Its name in the .proto file.
        field: &'static str,
        /// As received.
        value: String,
    },
}

impl Error {
    pub(crate) fn invalid(field: &'static str, value: impl fmt::Display) -> Self {
        Self::Invalid {
            field,
            value: value.to_string(),
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
