//! Why something could not be brought here.

use std::io;
use std::path::{Path, PathBuf};

use crate::CACHE;

/// Why something could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The environment lacks something, or it contradicts itself; the text says what to set.
    #[error("{0}")]
    Settings(String),
    /// The store's answer is final: nothing is there, or it is not for us.
    #[error("{0}")]
    Refused(String),
    /// The store does not answer, or fails. Trying again may help.
    #[error("the store does not answer, or not as one: {0}")]
    Away(String),
    /// The store's contents changed under way. Trying again helps.
    #[error("{0} changed while it was fetched: try again")]
    Changed(String),
    /// There is no room.
    #[error(
        "{} has {free} bytes free, {needed} are to be fetched: make room, or set {} to a folder elsewhere",
        .folder.display(),
        CACHE
    )]
    Full {
        /// Of the cache.
        folder: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// The cache cannot be used.
    #[error("{verb} {}{}", .path.display(), hint(.source))]
    Cache {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn hint(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!(" (make room, or set {CACHE} to a folder elsewhere)")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::Unsupported => {
            format!(" (set {CACHE} to a folder that can be written and locked)")
        }
        _ => String::new(),
    }
}

/// Names what was tried with a file of the cache.
pub(crate) fn tried<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FetchError + 'a {
    move |source| FetchError::Cache {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Codes of S3 that mean "later".
const LATER: [&str; 5] = [
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
];

impl FetchError {
    /// What an error of the client means for `what`, an object or a bucket.
    pub(crate) fn of(error: &object_store::Error, what: &str) -> Self {
        use object_store::Error;
        let text = error.to_string();
        // The client tells kinds of errors apart for some requests only; the store's own document says it for all.
        match (said(&text), error) {
            (_, Error::Precondition { .. }) => Self::Changed(what.to_owned()),
            (Some((code, message)), _) if !LATER.contains(&code) => {
                Self::Refused(format!("{what}: the store says {code}: {message}"))
            }
            (_, Error::NotFound { .. }) => Self::Refused(format!("{what} is not there")),
            (_, Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) => Self::Refused(format!(
                "{what}: the store denies access to the credentials of the environment"
            )),
            (_, Error::InvalidPath { .. }) => Self::Refused(format!("{what}: {text}")),
            _ => Self::Away(text),
        }
    }
}

/// Code and message of the error document in a text.
fn said(text: &str) -> Option<(&str, &str)> {
    let inner = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.trim())
    };
    Some((inner("Code")?, inner("Message").unwrap_or("nothing more")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_own_words_decide() {
        let of = |body: &str| {
            let error = object_store::Error::Generic {
                store: "S3",
                source: format!("404: <?xml?><Error>{body}</Error>").into(),
            };
            FetchError::of(&error, "bucket b")
        };
        let refused = of("<Code>NoSuchBucket</Code><Message>no such bucket</Message>");
        assert_eq!(
            refused.to_string(),
            "bucket b: the store says NoSuchBucket: no such bucket"
        );
        assert!(matches!(refused, FetchError::Refused(_)));
        assert!(matches!(of("<Code>SlowDown</Code>"), FetchError::Away(_)));
        assert!(matches!(of("connection refused"), FetchError::Away(_)));
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let path = Path::new("/cache/x");
        let error = tried("write", path)(io::ErrorKind::StorageFull.into());
        assert!(error.to_string().contains(CACHE), "{error}");
        let error = tried("write", path)(io::ErrorKind::NotFound.into());
        assert_eq!(error.to_string(), "write /cache/x");
    }
}
