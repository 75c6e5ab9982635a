//! Where a configured path leads.

use std::path::PathBuf;
use std::str::FromStr;

/// What a `path` in a job stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file or folder of this machine; one that is not absolute is relative to the job file.
    Local(PathBuf),
    /// A bucket, and an object or prefix in it. Someone with a network stack must bring it here before [`load`](crate::load).
    S3 {
        /// Its name.
        bucket: String,
        /// As it is in the store, without slashes around it; empty: all of the bucket.
        prefix: String,
    },
}

/// If it is no location, the error says what to write.
impl FromStr for Location {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, String> {
        match path.split_once("://") {
            None if path.is_empty() => Err("a folder, such as data/mnist".to_owned()),
            None => Ok(Self::Local(path.into())),
            Some(("file", rest)) => {
                let rest = rest.strip_prefix("localhost").unwrap_or(rest);
                match percent_decoded(rest) {
                    Some(path) if path.starts_with('/') => Ok(Self::Local(path.into())),
                    _ => Err("an absolute file URL, such as file:///data/mnist".to_owned()),
                }
            }
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
                if !bucket.starts_with(|c: char| c.is_ascii_alphanumeric()) || !bucket.chars().all(plain) {
                    return Err("a bucket and a prefix, such as s3://bucket/mnist".to_owned());
                }
                Ok(Self::S3 {
                    bucket: bucket.to_owned(),
                    prefix: prefix.trim_matches('/').to_owned(),
                })
            }
            Some((scheme, _)) => Err(format!(
                "a path, a file:// or an s3:// URL, not {scheme}: copy the files to this machine and give their folder"
            )),
        }
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_paths_and_urls() {
        let local = |path: &str| Ok(Location::Local(path.into()));
        assert_eq!("data/x".parse(), local("data/x"));
        assert_eq!("file:///a%20b/c".parse(), local("/a b/c"));
        assert_eq!("file://localhost/a".parse(), local("/a"));
        let s3 = |prefix: &str| {
            Ok(Location::S3 {
                bucket: "b.c".to_owned(),
                prefix: prefix.to_owned(),
            })
        };
        assert_eq!("s3://b.c".parse(), s3(""));
        assert_eq!("s3://b.c/".parse(), s3(""));
        assert_eq!("s3://b.c/x y/%20z/".parse(), s3("x y/%20z"));
        for wrong in [
            "",
            "file://host/a",
            "file:///a%2",
            "s3://",
            "s3:///a",
            "s3://../a",
            "s3://a?b/c",
            "gs://bucket/a",
            "https://x/y",
        ] {
            wrong.parse::<Location>().expect_err(wrong);
        }
    }
}
