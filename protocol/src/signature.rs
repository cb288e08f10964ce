//! An owner's signature of a plan, a fingerprint or a pack of canaries, in a file beside it.
//!
//! ```text
//! signed text = BLAKE3_derive_key("securedl owner signature 1",
//!                 kind u8 ‖ digest 32 ‖ digest of the public part 32 (plans only)
//!                                     ‖ digest of the plan 32 (packs only))
//!
//! FILE.sig:
//!   securedl signature 1
//!   kind plan | fingerprint | pack
//!   digest <64 digits>
//!   public <64 digits>          (plans only)
//!   plan <64 digits>            (packs only)
//!   key <64 digits>
//!   signature <128 digits>
//! ```
//! What is signed is the content's digest, not the file's bytes: it is checked after the file was
//! decoded. The signature of a plan also covers the digest of its public part, so that a client that
//! fetched only that part can check it. The signature of a pack also covers the digest of the plan whose
//! scores it bounds: a data owner has no weights, and learns only from it which plan the pack is
//! about. The kind keeps a signature of one kind from being taken for
//! another; the context keeps it apart from receipts.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use fingerprint::{CanaryPack, Fingerprint};
use nn_poly::plan::{Plan, PublicPlan};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, Result};
use crate::identifiers::{Digest, parse_hex, write_hex};
use crate::identity::{Identity, PublicIdentity, Signature};
use crate::message::PublicPart;
use crate::tls::{Readers, read_small, write_all};

/// An owner's secret key in the directory of [`init`].
pub const OWNER_KEY_FILE: &str = "owner.key";
/// An owner's public key in the directory of [`init`].
pub const OWNER_PUBLIC_FILE: &str = "owner.pub";
/// What stands after the name of a signed file.
pub const SIGNATURE_EXTENSION: &str = "sig";

const CONTEXT: &str = "securedl owner signature 1";
const FIRST_LINE: &str = "securedl signature 1";
const MAX_SIGNATURE_FILE_BYTES: u64 = 1024;

/// What a signature is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A plan: the digest of both parts, and that of the public part.
    Plan {
        /// Digest of the plan.
        plan: Digest,
        /// Digest of its public part.
        public: Digest,
    },
    /// A fingerprint: the digest of everything but its count of uses.
    Fingerprint(Digest),
    /// A pack of canaries: the digest of everything in it, and that of the plan it is of.
    Pack {
        /// Digest of the pack.
        pack: Digest,
        /// Digest of the plan.
        plan: Digest,
    },
}

impl Subject {
    /// A plan as the subject.
    #[must_use]
    pub fn of_plan(plan: &Plan) -> Self {
        Self::Plan { plan: Digest(plan.digest().0), public: Digest(plan.public_digest().0) }
    }

    /// The public part of a plan as the subject, for those who have nothing else.
    #[must_use]
    pub fn of_public(plan: Digest, public: &PublicPlan) -> Self {
        Self::Plan { plan, public: Digest(public.digest().0) }
    }

    /// A fingerprint as the subject.
    ///
    /// # Errors
    /// Never for a checked fingerprint.
    pub fn of_fingerprint(fingerprint: &Fingerprint) -> Result<Self, fingerprint::Error> {
        Ok(Self::Fingerprint(Digest(fingerprint.identity()?.0)))
    }

    /// A pack of canaries as the subject: of the plan that the pack names, which
    /// [`CanaryPack::check_plan`] compares with the public part at hand.
    ///
    /// # Errors
    /// Never for a checked pack.
    pub fn of_pack(pack: &CanaryPack) -> Result<Self, fingerprint::Error> {
        Ok(Self::Pack { pack: Digest(pack.identity()?.0), plan: Digest(pack.plan().0) })
    }

    fn signed_text(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        match self {
            Self::Plan { plan, public } => {
                hasher.update(&[1]).update(plan.as_bytes()).update(public.as_bytes());
            }
            Self::Fingerprint(digest) => {
                hasher.update(&[2]).update(digest.as_bytes());
            }
            Self::Pack { pack, plan } => {
                hasher.update(&[3]).update(pack.as_bytes()).update(plan.as_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan { plan, .. } => write!(f, "plan {}", plan.short()),
            Self::Fingerprint(digest) => write!(f, "fingerprint {}", digest.short()),
            Self::Pack { pack, plan } => {
                write!(f, "pack {} of plan {}", pack.short(), plan.short())
            }
        }
    }
}

/// An owner's public key: what clients and servers are told to trust.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnerPublic(pub PublicIdentity);

impl OwnerPublic {
    /// Read a public key file: 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`ConfigError::UnreadableKey`], [`ConfigError::UnusableKey`].
    pub fn load(path: &Path) -> Result<Self> {
        let unusable = || ConfigError::UnusableKey { path: path.to_owned() };
        let bytes = read_small(path, MAX_SIGNATURE_FILE_BYTES)
            .map_err(|source| ConfigError::UnreadableKey { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|_| unusable())?;
        let key: PublicIdentity = text.trim().parse().map_err(|_| unusable())?;
        key.verifying_key().map_err(|_| unusable())?;
        Ok(Self(key))
    }
}

impl fmt::Display for OwnerPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for OwnerPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerPublic({self})")
    }
}

/// An owner's secret key.
///
/// # Security
/// Never printed; wiped from memory when dropped.
#[derive(Debug)]
pub struct OwnerKey(Identity);

impl OwnerKey {
    /// Draw a key.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        Self(Identity::generate(rng))
    }

