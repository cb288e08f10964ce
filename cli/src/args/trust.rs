//! Flags of access lists, signatures and evidence.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputPath;

/// How a client shows who it is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CredentialArguments {
    /// File with the access token [default: the variable SECUREDL_TOKEN, if it is set].
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) token_file: Option<PathBuf>,
    /// Folder with client.pem and client.key, made by `securedl tls client`.
    #[arg(long, value_name = "DIR", requires = "server")]
    pub(crate) client_cert: Option<PathBuf>,
}

/// Manage who may enter a server.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    Add(AccessAddArguments),
    Check(AccessCheckArguments),
}

/// Make a token for a client and show it once; the file gets its hash.
///
/// A name that is not in the file yet becomes a client with the plans and limits given. For a name
/// that is, the new token is one more: take the old one out of the file when it is no longer used.
/// Servers read the file again by themselves.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl access add ward-7 --file access.toml --plan '*' --requests-per-minute 60
  securedl access add ward-7 --file access.toml --expires 2027-06-30     one more token")]
pub(crate) struct AccessAddArguments {
    /// The client.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The access file; made if it does not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Digest or model name of a plan the client may use, or `*`; may be repeated.
    #[arg(long = "plan", value_name = "PLAN")]
    pub(crate) plans: Vec<String>,
    /// First day (UTC) on which the token is no longer valid.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub(crate) expires: Option<String>,
    /// Requests of any kind in a minute.
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<u32>,
    /// Payload bytes up and down in an hour.
    #[arg(long, value_name = "N")]
    pub(crate) bytes_per_hour: Option<u64>,
    /// Requests at the same time.
    #[arg(long, value_name = "N")]
    pub(crate) concurrent_requests: Option<u32>,
    /// Certificate (PEM) of the client, besides the token; may be repeated.
    #[arg(long = "certificate", value_name = "PEM")]
    pub(crate) certificates: Vec<PathBuf>,
}

/// Read an access file as a server would, and show its clients.
#[derive(Debug, Args)]
pub(crate) struct AccessCheckArguments {
    /// The access file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make an owner's key: DIR/owner.key (secret) and DIR/owner.pub.
    Init {
        /// Folder to create.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Sign a plan, a fingerprint or a pack of canaries: writes FILE.sig.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl sign plans/mnist.plan --key keys/owner.key
  securedl sign mnist.plan.pack --key keys/owner.key      of a masked plan, for data owners only")]
pub(crate) struct SignArguments {
    /// A plan, a fingerprint or a pack.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The owner's secret key, made by `securedl keys init`.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    Verify(EvidenceVerifyArguments),
}

/// Judge evidence that `infer` kept: recompute the segment and compare with what the server signed.
///
/// Needs the plan and no key. Exit code 1: the fault is proven. 0: the server was right. 2: nothing
/// is shown (the file was altered, the receipt does not match), or an error.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  securedl evidence verify evidence/00ab…-segment1-d0d1….evidence --plan plans/mnist.plan \\
                   --identity 9f4c…")]
pub(crate) struct EvidenceVerifyArguments {
    /// The evidence.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The plan, weights included.
    #[arg(long, value_name = "PLAN")]
    pub(crate) plan: PathBuf,
    /// The operator's identity (64 digits), as `securedl tls init` and `serve` print it.
    #[arg(long, value_name = "HEX")]
    pub(crate) identity: Option<String>,
    /// Write the finding as JSON (without FILE: to standard output).
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<OutputPath>,
}

/// Make a client's certificate.
///
/// The authority for clients, DIR/client-ca.pem, is made at the first call; its key stays in DIR.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  securedl tls client tls ward-7 --out ward-7-tls")]
pub(crate) struct TlsClientArguments {
    /// Folder made by `securedl tls init`.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The client's name.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Folder for the client: its certificate, its key, and ca.pem.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
