//! The fleet's certificate authority: a key that signs, and what it signs.
//!
//! It signs public keys, never a request's own wishes: names, role and times are ours, so a caller gets the role that it
//! may have and nothing besides.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;

use crate::credentials::{self, provider};
use crate::{CA, CERTIFICATE, Error, FLEET, KEY, Role};

/// The CA's key, beside its certificate.
pub const CA_KEY: &str = "ca-key.pem";
/// What a key signs, before its own public part, to prove that its holder asks.
pub const KEY_PROOF: &[u8] = b"retort: a certificate for the key ";

/// What a CA's name begins with; a part of its key's hash follows, so that two have two names.
const NAME: &str = "retort fleet";
const HASH_DIGITS: usize = 16;
/// How long a CA is good for.
const CA_VALID: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Certificates begin so long ago, since clocks differ.
const SKEW: Duration = Duration::from_secs(300);

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Files(#[from] Error),
    #[error("{}: {source}", path.display())]
    Key { path: PathBuf, source: rcgen::Error },
    #[error(
        "{} is not the key of {}, or that was not made by `retort certs init`: {source}",
        key.display(),
        ca.display()
    )]
    OtherCa {
        key: PathBuf,
        ca: PathBuf,
        source: rustls::Error,
    },
    #[error("the key is no point of P-256, or its proof was not made with it")]
    Proof,
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate with its key.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// Signs.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    /// Its certificates, in PEM.
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, written to a folder.
    ///
    /// # Errors
    ///
    /// If a file can't be written.
    pub fn create(dir: &Path, now: SystemTime) -> Result<Self, Refusal> {
        let key = KeyPair::generate()?;
        let mut params = params(&key);
        params.not_before = (now - SKEW).into();
        params.not_after = (now + CA_VALID).into();
        let ca = params.self_signed(&key)?.pem();
        let files = [(CA, ca.as_str()), (CA_KEY, &key.serialize_pem())];
        write_folder(dir, &files).map_err(|(path, source)| Error::Read { path, source })?;
        Ok(Self {
            dir: dir.to_owned(),
            ca,
            issuer: Issuer::new(params, key),
        })
    }

    /// The one in a folder.
    ///
    /// # Errors
    ///
    /// If a file is missing or is not what it should be.
    pub fn read(dir: &Path) -> Result<Self, Refusal> {
        let text = |name: &str| {
            let bytes = credentials::read(&dir.join(name))?;
            Ok::<_, Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let key = KeyPair::from_pem(&text(CA_KEY)?).map_err(|source| Refusal::Key {
            path: dir.join(CA_KEY),
            source,
        })?;
        let authority = Self {
            dir: dir.to_owned(),
            ca: text(CA)?,
            issuer: Issuer::new(params(&key), key),
        };
        // Said now rather than to the first who asks: a signature that the CA's certificate does not explain.
        let day = Duration::from_secs(86_400);
        authority.issue(Role::Observer, (SystemTime::now(), day))?;
        Ok(authority)
    }

    /// The certificates that others verify what it signs with.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// A certificate for a new key, valid for so long from `now`.
    ///
    /// # Errors
    ///
    /// If the key does not belong to the CA's certificate.
    pub fn issue(&self, role: Role, times: (SystemTime, Duration)) -> Result<Issued, Refusal> {
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate: self.certificate(&key, role, times)?,
            key: key.serialize_pem(),
        })
    }

    /// A certificate for somebody else's key, of which the proof is that it signed.
    ///
    /// # Errors
    ///
    /// If it did not.
    pub fn sign(&self, proof: &Proof, role: Role, times: (SystemTime, Duration)) -> Result<String, Refusal> {
        let signed = [KEY_PROOF, &proof.public_key].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &proof.public_key)
            .verify(&signed, &proof.signature)
            .map_err(|_| Refusal::Proof)?;
        self.certificate(&Point(&proof.public_key), role, times)
    }

    fn certificate(
        &self,
        key: &impl PublicKeyData,
        role: Role,
        (now, valid): (SystemTime, Duration),
    ) -> Result<String, Refusal> {
        let mut params = CertificateParams::new([FLEET.to_owned()])?;
        params
            .subject_alt_names
            .push(SanType::URI(role.uri().as_str().try_into()?));
        params
            .distinguished_name
            .push(DnType::CommonName, format!("retort {role}"));
        params.not_before = (now - SKEW).into();
        params.not_after = (now + valid).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role.serves() {
            let serves = ExtendedKeyUsagePurpose::ServerAuth;
            params.extended_key_usages.push(serves);
        }
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(key, &self.issuer)?;
        self.check(signed.der(), now)?;
        Ok(signed.pem())
    }

    /// Whether the CA's certificate vouches for what was just signed.
    fn check(&self, certificate: &CertificateDer<'_>, now: SystemTime) -> Result<(), Refusal> {
        let roots = credentials::roots(&self.dir.join(CA))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
        let verifier = verifier.build().map_err(Error::from)?;
        let now = Duration::from_secs(crate::token::seconds(now));
        let verified = verifier.verify_client_cert(certificate, &[], UnixTime::since_unix_epoch(now));
        verified.map(drop).map_err(|source| Refusal::OtherCa {
            key: self.dir.join(CA_KEY),
            ca: self.dir.join(CA),
            source,
        })
    }
}

/// What the certificate of the CA with this key says.
fn params(key: &KeyPair) -> CertificateParams {
    let hash = blake3::hash(key.der_bytes()).to_hex();
    let name = format!("{NAME} {}", &hash[..HASH_DIGITS]);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A public key, and that its holder asks.
#[derive(Debug, Clone)]
pub struct Proof {
    /// A point of P-256, uncompressed: 65 bytes.
    pub public_key: Vec<u8>,
    /// ECDSA over [`KEY_PROOF`] and the public key, with SHA-256, in ASN.1.
    pub signature: Vec<u8>,
}

impl Proof {
    /// A new key, in PEM, and its proof.
    ///
    /// # Errors
    ///
    /// If the system gives no random numbers.
    pub fn create() -> Result<(Self, String), Refusal> {
        let key = KeyPair::generate()?;
        let public_key = key.der_bytes().to_vec();
        let signature = SigningKey::sign(&key, &[KEY_PROOF, &public_key].concat())?;
        let proof = Self {
            public_key,
            signature,
        };
        Ok((proof, key.serialize_pem()))
    }
}

/// A public key of somebody else's.
struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Issued {
    /// The files of a credentials folder.
    pub fn files<'a>(&'a self, ca: &'a str) -> [(&'static str, &'a str); 3] {
        // The key first: between the two renames the folder can't be used, and the former credentials stay in use.
        [
            (CA, ca),
            (KEY, self.key.as_str()),
            (CERTIFICATE, self.certificate.as_str()),
        ]
    }
}

/// Writes files that only their owner can read, each whole or not at all.
///
/// # Errors
///
/// If one can't be written; with its path.
pub fn write_folder(dir: &Path, files: &[(&str, &str)]) -> Result<(), (PathBuf, io::Error)> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| (dir.to_owned(), e))?;
    let partial = |name: &str| dir.join(format!(".{name}.partial"));
    for (name, text) in files {
        let path = partial(name);
        let _ = std::fs::remove_file(&path);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
        written.map_err(|e| (path, e))?;
    }
    for (name, _) in files {
        let path = dir.join(name);
        std::fs::rename(partial(name), &path).map_err(|e| (path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
