//! The control stream of one session: heartbeats up, commands down, opened again when it breaks.

use std::collections::VecDeque;
use std::time::Duration;

use retort_client::{Backoff, Channel};
use retort_coordinator_core::ids;
use retort_coordinator_core::run::Heartbeat;
use retort_proto::pb;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use crate::replica::Event;
use crate::rpc;

/// Heartbeats waiting to be sent; one is sent at a time.
const HEARTBEATS: usize = 4;

pub(crate) struct Stream {
    pub(crate) session: ids::Session,
    pub(crate) channel: Channel,
    pub(crate) pause: Duration,
    pub(crate) heartbeat: watch::Receiver<Heartbeat>,
    pub(crate) events: mpsc::Sender<Event>,
}

impl Stream {
    /// Keeps a stream open until the session is lost or `token` is cancelled.
    pub(crate) async fn keep(mut self, token: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(self.session.incarnation);
        loop {
            let status = tokio::select! {
                ended = self.follow(&mut backoff) => match ended {
                    Ok(()) => return Ok(()),
                    Err(status) => status,
                },
                () = token.cancelled() => return Ok(()),
            };
            if let Ok(failed) = rpc::judge(&status) {
                let _ = self
                    .events
                    .send(Event::Failed(self.session.clone(), failed))
                    .await;
                return Ok(());
            }
            // The coordinator is away: training goes on with what is leased.
            warn!("control stream: {}", status.message());
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = token.cancelled() => return Ok(()),
            }
        }
    }

    /// One stream. `Ok`: the replica is gone.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), Status> {
        let (up, messages) = mpsc::channel(HEARTBEATS);
        // When the heartbeats were sent whose answers are still to come, oldest first.
        let mut sent = VecDeque::new();
        self.beat(&up, &mut sent);
        let mut down = retort_client::fleet(self.channel.clone())
            .control(ReceiverStream::new(messages))
            .await?
            .into_inner();
        backoff.reset();
        let mut beats = tokio::time::interval(self.pause);
        loop {
            // Cancel-safe: streams, intervals and watches keep what was not taken.
            tokio::select! {
                message = down.message() => {
                    let message = message?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                    let event = match message.command {
                        Some(pb::control_down::Command::Alive(_)) => match sent.pop_front() {
                            Some(at) => Event::Heard(self.session.clone(), at),
                            None => continue,
                        },
                        Some(command) => Event::Control(self.session.clone(), command),
                        None => continue,
                    };
                    if self.events.send(event).await.is_err() {
                        return Ok(());
                    }
                }
                _ = beats.tick() => self.beat(&up, &mut sent),
                changed = self.heartbeat.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.beat(&up, &mut sent);
                }
            }
        }
    }

    /// Sends a heartbeat, unless several wait to be sent already.
    fn beat(&mut self, up: &mpsc::Sender<pb::ControlUp>, sent: &mut VecDeque<Instant>) {
        let message = pb::ControlUp::from((&self.session, &*self.heartbeat.borrow_and_update()));
        if up.try_send(message).is_ok() {
            sent.push_back(Instant::now());
        }
    }
}
