use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use retort_client::Dialer;
use retort_runtime::logging::Format;
use retort_runtime::{default_name, env};
use retort_tls::{Role, Security, ServerFlags};

use crate::journal::etcd::Place;

/// How long open streams may take to end after a stop was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Configuration of the coordinator.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, env = env::LISTEN, default_value = "0.0.0.0:7300")]
    pub listen: SocketAddr,
    /// Address of the HTTP port: dashboard, metrics, status as JSON. Unless given, --listen's with a
    /// port 80 higher (7380 beside 7300); with --tls only this machine reaches it there, since it is not encrypted.
    #[arg(long, env = "RETORT_COORDINATOR__HTTP")]
    pub http: Option<SocketAddr>,
    /// Folder for published versions and manifests. With --etcd all coordinators of the cluster must share it, or --versions.
    #[arg(long, env = "RETORT_COORDINATOR__DATA_DIR", default_value = "retort-data")]
    pub data_dir: PathBuf,
    /// Where published versions and manifests lie instead of in the data folder: s3://BUCKET/PREFIX, by the AWS_ variables of the
    /// environment (needs the cargo feature `object-store`).
    #[arg(long, env = "RETORT_COORDINATOR__VERSIONS", value_parser = versions, value_name = "URL")]
    pub versions: Option<Versions>,
    /// Members of an etcd cluster, http://host:port or, with --etcd-tls, https://host:port, separated by commas: records lie there
    /// instead of in the data folder, and a coordinator waits, listening on no port, while another one leads.
    #[arg(long, env = "RETORT_COORDINATOR__ETCD", value_delimiter = ',')]
    pub etcd: Vec<String>,
    /// Folder with ca.pem, which vouches for the members by their hosts, and with cert.pem and key.pem where etcd asks for a
    /// client's certificate. Read again when it changes.
    #[arg(
        long,
        env = "RETORT_COORDINATOR__ETCD_TLS",
        value_name = "DIR",
        requires = "etcd"
    )]
    pub etcd_tls: Option<PathBuf>,
    /// What the keys in etcd begin with. Coordinators of one fleet share it.
    #[arg(long, env = "RETORT_COORDINATOR__ETCD_PREFIX", default_value = "retort")]
    pub etcd_prefix: String,
    #[command(flatten)]
    pub protection: ServerFlags,
    /// Write the address listened on to this file once bound.
    #[arg(long, hide = true)]
    pub announce: Option<PathBuf>,
    /// Write the address of the HTTP port to this file once bound.
    #[arg(long, hide = true)]
    pub announce_http: Option<PathBuf>,
    /// Leave when standard input ends.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
    #[arg(long, value_enum, default_value_t)]
    pub log_format: Format,
}

/// Where versions lie if not in the data folder.
#[cfg(feature = "object-store")]
pub type Versions = retort_stores::Bucket;
/// This build knows no other place than the data folder.
#[cfg(not(feature = "object-store"))]
pub type Versions = std::convert::Infallible;

#[cfg(feature = "object-store")]
fn versions(url: &str) -> Result<Versions, retort_stores::FetchError> {
    retort_stores::Bucket::new(url, retort_stores::variables())
}

#[cfg(not(feature = "object-store"))]
fn versions(_: &str) -> Result<Versions, &'static str> {
    Err("this build keeps versions in the data folder only: build with --features object-store")
}

/// From the gRPC port to the HTTP port beside it.
const HTTP_OFFSET: u16 = 80;

impl Config {
    /// How this process protects itself; to be asked before a port opens.
    ///
    /// # Errors
    ///
    /// If it would not, or its credentials, or those for etcd, or the data folder can't be used.
    pub fn security(&self) -> anyhow::Result<Security> {
        self.place()?;
        let security = self.protection.open(self.listen, Role::Coordinator)?;
        self.make_data_dir()?;
        Ok(security)
    }

    /// Makes the data folder, if anything is kept in it.
    fn make_data_dir(&self) -> anyhow::Result<()> {
        if !self.etcd.is_empty() && self.versions.is_some() {
            return Ok(());
        }
        let dir = &self.data_dir;
        std::fs::create_dir_all(dir)
            .with_context(|| format!("--data-dir {}: name a folder that can be written", dir.display()))
    }

