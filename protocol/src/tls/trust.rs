//! Why a certificate is not accepted, in words a person can act on.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, RootCertStore};

use super::provider;
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
pub(super) fn warn_if_readable_by_others(path: &Path) {
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
    let (year, month, day) = civil_date(time.as_secs() / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month, and day (UTC) of a day counted from 1970-01-01 (proleptic Gregorian calendar).
///
/// # Source
/// Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`, for days from
/// 1970 on.
pub(super) const fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01; an era has 400 years.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let cases = [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (10_957, (2000, 1, 1)),
            (11_016, (2000, 2, 29)),
            (20_454, (2026, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ];
        for (days, date) in cases {
            assert_eq!(civil_date(days), date);
        }
    }
}
