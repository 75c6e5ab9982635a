//! A server that speaks S3. The scenarios of `tests/` start it too.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// Names the server's program where it is not on the path. With it an absent server is a failure.
pub(crate) const PROGRAM: &str = "RETORT_MOTO_SERVER";
/// The server is in Python.
const START_LIMIT: Duration = Duration::from_secs(60);
/// It wants to be told who overwrites an object, and believes everybody.
const ANYBODY: &str =
    "AWS4-HMAC-SHA256 Credential=me/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
/// Between two looks at its log.
const POLL: Duration = Duration::from_millis(20);

/// Moto's server: buckets in memory.
#[derive(Debug)]
pub(crate) struct S3 {
    child: Child,
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
    _log: TempDir,
}

impl S3 {
    /// `None`, and a loud line, where it is not installed (`pip install "moto[server]"`); with `RETORT_NO_SKIP=1` a failure.
    pub(crate) fn start() -> anyhow::Result<Option<Self>> {
        let named = std::env::var(PROGRAM).ok();
        let program = named.clone().unwrap_or_else(|| "moto_server".to_owned());
        let folder = TempDir::new()?;
        let log = folder.path().join("log");
        let file = File::create(&log)?;
        let child = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                let why = "no S3 to speak to, for moto_server is not installed: pip install \"moto[server]\"";
                let must = std::env::var_os("RETORT_NO_SKIP").is_some_and(|value| value == "1");
                ensure!(!must, "RETORT_NO_SKIP=1, and {why}");
                // Past the capture of output, which hides what a passing test prints.
                writeln!(std::io::stderr(), "SKIPPED: {why}")?;
                return Ok(None);
            }
            Err(e) => return Err(e).context(program),
        };
        let mut server = Self {
            child,
            address: String::new(),
            _log: folder,
        };
        let began = Instant::now();
        while server.address.is_empty() {
            ensure!(
                began.elapsed() < START_LIMIT,
                "{program} does not start: {}",
                std::fs::read_to_string(&log)?
            );
            std::thread::sleep(POLL);
            let text = std::fs::read_to_string(&log)?;
            let line = text
                .split("Running on ")
                .nth(1)
                .and_then(|rest| rest.split_once('\n'));
            server.address = line.map_or("", |(address, _)| address.trim()).to_owned();
        }
        Ok(Some(server))
    }

    pub(crate) fn make_bucket(&self, name: &str) -> anyhow::Result<()> {
        self.put(&format!("/{name}"), b"")
    }

    /// Writes `/BUCKET/KEY`.
    pub(crate) fn put(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        put(&self.address, path, bytes)
    }
}

/// Writes `/BUCKET/KEY` of the server with this address.
pub(crate) fn put(address: &str, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host)?;
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {ANYBODY}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        bytes.len()
    )?;
    stream.write_all(bytes)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "put {path}: {answer}");
    Ok(())
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
