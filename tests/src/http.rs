//! A client for the coordinator's HTTP port: HTTP/1.0, so that a body ends with its connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

/// Longest silence of an answer; events come every second while a run trains.
const SILENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Asks `method path` of `http://HOST:PORT`.
pub fn ask(address: &str, method: &str, path: &str) -> anyhow::Result<Answer> {
    let (status, headers, mut reader) = open(address, method, path)?;
    let mut body = String::new();
    reader.read_to_string(&mut body).context("body")?;
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// Sends JSON to `path` of `http://HOST:PORT` as a page of `origin` does; empty: as no page.
pub fn post(address: &str, path: &str, (origin, body): (&str, &str)) -> anyhow::Result<Answer> {
    let origin = match origin {
        "" => String::new(),
        origin => format!("Origin: {origin}\r\n"),
    };
    let more = format!(
        "{origin}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, headers, mut reader) = send(address, "POST", (path, &more))?;
    let mut body = String::new();
    reader.read_to_string(&mut body).context("body")?;
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// Reads states of a run as server-sent events until `enough`; gives them all.
pub fn events(
    address: &str,
    run: &str,
    mut enough: impl FnMut(&[Value]) -> bool,
) -> anyhow::Result<Vec<Value>> {
    let (status, _, reader) = open(address, "GET", &format!("/events?run={run}"))?;
    anyhow::ensure!(status == 200, "status {status}");
    let mut states = Vec::new();
    for line in reader.lines() {
        if let Some(data) = line?.strip_prefix("data: ") {
            states.push(serde_json::from_str(data)?);
            if enough(&states) {
                return Ok(states);
            }
        }
    }
    bail!("the stream ended after {} states", states.len())
}

/// The HTTP port of a local run's coordinator, once it is there.
pub fn dashboard(out: &Path) -> Option<String> {
    let text = std::fs::read_to_string(out.join("processes.json")).ok()?;
    let json: Value = serde_json::from_str(&text).ok()?;
    let all = json["processes"].as_array()?;
    let coordinator = all.iter().find(|p| p["role"] == "coordinator")?;
    Some(coordinator["addresses"][1].as_str()?.to_owned())
}

type Opened = (u16, Vec<(String, String)>, BufReader<TcpStream>);

fn open(address: &str, method: &str, path: &str) -> anyhow::Result<Opened> {
    send(address, method, (path, "\r\n"))
}

/// `more`: the other headers, an empty line, the body.
fn send(address: &str, method: &str, (path, more): (&str, &str)) -> anyhow::Result<Opened> {
    let host = address.strip_prefix("http://").context("an http address")?;
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(SILENCE))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\n{more}")?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let status = first.split(' ').nth(1).context("a status line")?.parse()?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            return Ok((status, headers, reader));
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}
