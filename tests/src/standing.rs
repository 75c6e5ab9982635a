//! A standing fleet: its processes are started one by one, and nobody starts them again.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::online::{LIMIT, text};
use crate::proxy::Proxy;
use crate::{Harness, Running, eventually, signal};

/// A coordinator, teacher servers `t0..`, and workers `w0..`, of which `w0` reaches the coordinator
/// over a link that can be cut.
#[derive(Debug)]
pub struct Standing {
    pub h: Harness,
    pub coordinator: String,
    pub link: Proxy,
    processes: Vec<(String, Running)>,
    /// Below it lies a folder of credentials for each role; without it the fleet speaks in plain text.
    certs: Option<PathBuf>,
}

impl Standing {
    pub fn new(h: Harness, workers: usize, servers: usize) -> Self {
        let data = h.path("data");
        Self::with_data(h, workers, servers, &data)
    }

    /// The coordinator keeps its state in `data`.
    pub fn with_data(h: Harness, workers: usize, servers: usize, data: &Path) -> Self {
        Self::built(h, (workers, servers), data, None)
    }

    /// Everybody has a certificate of the CA in `certs`, as `retort certs init` made it.
    pub fn with_tls(h: Harness, workers: usize, servers: usize, certs: &Path) -> Self {
        let data = h.path("data");
        Self::built(h, (workers, servers), &data, Some(certs.to_owned()))
    }

    fn built(h: Harness, (workers, servers): (usize, usize), data: &Path, certs: Option<PathBuf>) -> Self {
        let args = ["coordinator", "--data-dir", text(data)];
        let (running, coordinator) = start(&h, "c", &args, certs.as_deref());
        let link = Proxy::to(&coordinator).expect("a free port");
        let mut fleet = Self {
            h,
            coordinator,
            link,
            processes: vec![("c".into(), running)],
            certs,
        };
        for i in 0..servers {
            fleet.add("teacher-server", &format!("t{i}"));
        }
        for i in 0..workers {
            fleet.add("student-worker", &format!("w{i}"));
        }
        fleet
    }

    /// One process more.
    pub fn add(&mut self, role: &str, name: &str) {
        let coordinator = if name == "w0" {
            &self.link.address
        } else {
            &self.coordinator
        };
        let (running, _) = start(
            &self.h,
            name,
            &[role, "--coordinator", coordinator, "--name", name],
            self.certs.as_deref(),
        );
        self.processes.push((name.to_owned(), running));
    }

    /// A teacher server that students reach over a link, and that reaches the coordinator over another.
    pub fn add_linked_server(&mut self, name: &str) -> (Proxy, Proxy) {
        let data = Proxy::new().expect("a free port");
        let control = Proxy::to(&self.coordinator).expect("a free port");
        let args = [
            "teacher-server",
            "--coordinator",
            &control.address,
            "--name",
            name,
        ];
        let advertise = ["--advertise", &data.address];
        let (running, address) = start(&self.h, name, &[&args[..], &advertise].concat(), None);
        data.aim(&address);
        self.processes.push((name.to_owned(), running));
        (data, control)
    }

    /// The flags of whoever calls in this role.
    pub fn credentials(&self, role: &str) -> Vec<String> {
        let folder = self.certs.as_ref().map(|certs| certs.join(role));
        let flags = folder.map(|folder| vec!["--tls".to_owned(), text(&folder).to_owned()]);
        flags.unwrap_or_default()
    }

    /// Where a process listens.
    pub fn address(&self, name: &str) -> String {
        std::fs::read_to_string(address_file(&self.h, name)).expect("it listens")
    }

    pub fn pid(&self, name: &str) -> u32 {
        let found = self.processes.iter().find(|(n, _)| n == name);
        found.expect("it was started").1.pid()
    }

    /// SIGKILL; it does not come back.
    pub fn kill(&mut self, name: &str) {
        self.processes.retain(|(n, _)| n != name);
    }

    /// Tells a process to leave, as whoever stops containers does, and gives its exit code.
    pub fn terminate(&mut self, name: &str) -> i32 {
        let at = self.processes.iter().position(|(n, _)| n == name);
        let (_, running) = self.processes.remove(at.expect("it was started"));
        signal(running.pid(), Signal::TERM).expect("it runs");
        running.end(LIMIT).expect("it ends").0
    }

    /// Submits a job and waits until its student has merged something; gives the submitter.
    pub fn submit(&self, job: &str, out: &Path) -> Running {
        let file = self.h.job("job.toml", job);
        let mut args = vec![
            "submit",
            text(&file),
            "--coordinator",
            &self.coordinator,
            "--out",
            text(out),
            "--json",
        ];
        let operator = self.credentials("operator");
        args.extend(operator.iter().map(String::as_str));
        let running = self.h.start(&args);
        eventually("training", LIMIT, || {
            (self.student()?["round"].as_u64()? > 5).then_some(())
        })
        .expect("the run gets under way");
        running
    }

    pub fn status(&self) -> Option<Value> {
        let mut args = vec!["status", "--json", "--coordinator", &self.coordinator];
        let observer = self.credentials("observer");
        args.extend(observer.iter().map(String::as_str));
        let output = self.h.call(&args);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The status of the student's group.
    pub fn student(&self) -> Option<Value> {
        let status = self.status()?;
        let groups = status["groups"].as_array()?.clone();
        groups.into_iter().find(|g| g["kind"] == "student")
    }

    /// What a teacher server has counted.
    pub fn count(&self, server: &str, counter: &str) -> u64 {
        let status = self.status().unwrap_or_default();
        let servers = status["teachers"][0]["servers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let server = servers.into_iter().find(|s| s["worker"] == server);
        server.and_then(|s| s["counters"][counter].as_u64()).unwrap_or(0)
    }

    /// Whether some event's text contains all of these.
    pub fn tells(&self, parts: &[&str]) -> bool {
        let status = self.status().unwrap_or_default();
        let events = status["events"].as_array().cloned().unwrap_or_default();
        let matches = |e: &Value| {
            e["text"]
                .as_str()
                .is_some_and(|text| parts.iter().all(|p| text.contains(p)))
        };
        events.iter().any(matches)
    }
}

/// Where a role says what it listens on.
fn address_file(h: &Harness, name: &str) -> PathBuf {
    h.path(&format!("{name}.address"))
}

/// Starts a role, and gives its address.
fn start(h: &Harness, name: &str, args: &[&str], certs: Option<&Path>) -> (Running, String) {
    let file = address_file(h, name);
    // Another process of that name may have written it.
    let _ = std::fs::remove_file(&file);
    let mut all = [args, &["--listen", "127.0.0.1:0", "--announce", text(&file)]].concat();
    let folder = certs.map(|certs| {
        certs.join(match args[0] {
            "teacher-server" => "teacher",
            "student-worker" => "student",
            role => role,
        })
    });
    if let Some(folder) = &folder {
        all.extend(["--tls", text(folder)]);
    }
    let running = h.start(&all);
    let address = eventually("a role listens", LIMIT, || std::fs::read_to_string(&file).ok());
    (running, address.expect("a role listens"))
}
