//! A TCP proxy that delays and cuts: the link between two processes, under a test's control.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// One link. Connections through it end when it is cut, and new ones are refused until it heals.
#[derive(Debug)]
pub struct Proxy {
    /// `http://127.0.0.1:PORT`
    pub address: String,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    cut: AtomicBool,
    /// Counts cuts, so that a connection knows that it is of an earlier life.
    life: AtomicU64,
    delay_ms: AtomicU64,
    jitter_ms: AtomicU64,
}

impl Proxy {
    /// A link to `http://host:port`.
    pub fn to(address: &str) -> std::io::Result<Self> {
        let target = address.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.cut.load(Ordering::SeqCst) {
                    continue; // dropped: the connection is refused
                }
                let Ok(server) = TcpStream::connect(&target) else {
                    continue;
                };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                if let (Ok(c), Ok(s)) = (client.try_clone(), server.try_clone()) {
                    pump(client, s, &shared);
                    pump(server, c, &shared);
                }
            }
        });
        Ok(Self { address, state })
    }

    /// Breaks every connection and refuses new ones.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        self.state.life.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets connections through again.
    pub fn heal(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// Delays whatever passes by this and up to `jitter_ms` more.
    pub fn delay(&self, ms: u64, jitter_ms: u64) {
        self.state.delay_ms.store(ms, Ordering::SeqCst);
        self.state.jitter_ms.store(jitter_ms, Ordering::SeqCst);
    }
}

/// Pause between two looks at whether the link was cut.
const LOOK: Duration = Duration::from_millis(50);

fn pump(mut from: TcpStream, mut to: TcpStream, state: &Arc<State>) {
    let state = state.clone();
    let life = state.life.load(Ordering::SeqCst);
    std::thread::spawn(move || {
        let _ = from.set_read_timeout(Some(LOOK));
        let mut buffer = vec![0; 1 << 16];
        let mut spread = life | 1;
        while state.life.load(Ordering::SeqCst) == life {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    spread = spread.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let jitter = state.jitter_ms.load(Ordering::SeqCst);
                    let more = (spread >> 33).checked_rem(jitter).unwrap_or(0);
                    let delay = state.delay_ms.load(Ordering::SeqCst) + more;
                    if delay > 0 {
                        std::thread::sleep(Duration::from_millis(delay));
                    }
                    if to.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => break,
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}
