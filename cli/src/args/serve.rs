//! Flags of `securedl serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Whether the server asks clients for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CertificatesName {
    /// It does not ask.
    No,
    /// It asks; a token does as well.
    Optional,
    /// Nobody comes past the handshake without one.
    Required,
}

impl CertificatesName {
    /// The name in a configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// How a server's log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormatName {
    /// For people.
    Text,
    /// An object per line.
    Json,
}

impl LogFormatName {
    /// The name in a configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Serve the plans of a folder over TLS until interrupted.
///
/// Sees ciphertexts only and keeps no state of any client. Plans, access list and certificates are
/// read again while it runs. Ctrl-C or SIGTERM lets running requests finish, a second one ends at
/// once. Logs go to standard error. What is not given has the default that --print-config shows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl serve --plans plans --listen 0.0.0.0:7443 --tls tls --access access.toml \
                 --audit audit.jsonl --owner owner.pub --admin 127.0.0.1:9464
  securedl serve --print-config > server.toml
  securedl serve --config server.toml --set limits.memory=16GiB
  securedl serve --plans plans --listen 127.0.0.1:7443 --tls tls --open")]
pub(crate) struct ServeArguments {
    /// Read options from this file; flags go before it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the configuration that would be in force, every option explained, and stop.
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Set any option of the file; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// Folder with plan files.
    #[arg(long, value_name = "DIR")]
    pub(crate) plans: Option<PathBuf>,
    /// Address and port to listen on (port 0 = any free port).
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Folder made by `securedl tls init`.
    #[arg(long, value_name = "DIR")]
    pub(crate) tls: Option<PathBuf>,
    /// Key of the masks of plans with the trust setting masked; made if there is no such file. Servers
    /// that stand in for one another need the same.
    #[arg(long, value_name = "FILE")]
    pub(crate) mask_key: Option<PathBuf>,
    /// Memory of all requests and connections together, such as 4GiB.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Address and port for operators: /metrics, /healthz, /readyz.
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<SocketAddr>,
    /// Allow --admin on an address that is not loopback.
    #[arg(long)]
    pub(crate) expose_admin: bool,
    /// How the log is written [default: text].
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormatName>,
    #[command(flatten)]
    pub(crate) guards: GuardArguments,
}

/// Who may enter a server.
#[derive(Debug, Args)]
pub(crate) struct GuardArguments {
    /// Who may enter, and what each client may ask for; read again when it changes and on SIGHUP.
    #[arg(long, value_name = "FILE", conflicts_with = "open")]
    pub(crate) access: Option<PathBuf>,
    /// Let everybody in who reaches the port.
    #[arg(long)]
    pub(crate) open: bool,
    /// Ask clients for certificates of DIR/client-ca.pem (made by `securedl tls client`) [default: no].
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) client_certificates: Option<CertificatesName>,
    /// Append a line of JSON for every request: who asked for what, and how it ended.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,
    /// Host only plans that this owner has signed (`owner.pub`); may be repeated.
    #[arg(long = "owner", value_name = "PUB")]
    pub(crate) owners: Vec<PathBuf>,
}
