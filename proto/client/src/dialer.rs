//! Whom a process connects to, and how it shows who it is.

use retort_tls::{ClientFlags, Connector, Credentials, Expected, Refused, Security};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use crate::tuned;

/// A connection that brings a token with every call where its dialer has one.
pub type Channel = InterceptedService<tonic::transport::Channel, Bearer>;

/// An address can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    #[error("{0:?} is no address like http://127.0.0.1:7300")]
    Form(String),
    #[error("{0} is encrypted: --tls DIR names the folder with ca.pem, cert.pem and key.pem")]
    NeedsTls(String),
    #[error("{0} is in plain text, and --tls asks for encryption: https:// says so")]
    Plaintext(String),
}

/// A server could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error(transparent)]
    Address(#[from] BadAddress),
    #[error("nobody answers at {address}: {source}")]
    Nobody {
        address: String,
        source: tonic::transport::Error,
    },
    /// One of both ends does not trust the other.
    #[error("{0}")]
    Refused(String),
}

/// Flags do not make a dialer.
#[derive(Debug, thiserror::Error)]
pub enum CannotDial {
    #[error("--tls {0}")]
    Credentials(#[from] retort_tls::Error),
    #[error("--token: expected what `retort certs token` prints")]
    Token,
}

/// Makes connections with what a process has to show. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Dialer {
    credentials: Option<Credentials>,
    bearer: Bearer,
}

impl Dialer {
    /// In plain text, as nobody in particular.
    pub fn plaintext() -> Self {
        Self::default()
    }

    /// Over TLS, as whoever these credentials say.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials: Some(credentials),
            bearer: Bearer::default(),
        }
    }

    /// Over TLS to servers of another system, with the certificates in a folder: for [`Expected::Host`].
    pub fn foreign(dir: &std::path::Path) -> Result<Self, retort_tls::Error> {
        Ok(Self::new(Credentials::foreign(dir)?))
    }

    /// As a process protects itself.
    pub fn of(security: &Security) -> Self {
        security
            .credentials()
            .cloned()
            .map_or_else(Self::plaintext, Self::new)
    }

    /// As a command's flags say.
    pub fn open(flags: &ClientFlags) -> Result<Self, CannotDial> {
        let Some(dir) = &flags.tls else {
            return Ok(Self::plaintext());
        };
        let dialer = Self::new(Credentials::read(dir)?);
        match &flags.token {
            Some(token) => dialer.with_token(token),
            None => Ok(dialer),
        }
    }

    /// With a token in every call.
    pub fn with_token(self, token: &str) -> Result<Self, CannotDial> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| CannotDial::Token)?;
        value.set_sensitive(true);
        Ok(Self {
            bearer: Bearer(Some(value)),
            ..self
        })
    }

    /// Whether an address can be dialled at all.
    pub fn check(&self, address: &str) -> Result<(), BadAddress> {
        self.endpoint(address).map(drop)
    }

    /// A lazy connection to a server in this role: it is made at the first call and made again after it broke.
    pub fn connect(&self, address: &str, expected: impl Into<Expected>) -> Result<Channel, BadAddress> {
        let endpoint = self.endpoint(address)?;
        let channel = match self.connector(expected.into()) {
            Some(connector) => endpoint.connect_with_connector_lazy(connector),
            None => endpoint.connect_lazy(),
        };
        Ok(InterceptedService::new(channel, self.bearer.clone()))
    }

    /// A connection that is made now, for callers who want to know at once.
    pub async fn reach(
        &self,
        address: &str,
        expected: impl Into<Expected> + Send,
    ) -> Result<Channel, Unreachable> {
        let endpoint = self.endpoint(address)?;
        let connected = match self.connector(expected.into()) {
            Some(connector) => endpoint.connect_with_connector(connector).await,
            None => endpoint.connect().await,
        };
        let channel = connected.map_err(|source| match Refused::below(&source) {
            Some(refused) => Unreachable::Refused(refused.to_string()),
            None => Unreachable::Nobody {
                address: address.to_owned(),
                source,
            },
        })?;
        Ok(InterceptedService::new(channel, self.bearer.clone()))
    }

    fn connector(&self, expected: Expected) -> Option<Connector> {
        let credentials = self.credentials.clone()?;
        Some(Connector::new(credentials, expected))
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, BadAddress> {
        let of = |kind: fn(String) -> BadAddress| kind(address.to_owned());
        match (address.split_once("://"), &self.credentials) {
            (Some(("http", _)), None) | (Some(("https", _)), Some(_)) => {}
            (Some(("http", _)), Some(_)) => return Err(of(BadAddress::Plaintext)),
            (Some(("https", _)), None) => return Err(of(BadAddress::NeedsTls)),
            _ => return Err(of(BadAddress::Form)),
        }
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| of(BadAddress::Form))?;
        Ok(tuned(endpoint))
    }
}

/// A lazy connection in plain text: to a process on this machine, or to somebody else's server.
pub fn connect(address: &str) -> Result<Channel, BadAddress> {
    Dialer::plaintext().connect(address, Expected::Anyone)
}

/// The same, made now.
pub async fn reach(address: &str) -> Result<Channel, Unreachable> {
    Dialer::plaintext().reach(address, Expected::Anyone).await
}

/// Puts a token into every call; or nothing.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whether_it_is_encrypted() {
        let plaintext = Dialer::plaintext();
        for (address, expected) in [
            ("http://127.0.0.1:7300", Ok(())),
            (
                "https://127.0.0.1:7300",
                Err("https://127.0.0.1:7300 is encrypted: --tls"),
            ),
            ("127.0.0.1:7300", Err("is no address like")),
            ("ftp://a", Err("is no address like")),
            ("http://", Err("is no address like")),
        ] {
            let checked = plaintext.check(address).map_err(|e| e.to_string());
            match (checked, expected) {
                (Ok(()), Ok(())) => {}
                (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
                other => panic!("{address}: {other:?}"),
            }
        }
    }
}
