//! Tokens: what stands for a certificate where there is none yet, or none is needed.
//!
//! `PURPOSE.ROLE.EXPIRY.NONCE.MAC` in text: what it is for, a role, seconds since 1970, 32 hexadecimal digits, and a
//! keyed blake3 hash of all that in 64. It is a secret to whom it is given, and says nothing of the key.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};

use crate::{Role, RoleError};

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 16;
/// Longest text that is looked at; ours are shorter than 160.
const MAX_LEN: usize = 256;

/// Why a token is refused, or a key is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no token key: expected {} hexadecimal digits", KEY_LEN * 2)]
    NoKey,
    #[error("no token: expected PURPOSE.ROLE.EXPIRY.NONCE.MAC, as `retort certs token` prints it")]
    Malformed,
    #[error("the token was not made with this coordinator's key")]
    Forged,
    #[error("the token expired {0} s ago: `retort certs token` makes a new one")]
    Expired(u64),
    #[error("{0}")]
    Role(#[from] RoleError),
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Calling what its role may.
    Access,
    /// Getting one certificate of its role.
    Join,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Join => "join",
        }
    }
}

/// What a token says that was made with the key and has not expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub purpose: Purpose,
    pub role: Role,
    /// Seconds since 1970.
    pub expiry: u64,
    /// Tells it from every other.
    pub nonce: String,
}

/// What tokens are signed with: whoever has it can make any.
#[derive(Clone)]
pub struct Key([u8; KEY_LEN]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// # Errors
    ///
    /// If the system gives no random numbers.
    pub fn random() -> Result<Self, Error> {
        Ok(Self(random()?))
    }

    /// As [`Key::to_text`] has written it.
    ///
    /// # Errors
    ///
    /// If it is anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        // A hash has as many bytes as a key.
        let bytes = blake3::Hash::from_hex(text).map_err(|_| Error::NoKey)?;
        Ok(Self(*bytes.as_bytes()))
    }

    /// 64 hexadecimal digits and the end of a line.
    pub fn to_text(&self) -> String {
        format!("{}\n", blake3::Hash::from_bytes(self.0).to_hex())
    }

    /// A token that is valid for so long from `now`.
    ///
    /// # Errors
    ///
    /// If the system gives no random numbers.
    pub fn issue(
        &self,
        purpose: Purpose,
        role: Role,
        (now, valid): (SystemTime, Duration),
    ) -> Result<String, Error> {
        let expiry = seconds(now).saturating_add(valid.as_secs());
        let nonce = u128::from_be_bytes(random::<NONCE_LEN>()?);
        let said = format!("{}.{role}.{expiry}.{nonce:032x}", purpose.name());
        let mac = self.mac(&said);
        Ok(format!("{said}.{}", mac.to_hex()))
    }

    /// What a token says.
    ///
    /// # Errors
    ///
    /// If this key did not make it, or it has expired.
    pub fn verify(&self, text: &str, now: SystemTime) -> Result<Token, Error> {
        if text.len() > MAX_LEN {
            return Err(Error::Malformed);
        }
        let (said, mac) = text.rsplit_once('.').ok_or(Error::Malformed)?;
        let mac = blake3::Hash::from_hex(mac).map_err(|_| Error::Malformed)?;
        // Hashes are compared in constant time.
        if self.mac(said) != mac {
            return Err(Error::Forged);
        }
        let mut parts = said.split('.');
        let mut part = || parts.next().ok_or(Error::Malformed);
        let purpose = match part()? {
            "access" => Purpose::Access,
            "join" => Purpose::Join,
            _ => return Err(Error::Malformed),
        };
        let role = part()?.parse()?;
        let expiry: u64 = part()?.parse().map_err(|_| Error::Malformed)?;
        let nonce = part()?.to_owned();
        let now = seconds(now);
        if now >= expiry {
            return Err(Error::Expired(now - expiry));
        }
        Ok(Token {
            purpose,
            role,
            expiry,
            nonce,
        })
    }

    fn mac(&self, said: &str) -> blake3::Hash {
        blake3::keyed_hash(&self.0, said.as_bytes())
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Error::NoRandomness).map(|()| bytes)
}

/// Since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;
    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_token_says_what_it_was_made_for() {
        let key = Key::random().unwrap();
        let key = Key::parse(&key.to_text()).unwrap();
        let text = key.issue(Purpose::Join, Role::Teacher, (NOW, HOUR)).unwrap();
        let token = key.verify(&text, NOW + HOUR - Duration::from_secs(1)).unwrap();
        assert_eq!(
            (token.purpose, token.role, token.expiry),
            (Purpose::Join, Role::Teacher, 3_600)
        );
        assert_eq!(key.verify(&text, NOW + HOUR), Err(Error::Expired(0)));
        let other = key.issue(Purpose::Join, Role::Teacher, (NOW, HOUR)).unwrap();
        assert_ne!(key.verify(&other, NOW).unwrap().nonce, token.nonce);
    }

    #[test]
    fn every_changed_byte_and_another_key_are_found() {
        let key = Key::random().unwrap();
        let text = key.issue(Purpose::Access, Role::Observer, (NOW, HOUR)).unwrap();
        assert!(key.verify(&text, NOW).is_ok());
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(key.verify(&changed, NOW).is_err(), "{changed}");
        }
        let promoted = text.replace("observer", "operator");
        assert_eq!(key.verify(&promoted, NOW), Err(Error::Forged));
        assert_eq!(Key::random().unwrap().verify(&text, NOW), Err(Error::Forged));
        for bad in ["", ".", "access", &"a.".repeat(1_000)] {
            assert_eq!(key.verify(bad, NOW), Err(Error::Malformed), "{bad}");
        }
        for bad in ["", "00", &"g".repeat(64)] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }
}
