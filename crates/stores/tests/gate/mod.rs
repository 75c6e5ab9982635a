//! A way to a store that fails on order.

use std::fmt;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A way to an HTTP server that closes each connection after one answer, as moto does.
#[derive(Debug)]
pub(crate) struct Gate {
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Every so many requests one is answered with 500; 0: none.
    fails: AtomicU64,
    /// Every so many long answers one ends in its middle; 0: none.
    cuts: AtomicU64,
    requests: AtomicU64,
    long: AtomicU64,
    failed: AtomicU64,
    cut: AtomicU64,
    /// Requests for what is left of an object.
    rests: AtomicU64,
    /// Done before the next object is asked for.
    before: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// Bytes of an answer, with its head, that is worth cutting.
const LONG: usize = 1024;

impl Gate {
    pub(crate) fn to(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let gate = Self {
            address: format!("http://{}", listener.local_addr()?),
            state: Arc::default(),
        };
        let target = address.trim_start_matches("http://").to_owned();
        let state = gate.state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, state) = (target.clone(), state.clone());
                // Whoever loses its connection tries again.
                std::thread::spawn(move || pass(client, &target, &state));
            }
        });
        Ok(gate)
    }

    /// From now on every `n`-th request fails.
    pub(crate) fn fail_every(&self, n: u64) {
        self.state.fails.store(n, Ordering::SeqCst);
    }

    /// From now on every `n`-th long answer ends in its middle.
    pub(crate) fn cut_every(&self, n: u64) {
        self.state.cuts.store(n, Ordering::SeqCst);
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Requests that failed, answers that were cut, and requests for what was left of an object.
    pub(crate) fn faults(&self) -> [u64; 3] {
        let State {
            failed, cut, rests, ..
        } = &*self.state;
        [failed, cut, rests].map(|counter| counter.load(Ordering::SeqCst))
    }

    /// Does something once, when an object is asked for, before the store hears of it.
    pub(crate) fn before_an_object(&self, work: impl FnOnce() + Send + 'static) {
        *self.state.before.lock().unwrap() = Some(Box::new(work));
    }
}

/// One request without a body, and its answer.
fn pass(mut client: TcpStream, target: &str, state: &State) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut reader = BufReader::new(client.try_clone()?);
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if text.contains("\r\nrange: bytes=") {
        state.rests.fetch_add(1, Ordering::SeqCst);
    }
    if text.starts_with("get ")
        && !text.contains("list-type=2")
        && let Ok(mut before) = state.before.lock()
        && let Some(work) = before.take()
    {
        work();
    }
    let number = state.requests.fetch_add(1, Ordering::SeqCst);
    let fails = state.fails.load(Ordering::SeqCst);
    if fails > 0 && number.is_multiple_of(fails) {
        state.failed.fetch_add(1, Ordering::SeqCst);
        let failure = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return client.write_all(failure.as_bytes());
    }
    let mut server = TcpStream::connect(target)?;
    server.write_all(&head)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let cuts = state.cuts.load(Ordering::SeqCst);
    let cut =
        cuts > 0 && answer.len() >= LONG && state.long.fetch_add(1, Ordering::SeqCst).is_multiple_of(cuts);
    if cut {
        state.cut.fetch_add(1, Ordering::SeqCst);
        answer.truncate(answer.len() / 2);
    }
    client.write_all(&answer)?;
    client.shutdown(Shutdown::Both)
}
