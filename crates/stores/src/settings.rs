//! What the environment says of stores and of the cache.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use crate::{CACHE, FetchError};

/// A store that does not accept a connection in this time is away.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// So is one that sends nothing for so long.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Retries of one request, with back-off from 0.1 to 2 s: at half of all requests failing one in a thousand is still refused.
const RETRIES: usize = 9;
/// No retry after this, so that a store that is away is known to be within half a minute.
const RETRY_LIMIT: Duration = Duration::from_secs(15);

/// The environment.
#[derive(Debug, Clone)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    /// An empty value is none.
    pub(crate) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(
            variables
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn has(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.0.contains_key(*name))
    }

    /// The folder that fetched objects are kept in.
    pub(crate) fn cache(&self) -> Result<PathBuf, FetchError> {
        let user = || self.get("HOME").map(|home| format!("{home}/.cache"));
        let default = || {
            Some(format!(
                "{}/retort/objects",
                self.get("XDG_CACHE_HOME").map(str::to_owned).or_else(user)?
            ))
        };
        let folder = self.get(CACHE).map(str::to_owned).or_else(default);
        folder.map(PathBuf::from).ok_or_else(|| {
            let text = format!("expected {CACHE} (or HOME): the folder that fetched objects are kept in");
            FetchError::Settings(text)
        })
    }

    /// Where buckets are, as far as the environment says.
    pub(crate) fn endpoint(&self) -> &str {
        ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
            .into_iter()
            .find_map(|name| self.get(name))
            .unwrap_or("AWS")
    }

    /// A client of one bucket.
    pub(crate) fn s3(&self, bucket: &str) -> Result<AmazonS3, FetchError> {
        self.check()?;
        // Whoever else in this process chose one has chosen for all.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_read_timeout(SILENCE_LIMIT);
        let retry = RetryConfig {
            backoff: BackoffConfig {
                max_backoff: Duration::from_secs(2),
                ..BackoffConfig::default()
            },
            max_retries: RETRIES,
            retry_timeout: RETRY_LIMIT,
        };
        let mut builder = AmazonS3Builder::new()
            .with_client_options(options)
            .with_retry(retry);
        for (name, value) in self.0.iter().filter(|(name, _)| name.starts_with("AWS_")) {
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        let built = builder.with_bucket_name(bucket).build();
        built.map_err(|e| FetchError::Settings(format!("the AWS_ variables of the environment: {e}")))
    }

    /// What the client would find out late, or only by asking a service that is not there.
    fn check(&self) -> Result<(), FetchError> {
        let known = [
            &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"][..],
            &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"],
            &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
            &["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
            &["AWS_METADATA_ENDPOINT"],
        ];
        let public = self.get("AWS_SKIP_SIGNATURE").is_some_and(is_true);
        if !public && !known.into_iter().any(|names| self.has(names)) {
            return Err(FetchError::Settings(
                "expected credentials in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_REGION, or \
                 AWS_ENDPOINT_URL of another store than Amazon's); AWS_SKIP_SIGNATURE=true for a public bucket"
                    .to_owned(),
            ));
        }
        let endpoint = self.endpoint();
        let plain = endpoint.starts_with("http://");
        if plain && !self.get("AWS_ALLOW_HTTP").is_some_and(is_true) {
            return Err(FetchError::Settings(format!(
                "the endpoint {endpoint} is not encrypted: expected https://, or AWS_ALLOW_HTTP=true"
            )));
        }
        Ok(())
    }
}

/// As the client reads it.
fn is_true(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "on" | "yes" | "y"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let owned = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::new(owned)
    }

    #[test]
    fn credentials_are_wanted_before_anybody_is_asked() {
        let key = ("AWS_ACCESS_KEY_ID", "me");
        for lacking in [&[][..], &[key], &[key, ("AWS_SECRET_ACCESS_KEY", "")]] {
            let error = settings(lacking).s3("b").expect_err("no credentials").to_string();
            assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
        }
        let secret = ("AWS_SECRET_ACCESS_KEY", "secret");
        settings(&[key, secret]).s3("b").expect("enough");
        settings(&[("AWS_SKIP_SIGNATURE", "true")])
            .s3("b")
            .expect("enough");
    }

    #[test]
    fn plain_http_is_wanted_explicitly() {
        let all = [
            ("AWS_SKIP_SIGNATURE", "true"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
            ("AWS_ALLOW_HTTP", "true"),
        ];
        let error = settings(&all[..2]).s3("b").expect_err("not allowed").to_string();
        assert!(error.contains("AWS_ALLOW_HTTP"), "{error}");
        settings(&all).s3("b").expect("allowed");
        assert_eq!(settings(&all).endpoint(), "http://127.0.0.1:9");
    }

    #[test]
    fn the_cache_is_where_the_user_says() {
        let all = [(CACHE, "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        let folders = ["/c", "/x/retort/objects", "/h/.cache/retort/objects"];
        for (from, folder) in folders.into_iter().enumerate() {
            assert_eq!(
                settings(&all[from..]).cache().expect("a folder"),
                PathBuf::from(folder)
            );
        }
        settings(&[]).cache().expect_err("no folder");
    }
}
