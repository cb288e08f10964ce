//! Why a certificate is not accepted, in words a person can act on.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, RootCertStore};

use super::provider;
use crate::calendar::day_text;
use crate::client::Stage;
use crate::error::{Error, InternalError, LinkError, Result, TrustError};

/// The client's error for a failed handshake.
pub(super) fn explain(error: io::Error, server: String, authority: &Path) -> Error {
    let source = match error.downcast::<rustls::Error>() {
        Ok(source) => source,
        Err(error) => {
            return LinkError::Lost { stage: Stage::Connecting, source: Some(error) }.into();
        }
    };
    if let rustls::Error::InvalidCertificate(problem) = source {
        return explain_certificate(problem, server, authority).into();
    }
    TrustError::NotSecureDl { server, source: source.into() }.into()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's list grows; what is not named here keeps the library's words"
)]
fn explain_certificate(problem: CertificateError, server: String, authority: &Path) -> TrustError {
    match problem {
        // Authorities made by `init` differ in their names; one that is merely called the same
        // shows up as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            TrustError::UnknownAuthority { server, authority: authority.to_owned() }
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            TrustError::CertificateExpired { server, expired: date(not_after) }
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            TrustError::NotYetValid { server, valid_from: date(not_before) }
        }
        CertificateError::NotValidForNameContext { expected, presented } => TrustError::WrongName {
            expected: expected.to_str().into_owned(),
            presented: names(&presented),
        },
        other => {
            let source = rustls::Error::InvalidCertificate(other).into();
            TrustError::Certificate { server, source }
        }
    }
}

/// The library shows names as `DnsName("…")` and `IpAddress(…)`.
fn names(presented: &[String]) -> String {
    if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") }
}

/// The day a certificate expired, if it has.
///
/// Asks the verifier about the certificate as if it were a server's: it looks at the time before
/// anything else, so that any other answer means that the time is right.
pub(super) fn expiry_if_over(certificate: &CertificateDer<'static>) -> Result<Option<String>> {
    // The verifier wants an authority; which one does not matter for the time.
    let mut roots = RootCertStore::empty();
    if roots.add(certificate.clone()).is_err() {
        // Not a certificate at all: for its user to report.
        return Ok(None);
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|source| InternalError::Tls { source: source.into() })?;
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let verdict = verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now());
    match verdict {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => Ok(Some(date(not_after))),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Say so if anybody but the owner may read a key file.
pub(crate) fn warn_if_readable_by_others(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            tracing::warn!(path = %path.display(), "others may read this key: chmod 600");
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

fn date(time: UnixTime) -> String {
    day_text(time.as_secs())
}

/// Whether a connection failed because the server did not accept the client's certificate, or missed
/// one. In TLS 1.3 the client learns it only when it reads.
pub(crate) fn client_was_refused(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
        ))
    )
}
