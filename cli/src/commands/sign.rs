//! `securedl keys` and `securedl sign`: what an owner vouches for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fingerprint::CanaryPack;
use fingerprint::pack::MAX_PACK_BYTES;
use nn_poly::artifact;
use nn_poly::plan::Plan;
use protocol::signature::{self, OwnerKey, OwnerPublic, OwnerSignature, Subject};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::args::SignArguments;
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::output::OutputFile;
use crate::pipeline::fingerprinting;
use crate::report::Console;

/// Make an owner's key.
pub(crate) fn init(directory: &Path) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(None);
    let mut rng =
        ChaCha20Rng::try_from_os_rng().context("the operating system gives no random numbers")?;
    let public = signature::init(directory, &mut rng)?;
    screen.fact("Secret key", directory.join(signature::OWNER_KEY_FILE).display());
    screen.fact("Public key", directory.join(signature::OWNER_PUBLIC_FILE).display());
    screen.fact("Owner", public);
    screen.finish()?;
    Ok(Outcome::Success)
}

/// Sign a plan, a fingerprint or a pack of canaries.
pub(crate) fn sign(arguments: &SignArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(None);
    let file = &arguments.file;
    let key = OwnerKey::load(&arguments.key)?;
    let subject = match FileKind::of(file)? {
        FileKind::Plan => Subject::of_plan(&Plan::load(file)?),
        FileKind::Fingerprint => Subject::of_fingerprint(&fingerprinting::load(file)?)?,
        FileKind::Pack => Subject::of_pack(&load_pack(file)?)?,
        other @ (FileKind::Model
        | FileKind::PublicPlan
        | FileKind::Checkpoint
        | FileKind::UnfinishedBag
        | FileKind::Unknown) => {
            bail!("{} is {other}; plans, fingerprints and packs are signed", file.display())
        }
    };
    let output = OutputFile::check(&signature::signature_path(file))?;
    output.write(key.sign(&subject).to_text(&subject).as_bytes())?;
    screen.fact("Signed", subject);
    screen.fact("Owner", key.public());
    screen.fact("Signature", output.shown().display());
    screen.finish()?;
    Ok(Outcome::Success)
}

/// Read a pack of canaries.
///
/// # Errors
/// A file that is no pack, or damaged.
pub(crate) fn load_pack(file: &Path) -> Result<CanaryPack> {
    FileKind::Pack.expect_of(file)?;
    let bytes = artifact::read_file(file, MAX_PACK_BYTES)?;
    CanaryPack::from_bytes(&bytes).with_context(|| format!("{} cannot be used", file.display()))
}

/// The owners whose public keys are in these files.
pub(crate) fn owners(files: &[PathBuf]) -> Result<Vec<OwnerPublic>> {
    Ok(files.iter().map(|file| OwnerPublic::load(file)).collect::<Result<_, _>>()?)
}

/// Who vouches for a file's content.
#[derive(Debug)]
pub(crate) struct Voucher {
    file: PathBuf,
    subject: Subject,
    owners: Vec<OwnerPublic>,
    found: Option<OwnerSignature>,
}

impl Voucher {
    /// Read the signature beside a file, if there is one.
    ///
    /// # Errors
    /// It is there, but cannot be read.
    pub(crate) fn of(file: &Path, subject: Subject, owners: Vec<OwnerPublic>) -> Result<Self> {
        let found = signature::load_signature(file)?;
        Ok(Self { file: file.to_owned(), subject, owners, found })
    }

    /// Whether there is a signature beside the file.
    pub(crate) fn is_beside_file(&self) -> bool {
        self.found.is_some()
    }

    /// The owners that are trusted.
    pub(crate) fn owners(&self) -> &[OwnerPublic] {
        &self.owners
    }

    /// Check the signature beside the file or, without one, that which a server announced; says what
    /// was checked.
    ///
    /// # Errors
    /// A wrong signature; with owners, one that is missing or another's.
    pub(crate) fn check(&self, announced: Option<&OwnerSignature>) -> Result<String> {
        let found = self.found.as_ref().or(announced);
        signature::check(found, &self.subject, &self.owners)
            .with_context(|| format!("{} cannot be trusted", self.file.display()))?;
        Ok(match found {
            Some(found) if !self.owners.is_empty() => {
                format!("{}, as --owner demands", found.key)
            }
            Some(found) => {
                format!("{}; its signer is not checked: no --owner was named", found.key)
            }
            None => "not checked: no --owner was named".to_owned(),
        })
    }
}

/// Check the signature beside a file; says what was checked.
///
/// # Errors
/// As [`Voucher::of`] and [`Voucher::check`].
pub(crate) fn check(file: &Path, subject: Subject, owners: &[PathBuf]) -> Result<String> {
    Voucher::of(file, subject, self::owners(owners)?)?.check(None)
}
