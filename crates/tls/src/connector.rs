//! Making connections: to a server whose certificate the fleet's CA signed, and that is what it was taken for.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use crate::credentials::Loaded;
use crate::{Credentials, FLEET, Role};

/// The first bytes of a server pass through here; larger reads do not.
const FIRST: usize = 1 << 10;
/// Where a server listens whose address names no port.
const HTTPS: u16 = 443;

/// What a server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Role(Role),
    /// Whoever the fleet's CA vouches for: it is asked for its health.
    Anyone,
    /// A server of somebody else's: the CA vouches for the name or address that it is called by.
    Host,
}

impl From<Role> for Expected {
    fn from(role: Role) -> Self {
        Self::Role(role)
    }
}

/// A connection was not made because one end does not trust the other. Trying again is of use only after a certificate
/// changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{address} cannot be trusted by {}: {source}", ca.display())]
    Untrusted {
        address: String,
        ca: PathBuf,
        source: rustls::Error,
    },
    #[error(
        "{address} refuses the certificate in {}: {source}; a new one comes from `retort certs issue`, or before it \
         expires from `retort certs renew`",
        dir.display()
    )]
    Ours {
        address: String,
        dir: PathBuf,
        source: rustls::Error,
    },
    #[error("{address} is a {found}, expected a {expected}")]
    Role {
        address: String,
        found: Role,
        expected: Role,
    },
    #[error("the certificate of {address} has {source}")]
    NoRole {
        address: String,
        source: crate::RoleError,
    },
    #[error("{address} does not speak TLS: it was started without --tls, or it is another program")]
    NotTls { address: String },
}

impl Refused {
    /// The refusal somewhere below an error, if that is what it is.
    pub fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref() {
                return Some(refused);
            }
            next = error.source();
        }
        None
    }
}

/// Connects to the host and port of a URI, for `connect_with_connector`.
#[derive(Debug, Clone)]
pub struct Connector {
    credentials: Credentials,
    expected: Expected,
}

impl Connector {
    pub fn new(credentials: Credentials, expected: Expected) -> Self {
        Self {
            credentials,
            expected,
        }
    }
}

type BoxError = Box<dyn StdError + Send + Sync>;
type Stream = BufReader<TlsStream<TcpStream>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await.map(TokioIo::new) })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<Stream, BoxError> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(HTTPS);
        let address = format!("{host}:{port}");
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        stream.set_nodelay(true)?;
        let loaded = self.credentials.current();
        let name = match self.expected {
            Expected::Role(_) | Expected::Anyone => ServerName::try_from(FLEET)?,
            Expected::Host => ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?,
        };
        let shaken = TlsConnector::from(loaded.client.clone())
            .connect(name, stream)
            .await;
        let stream = shaken.map_err(|e| self.judge(e, &address, &loaded))?;
        self.check(&stream, &address)?;
        // A server verifies the client's certificate last. It begins to speak when it is content, and with an alert when
        // it is not.
        let mut stream = BufReader::with_capacity(FIRST, stream);
        if self.expected == Expected::Host {
            // Others may wait for the client to speak first.
            return Ok(stream);
        }
        let first = stream.fill_buf().await;
        let first = first.map_err(|e| self.judge(e, &address, &loaded))?;
        if first.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(stream)
    }

    /// The role of the server, whose certificate was verified in the handshake.
    fn check(&self, stream: &TlsStream<TcpStream>, address: &str) -> Result<(), Refused> {
        let Expected::Role(expected) = self.expected else {
            return Ok(());
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let found = certificates
            .and_then(|chain| chain.first())
            .map_or(Err(crate::RoleError::None), Role::of)
            .map_err(|source| Refused::NoRole {
                address: address.to_owned(),
                source,
            })?;
        if found == expected {
            return Ok(());
        }
        Err(Refused::Role {
            address: address.to_owned(),
            found,
            expected,
        })
    }

    /// Tells distrust from a network that failed.
    fn judge(&self, error: io::Error, address: &str, loaded: &Loaded) -> BoxError {
        let cause = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        let Some(source) = cause.cloned() else {
            return error.into();
        };
        let (address, dir) = (address.to_owned(), self.credentials.dir());
        match source {
            rustls::Error::InvalidCertificate(_) => {
                let ca = dir.join(crate::CA);
                Refused::Untrusted { address, ca, source }.into()
            }
            rustls::Error::AlertReceived(_) if loaded.role.is_some() => {
                let dir = dir.to_owned();
                Refused::Ours { address, dir, source }.into()
            }
            rustls::Error::InvalidMessage(_) => Refused::NotTls { address }.into(),
            _ => error.into(),
        }
    }
}
