//! Flags of `ui`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{CheckArguments, ConnectionArguments, ReadingArguments};

/// Where pages are served unless another address is named.
pub(super) const LISTEN: &str = "127.0.0.1:8088";

/// Open a page on this machine: draw or drop samples, watch them being classified encrypted.
///
/// The page is served by the client itself, to this machine only, and needs the token in the address
/// that is printed: a new one at every start. Keys, checks and decryption stay in this process. Without
/// --server a server inside this process answers, through the same messages. Ends with Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl ui --plan plans/mnist.plan --server localhost:7443 --tls tls --data mnist
  securedl ui --plan plans/mnist.plan --listen 127.0.0.1:9000")]
pub(crate) struct UiArguments {
    /// The plan, weights included, as `securedl compile` wrote it.
    #[arg(long, value_name = "PLAN")]
    pub(crate) plan: PathBuf,
    /// Data set whose test part gives examples to try and canaries: a path, or a name in $SECUREDL_DATA
    /// [default: canaries are drawn from what is classified].
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
    #[command(flatten)]
    pub(crate) checks: CheckArguments,
    /// Folder for evidence of a failed check [default: `evidence` in the working directory; with a
    /// server inside this process, none is kept].
    #[arg(long, value_name = "DIR", conflicts_with = "no_evidence")]
    pub(crate) evidence: Option<PathBuf>,
    /// Keep no evidence, and write no blocks to disk while a round is not judged.
    #[arg(long)]
    pub(crate) no_evidence: bool,
    /// Address of the page; loopback addresses only. Port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = LISTEN)]
    pub(crate) listen: SocketAddr,
}
