//! A folder with what proves who a process is and says whom it trusts, read again when it changes.
//!
//! ```text
//! ca.pem      certificates of the CAs that are trusted (several while one takes over from another)
//! cert.pem    one's own certificate, and any between it and the CA
//! key.pem     its private key
//! token.key   of a server that takes tokens: what they are signed with
//! ```

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tracing::{info, warn};

use crate::{Role, RoleError, token};

pub const CA: &str = "ca.pem";
pub const CERTIFICATE: &str = "cert.pem";
pub const KEY: &str = "key.pem";
pub const TOKEN_KEY: &str = "token.key";

/// What is spoken above TLS.
const ALPN: &[u8] = b"h2";

/// A folder cannot serve as credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}; `retort certs init DIR` makes a folder for each role", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: expected {expected} in PEM", path.display())]
    Pem { path: PathBuf, expected: &'static str },
    #[error("{}: {source}", path.display())]
    Rejected { path: PathBuf, source: rustls::Error },
    #[error(
        "{}: {source}; {}", path.display(),
        "`retort certs issue` makes one that ca.pem vouches for"
    )]
    Own { path: PathBuf, source: rustls::Error },
    #[error("{}: {source}", path.display())]
    Role { path: PathBuf, source: RoleError },
    #[error("{} is of a {found}, expected one of a {expected}", path.display())]
    OtherRole {
        path: PathBuf,
        found: Role,
        expected: Role,
    },
    #[error("{}: {source}", path.display())]
    TokenKey { path: PathBuf, source: token::Error },
    #[error("{}", .0)]
    Tls(#[from] rustls::Error),
    #[error("{}", .0)]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Cheap to clone; every clone sees what was read last.
#[derive(Debug, Clone)]
pub struct Credentials(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    whose: Whose,
    // A lock: any connection may be the first to find that the files changed. Never held across an await.
    state: Mutex<State>,
}

/// Whose rules the certificates follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// One's own has a role, and the CA has signed it.
    Fleet,
    /// Somebody else's: what one's own says is for the server to judge.
    Foreign,
}

#[derive(Debug)]
struct State {
    /// Of the files as they were looked at last, whether they could be used or not.
    stamps: Stamps,
    loaded: Arc<Loaded>,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// `None`: there are no certificate and no key, only a CA.
    pub(crate) role: Option<Role>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) tokens: Option<token::Key>,
}

/// When a file changed last, how large it is, and which one it is: a secret of Kubernetes is replaced by another file.
type Stamps = [Option<(i64, i64, u64, u64)>; 4];

