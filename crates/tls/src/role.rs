//! What a process or a person is, as a certificate says it: `spiffe://retort/ROLE` among its names.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// What every URI of a role begins with.
const PREFIX: &str = "spiffe://retort/";

/// One of five; a certificate has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Decides, and keeps versions. It calls nobody.
    Coordinator,
    /// Serves soft targets.
    Teacher,
    /// Trains: students, baselines and online teachers.
    Student,
    /// A person or program that submits, stops and fetches.
    Operator,
    /// May read the status.
    Observer,
}

impl Role {
    pub const ALL: [Self; 5] = [
        Self::Coordinator,
        Self::Teacher,
        Self::Student,
        Self::Operator,
        Self::Observer,
    ];

    /// The last part of its URI, and the name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Teacher => "teacher",
            Self::Student => "student",
            Self::Operator => "operator",
            Self::Observer => "observer",
        }
    }

    /// Whether its certificate may also be shown by who is connected to.
    pub(crate) fn serves(self) -> bool {
        matches!(self, Self::Coordinator | Self::Teacher | Self::Student)
    }

    pub(crate) fn uri(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// The role in a certificate that was verified, or is one's own.
    ///
    /// # Errors
    ///
    /// If it names no role, several, or one that is not known.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, RoleError> {
        let certificate = EndEntityCert::try_from(certificate).map_err(|_| RoleError::Unreadable)?;
        let mut names = certificate
            .valid_uri_names()
            .filter_map(|uri| uri.strip_prefix(PREFIX));
        let name = names.next().ok_or(RoleError::None)?;
        if names.next().is_some() {
            return Err(RoleError::Several);
        }
        name.parse()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(name: &str) -> Result<Self, RoleError> {
        let known = Self::ALL.into_iter().find(|role| role.name() == name);
        known.ok_or_else(|| RoleError::Unknown(name.to_owned()))
    }
}

/// A certificate does not say what its holder is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    #[error("no X.509 certificate of version 3")]
    Unreadable,
    #[error("no name of the form {PREFIX}ROLE")]
    None,
    #[error("several names of the form {PREFIX}ROLE, expected one")]
    Several,
    #[error("role {0:?}, expected coordinator, teacher, student, operator or observer")]
    Unknown(String),
}