    /// The key of a 32-byte secret seed (RFC 8032 private key).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Identity::from_seed(seed))
    }

    /// Read a key file, in the form of [`Identity::load`].
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn load(path: &Path) -> Result<Self> {
        crate::tls::warn_if_readable_by_others(path);
        Identity::load(path).map(Self)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> OwnerPublic {
        OwnerPublic(self.0.public())
    }

    /// Sign.
    #[must_use]
    pub fn sign(&self, subject: &Subject) -> OwnerSignature {
        OwnerSignature { key: self.public(), signature: self.0.sign(&subject.signed_text()) }
    }
}

/// Make `owner.key` (secret, mode 0600) and `owner.pub` in a directory, which is created.
///
/// # Errors
/// - [`ConfigError::WouldOverwrite`]: one of the files exists.
/// - [`ConfigError::UnwritableFile`]: one cannot be written; none is left behind.
pub fn init(directory: &Path, rng: &mut (impl CryptoRng + ?Sized)) -> Result<OwnerPublic> {
    let paths = [OWNER_KEY_FILE, OWNER_PUBLIC_FILE].map(|file| directory.join(file));
    if let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(ConfigError::WouldOverwrite { path: path.clone() }.into());
    }
    fs::create_dir_all(directory)
        .map_err(|source| ConfigError::UnwritableFile { path: directory.to_owned(), source })?;
    let key = OwnerKey::generate(rng);
    let secret = key.0.to_file_text();
    let public = format!("{}\n", key.public());
    let contents = [(secret.as_bytes(), Readers::Owner), (public.as_bytes(), Readers::Everyone)];
    write_all(&paths, &contents)?;
    Ok(key.public())
}

/// A signature and the key that is said to have made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerSignature {
    /// The signer.
    pub key: OwnerPublic,
    /// The signature.
    pub signature: Signature,
}

/// Why a signature does not count.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignatureProblem {
    /// There is none.
    #[error("there is no signature; the owner makes one with `securedl sign FILE --key owner.key`")]
    Missing,
    /// The signature is of something else, or was altered.
    #[error(
        "the signature is not of this {subject}: it was changed after it was signed, or the file belongs to another"
    )]
    Wrong {
        /// What was to be signed.
        subject: Subject,
    },
    /// The signer is nobody we were told to trust.
    #[error("it is signed by {signer}, which is none of the owners named with --owner")]
    Foreign {
        /// The signer.
        signer: OwnerPublic,
    },
}

impl OwnerSignature {
    /// Check that the signature is of this subject, whoever made it.
    ///
    /// # Errors
    /// [`SignatureProblem::Wrong`].
    pub fn verify(&self, subject: &Subject) -> Result<(), SignatureProblem> {
        match self.key.0.verifies(&subject.signed_text(), &self.signature) {
            true => Ok(()),
            false => Err(SignatureProblem::Wrong { subject: *subject }),
        }
    }

    /// The text of a signature file.
    #[must_use]
    pub fn to_text(&self, subject: &Subject) -> String {
        let mut text = String::from(FIRST_LINE);
        let _ = match subject {
            Subject::Plan { plan, public } => {
                write!(text, "\nkind plan\ndigest {plan}\npublic {public}")
            }
            Subject::Fingerprint(digest) => write!(text, "\nkind fingerprint\ndigest {digest}"),
            Subject::Pack { pack, plan } => {
                write!(text, "\nkind pack\ndigest {pack}\nplan {plan}")
            }
        };
        let _ = write!(text, "\nkey {}\nsignature ", self.key);
        let _ = write_hex(&mut text, &self.signature.to_bytes());
        text.push('\n');
        text
    }

