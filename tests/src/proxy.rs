//! A TCP proxy that delays, cuts, mutes and damages: the link between two processes, under a test's control.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// One link. Connections through it end when it is cut, and new ones are refused until it heals.
#[derive(Debug)]
pub struct Proxy {
    /// `http://127.0.0.1:PORT`, or `https://` where that is what it leads to
    pub address: String,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `host:port` behind the link.
    target: OnceLock<String>,
    /// What the target answers is held back.
    mute: AtomicBool,
    /// Answers of at least this many bytes at once are damaged, every other one; 0: none.
    damage: AtomicU64,
    cut: AtomicBool,
    /// Counts cuts, so that a connection knows that it is of an earlier life.
    life: AtomicU64,
    delay_ms: AtomicU64,
    jitter_ms: AtomicU64,
}

impl Proxy {
    /// A link to `http://host:port` or `https://host:port`.
    pub fn to(address: &str) -> std::io::Result<Self> {
        let mut proxy = Self::new()?;
        if address.starts_with("https://") {
            proxy.address = proxy.address.replace("http://", "https://");
        }
        proxy.aim(address);
        Ok(proxy)
    }

    /// A link whose far end is not known yet; see [`Proxy::aim`].
    pub fn new() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.cut.load(Ordering::SeqCst) {
                    continue; // dropped: the connection is refused
                }
                let Some(Ok(server)) = shared.target.get().map(TcpStream::connect) else {
                    continue;
                };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                if let (Ok(c), Ok(s)) = (client.try_clone(), server.try_clone()) {
                    pump(client, s, &shared, false);
                    pump(server, c, &shared, true);
                }
            }
        });
        Ok(Self { address, state })
    }

    /// Leads to `http://host:port` from now on, once.
    pub fn aim(&self, address: &str) {
        let target = address
            .trim_start_matches("http://")
            .trim_start_matches("https://");
        let target = target.to_owned();
        let _ = self.state.target.set(target);
    }

    /// Whether answers are held back while requests pass: a partition in one direction.
    pub fn mute(&self, mute: bool) {
        self.state.mute.store(mute, Ordering::SeqCst);
    }

    /// Flips a bit in every other answer that arrives with at least so many bytes at once; 0: in none.
    pub fn damage(&self, at_least: u64) {
        self.state.damage.store(at_least, Ordering::SeqCst);
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

fn pump(mut from: TcpStream, mut to: TcpStream, state: &Arc<State>, answers: bool) {
    let state = state.clone();
    let life = state.life.load(Ordering::SeqCst);
    std::thread::spawn(move || {
        let _ = from.set_read_timeout(Some(LOOK));
        let mut buffer = vec![0; 1 << 16];
        let mut spread = life | 1;
        let mut odd = false;
        while state.life.load(Ordering::SeqCst) == life {
            if answers && state.mute.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK);
                continue;
            }
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
                    let damage = state.damage.load(Ordering::SeqCst);
                    if answers && damage > 0 && n as u64 >= damage {
                        odd = !odd;
                        // Within what is carried, not in the headers before it.
                        buffer[n / 2] ^= u8::from(odd) << 4;
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
