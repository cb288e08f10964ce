//! The access list and its file.
//!
//! ```toml
//! version = 1
//!
//! [[client]]
//! name = "ward-7"
//! plans = ["*"]
//! requests_per_minute = 60
//! bytes_per_hour = 50_000_000_000
//! concurrent_requests = 4
//! certificates = ["<SHA-256, 64 digits>"]
//!
//! [[token]]
//! client = "ward-7"
//! hash = "blake3:<salt>:<hash>"
//! expires = 2027-06-30
//! ```

use std::collections::HashMap;

use serde::Deserialize;
use subtle::{Choice, ConditionallySelectable};
use toml::Spanned;
use toml::value::Datetime;

use super::client::{Client, ClientLimits, PlanRule};
use super::token::{Token, TokenHash};
use crate::calendar::days_since_1970;
use crate::identifiers::Label;
use crate::tls::CertificateFingerprint;

/// Version of the file's format.
const VERSION: u32 = 1;
/// Largest access file.
pub const MAX_ACCESS_FILE_BYTES: usize = 4 << 20;
/// Most clients in a list.
pub const MAX_ACCESS_CLIENTS: usize = 4096;
/// Most tokens in a list. Each is compared whenever somebody enters.
pub const MAX_ACCESS_TOKENS: usize = 4096;
/// Most plans, and most certificates, of one client.
const MAX_PER_CLIENT: usize = 1024;

/// The clients of a server. The default is nobody.
#[derive(Debug, Clone, Default)]
pub struct AccessList {
    clients: Vec<Client>,
    tokens: Vec<TokenEntry>,
    by_certificate: HashMap<CertificateFingerprint, usize>,
    by_hash: HashMap<TokenHash, usize>,
}

#[derive(Debug, Clone)]
struct TokenEntry {
    /// Index of the client.
    client: usize,
    hash: TokenHash,
    /// First second at which it is no longer valid.
    expires: Option<u64>,
}