impl Credentials {
    /// Those of a process in this role.
    ///
    /// # Errors
    ///
    /// If a file is missing or can't be used, the certificate is of another role, expired, or not the CA's.
    pub fn of(dir: &Path, role: Role) -> Result<Self, Error> {
        let credentials = Self::read(dir)?;
        match credentials.role() {
            Some(found) if found == role => Ok(credentials),
            Some(found) => Err(Error::OtherRole {
                path: dir.join(CERTIFICATE),
                found,
                expected: role,
            }),
            None => Err(Error::Read {
                path: dir.join(CERTIFICATE),
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }

    /// Those of whoever has them. A folder with `ca.pem` alone trusts others and proves nothing.
    ///
    /// # Errors
    ///
    /// As [`Credentials::of`], but for the role.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        Self::open(dir, Whose::Fleet)
    }

    /// Those for servers of another system, whose certificates have no role: for [`Expected::Host`](crate::Expected::Host)
    /// only.
    ///
    /// # Errors
    ///
    /// If a file is missing or can't be used.
    pub fn foreign(dir: &Path) -> Result<Self, Error> {
        Self::open(dir, Whose::Foreign)
    }

    fn open(dir: &Path, whose: Whose) -> Result<Self, Error> {
        let stamps = stamps(dir);
        let loaded = Arc::new(load(dir, whose)?);
        let state = Mutex::new(State { stamps, loaded });
        let dir = dir.to_owned();
        Ok(Self(Arc::new(Shared { dir, whose, state })))
    }

    /// The folder they are read from.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The role of the certificate, if there is one.
    pub fn role(&self) -> Option<Role> {
        self.current().role
    }

    /// What the files say; what they said before, where they can't be used. Looks at four files' attributes.
    pub(crate) fn current(&self) -> Arc<Loaded> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Before they are read: a change meanwhile is found the next time.
        let stamps = stamps(&self.0.dir);
        if stamps != state.stamps {
            state.stamps = stamps;
            let dir = self.0.dir.display();
            match load(&self.0.dir, self.0.whose) {
                Ok(loaded) if loaded.role == state.loaded.role => {
                    info!("{dir}: the certificates were read again");
                    state.loaded = Arc::new(loaded);
                }
                Ok(loaded) => {
                    let role = |role: Option<Role>| role.map_or("nobody", Role::name);
                    let (now, before) = (role(loaded.role), role(state.loaded.role));
                    warn!(
                        "{dir}: the certificate is of a {now}, the former one of a {before}, which stays in use"
                    );
                }
                Err(e) => warn!("the former certificates stay in use: {e}"),
            }
        }
        state.loaded.clone()
    }
}

fn stamps(dir: &Path) -> Stamps {
    [CA, CERTIFICATE, KEY, TOKEN_KEY].map(|name| {
        let found = std::fs::metadata(dir.join(name)).ok()?;
        Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
    })
}

/// The ciphers; given explicitly, so that no other part of the program decides.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn load(dir: &Path, whose: Whose) -> Result<Loaded, Error> {
    let path = |name: &str| dir.join(name);
    let roots = Arc::new(roots(&path(CA))?);
    let own = own(dir)?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .allow_unauthenticated()
        .build()?;
    let mut role = None;
    if let Some((chain, _)) = own.as_ref().filter(|_| whose == Whose::Fleet) {
        let (path, certificate) = (path(CERTIFICATE), &chain[0]);
        // Whoever is not accepted by its own rule would be refused by everybody.
        clients
            .verify_client_cert(certificate, &chain[1..], UnixTime::now())
            .map_err(|source| Error::Own {
                path: path.clone(),
                source,
            })?;
        role = Some(Role::of(certificate).map_err(|source| Error::Role { path, source })?);
    }
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients);
    let servers = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(servers);
    let rejected = |source| Error::Rejected {
        path: path(KEY),
        source,
    };
    let (mut server, mut client) = match own {
        Some((chain, key)) => (
            server
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(rejected)?,
            client.with_client_auth_cert(chain, key).map_err(rejected)?,
        ),
        None => (
            server.with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new())),
            client.with_no_client_auth(),
        ),
    };
    // Every connection proves itself anew: a certificate that expired must not live on in a session.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    client.resumption = rustls::client::Resumption::disabled();
    server.alpn_protocols = vec![ALPN.to_vec()];
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Loaded {
        role,
        server: Arc::new(server),
        client: Arc::new(client),
        tokens: token_key(&path(TOKEN_KEY))?,
    })
}

pub(crate) fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| Error::Rejected {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Error::Pem {
            path: path.to_owned(),
            expected: "a certificate",
        }),
    }
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Certificate and key, if there is any of the two.
fn own(dir: &Path) -> Result<Option<Own>, Error> {
    let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
    if !certificate.exists() && !key.exists() {
        return Ok(None);
    }
    let chain = certificates(&certificate)?;
    let found = PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|_| Error::Pem {
        path: key,
        expected: "a private key",
    })?;
    Ok(Some((chain, found)))
}

fn token_key(path: &Path) -> Result<Option<token::Key>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let text = read(path)?;
    let key = token::Key::parse(&String::from_utf8_lossy(&text));
    key.map(Some).map_err(|source| Error::TokenKey {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
