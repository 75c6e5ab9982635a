//! What a command line says of all this.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;

use crate::{Authority, CA_KEY, Credentials, Error, Refusal, Role, Security};

/// The environment's name for `--tls`.
pub const TLS: &str = "RETORT_TLS";

/// Flags of what listens.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServerFlags {
    /// Folder with ca.pem, cert.pem and key.pem of this role (`retort certs init` makes one for each): every connection is
    /// encrypted, and both ends prove what they are.
    #[arg(long, env = TLS, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Serve in plain text where others can connect too. Whoever reaches the port may do anything.
    #[arg(long, env = "RETORT_PLAINTEXT", value_parser = FalseyValueParser::new(), conflicts_with = "tls")]
    pub plaintext: bool,
}

/// Flags of what only connects.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClientFlags {
    /// Folder with ca.pem, and with cert.pem and key.pem unless a token stands for them; addresses are https:// then.
    #[arg(long, env = TLS, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// What stands for a certificate: `retort certs token` makes one. Beside --tls, for ca.pem.
    #[arg(long, env = "RETORT_TOKEN", hide_env_values = true, requires = "tls")]
    pub token: Option<String>,
}

/// A process would be open to the network.
#[derive(Debug, thiserror::Error)]
pub enum Unprotected {
    #[error(
        "--listen {0} can be reached from elsewhere, and nothing would be encrypted: --tls DIR (`retort certs init` makes \
         one), --listen 127.0.0.1:{port}, or --plaintext on a network that is trusted",
        port = .0.port()
    )]
    Listens(SocketAddr),
    #[error("--tls {0}")]
    Credentials(Error),
    /// The coordinator's folder holds a CA's key that can't sign.
    #[error("--tls {0}")]
    Authority(Refusal),
}

impl ServerFlags {
    /// How a process in this role that listens there protects itself.
    ///
    /// # Errors
    ///
    /// If it would not, or its credentials can't be used.
    pub fn open(&self, listen: SocketAddr, role: Role) -> Result<Security, Unprotected> {
        match &self.tls {
            Some(dir) => {
                let credentials = Credentials::of(dir, role).map_err(Unprotected::Credentials)?;
                if role == Role::Coordinator && dir.join(CA_KEY).exists() {
                    Authority::read(dir).map_err(Unprotected::Authority)?;
                }
                Ok(Security::Tls(credentials))
            }
            None if self.plaintext || listen.ip().is_loopback() => Ok(Security::Plaintext),
            None => Err(Unprotected::Listens(listen)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_leaves_the_machine_only_when_asked_for() {
        let flags = |plaintext| ServerFlags { tls: None, plaintext };
        for (listen, plaintext, allowed) in [
            ("127.0.0.1:7300", false, true),
            ("[::1]:7300", false, true),
            ("0.0.0.0:7300", false, false),
            ("[::]:7300", false, false),
            ("10.0.0.7:7300", false, false),
            ("0.0.0.0:7300", true, true),
        ] {
            let opened = flags(plaintext).open(listen.parse().unwrap(), Role::Coordinator);
            assert_eq!(opened.is_ok(), allowed, "{listen}");
            if let Err(e) = opened {
                let text = e.to_string();
                for part in [listen, "--tls DIR", "--plaintext", "127.0.0.1:7300"] {
                    assert!(text.contains(part), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let flags = ServerFlags {
            tls: Some("/nowhere".into()),
            plaintext: false,
        };
        let refused = flags.open("127.0.0.1:0".parse().unwrap(), Role::Teacher);
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/ca.pem") && text.contains("retort certs init"),
            "{text}"
        );
    }
}
