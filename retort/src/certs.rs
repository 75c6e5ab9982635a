//! `retort certs`: a CA for a fleet, folders of credentials, tokens, joining and renewing.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args as Arguments, Subcommand};
use retort_client::Dialer;
use retort_proto::pb;
use retort_tls::token::{Key, Purpose};
use retort_tls::{
    Authority, CA, CA_KEY, CERTIFICATE, Credentials, KEY, Proof, Refusal, Role, TOKEN_KEY, write_folder,
};
use serde_json::json;

use crate::failure::{Failure, block_on};

const EXAMPLES: &str = "\
Examples:
  retort certs init certs                        # a CA, and certs/{coordinator,teacher,student,operator,observer}
  retort coordinator --tls certs/coordinator     # and so on; clients: retort status --tls certs/operator --coordinator https://...

A machine more, by a token for joining (the coordinator's folder was made with init --join):
  retort certs token certs/coordinator --join student                                     # on the coordinator's machine
  retort certs join --coordinator https://HOST:7300 --token TOKEN --ca ca.pem --out creds # on the other one
  retort certs renew --coordinator https://HOST:7300 --tls creds                          # before 30 days have passed

Somebody who may look:
  retort certs token certs/coordinator --status --valid 8h
  retort status --coordinator https://HOST:7300 --tls FOLDER-WITH-ca.pem --token TOKEN";

#[derive(Debug, Arguments)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// What was done.
struct Done {
    folder: PathBuf,
    /// Of the credentials in it, or of folders below it.
    roles: Vec<&'static str>,
    text: String,
}

impl Done {
    fn new(folder: &Path, roles: Vec<&'static str>, text: String) -> Self {
        let folder = folder.to_owned();
        Self { folder, roles, text }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a CA and a folder for each role below DIR.
    #[command(after_help = "Example:\n  retort certs init certs --join")]
    Init {
        /// Where: ca.pem, ca-key.pem (keep it away from the fleet), and a folder for each role.
        dir: PathBuf,
        /// How long the certificates are good for.
        #[arg(long, default_value = "365d", value_parser = humantime::parse_duration)]
        valid: Duration,
        /// Give the coordinator the CA's key, so that it signs certificates for those who bring a token.
        #[arg(long)]
        join: bool,
        /// Leave a CA that is there already as it is, and succeed.
        #[arg(long)]
        if_absent: bool,
    },
    /// Make one more folder of credentials with the CA in DIR.
    #[command(after_help = "Example:\n  retort certs issue certs --role teacher --out teacher-7")]
    Issue {
        /// The folder with ca.pem and ca-key.pem.
        dir: PathBuf,
        /// coordinator, teacher, student, operator or observer.
        #[arg(long)]
        role: Role,
        /// Folder for ca.pem, cert.pem and key.pem; what is there of them is replaced.
        #[arg(long)]
        out: PathBuf,
        /// How long the certificate is good for.
        #[arg(long, default_value = "365d", value_parser = humantime::parse_duration)]
        valid: Duration,
    },
    /// Print a token, made with the coordinator's token.key.
    #[command(after_help = "Example:\n  retort certs token certs/coordinator --join student --valid 15m")]
    Token {
        /// The coordinator's folder.
        dir: PathBuf,
        /// For one certificate of this role.
        #[arg(
            long,
            value_name = "ROLE",
            required_unless_present = "status",
            conflicts_with = "status"
        )]
        join: Option<Role>,
        /// For reading the status, any number of times.
        #[arg(long)]
        status: bool,
        /// How long it is good for: 15 minutes for joining, 8 hours for the status, unless given.
        #[arg(long, value_parser = humantime::parse_duration)]
        valid: Option<Duration>,
    },
    /// Make a key and get a certificate for it, by a token.
    #[command(
        after_help = "Example:\n  retort certs join --coordinator https://HOST:7300 --token TOKEN --ca ca.pem --out creds"
    )]
    Join {
        /// https://host:port
        #[arg(long, env = retort_runtime::env::COORDINATOR)]
        coordinator: String,
        /// What `retort certs token DIR --join ROLE` printed.
        #[arg(long, env = "RETORT_TOKEN", hide_env_values = true)]
        token: String,
        /// The fleet's ca.pem, by which the coordinator is known.
        #[arg(long)]
        ca: PathBuf,
        /// Folder for ca.pem, cert.pem and key.pem.
        #[arg(long)]
        out: PathBuf,
    },
    /// Get another certificate like the one in a folder, with a new key. Running processes take it up by themselves.
    #[command(
        after_help = "Example (once a week):\n  retort certs renew --coordinator https://HOST:7300 --tls creds"
    )]
    Renew {
        /// https://host:port
        #[arg(long, env = retort_runtime::env::COORDINATOR)]
        coordinator: String,
        /// Folder with ca.pem, cert.pem and key.pem.
        #[arg(long, env = retort_tls::TLS)]
        tls: PathBuf,
    },
}

