//! A real etcd for tests: one member in a folder that goes with it.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to listen.
const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    child: Option<Child>,
    folder: tempfile::TempDir,
    ports: [u16; 2],
    /// Folder with ca.pem, server.pem and server.key; clients must show a certificate.
    tls: Option<PathBuf>,
}

impl Server {
    /// `None`, said loudly, where etcd is not installed; with `RETORT_NO_SKIP=1` that is a failure.
    pub(crate) fn start() -> Option<Self> {
        Self::with(None)
    }

    pub(crate) fn with(tls: Option<PathBuf>) -> Option<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let ports = [(); 2].map(|()| free().expect("a free port").port());
        let mut server = Self {
            child: None,
            folder: tempfile::tempdir().expect("a folder"),
            ports,
            tls,
        };
        server.up().then_some(server)
    }

    /// Starts it, with what it knew before.
    #[must_use]
    pub(crate) fn up(&mut self) -> bool {
        let (client, peer) = (self.address(), format!("http://127.0.0.1:{}", self.ports[1]));
        let tls = self.tls.iter().flat_map(|dir| {
            let files = [
                ("--cert-file", "server.pem"),
                ("--key-file", "server.key"),
                ("--trusted-ca-file", "ca.pem"),
            ];
            let files = files.map(|(flag, file)| format!("{flag}={}", dir.join(file).display()));
            files.into_iter().chain(["--client-cert-auth".to_owned()])
        });
        let child = Command::new("etcd")
            .args(tls)
            .env(
                "ETCD_UNSUPPORTED_ARCH",
                std::env::consts::ARCH.replace("aarch64", "arm64"),
            )
            .arg("--data-dir")
            .arg(self.folder.path())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => self.child = Some(child),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let why = "etcd is not installed (apt-get install etcd-server)";
                let must = std::env::var_os("RETORT_NO_SKIP").is_some_and(|value| value == "1");
                assert!(!must, "RETORT_NO_SKIP=1, and {why}");
                // Past the capture of output, which hides what a passing test prints.
                writeln!(std::io::stderr(), "SKIPPED: {why}").expect("stderr");
                return false;
            }
            Err(e) => panic!("start etcd: {e}"),
        }
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.ports[0])).is_err() {
            assert!(began.elapsed() < SOON, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// SIGKILL; what it knew stays in its folder.
    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn address(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports[0])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}
