use retort_tls::Refused;
use tonic::{Code, Status};

/// Refusals in a row, which back-off spreads over half a minute: long enough for a certificate that is just being replaced.
const ENOUGH: u32 = 14;

/// How often in a row a coordinator, or this end, has refused the other. A worker gives up then, since only somebody who
/// gives it another certificate can help; one that is merely away it waits for.
#[derive(Debug, Default)]
pub struct Refusals(u32);

impl Refusals {
    /// Notes an attempt that failed with this status, if it got that far. True: it is time to give up.
    pub fn note(&mut self, status: Option<&Status>) -> bool {
        let refused = status.is_some_and(|status| {
            matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
                || Refused::below(status).is_some()
        });
        self.0 = if refused { self.0 + 1 } else { 0 };
        self.0 >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_in_a_row_end_it() {
        let mut refusals = Refusals::default();
        let denied = Status::permission_denied("no");
        for _ in 1..ENOUGH {
            assert!(!refusals.note(Some(&denied)));
        }
        assert!(!refusals.note(Some(&Status::unavailable("away"))));
        for _ in 1..ENOUGH {
            assert!(!refusals.note(Some(&denied)));
        }
        assert!(refusals.note(Some(&denied)));
        assert!(!refusals.note(None));
    }
}
