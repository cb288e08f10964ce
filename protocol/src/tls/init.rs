//! Makes development authorities, server and client certificates, and a server identity.

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

use super::{
    CA_FILE, CERTIFICATE_FILE, CLIENT_CA_FILE, CLIENT_CA_KEY_FILE, CLIENT_CERTIFICATE_FILE,
    CLIENT_KEY_FILE, CertificateFingerprint, IDENTITY_FILE, KEY_FILE, MAX_PEM_BYTES, read_file,
};
use crate::calendar::civil_date;
use crate::error::{ConfigError, InternalError, Result};
use crate::identifiers::Label;
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
        Self::of_key(KeyPair::generate().map_err(failed)?, "authority")
    }

    /// The authority of a key, named after it: one key, one name, whenever it is made.
    fn of_key(key: KeyPair, role: &str) -> Result<Self> {
        let mut params = params(Vec::new(), AUTHORITY_VALIDITY)?;
        // A name of its own, so that a client with the ca.pem of another directory is told so.
        let number: String =
            key.public_key_raw().iter().rev().take(6).map(|byte| format!("{byte:02x}")).collect();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("SecureDL development {role} {number}"));
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

    /// A client certificate (PEM and fingerprint) and its key (PEM).
    fn issue_client(
        &self,
        name: &str,
    ) -> Result<(String, CertificateFingerprint, Zeroizing<String>)> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(Vec::new(), SERVER_VALIDITY)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let fingerprint = CertificateFingerprint::of(certificate.der());
        Ok((certificate.pem(), fingerprint, Zeroizing::new(key.serialize_pem())))
    }
}

/// What [`client`] made.
#[derive(Debug, Clone)]
pub struct CreatedClient {
    /// The client's directory.
    pub directory: PathBuf,
    /// The files, in the order they were written.
    pub files: Vec<PathBuf>,
    /// Names the certificate in an access list.
    pub fingerprint: CertificateFingerprint,
    /// Last day of the certificate, `YYYY-MM-DD` (UTC).
    pub valid_until: String,
}

/// Make a client's certificate in `target`, which is created: `client.pem`, `client.key` (secret),
/// and a copy of the server's `ca.pem`, all that this client needs.
///
/// The authority is `client-ca.pem` of the server's `directory`; it is made at the first call and
/// its key, `client-ca.key` (secret), is kept for further clients. It admits clients and nothing
/// else: no client takes it for a server's authority.
///
/// # Errors
/// - [`ConfigError::InvalidLabel`]: the name is empty, too long, or has control characters.
/// - [`ConfigError::WouldOverwrite`]: one of the files exists; nothing is changed.
/// - [`ConfigError::UnreadableFile`], [`ConfigError::UnusableFile`]: the directory holds no `ca.pem`,
///   or an authority that cannot be used.
/// - [`ConfigError::UnwritableFile`]: a file cannot be written.
pub fn client(directory: &Path, name: &str, target: &Path) -> Result<CreatedClient> {
    let name = Label::new(name).ok().filter(|label| !label.as_str().is_empty());
    let name = name.ok_or(ConfigError::InvalidLabel { actual_bytes: 0 })?;
    let files = [CA_FILE, CLIENT_CERTIFICATE_FILE, CLIENT_KEY_FILE].map(|f| target.join(f));
    if let Some(path) = files.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(ConfigError::WouldOverwrite { path: path.clone() }.into());
    }
    let ca = read_file(&directory.join(CA_FILE), MAX_PEM_BYTES)?;
    let authority = client_authority(directory)?;
    let (certificate, fingerprint, key) = authority.issue_client(name.as_str())?;
    fs::create_dir_all(target).map_err(|source| unwritable(target, source))?;
    let contents = [
        (ca.as_slice(), Readers::Everyone),
        (certificate.as_bytes(), Readers::Everyone),
        (key.as_bytes(), Readers::Owner),
    ];
    write_all(&files, &contents)?;
    Ok(CreatedClient {
        directory: target.to_owned(),
        files: files.to_vec(),
        fingerprint,
        valid_until: day_text(now() + SERVER_VALIDITY),
    })
}

/// The authority for clients of a server's directory; made if there is none.
fn client_authority(directory: &Path) -> Result<Authority> {
    const ROLE: &str = "client authority";
    let paths = [CLIENT_CA_FILE, CLIENT_CA_KEY_FILE].map(|file| directory.join(file));
    let [_, key_path] = &paths;
    if key_path.exists() {
        let text = Zeroizing::new(read_file(key_path, MAX_PEM_BYTES)?);
        let key = std::str::from_utf8(&text).ok().and_then(|text| KeyPair::from_pem(text).ok());
        let (path, expected, source) = (key_path.clone(), "private key (PEM)", None);
        let key = key.ok_or(ConfigError::UnusableFile { path, expected, source })?;
        return Authority::of_key(key, ROLE);
    }
    if let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        // An authority from elsewhere, whose key is not here.
        return Err(ConfigError::WouldOverwrite { path: path.clone() }.into());
    }
    let key = KeyPair::generate().map_err(failed)?;
    let key_text = Zeroizing::new(key.serialize_pem());
    let authority = Authority::of_key(key, ROLE)?;
    let contents =
        [(authority.pem.as_bytes(), Readers::Everyone), (key_text.as_bytes(), Readers::Owner)];
    write_all(&paths, &contents)?;
    Ok(authority)
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
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    crate::calendar::day_text(since.as_secs())
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
pub(crate) enum Readers {
    Everyone,
    Owner,
}

/// Write every file under a temporary name, then give all of them their names; on any failure
/// remove what was made.
pub(crate) fn write_all(paths: &[PathBuf], contents: &[(&[u8], Readers)]) -> Result<()> {
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
