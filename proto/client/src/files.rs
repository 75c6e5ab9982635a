//! Versions' files: uploaded and downloaded in chunks, checked by hash.

use bytes::{Bytes, BytesMut};
use retort_proto::pb;

use crate::Channel;

/// Bytes of one message of a file.
pub const CHUNK: usize = 1 << 20;

/// A transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Status(#[from] tonic::Status),
    #[error("{file} of version {version} arrived with hash {found} instead of {expected}: fetch it again")]
    Corrupt {
        file: String,
        version: u64,
        expected: String,
        found: String,
    },
}

impl Error {
    /// Asking again is no use: the version is not there, or the request is wrong.
    pub fn is_final(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Status(s) => matches!(
                s.code(),
                Code::NotFound | Code::InvalidArgument | Code::PermissionDenied
            ),
            Self::Corrupt { .. } => false,
        }
    }
}

/// A downloaded file.
#[derive(Debug, Clone)]
pub struct FetchedFile {
    pub version: u64,
    pub bytes: Bytes,
}

/// Downloads one file of a version (`None`: the newest) and checks its hash.
pub async fn fetch(
    client: &mut pb::versions_client::VersionsClient<Channel>,
    (run, group): (&str, &str),
    version: Option<u64>,
    file: &str,
) -> Result<FetchedFile, Error> {
    let request = pb::FetchRequest {
        run: run.to_owned(),
        group: group.to_owned(),
        version,
        file: file.to_owned(),
    };
    let mut stream = client.fetch(request).await?.into_inner();
    let mut bytes = BytesMut::new();
    let mut version = 0;
    let mut expected = String::new();
    while let Some(part) = stream.message().await? {
        bytes.extend_from_slice(&part.chunk);
        version = part.version;
        expected = part.blake3;
    }
    let found = blake3::hash(&bytes).to_hex().to_string();
    if found != expected {
        return Err(Error::Corrupt {
            file: file.to_owned(),
            version,
            expected,
            found,
        });
    }
    Ok(FetchedFile {
        version,
        bytes: bytes.freeze(),
    })
}

/// Uploads files as one version and returns its number.
pub async fn publish(
    client: &mut pb::versions_client::VersionsClient<Channel>,
    by: pb::publish_header::By,
    held_out: Option<pb::Evaluation>,
    files: Vec<(String, Bytes)>,
) -> Result<u64, tonic::Status> {
    let headers = files
        .iter()
        .map(|(name, bytes)| pb::FileHeader {
            name: name.clone(),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        })
        .collect();
    let header = pb::PublishHeader {
        by: Some(by),
        files: headers,
        held_out,
    };
    let message = |part| pb::PublishRequest { part: Some(part) };
    let mut messages = vec![message(pb::publish_request::Part::Header(header))];
    for (_, bytes) in &files {
        for start in (0..bytes.len()).step_by(CHUNK) {
            let chunk = bytes.slice(start..bytes.len().min(start + CHUNK));
            messages.push(message(pb::publish_request::Part::Chunk(chunk)));
        }
    }
    let reply = client.publish(tokio_stream::iter(messages)).await?;
    Ok(reply.into_inner().version)
}