    /// Read the text of a signature file. It has exactly one form.
    ///
    /// # Errors
    /// `None`: it is no signature file of this version.
    #[must_use]
    pub fn from_text(text: &str) -> Option<(Self, Subject)> {
        fn field<'a>(lines: &mut std::str::Lines<'a>, name: &str) -> Option<&'a str> {
            lines.next()?.strip_prefix(name)?.strip_prefix(' ')
        }
        let digest = |text: &str| parse_hex::<32>(text).ok().map(Digest);
        let mut lines = text.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let kind = field(&mut lines, "kind")?;
        let content = digest(field(&mut lines, "digest")?)?;
        let subject = match kind {
            "plan" => {
                let public = digest(field(&mut lines, "public")?)?;
                Subject::Plan { plan: content, public }
            }
            "fingerprint" => Subject::Fingerprint(content),
            "pack" => {
                let plan = digest(field(&mut lines, "plan")?)?;
                Subject::Pack { pack: content, plan }
            }
            _ => return None,
        };
        let key = OwnerPublic(field(&mut lines, "key")?.parse().ok()?);
        let bytes = parse_hex::<64>(field(&mut lines, "signature")?).ok()?;
        let signature = Self { key, signature: Signature::from_bytes(&bytes) };
        // Canonical: no other case of digits, no other line ends, nothing after it.
        (signature.to_text(&subject) == text).then_some((signature, subject))
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        OwnerKey::from_seed(&[5; 32]).sign(&Subject::Fingerprint(Digest([6; 32])))
    }
}

/// What a server handed out as the public part of a plan cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublicPartError {
    /// The bytes are no public part of a plan.
    #[error("the server's public part of the plan cannot be read")]
    Plan {
        /// What is wrong with it.
        source: nn_poly::Error,
    },
    /// No owner we trust has signed it.
    #[error("the server's public part of the plan is not what an owner has signed: {source}")]
    Signature {
        /// What is wrong with its signature.
        source: SignatureProblem,
    },
}

impl PublicPart {
    /// Decode what a server handed out for `plan`, and check that one of `owners` has signed it for
    /// that plan.
    ///
    /// The digest of a plan covers its weights, so whoever has the public part alone cannot compute
    /// it: without an owner the result is the server's claim.
    ///
    /// # Errors
    /// [`PublicPartError`]; without `owners` a signature may be missing, but not wrong.
    pub fn open(
        &self,
        plan: Digest,
        owners: &[OwnerPublic],
    ) -> Result<PublicPlan, PublicPartError> {
        let public = PublicPlan::from_bytes(&self.plan.0)
            .map_err(|source| PublicPartError::Plan { source })?;
        check(self.signature.as_ref(), &Subject::of_public(plan, &public), owners)
            .map_err(|source| PublicPartError::Signature { source })?;
        Ok(public)
    }
}

/// Where the signature of a file is: `FILE.sig`.
#[must_use]
pub fn signature_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(SIGNATURE_EXTENSION);
    name.into()
}

/// Read the signature beside a file, if there is one.
///
/// # Errors
/// - [`ConfigError::UnreadableKey`]: it is there but cannot be read.
/// - [`ConfigError::UnusableSignature`]: it is no signature file.
pub fn load_signature(file: &Path) -> Result<Option<OwnerSignature>> {
    let path = signature_path(file);
    let bytes = match read_small(&path, MAX_SIGNATURE_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ConfigError::UnreadableKey { path, source }.into()),
    };
    let parsed = std::str::from_utf8(&bytes).ok().and_then(OwnerSignature::from_text);
    match parsed {
        Some((signature, _)) => Ok(Some(signature)),
        None => Err(ConfigError::UnusableSignature { path }.into()),
    }
}

