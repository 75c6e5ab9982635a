//! Who is who in a fleet: certificates with a role, TLS on every link, and which role may call which method.
//!
//! A process has [`Credentials`], read from a folder. [`Incoming`] accepts connections and [`Connector`] makes them; both
//! check the other's certificate, and the role in it. [`Guard`] then holds each call against one table, [`access::TABLE`].
//! What a certificate says is read by rustls and webpki alone.
//!
//! This crate must never know what a method does. It depends on no role and on no message; times are arguments wherever a
//! test would want them to be.

pub mod access;
mod authority;
mod connection;
mod connector;
mod credentials;
mod flags;
mod incoming;
mod role;
pub mod token;

pub use access::{Caller, Guard, Means};
pub use authority::{Authority, CA_KEY, Issued, KEY_PROOF, Proof, Refusal, write_folder};
pub use connection::{Connection, Peer};
pub use connector::{Connector, Expected, Refused};
pub use credentials::{CA, CERTIFICATE, Credentials, Error, KEY, TOKEN_KEY};
pub use flags::{ClientFlags, ServerFlags, TLS, Unprotected};
pub use incoming::Incoming;
pub use role::{Role, RoleError};

/// The name that every certificate of a fleet bears. Servers come and go under any address, so the name that a client
/// verifies is this one; which kind of server answers, the role says.
pub const FLEET: &str = "fleet.retort";

/// How a process protects its connections.
#[derive(Debug, Clone)]
pub enum Security {
    /// Not at all: on this machine, or because somebody asked for it.
    Plaintext,
    /// By TLS, with these credentials.
    Tls(Credentials),
}

impl Security {
    /// What addresses of this process begin with.
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::Plaintext => "http",
            Self::Tls(_) => "https",
        }
    }

    /// The credentials, if there are any.
    pub fn credentials(&self) -> Option<&Credentials> {
        match self {
            Self::Plaintext => None,
            Self::Tls(credentials) => Some(credentials),
        }
    }

    /// What holds calls against the table of methods and roles.
    pub fn guard(&self) -> Guard {
        Guard::new(self.credentials().cloned())
    }
}
