//! Makes a development authority, one server certificate, and a server identity.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::TryRngCore;
use rand::rngs::OsRng;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use zeroize::Zeroizing;

use super::trust::civil_date;
use super::{CA_FILE, CERTIFICATE_FILE, IDENTITY_FILE, KEY_FILE};
use crate::error::{ConfigError, InternalError, Result};
use crate::identity::{Identity, PublicIdentity};

/// Names every certificate is valid for.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const DAY: Duration = Duration::from_secs(86_400);
/// Clocks differ: valid from yesterday on.
const VALID_BEFORE_NOW: Duration = DAY;
const SERVER_VALIDITY: Duration = Duration::from_secs(86_400 * 730);
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(86_400 * 3650);

/// What [`init`] made.
#[derive(Debug, Clone)]
pub struct Created {
    /// The directory.
    pub directory: PathBuf,
    /// The files, in the order they were written.
    pub files: Vec<PathBuf>,
    /// Names the certificate is valid for.
    pub names: Vec<String>,
    /// Last day of the server certificate, `YYYY-MM-DD` (UTC).
    pub valid_until: String,
    /// Public key of the server's identity, for clients that pin it.
    pub identity: PublicIdentity,
}

/// Make a development authority and one server certificate in `directory`, which is created if it
/// does not exist: `ca.pem` (for clients), `server.pem`, `server.key`, and `identity.key` (secret,
/// readable by the owner only).
///
/// The certificate is valid for `localhost`, `127.0.0.1`, `::1`, and `names` (host names or
/// addresses) for two years. The authority's key signs this one certificate and is not kept: nobody
/// can make another certificate that these clients would accept. A further replica uses a copy of
/// the server's files.
///
/// # Errors
/// - [`ConfigError::WouldOverwrite`]: one of the files exists; nothing is changed.
/// - [`ConfigError::InvalidCertificateName`]: a name is neither a host name nor an address.
/// - [`ConfigError::UnwritableFile`]: the directory or a file cannot be written; no file is left
///   behind.
/// - [`InternalError`]: no random numbers, or the certificate library failed.
pub fn init(directory: &Path, names: &[String]) -> Result<Created> {
    let paths = [CA_FILE, CERTIFICATE_FILE, KEY_FILE, IDENTITY_FILE].map(|f| directory.join(f));
    if let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(ConfigError::WouldOverwrite { path: path.clone() }.into());
    }
    let names = all_names(names);
    let authority = Authority::generate()?;
    let (certificate, key) = authority.issue_server(&names)?;
    let mut seed = Zeroizing::new([0; 32]);
    OsRng
        .try_fill_bytes(seed.as_mut_slice())
        .map_err(|source| InternalError::Randomness { source: source.into() })?;
    let identity = Identity::from_seed(&seed);
    let identity_text = identity.to_file_text();

    fs::create_dir_all(directory).map_err(|source| unwritable(directory, source))?;
    let contents = [
        (authority.pem.as_bytes(), Readers::Everyone),
        (certificate.as_bytes(), Readers::Everyone),
        (key.as_bytes(), Readers::Owner),
        (identity_text.as_bytes(), Readers::Owner),
    ];
    write_all(&paths, &contents)?;
    Ok(Created {
        directory: directory.to_owned(),
        files: paths.to_vec(),
        names,
        valid_until: day_text(now() + SERVER_VALIDITY),
        identity: identity.public(),
    })
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn generate() -> Result<Self> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(Vec::new(), AUTHORITY_VALIDITY)?;
        // A name of its own, so that a client with the ca.pem of another directory is told so.
        let number: String =
            key.public_key_raw().iter().rev().take(6).map(|byte| format!("{byte:02x}")).collect();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("SecureDL development authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self { pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// A server certificate and its key, both PEM.
    fn issue_server(&self, names: &[String]) -> Result<(String, Zeroizing<String>)> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(names.to_vec(), SERVER_VALIDITY)?;
        params.distinguished_name.push(DnType::CommonName, "SecureDL server");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
    }
}

fn params(names: Vec<String>, validity: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)
        .map_err(|source| ConfigError::InvalidCertificateName { source: source.into() })?;
    let now = now();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let (year, month, day) = certificate_day(now - VALID_BEFORE_NOW)?;
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = certificate_day(now + validity)?;
    params.not_after = rcgen::date_time_ymd(year, month, day);
    Ok(params)
}

#[expect(clippy::disallowed_methods, reason = "a certificate says from when to when it is valid")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn all_names(names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
    for name in names {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

fn day(time: SystemTime) -> (u64, u64, u64) {
    // A clock before 1970 makes a certificate from 1970, which says clearly what is wrong.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    civil_date(since.as_secs() / DAY.as_secs())
}

fn day_text(time: SystemTime) -> String {
    let (year, month, day) = day(time);
    format!("{year:04}-{month:02}-{day:02}")
}

/// A day in the types of the certificate library.
fn certificate_day(time: SystemTime) -> Result<(i32, u8, u8)> {
    let (year, month, day) = day(time);
    let far = |_| InternalError::Certificate { source: "the clock is far in the future".into() };
    // The last year a certificate can express.
    let year = i32::try_from(year.min(9999)).map_err(far)?;
    Ok((year, u8::try_from(month).map_err(far)?, u8::try_from(day).map_err(far)?))
}

fn failed(source: rcgen::Error) -> InternalError {
    InternalError::Certificate { source: source.into() }
}

fn unwritable(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::UnwritableFile { path: path.to_owned(), source }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    Everyone,
    Owner,
}

/// Write every file under a temporary name, then give all of them their names; on any failure
/// remove what was made.
fn write_all(paths: &[PathBuf], contents: &[(&[u8], Readers)]) -> Result<()> {
    let mut made = Vec::new();
    let outcome = paths
        .iter()
        .zip(contents)
        .try_for_each(|(path, &(bytes, readers))| {
            let temporary = temporary_name(path);
            made.push(temporary.clone());
            write_new(&temporary, bytes, readers).map_err(|source| unwritable(path, source))
        })
        .and_then(|()| {
            paths.iter().try_for_each(|path| {
                fs::rename(temporary_name(path), path)
                    .map_err(|source| unwritable(path, source))?;
                made.push(path.clone());
                Ok(())
            })
        });
    if outcome.is_err() {
        for path in made {
            let _ = fs::remove_file(path);
        }
    }
    Ok(outcome?)
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    name.into()
}

fn write_new(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if readers == Readers::Owner { 0o600 } else { 0o644 });
    }
    #[cfg(not(unix))]
    let _ = readers;
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