/// Check a signature against the owners that are trusted; with none of them, one that is there must
/// still be right.
///
/// # Errors
/// Every [`SignatureProblem`]; `Missing` and `Foreign` only if `owners` names somebody.
pub fn check(
    signature: Option<&OwnerSignature>,
    subject: &Subject,
    owners: &[OwnerPublic],
) -> Result<(), SignatureProblem> {
    match signature {
        None if owners.is_empty() => Ok(()),
        None => Err(SignatureProblem::Missing),
        Some(signature) => {
            signature.verify(subject)?;
            match owners.is_empty() || owners.contains(&signature.key) {
                true => Ok(()),
                false => Err(SignatureProblem::Foreign { signer: signature.key }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    const PLAN: Subject = Subject::Plan { plan: Digest([1; 32]), public: Digest([2; 32]) };
    const PACK: Subject = Subject::Pack { pack: Digest([1; 32]), plan: Digest([2; 32]) };

    fn key() -> OwnerKey {
        OwnerKey::from_seed(&[7; 32])
    }

    #[test]
    fn a_signature_file_has_its_published_bytes() {
        let text = key().sign(&PLAN).to_text(&PLAN);
        let signed = blake3::derive_key(CONTEXT, &[&[1][..], &[1; 32], &[2; 32]].concat());
        let signature =
            ed25519_dalek::Signer::sign(&ed25519_dalek::SigningKey::from_bytes(&[7; 32]), &signed);
        let hex: String = signature.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = format!(
            "securedl signature 1\nkind plan\ndigest {}\npublic {}\n\
             key ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c\nsignature {hex}\n",
            "01".repeat(32),
            "02".repeat(32),
        );
        assert_eq!(text, expected);
        assert_eq!(OwnerSignature::from_text(&text), Some((key().sign(&PLAN), PLAN)));
        // A pack of the same digests is another text, signed for itself.
        let pack = key().sign(&PACK).to_text(&PACK);
        let (ones, twos) = ("01".repeat(32), "02".repeat(32));
        let expected = format!("securedl signature 1\nkind pack\ndigest {ones}\nplan {twos}\nkey ");
        assert!(pack.starts_with(&expected), "{pack}");
        assert_eq!(OwnerSignature::from_text(&pack), Some((key().sign(&PACK), PACK)));
        let signed = blake3::derive_key(CONTEXT, &[&[3][..], &[1; 32], &[2; 32]].concat());
        assert!(key().public().0.verifies(&signed, &key().sign(&PACK).signature));
    }

    #[test]
    fn a_signature_is_of_one_subject_of_one_kind_by_one_owner() {
        let signature = key().sign(&PLAN);
        let owner = [key().public()];
        let other = [OwnerKey::from_seed(&[8; 32]).public()];
        assert_eq!(check(Some(&signature), &PLAN, &owner), Ok(()));
        assert_eq!(check(Some(&signature), &PLAN, &[]), Ok(()));
        assert_eq!(check(None, &PLAN, &[]), Ok(()));
        assert_eq!(check(None, &PLAN, &owner), Err(SignatureProblem::Missing));
        let foreign = check(Some(&signature), &PLAN, &other);
        assert_eq!(foreign, Err(SignatureProblem::Foreign { signer: key().public() }));
        for subject in [
            Subject::Plan { plan: Digest([1; 32]), public: Digest([3; 32]) },
            Subject::Plan { plan: Digest([3; 32]), public: Digest([2; 32]) },
            Subject::Fingerprint(Digest([1; 32])),
            PACK,
            Subject::Pack { pack: Digest([1; 32]), plan: Digest([3; 32]) },
        ] {
            let outcome = check(Some(&signature), &subject, &owner);
            assert_eq!(outcome, Err(SignatureProblem::Wrong { subject }));
        }
        let claimed = OwnerSignature { key: OwnerKey::from_seed(&[8; 32]).public(), ..signature };
        assert!(claimed.verify(&PLAN).is_err(), "another's name under it");
    }

    #[test]
    fn keys_are_made_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("keys");
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let public = init(&directory, &mut rng).unwrap();
        assert_eq!(OwnerPublic::load(&directory.join(OWNER_PUBLIC_FILE)).unwrap(), public);
        assert_eq!(OwnerKey::load(&directory.join(OWNER_KEY_FILE)).unwrap().public(), public);
        assert!(init(&directory, &mut rng).is_err());
        // Half of all seeds would pass for the encoding of a public key.
        for seed in 0..20 {
            let secret = OwnerKey::from_seed(&[seed; 32]).0.to_file_text();
            fs::write(directory.join("secret"), secret.as_bytes()).unwrap();
            assert!(OwnerPublic::load(&directory.join("secret")).is_err());
        }
        assert!(OwnerPublic::load(&directory.join("none")).is_err());
        fs::write(directory.join(OWNER_PUBLIC_FILE), "00").unwrap();
        assert!(OwnerPublic::load(&directory.join(OWNER_PUBLIC_FILE)).is_err());
    }

    proptest! {
        /// Whatever is changed in a signature file, it does not verify afterwards.
        #[test]
        fn altered_files_are_refused(
            subject in prop::sample::select(vec![PLAN, PACK, Subject::Fingerprint(Digest([1; 32]))]),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let original = subject;
            let text = key().sign(&original).to_text(&original);
            let mut bytes = text.clone().into_bytes();
            let length = bytes.len();
            if let Some(target) = bytes.get_mut(at.index(length)) { *target = byte; }
            if bytes != text.as_bytes() && let Ok(altered) = String::from_utf8(bytes)
                && let Some((signature, subject)) = OwnerSignature::from_text(&altered) {
                prop_assert!(subject != original || signature.verify(&original).is_err());
                prop_assert!(check(Some(&signature), &subject, &[key().public()]).is_err());
            }
        }
    }
}
