//! What a server has at hand for the run that it is in.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
// A lock: the session and the tasks that load versions share a set; it is held for look-ups only.
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{Semaphore, watch};

use crate::device::Device;
use crate::store::Store;

/// Frames that may wait to be recorded: a disk that hangs costs no more memory than they take. What comes beyond is not
/// recorded.
pub(crate) const RECORDING: usize = 64;

/// What this process serves at present.
pub(crate) struct Serving {
    pub(crate) run: String,
    pub(crate) teacher: String,
    pub(crate) dataset_digest: String,
    pub(crate) device_name: String,
    pub(crate) device: Device,
    /// Frames recorded earlier (fixed teachers).
    pub(crate) store: OnceLock<Arc<Store>>,
    /// Room for frames that wait to be recorded.
    pub(crate) recording: Arc<Semaphore>,
    /// Downloads that arrived damaged.
    pub(crate) refetched: AtomicU64,
    loading: Mutex<BTreeSet<u64>>,
}

pub(crate) type Current = watch::Receiver<Option<Arc<Serving>>>;

impl Serving {
    pub(crate) fn new((run, teacher): (String, String), device_name: String, device: Device) -> Self {
        Self {
            run,
            teacher,
            dataset_digest: device.blocks.dataset.digest().to_owned(),
            device_name,
            device,
            store: OnceLock::new(),
            recording: Arc::new(Semaphore::new(RECORDING)),
            refetched: AtomicU64::new(0),
            loading: Mutex::default(),
        }
    }

    /// Versions that are on their way here.
    pub(crate) fn loading(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when this server serves another run, or none.
    pub(crate) async fn superseded(self: &Arc<Self>, mut current: Current) {
        let other = |s: &Option<Arc<Self>>| !s.as_ref().is_some_and(|s| Arc::ptr_eq(s, self));
        let _ = current.wait_for(other).await;
    }
}
