//! Errors of the person who wrote the configuration or the command line.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Source;
use crate::access::AccessProblem;

/// The caller's configuration does not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A limit outside its range.
    #[error("{name} is {actual}; choose a value from {min} to {max}")]
    LimitOutOfRange {
        /// The limit's name.
        name: &'static str,
        /// What was asked for.
        actual: u64,
        /// Smallest accepted value.
        min: u64,
        /// Largest accepted value.
        max: u64,
    },
    /// Text that should be hexadecimal digits.
    #[error(
        "expected {expected_digits} hexadecimal digits, found {actual_digits} characters or another character"
    )]
    InvalidHex {
        /// Digits required.
        expected_digits: usize,
        /// Bytes of the text.
        actual_digits: usize,
    },
    /// A name too long, or with control characters.
    #[error(
        "a name of {actual_bytes} bytes is too long or has control characters; use at most 256 bytes of plain text"
    )]
    InvalidLabel {
        /// Bytes of the text.
        actual_bytes: usize,
    },
    /// Another process listens there.
    #[error(
        "cannot listen on {address}: the port is in use; stop the other process or choose another port"
    )]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Figures would be shown to the network, and nobody said so.
    #[error(
        "the admin address {address} is not loopback: figures have no password; use 127.0.0.1, or allow the network in so many words"
    )]
    AdminExposed {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Listening failed for another reason.
    #[error(
        "cannot listen on {address}; check that the address belongs to this machine and that the port is allowed"
    )]
    CannotListen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A server name that no certificate can carry.
    #[error(
        "'{name}' is neither a host name nor an address; give the name that stands in the server's certificate"
    )]
    InvalidServerName {
        /// The text given.
        name: String,
    },
    /// No server to talk to.
    #[error("no endpoint was given; name at least one server")]
    NoEndpoint,
    /// A certificate or key file that cannot be read.
    #[error("cannot read {}; create the files with `securedl tls init DIR`", path.display())]
    UnreadableFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A certificate or key file with other contents.
    #[error("{} holds no usable {expected}; create the files with `securedl tls init DIR`", path.display())]
    UnusableFile {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// The parser's reason, where there is one.
        source: Option<Source>,
    },
    /// A private key that does not belong to the certificate.
    #[error("{} is not the key of {}; copy both from the same directory", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// A certificate of our own that no client will accept any more.
    #[error("the certificate in {} expired on {expired}; make a new directory with `securedl tls init DIR`", path.display())]
    CertificateExpired {
        /// The certificate file.
        path: PathBuf,
        /// Day of expiry, `YYYY-MM-DD` (UTC).
        expired: String,
    },
    /// A file that must not be overwritten.
    #[error("{} exists already and is not overwritten; choose another directory or remove it first", path.display())]
    WouldOverwrite {
        /// The file.
        path: PathBuf,
    },
    /// A file that cannot be written.
    #[error("cannot write {}; check the directory and its permissions", path.display())]
    UnwritableFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The certificate library rejected a name.
    #[error("cannot make a certificate for these names; give host names or addresses")]
    InvalidCertificateName {
        /// The library's reason.
        source: Source,
    },
    /// A token file that cannot be read.
    #[error("cannot read the token in {}", path.display())]
    UnreadableToken {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Text that is no token. It may be a secret, so it is not shown.
    #[error("this is no access token; a token is one line that `securedl access add` printed")]
    InvalidToken,
    /// Text that is no hash of a token.
    #[error("this is no hash of an access token; `securedl access add` writes them")]
    InvalidTokenHash,
    /// An access file that cannot be read.
    #[error("cannot read the access file {}; `securedl access add` makes one", path.display())]
    UnreadableAccessFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An access file with a mistake.
    #[error("{}, line {line}: {source}", path.display())]
    AccessFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        source: AccessProblem,
    },
    /// An audit log that cannot be written.
    #[error("cannot write the audit log {}; check the directory and its permissions", path.display())]
    UnwritableAuditLog {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A key or signature file that cannot be read.
    #[error("cannot read {}", path.display())]
    UnreadableKey {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that holds no public key.
    #[error("{} holds no owner's public key (64 hexadecimal digits); `securedl keys init DIR` makes one", path.display())]
    UnusableKey {
        /// The file.
        path: PathBuf,
    },
    /// A file that holds no signature.
    #[error("{} is no signature of this version; `securedl sign FILE --key owner.key` makes one", path.display())]
    UnusableSignature {
        /// The file.
        path: PathBuf,
    },
}
