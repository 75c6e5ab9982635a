//! Accepting connections: handshakes side by side, so that nobody waits for a slow one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tracing::{info, warn};

use crate::{Connection, Credentials, Role, Security};

/// Handshakes under way at a time, each some kilobytes and half a millisecond of a core. A whole fleet that returns after
/// a restart fits; beyond it connections wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Connections without a certificate that stand at a time: those of people with a token, of joining machines, and of anybody
/// else. They leave room for the fleet.
const NAMELESS: usize = 1_024;
/// Pause after a connection could not be accepted, for want of file descriptors say.
const AGAIN: Duration = Duration::from_millis(100);
/// A handshake takes two round trips. Whoever is slower gives its place to others.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// A connection over TLS begins with a record of this type.
const TLS_HANDSHAKE: u8 = 0x16;
/// A client's first bytes in HTTP/2, of what a server then says nothing.
const PREFACE: usize = 24;
/// Length, type, flags and stream of a frame.
const FRAME_HEADER: usize = 9;
/// A frame of this type begins a request.
const HEADERS: u8 = 1;
/// SETTINGS with nothing in it.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// GOAWAY: no stream was accepted, INADEQUATE_SECURITY.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12];

/// Connections whose other end is known, for `serve_with_incoming_shutdown`.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    security: Security,
    handshakes: JoinSet<Option<Connection>>,
    nameless: Arc<Semaphore>,
    limit: Duration,
    /// Nothing is accepted before it is over.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub fn new(listener: TcpListener, security: Security) -> Self {
        Self {
            listener,
            security,
            handshakes: JoinSet::new(),
            nameless: Arc::new(Semaphore::new(NAMELESS)),
            limit: HANDSHAKE_LIMIT,
            pause: None,
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            while this.handshakes.len() < HANDSHAKES {
                if let Some(pause) = &mut this.pause {
                    if pause.as_mut().poll(cx).is_pending() {
                        break;
                    }
                    this.pause = None;
                }
                let Poll::Ready(accepted) = this.listener.poll_accept(cx) else {
                    break;
                };
                let (stream, address) = match accepted {
                    Ok(accepted) => accepted,
                    // The server would ask again at once, for as long as it takes.
                    Err(e) => {
                        warn!("a connection could not be accepted: {e}");
                        this.pause = Some(Box::pin(tokio::time::sleep(AGAIN)));
                        continue;
                    }
                };
                // Frames are written whole; waiting for more to send only delays them.
                let _ = stream.set_nodelay(true);
                match &this.security {
                    Security::Plaintext => return Poll::Ready(Some(Ok(Connection::Plaintext(stream)))),
                    Security::Tls(credentials) => {
                        let shaken = accept(credentials.clone(), stream, this.nameless.clone());
                        this.handshakes.spawn(in_time(shaken, address, this.limit));
                    }
                }
            }
            match ready!(this.handshakes.poll_join_next(cx)) {
                Some(Ok(Some(connection))) => return Poll::Ready(Some(Ok(connection))),
                // It came to nothing, which was said where it did, and left room for another.
                Some(_) => {}
                None => return Poll::Pending,
            }
        }
    }
}

async fn in_time(
    shaken: impl Future<Output = Result<Connection, String>>,
    address: SocketAddr,
    limit: Duration,
) -> Option<Connection> {
    let refused = match tokio::time::timeout(limit, shaken).await {
        Ok(Ok(connection)) => return Some(connection),
        Ok(Err(reason)) => reason,
        Err(_) => format!("no handshake within {limit:?}"),
    };
    info!(%address, "a connection was refused: {refused}");
    None
}

async fn accept(
    credentials: Credentials,
    mut stream: TcpStream,
    nameless: Arc<Semaphore>,
) -> Result<Connection, String> {
    let mut first = [0];
    let peeked = stream.peek(&mut first).await.map_err(|e| e.to_string())?;
    if peeked == 1 && first[0] != TLS_HANDSHAKE {
        // Whether it hears the answer changes nothing here.
        let _ = ask_to_encrypt(&mut stream).await;
        return Err("it speaks plain text".into());
    }
    let config = credentials.current().server.clone();
    let stream = TlsAcceptor::from(config)
        .accept(stream)
        .await
        .map_err(|e| e.to_string())?;
    let certificates = stream.get_ref().1.peer_certificates();
    let (role, place) = match certificates.and_then(|chain| chain.first()) {
        Some(certificate) => {
            let role = Role::of(certificate).map_err(|e| format!("its certificate has {e}"))?;
            (Some(role), None)
        }
        None => {
            let place = nameless
                .try_acquire_owned()
                .map_err(|_| format!("{NAMELESS} without a certificate are connected already"))?;
            (None, Some(place))
        }
    };
    let stream = Box::new(stream);
    Ok(Connection::Tls { stream, role, place })
}

/// Tells a client that speaks HTTP/2 in plain text so, by an error that it can name. Its first request is waited for: an
/// answer before that is to nobody, and the client would only see that the connection ended.
async fn ask_to_encrypt(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&SETTINGS).await?;
    stream.read_exact(&mut [0; PREFACE]).await?;
    loop {
        let mut header = [0; FRAME_HEADER];
        stream.read_exact(&mut header).await?;
        if header[3] == HEADERS {
            break;
        }
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = (&mut *stream).take(length.into());
        tokio::io::copy(&mut payload, &mut tokio::io::sink()).await?;
    }
    stream.write_all(&GOAWAY).await?;
    // The rest of it is read, or closing would take the answer back.
    tokio::io::copy(stream, &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests;
