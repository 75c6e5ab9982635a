//! What lies in object stores. Data sets: [`load`] is [`retort_data::load`] for every path that a job may have. Versions: a
//! `Bucket` keeps named values.
//!
//! What an `s3://` path names is brought to this machine once, into a cache that its processes share, and read there like
//! any other file. Nobody else names `object_store`: whoever keeps something else in a bucket does it through this crate, so
//! that credentials, limits, retries and errors are the same everywhere. It has a runtime of its own for as long as it
//! fetches; callers are synchronous, as the readers are.
//!
//! Without the cargo feature `object-store` there is none of this, and such paths are refused.

#[cfg(feature = "object-store")]
mod bucket;
#[cfg(feature = "object-store")]
mod cache;
#[cfg(feature = "object-store")]
mod error;
#[cfg(feature = "object-store")]
mod fetch;
#[cfg(feature = "object-store")]
mod settings;

use std::path::Path;

use retort_data::{Dataset, DatasetConfig};

#[cfg(feature = "object-store")]
pub use bucket::Bucket;
#[cfg(feature = "object-store")]
pub use error::FetchError;

/// Environment name of the folder that fetched objects are kept in.
pub const CACHE: &str = "RETORT_DATA__CACHE";

/// Why a data set cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not what the configuration says, or a file is wrong.
    #[error(transparent)]
    Data(#[from] retort_data::Error),
    /// A path leads to a store, and what it names could not be brought here.
    #[cfg(feature = "object-store")]
    #[error("dataset: {key} = {path:?}")]
    Fetch {
        /// The key within the `[dataset]` table.
        key: &'static str,
        /// Its value.
        path: String,
        /// Why.
        source: FetchError,
    },
}

/// Fetches what lies elsewhere, then reads and splits a data set; arguments as of [`retort_data::load`]. Blocks, for as long as
/// fetching takes.
pub fn load(config: &DatasetConfig, base: &Path, seed: u64) -> Result<Dataset, Error> {
    #[cfg(feature = "object-store")]
    let config = &fetch(config, variables())?;
    Ok(retort_data::load(config, base, seed)?)
}

/// The variables of this process.
#[cfg(feature = "object-store")]
pub fn variables() -> impl Iterator<Item = (String, String)> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The folder of this machine in which what lies in stores is kept.
///
/// # Errors
/// The environment says neither where it is nor who the user is.
#[cfg(feature = "object-store")]
pub fn cache(
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<std::path::PathBuf, FetchError> {
    settings::Settings::new(environment).cache()
}

/// The configuration with paths of this machine only, as soon as what they name is here. The variables of an `environment` say
/// where stores and cache are, and who asks.
#[cfg(feature = "object-store")]
pub fn fetch(
    config: &DatasetConfig,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<DatasetConfig, Error> {
    let mut here = config.clone();
    if !config.problems().is_empty() {
        // Reading says them; nothing is fetched for it.
        return Ok(here);
    }
    let settings = settings::Settings::new(environment);
    let tokenizer = here.text.as_mut().and_then(|text| text.tokens.path_mut());
    let paths = [
        ("path", here.path.as_mut()),
        ("unlabelled", here.unlabelled.as_mut()),
        ("text.tokens.path", tokenizer),
    ];
    for (key, path) in paths {
        let Some(url) = path else { continue };
        let Ok(retort_data::Location::S3 { bucket, prefix }) = url.parse() else {
            continue;
        };
        *url = fetch::local(&settings, &bucket, &prefix).map_err(|source| Error::Fetch {
            key,
            path: url.clone(),
            source,
        })?;
    }
    Ok(here)
}
