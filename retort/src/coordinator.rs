//! The coordinator of a fleet, as commands see it: where it is, and as whom it is called.

use retort_client::{Channel, Dialer, Unreachable};
use retort_tls::{ClientFlags, Role};

use crate::failure::Failure;

#[derive(Debug, Clone)]
pub(crate) struct Coordinator {
    pub(crate) address: String,
    dialer: Dialer,
}

impl Coordinator {
    /// That of a local run, in plain text on this machine.
    pub(crate) fn local(address: String) -> Self {
        Self {
            address,
            dialer: Dialer::plaintext(),
        }
    }

    /// The one that the flags name.
    pub(crate) fn named(address: String, flags: &ClientFlags) -> Result<Self, Failure> {
        let dialer = Dialer::open(flags).map_err(Failure::input)?;
        dialer
            .check(&address)
            .map_err(|e| Failure::input(format!("--coordinator: {e}")))?;
        Ok(Self { address, dialer })
    }

    /// A connection that is made now.
    pub(crate) async fn reach(&self) -> Result<Channel, Unreachable> {
        self.dialer.reach(&self.address, Role::Coordinator).await
    }
}