/// Of a token, unless said otherwise.
const JOIN_VALID: Duration = Duration::from_secs(15 * 60);
const STATUS_VALID: Duration = Duration::from_secs(8 * 3_600);

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer")]
pub(crate) fn command(args: Args) -> Result<(), Failure> {
    let done = match args.command {
        Command::Init {
            dir,
            valid,
            join,
            if_absent,
        } => init(&dir, valid, join, if_absent)?,
        Command::Issue {
            dir,
            role,
            out,
            valid,
        } => issue(&dir, role, &out, valid)?,
        Command::Token { dir, join, valid, .. } => return token(&dir, join, valid, args.json),
        Command::Join {
            coordinator,
            token,
            ca,
            out,
        } => block_on(join(coordinator, token, ca, out))?,
        Command::Renew { coordinator, tls } => block_on(renew(coordinator, tls))?,
    };
    let Done { folder, roles, text } = done;
    if args.json {
        let folder = folder.display().to_string();
        println!("{:#}", json!({ "folder": folder, "roles": roles }));
    } else {
        eprintln!("{text}");
    }
    Ok(())
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Make(_) => Self::Run(refusal.into()),
            _ => Self::input(refusal),
        }
    }
}

fn init(dir: &Path, valid: Duration, join: bool, if_absent: bool) -> Result<Done, Failure> {
    let names: Vec<&str> = Role::ALL.iter().map(|r| r.name()).collect();
    if dir.join(CA).exists() || dir.join(CA_KEY).exists() {
        if if_absent {
            let text = format!("{} has a CA already: left as it is", dir.display());
            return Ok(Done::new(dir, names, text));
        }
        return Err(Failure::input(format!(
            "{} has a CA already: `retort certs issue` makes more certificates with it, another folder another CA",
            dir.display()
        )));
    }
    let now = SystemTime::now();
    let authority = Authority::create(dir, now)?;
    for role in Role::ALL {
        let folder = dir.join(role.name());
        write(
            &folder,
            &authority.issue(role, (now, valid))?.files(authority.ca()),
        )?;
        if role == Role::Coordinator {
            let key = Key::random().context("make a token key")?;
            write(&folder, &[(TOKEN_KEY, &key.to_text())])?;
            if join {
                let text = std::fs::read_to_string(dir.join(CA_KEY)).context("read the CA's key")?;
                write(&folder, &[(CA_KEY, &text)])?;
            }
        }
    }
    let text = format!(
        "{}: a CA, and credentials for {}. Give each machine the folder of its role; ca-key.pem makes any certificate, so \
         keep it to yourself.",
        dir.display(),
        names.join(", ")
    );
    Ok(Done::new(dir, names, text))
}

fn issue(dir: &Path, role: Role, out: &Path, valid: Duration) -> Result<Done, Failure> {
    let authority = Authority::read(dir)?;
    let issued = authority.issue(role, (SystemTime::now(), valid))?;
    write(out, &issued.files(authority.ca()))?;
    let text = format!("{}: credentials of a {role}", out.display());
    Ok(Done::new(out, vec![role.name()], text))
}

