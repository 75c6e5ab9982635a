//! Places where a test lets a process die as if it were killed.
//!
//! `RETORT_FAILPOINT=NAME@N` ends the process the N-th time it comes to NAME; with
//! `RETORT_FAILPOINT_ONCE=FOLDER` only once, however often it is started again. Without the variable
//! a place costs one comparison.
//!
//! `RETORT_POISON=SAMPLE:panic` makes reading that sample fail as damaged data would, and
//! `SAMPLE:abort` makes it kill the process that trains on it, `SAMPLE:step` only the computation, by a panic.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::caught;

struct Failpoint {
    name: String,
    left: AtomicU64,
    marker: Option<PathBuf>,
}

static FAILPOINT: OnceLock<Option<Failpoint>> = OnceLock::new();

/// The process dies here if it was asked to.
pub fn hit(name: &str) {
    let Some(failpoint) = FAILPOINT.get_or_init(from_environment) else {
        return;
    };
    if failpoint.name != name || failpoint.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    if let Some(marker) = &failpoint.marker {
        if marker.exists() {
            return;
        }
        let _ = std::fs::write(marker, b"");
    }
    tracing::warn!("failpoint {name}: the process ends");
    std::process::abort();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poison {
    Panic,
    Abort,
    Step,
}

static POISON: OnceLock<Option<(u32, Poison)>> = OnceLock::new();

/// Reads a sample; a panic (damaged data, say) is an error with its message. `trains`: the reader is
/// one that `abort` kills.
pub fn guard<T>(sample: u32, trains: bool, read: impl FnOnce() -> T) -> Result<T, String> {
    let poison = POISON.get_or_init(|| {
        let asked = std::env::var("RETORT_POISON").ok()?;
        let (sample, how) = asked.split_once(':')?;
        let how = match how {
            "abort" => Poison::Abort,
            "step" => Poison::Step,
            _ => Poison::Panic,
        };
        Some((sample.parse().ok()?, how))
    });
    let bad = poison.filter(|(bad, _)| *bad == sample);
    if let Some((_, Poison::Abort)) = bad.filter(|_| trains) {
        tracing::warn!(sample, "poison: the process ends");
        std::process::abort();
    }
    assert!(
        bad.is_none_or(|(_, how)| how != Poison::Step) || !trains,
        "sample {sample} is poison"
    );
    caught(|| {
        assert!(
            bad.is_none_or(|(_, how)| how != Poison::Panic),
            "sample {sample} is poison"
        );
        read()
    })
}

fn from_environment() -> Option<Failpoint> {
    let asked = std::env::var("RETORT_FAILPOINT").ok()?;
    let (name, count) = asked.split_once('@').unwrap_or((&asked, "1"));
    let folder = std::env::var_os("RETORT_FAILPOINT_ONCE").map(PathBuf::from);
    Some(Failpoint {
        name: name.to_owned(),
        left: AtomicU64::new(count.parse().unwrap_or(1)),
        marker: folder.map(|f| f.join(name)),
    })
}