    /// Where the HTTP port is. Port 0, beside port 0 or beyond the last: the system chooses.
    pub(crate) fn http(&self) -> SocketAddr {
        let beside = match self.listen.port() {
            0 => 0,
            port => port.checked_add(HTTP_OFFSET).unwrap_or(0),
        };
        let ip = match (&self.protection.tls, self.listen.ip()) {
            (None, ip) => ip,
            (Some(_), IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
            (Some(_), IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
        };
        self.http.unwrap_or_else(|| SocketAddr::new(ip, beside))
    }

    /// Where this coordinator leads before it serves, if its records lie in etcd.
    pub(crate) fn place(&self) -> anyhow::Result<Option<Place>> {
        if self.etcd.is_empty() {
            return Ok(None);
        }
        let dialer = match &self.etcd_tls {
            Some(dir) => Dialer::foreign(dir).context("--etcd-tls")?,
            None => Dialer::plaintext(),
        };
        for member in &self.etcd {
            let encrypted = member.starts_with("https://");
            match &self.etcd_tls {
                None if encrypted => {
                    bail!("--etcd {member}: --etcd-tls DIR names the folder with the CA of etcd in ca.pem")
                }
                Some(_) if !encrypted => {
                    bail!("--etcd {member}: expected https://, since --etcd-tls asks for encryption")
                }
                _ => dialer.check(member).context("--etcd")?,
            }
        }
        Ok(Some(Place {
            endpoints: self.etcd.clone(),
            dialer,
            prefix: self.etcd_prefix.clone(),
            name: default_name("coordinator"),
        }))
    }

    pub(crate) fn shutdown_grace(&self) -> Duration {
        SHUTDOWN_GRACE
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn the_http_port_lies_beside_the_other_unless_given() {
        for (args, expected) in [
            (&["c"][..], "0.0.0.0:7380"),
            (&["c", "--listen", "127.0.0.1:7300"], "127.0.0.1:7380"),
            (&["c", "--listen", "127.0.0.1:0"], "127.0.0.1:0"),
            (&["c", "--listen", "[::1]:65500"], "[::1]:0"),
            (&["c", "--http", "127.0.0.1:9090"], "127.0.0.1:9090"),
            // What is not encrypted leaves the machine only when that is asked for.
            (&["c", "--tls", "d"], "127.0.0.1:7380"),
            (&["c", "--tls", "d", "--listen", "[::]:7300"], "[::1]:7380"),
            (&["c", "--tls", "d", "--http", "0.0.0.0:7380"], "0.0.0.0:7380"),
        ] {
            let config = Args::try_parse_from(args).unwrap().config;
            assert_eq!(config.http(), expected.parse().unwrap(), "{args:?}");
        }
    }

    #[test]
    fn an_address_of_etcd_that_is_none_is_refused_by_its_flag() {
        let place = |args: &[&str]| {
            let args = ["c"].iter().chain(args);
            Args::try_parse_from(args).unwrap().config.place()
        };
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().to_str().unwrap();
        for (args, parts) in [
            (&["--etcd", "http://a:2379,b:2379"][..], ["--etcd", "b:2379"]),
            (
                &["--etcd", "https://a:2379"],
                ["--etcd https://a:2379", "--etcd-tls DIR"],
            ),
            (
                &["--etcd", "http://a:2379", "--etcd-tls", empty],
                ["--etcd-tls", "ca.pem"],
            ),
        ] {
            let refused = format!("{:#}", place(args).unwrap_err());
            assert!(
                parts.iter().all(|part| refused.contains(part)),
                "{args:?}: {refused}"
            );
        }
        let found = place(&["--etcd", "http://a:2379,http://b:2379"])
            .unwrap()
            .unwrap();
        assert_eq!(found.endpoints, ["http://a:2379", "http://b:2379"]);
        assert!(place(&[]).unwrap().is_none());
        assert!(
            Args::try_parse_from(["c", "--etcd-tls", "d"]).is_err(),
            "of which etcd?"
        );
    }

    #[test]
    fn a_data_folder_that_cannot_be_is_refused_by_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let opened = |dir: PathBuf| {
            let args = [
                "c",
                "--listen",
                "127.0.0.1:0",
                "--data-dir",
                dir.to_str().unwrap(),
            ];
            Args::try_parse_from(args).unwrap().config.security()
        };
        let refused = format!("{:#}", opened(file.join("below")).unwrap_err());
        assert!(
            refused.contains("--data-dir") && refused.contains("below"),
            "{refused}"
        );
        let made = folder.path().join("a/b");
        opened(made.clone()).unwrap();
        assert!(made.is_dir());
    }

    #[test]
    fn a_place_of_versions_that_is_none_is_refused_by_its_flag() {
        let refused = Args::try_parse_from(["c", "--versions", "/tmp"])
            .unwrap_err()
            .to_string();
        let says = if cfg!(feature = "object-store") {
            "s3://BUCKET/PREFIX"
        } else {
            "--features object-store"
        };
        assert!(
            refused.contains("--versions") && refused.contains(says),
            "{refused}"
        );
    }

    #[test]
    fn an_address_without_a_port_is_refused_by_its_flag() {
        let refused = Args::try_parse_from(["c", "--http", "localhost"]).unwrap_err();
        assert!(refused.to_string().contains("--http"), "{refused}");
    }
}