/// What is wrong with an access file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessProblem {
    /// Not TOML, a key that does not exist, or a value of another type.
    #[error("{message}")]
    Syntax {
        /// The parser's words.
        message: String,
    },
    /// Another format version.
    #[error("the file has format version {actual}; this program reads version {VERSION}")]
    Version {
        /// Version in the file.
        actual: u32,
    },
    /// Larger than any access file.
    #[error("the file has more than {MAX_ACCESS_FILE_BYTES} bytes")]
    TooLarge,
    /// Too many entries of a kind.
    #[error("{actual} {what} are too many; at most {limit} are read")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        actual: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A name that is empty, too long, or has control characters.
    #[error("a client's name is 1 to 256 bytes of text without control characters")]
    Name,
    /// Two clients of one name.
    #[error("there are two clients called `{name}`")]
    DuplicateClient {
        /// The name.
        name: String,
    },
    /// A token of nobody.
    #[error("the token belongs to `{name}`, but there is no such client")]
    UnknownClient {
        /// The name.
        name: String,
    },
    /// A hash that is none.
    #[error("`hash` is not a token's hash; `securedl access add` writes them")]
    Hash,
    /// One token twice.
    #[error("the same token stands in the list twice")]
    DuplicateToken,
    /// An expiry that is not a moment.
    #[error("`expires` is a day such as 2027-06-30 (from 0:00 UTC on) or a time with its offset")]
    Expiry,
    /// A certificate that is none.
    #[error("a certificate is named by the 64 hexadecimal digits of its SHA-256 fingerprint")]
    Certificate,
    /// A certificate of two clients.
    #[error("the same certificate stands in the list twice")]
    DuplicateCertificate,
    /// A limit that lets nothing through.
    #[error("{name} is 0: to keep a client out, say `enabled = false`")]
    ZeroLimit {
        /// The limit.
        name: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSpec {
    version: Spanned<u32>,
    #[serde(default)]
    client: Vec<Spanned<ClientSpec>>,
    #[serde(default)]
    token: Vec<Spanned<TokenSpec>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSpec {
    name: Spanned<String>,
    #[serde(default = "yes")]
    enabled: bool,
    plans: Vec<String>,
    requests_per_minute: Option<u32>,
    bytes_per_hour: Option<u64>,
    concurrent_requests: Option<u32>,
    #[serde(default)]
    certificates: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenSpec {
    client: Spanned<String>,
    hash: Spanned<String>,
    expires: Option<Spanned<Datetime>>,
}

const fn yes() -> bool {
    true
}

impl AccessList {
    /// Read the text of an access file. On failure, the line (from 1) comes with the problem.
    ///
    /// # Errors
    /// Every [`AccessProblem`].
    pub fn parse(text: &str) -> Result<Self, (usize, AccessProblem)> {
        if text.len() > MAX_ACCESS_FILE_BYTES {
            return Err((1, AccessProblem::TooLarge));
        }
        let at = |position: usize, problem: AccessProblem| (line_of(text, position), problem);
        let spec: FileSpec = toml::from_str(text).map_err(|error| {
            let position = error.span().map_or(0, |span| span.start);
            at(position, AccessProblem::Syntax { message: error.message().to_owned() })
        })?;
        let version = *spec.version.get_ref();
        if version != VERSION {
            return Err(at(spec.version.span().start, AccessProblem::Version { actual: version }));
        }
        within("clients", spec.client.len(), MAX_ACCESS_CLIENTS).map_err(|p| (1, p))?;
        within("tokens", spec.token.len(), MAX_ACCESS_TOKENS).map_err(|p| (1, p))?;
        let mut list = Self::default();
        let mut by_name = HashMap::new();
        for client in spec.client {
            let start = client.span().start;
            list.add_client(client.into_inner(), &mut by_name)
                .map_err(|(position, problem)| at(position.unwrap_or(start), problem))?;
        }
        for token in spec.token {
            list.add_token(token.into_inner(), &by_name)
                .map_err(|(position, problem)| at(position, problem))?;
        }
        Ok(list)
    }

    fn add_client(
        &mut self,
        spec: ClientSpec,
        by_name: &mut HashMap<String, usize>,
    ) -> Result<(), (Option<usize>, AccessProblem)> {
        let position = Some(spec.name.span().start);
        let name = spec.name.into_inner();
        if name.is_empty() || Label::new(name.as_str()).is_err() {
            return Err((position, AccessProblem::Name));
        }
        let index = self.clients.len();
        if by_name.insert(name.clone(), index).is_some() {
            return Err((position, AccessProblem::DuplicateClient { name }));
        }
        within("plans of a client", spec.plans.len(), MAX_PER_CLIENT).map_err(|p| (position, p))?;
        within("certificates of a client", spec.certificates.len(), MAX_PER_CLIENT)
            .map_err(|p| (position, p))?;
        let zeros = [
            ("requests_per_minute", spec.requests_per_minute == Some(0)),
            ("bytes_per_hour", spec.bytes_per_hour == Some(0)),
            ("concurrent_requests", spec.concurrent_requests == Some(0)),
        ];
        if let Some((name, _)) = zeros.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err((position, AccessProblem::ZeroLimit { name }));
        }
        for certificate in spec.certificates {
            let position = Some(certificate.span().start);
            let fingerprint = certificate
                .into_inner()
                .parse::<CertificateFingerprint>()
                .map_err(|_| (position, AccessProblem::Certificate))?;
            if self.by_certificate.insert(fingerprint, index).is_some() {
                return Err((position, AccessProblem::DuplicateCertificate));
            }
        }
        self.clients.push(Client {
            name,
            enabled: spec.enabled,
            plans: spec.plans.iter().map(|text| PlanRule::from(text.as_str())).collect(),
            limits: ClientLimits {
                requests_per_minute: spec.requests_per_minute,
                bytes_per_hour: spec.bytes_per_hour,
                concurrent_requests: spec.concurrent_requests,
            },
        });
        Ok(())
    }

    fn add_token(
        &mut self,
        spec: TokenSpec,
        by_name: &HashMap<String, usize>,
    ) -> Result<(), (usize, AccessProblem)> {
        let name = spec.client.get_ref();
        let client = *by_name.get(name).ok_or_else(|| {
            (spec.client.span().start, AccessProblem::UnknownClient { name: name.clone() })
        })?;
        let position = spec.hash.span().start;
        let hash: TokenHash =
            spec.hash.into_inner().parse().map_err(|_| (position, AccessProblem::Hash))?;
        let expires = match spec.expires {
            None => None,
            Some(time) => {
                let seconds = unix_seconds(time.get_ref());
                Some(seconds.ok_or((time.span().start, AccessProblem::Expiry))?)
            }
        };
        if self.by_hash.insert(hash.clone(), self.tokens.len()).is_some() {
            return Err((position, AccessProblem::DuplicateToken));
        }
        self.tokens.push(TokenEntry { client, hash, expires });
        Ok(())
    }

    /// The clients, in the order of the file.
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Of each token, its client's name and the second (since 1970, UTC) at which it expires.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, Option<u64>)> {
        self.tokens.iter().filter_map(|token| {
            Some((self.clients.get(token.client)?.name.as_str(), token.expires))
        })
    }

    /// Of each certificate, its client's name.
    pub fn certificates(&self) -> impl Iterator<Item = (&str, &CertificateFingerprint)> {
        self.by_certificate.iter().filter_map(|(certificate, &client)| {
            Some((self.clients.get(client)?.name.as_str(), certificate))
        })
    }

    /// The client with this token, and the token's hash.
    ///
    /// Compares all of them, in the same number of steps whichever matches or none does.
    pub(super) fn find_token(
        &self,
        token: Option<&Token>,
        now: u64,
    ) -> Option<(&Client, &TokenHash)> {
        let nothing = Token::from_bytes(&[0; 32]);
        let shown = token.unwrap_or(&nothing);
        let mut found = u64::MAX;
        for (index, entry) in (0_u64..).zip(&self.tokens) {
            found.conditional_assign(
                &index,
                entry.hash.matches(shown) & Choice::from(u8::from(token.is_some())),
            );
        }
        let entry = self.tokens.get(usize::try_from(found).ok()?)?;
        if entry.expires.is_some_and(|expires| now >= expires) {
            return None;
        }
        Some((self.clients.get(entry.client)?, &entry.hash))
    }

    /// The client that holds the token of a hash from this list or an earlier one.
    pub(super) fn holder_of(&self, hash: &TokenHash, now: u64) -> Option<&Client> {
        let entry = self.tokens.get(*self.by_hash.get(hash)?)?;
        let is_valid = entry.expires.is_none_or(|expires| now < expires);
        self.clients.get(entry.client).filter(|_| is_valid)
    }

    pub(super) fn find_certificate(&self, shown: &CertificateFingerprint) -> Option<&Client> {
        self.clients.get(*self.by_certificate.get(shown)?)
    }
}

fn within(what: &'static str, actual: usize, limit: usize) -> Result<(), AccessProblem> {
    if actual <= limit { Ok(()) } else { Err(AccessProblem::TooMany { what, actual, limit }) }
}

fn line_of(text: &str, position: usize) -> usize {
    1 + text.bytes().take(position).filter(|&byte| byte == b'\n').count()
}

/// The moment of a day (0:00 UTC) or of a time with an offset; `None` for local times, which mean
/// another moment on another machine.
fn unix_seconds(time: &Datetime) -> Option<u64> {
    let date = time.date?;
    let days = days_since_1970(date.year.into(), date.month.into(), date.day.into())?;
    let midnight = days * 86_400;
    match (time.time, time.offset) {
        (None, None) => Some(midnight),
        (Some(clock), Some(offset)) => {
            let minutes = match offset {
                toml::value::Offset::Z => 0,
                toml::value::Offset::Custom { minutes } => i64::from(minutes),
            };
            let seconds = u64::from(clock.hour) * 3600
                + u64::from(clock.minute) * 60
                + clock.second.map_or(0, u64::from);
            (midnight + seconds).checked_add_signed(-60 * minutes)
        }
        (None, Some(_)) | (Some(_), None) => None,
    }
}
