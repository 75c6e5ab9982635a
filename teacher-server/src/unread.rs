//! The way of frames from a reader's task to its connection, bounded by bytes: a reader that stops
//! reading costs this and no more.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use retort_proto::pb;
use tokio::sync::{Notify, mpsc};
use tonic::Status;

/// Frames on their way to one connection; bytes bound it earlier where frames are large.
const FRAMES: usize = 256;

#[derive(Default)]
struct Shared {
    bytes: AtomicU64,
    less: Notify,
}

/// Room that one answer takes, from before it is computed until the connection has taken it.
pub(crate) struct Reserved {
    bytes: u64,
    shared: Arc<Shared>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.less.notify_one();
    }
}

type Item = Result<(pb::SoftTargets, Reserved), Status>;

/// The task's side.
pub(crate) struct Unread {
    most: u64,
    shared: Arc<Shared>,
    frames: mpsc::Sender<Item>,
}

/// The connection's side.
pub(crate) struct Frames {
    frames: mpsc::Receiver<Item>,
}

/// At most `most` bytes on the way, or one frame of any size.
pub(crate) fn channel(most: u64) -> (Unread, Frames) {
    let (sender, frames) = mpsc::channel(FRAMES);
    let unread = Unread {
        most,
        shared: Arc::default(),
        frames: sender,
    };
    (unread, Frames { frames })
}

impl Unread {
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let held = self.shared.bytes.load(Ordering::Relaxed);
        held == 0 || held + bytes <= self.most
    }

    pub(crate) fn reserve(&self, bytes: u64) -> Reserved {
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        Reserved {
            bytes,
            shared: self.shared.clone(),
        }
    }

    /// `false`: the reader has gone.
    pub(crate) async fn send(&self, answer: pb::SoftTargets, reserved: Reserved) -> bool {
        self.frames.send(Ok((answer, reserved))).await.is_ok()
    }

    /// Ends the stream with a status.
    pub(crate) async fn fail(&self, status: Status) {
        let _ = self.frames.send(Err(status)).await;
    }

    /// Room was given back.
    ///
    /// # Cancel safety
    ///
    /// A notice that was not taken is kept.
    pub(crate) async fn changed(&self) {
        self.shared.less.notified().await;
    }

    pub(crate) async fn closed(&self) {
        self.frames.closed().await;
    }
}

impl tokio_stream::Stream for Frames {
    type Item = Result<pb::SoftTargets, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.frames.poll_recv(context);
        item.map(|item| item.map(|sent| sent.map(|(answer, _)| answer)))
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn room_comes_back_when_the_connection_takes_a_frame() {
        let (unread, mut frames) = channel(100);
        assert!(unread.has_room(1_000), "one frame of any size");
        let first = unread.reserve(60);
        assert!(!unread.has_room(60));
        assert!(unread.send(pb::SoftTargets::default(), first).await);
        assert!(!unread.has_room(60), "it is not read yet");
        frames.next().await.unwrap().unwrap();
        unread.changed().await;
        assert!(unread.has_room(60));
        // An answer that is never sent (its want was given up) gives its room back too.
        drop(unread.reserve(100));
        assert!(unread.has_room(100));
        drop(frames);
        unread.closed().await;
        let reserved = unread.reserve(1);
        assert!(!unread.send(pb::SoftTargets::default(), reserved).await);
    }
}