/// Prints it, alone on stdout.
#[expect(clippy::print_stdout, reason = "the command's answer")]
fn token(dir: &Path, join: Option<Role>, valid: Option<Duration>, json: bool) -> Result<(), Failure> {
    let path = dir.join(TOKEN_KEY);
    let unusable = |e: &dyn std::fmt::Display| {
        Failure::input(format!(
            "{}: {e}; `retort certs init` makes one in the coordinator's folder",
            path.display()
        ))
    };
    let text = std::fs::read_to_string(&path).map_err(|e| unusable(&e))?;
    let key = Key::parse(&text).map_err(|e| unusable(&e))?;
    let (purpose, role, usual) = match join {
        Some(role) => (Purpose::Join, role, JOIN_VALID),
        None => (Purpose::Access, Role::Observer, STATUS_VALID),
    };
    let times = (SystemTime::now(), valid.unwrap_or(usual));
    let token = key.issue(purpose, role, times).context("make a token")?;
    if json {
        let valid_s = times.1.as_secs();
        println!(
            "{:#}",
            json!({ "token": token, "role": role.name(), "valid_s": valid_s })
        );
    } else {
        println!("{token}");
    }
    Ok(())
}

async fn join(coordinator: String, token: String, ca: PathBuf, out: PathBuf) -> Result<Done, Failure> {
    if out.join(CERTIFICATE).exists() || out.join(KEY).exists() {
        return Err(Failure::input(format!(
            "{} has credentials already: `retort certs renew` renews them, another folder takes new ones",
            out.display()
        )));
    }
    let text =
        std::fs::read_to_string(&ca).map_err(|e| Failure::input(format!("--ca {}: {e}", ca.display())))?;
    write(&out, &[(CA, &text)])?;
    let credentials =
        Credentials::read(&out).map_err(|e| Failure::input(format!("--ca {}: {e}", ca.display())))?;
    let dialer = Dialer::new(credentials)
        .with_token(&token)
        .map_err(Failure::input)?;
    let channel = dialer.reach(&coordinator, Role::Coordinator).await?;
    let (request, key) = request()?;
    let reply = retort_client::join(channel).join(request).await;
    accept(&out, reply.map_err(refused)?.into_inner(), &key)
}

async fn renew(coordinator: String, dir: PathBuf) -> Result<Done, Failure> {
    let credentials = Credentials::read(&dir).map_err(|e| Failure::input(format!("--tls {e}")))?;
    let channel = Dialer::new(credentials)
        .reach(&coordinator, Role::Coordinator)
        .await?;
    let (request, key) = request()?;
    let reply = retort_client::join(channel).renew(request).await;
    accept(&dir, reply.map_err(refused)?.into_inner(), &key)
}

/// A new key, and the request for a certificate of it.
fn request() -> Result<(pb::CertificateRequest, String), Failure> {
    let (proof, key) = Proof::create()?;
    let request = pb::CertificateRequest {
        public_key: proof.public_key.into(),
        signature: proof.signature.into(),
    };
    Ok((request, key))
}

fn refused(status: tonic::Status) -> Failure {
    match status.code() {
        tonic::Code::Unimplemented => Failure::input(
            "this coordinator signs no certificates: its folder lacks ca-key.pem (`retort certs init --join`)",
        ),
        _ => status.into(),
    }
}

/// Writes what the coordinator gave. The key comes first: between two renames the folder can't be used, and whoever reads
/// it then goes on with what it has.
fn accept(dir: &Path, reply: pb::CertificateReply, key: &str) -> Result<Done, Failure> {
    // A CA that was added here, to change to it, stays trusted.
    let trusted = std::fs::read_to_string(dir.join(CA)).context("read ca.pem")?;
    let ca = match trusted.contains(reply.ca.trim()) {
        true => trusted,
        false => format!("{}\n{}", trusted.trim_end(), reply.ca),
    };
    let files = [(CA, ca.as_str()), (KEY, key), (CERTIFICATE, &reply.certificate)];
    write(dir, &files)?;
    let credentials = Credentials::read(dir).context("what the coordinator gave")?;
    let role = credentials.role().map_or("nobody", Role::name);
    let text = format!("{}: credentials of a {role}", dir.display());
    Ok(Done::new(dir, vec![role], text))
}

fn write(dir: &Path, files: &[(&str, &str)]) -> Result<(), Failure> {
    write_folder(dir, files).map_err(|(path, e)| Failure::input(format!("{}: {e}", path.display())))
}
