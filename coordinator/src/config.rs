use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use retort_client::Dialer;
use retort_runtime::logging::Format;
use retort_runtime::{default_name, env};
use retort_tls::{Role, Security, ServerFlags, Unprotected};

use crate::journal::etcd::Place;

/// How long open streams may take to end after a stop was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

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
    /// Members of an etcd cluster, http://host:port, separated by commas: records lie there instead of in the data folder, and
    /// a coordinator waits, listening on no port, while another one leads.
    #[arg(long, env = "RETORT_COORDINATOR__ETCD", value_delimiter = ',', value_parser = etcd_address)]
    pub etcd: Vec<String>,
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

fn etcd_address(address: &str) -> Result<String, String> {
    if address.starts_with("https://") {
        return Err(
            "etcd is spoken to without encryption only: http://host:port on a network you trust".into(),
        );
    }
    let checked = Dialer::plaintext().check(address);
    checked.map(|()| address.to_owned()).map_err(|e| e.to_string())
}

/// From the gRPC port to the HTTP port beside it.
const HTTP_OFFSET: u16 = 80;

impl Config {
    /// How this process protects itself; to be asked before a port opens.
    ///
    /// # Errors
    ///
    /// If it would not, or its credentials can't be used.
    pub fn security(&self) -> Result<Security, Unprotected> {
        self.protection.open(self.listen, Role::Coordinator)
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
    pub(crate) fn place(&self) -> Option<Place> {
        (!self.etcd.is_empty()).then(|| Place {
            endpoints: self.etcd.clone(),
            prefix: self.etcd_prefix.clone(),
            name: default_name("coordinator"),
        })
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
        let refused = Args::try_parse_from(["c", "--etcd", "http://a:2379,b:2379"]).unwrap_err();
        assert!(
            refused.to_string().contains("--etcd") && refused.to_string().contains("b:2379"),
            "{refused}"
        );
        let config = Args::try_parse_from(["c", "--etcd", "http://a:2379,http://b:2379"])
            .unwrap()
            .config;
        assert_eq!(
            config.place().unwrap().endpoints,
            ["http://a:2379", "http://b:2379"]
        );
        assert!(Args::try_parse_from(["c"]).unwrap().config.place().is_none());
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
