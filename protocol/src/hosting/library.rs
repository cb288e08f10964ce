//! The plans of a folder, looked at again while they are served.
//!
//! ```text
//!  look ─► a file is new or changed ─► the next look finds it the same ─► read, checked, placed
//!          a file is gone ─► its plan is taken away: new requests are refused, running ones finish
//!          a file cannot be used ─► what it held before stays, and so does everything else
//!          a signature that is demanded is gone or wrong ─► its plan is taken away
//! ```
//! A file counts as changed by its time and length, or those of its signature. Waiting for the second
//! look lets somebody finish copying it. Where signatures are demanded, a change of the signature alone is
//! looked into at once: it may be a withdrawal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use super::{HostedPlan, HostingError, PlanShelf, plan_files};
use crate::access::Look;
use crate::identifiers::{Digest, Label};
use crate::message::{ModelCard, Refusal};
use crate::server::service::{PlanHost, SegmentService};
use crate::signature::{OwnerPublic, OwnerSignature, signature_path};

/// A folder of plans behind a server.
#[derive(Debug)]
pub struct PlanLibrary {
    directory: PathBuf,
    owners: Vec<OwnerPublic>,
    shelf: RwLock<PlanShelf>,
    files: Mutex<BTreeMap<PathBuf, Entry>>,
}

/// What is known of one file.
#[derive(Debug, Default)]
struct Entry {
    /// As of the last look.
    seen: Option<Stamp>,
    /// As of the last attempt to read it.
    tried: Option<Stamp>,
    /// The plan it brought, which is served.
    plan: Option<Digest>,
    /// Whether the last attempt failed.
    is_broken: bool,
}

/// Time and length of a file and of its signature.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// What a look has changed.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct PlanChanges {
    /// Plans that are served from now on.
    pub added: Vec<ModelCard>,
    /// Plans that are not served any more.
    pub removed: Vec<ModelCard>,
    /// Why files cannot be used, plans taken away for their signature included; each is told once per
    /// change of the file.
    pub problems: Vec<HostingError>,
    /// Files that cannot be used at the moment, those told before included.
    pub broken_files: usize,
}

impl PlanChanges {
    /// Whether there is anything to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.problems.is_empty()
    }
}

impl PlanLibrary {
    /// Read every `*.plan` file of a folder, for owners as
    /// [`PlanShelf::open_directory_of`] takes them.
    ///
    /// # Errors
    /// As [`open_on`](Self::open_on).
    pub fn open(directory: &Path, owners: &[OwnerPublic]) -> Result<Self, HostingError> {
        Self::open_on(PlanShelf::new(), directory, owners).map(|(library, _)| library)
    }

    /// As [`open`](Self::open), on an empty shelf that was given a key for masked plans
    /// ([`PlanShelf::with_mask_key`]); with what the first look found. A file that cannot be used keeps
    /// no other from being served: a server must come up again whatever is being copied at that moment.
    ///
    /// # Errors
    /// - [`HostingError::Folder`], [`HostingError::NoPlans`] for the folder.
    /// - What is wrong with the first file, if none can be used.
    pub fn open_on(
        shelf: PlanShelf,
        directory: &Path,
        owners: &[OwnerPublic],
    ) -> Result<(Self, PlanChanges), HostingError> {
        let library = Self {
            directory: directory.to_owned(),
            owners: owners.to_vec(),
            shelf: RwLock::new(shelf),
            files: Mutex::default(),
        };
        let changes = library.refresh(Look::Always)?;
        if library.n_plans() > 0 {
            return Ok((library, changes));
        }
        let nothing = HostingError::NoPlans { path: directory.to_owned() };
        Err(changes.problems.into_iter().next().unwrap_or(nothing))
    }

    /// The folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Look at the folder. With `Look::Always`, files are read without waiting for a second look, and
    /// those that could not be used are tried again.
    ///
    /// Blocks for as long as reading and preparing new plans takes; requests are served meanwhile.
    ///
    /// # Errors
    /// [`HostingError::Folder`]: it cannot be read. Everything stays as it is.
    pub fn refresh(&self, look: Look) -> Result<PlanChanges, HostingError> {
        let found = plan_files(&self.directory)?;
        let mut files = lock(&self.files);
        let before: BTreeMap<[u8; 32], ModelCard> = self.cards();
        let mut changes = PlanChanges::default();
        let mut prepared = Vec::new();
        files.retain(|path, _| found.contains(path));
        for path in found {
            let entry = files.entry(path.clone()).or_default();
            if !entry.is_due(&path, look, !self.owners.is_empty()) {
                continue;
            }
            match self.read_shelf().prepare_file(&path, &self.owners) {
                Ok(plan) => {
                    entry.plan = Some(plan.card.plan);
                    entry.is_broken = false;
                    prepared.push(plan);
                }
                Err(problem) => {
                    entry.is_broken = true;
                    if !self.owners.is_empty() && is_of_signature(&problem) {
                        entry.plan = None;
                    }
                    changes.problems.push(problem);
                }
            }
        }
        let kept: BTreeSet<[u8; 32]> =
            files.values().filter_map(|entry| entry.plan).map(|plan| plan.0).collect();
        changes.broken_files = files.values().filter(|entry| entry.is_broken).count();
        self.replace(prepared, &kept);
        let after = self.cards();
        let only = |these: &BTreeMap<_, ModelCard>, those: &BTreeMap<_, ModelCard>| {
            these
                .iter()
                .filter(|(plan, _)| !those.contains_key(*plan))
                .map(|(_, card)| card.clone())
                .collect()
        };
        changes.added = only(&after, &before);
        changes.removed = only(&before, &after);
        Ok(changes)
    }

    fn replace(&self, prepared: Vec<HostedPlan>, kept: &BTreeSet<[u8; 32]>) {
        let mut shelf = self.write_shelf();
        for plan in prepared {
            shelf.place(plan);
        }
        let gone: Vec<Digest> =
            shelf.plans.keys().filter(|plan| !kept.contains(&plan.0)).copied().collect();
        gone.iter().for_each(|plan| shelf.remove(plan));
    }

    fn cards(&self) -> BTreeMap<[u8; 32], ModelCard> {
        self.read_shelf().models().into_iter().map(|card| (card.plan.0, card)).collect()
    }

    /// A panic while the shelf was held leaves it whole: plans are placed one by one.
    fn read_shelf(&self) -> RwLockReadGuard<'_, PlanShelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_shelf(&self) -> RwLockWriteGuard<'_, PlanShelf> {
        self.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether the file should be read now. Notes what it looks like.
    fn is_due(&mut self, path: &Path, look: Look, is_signature_demanded: bool) -> bool {
        let stamp = [path.to_owned(), signature_path(path)].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        });
        let is_settled = self.seen.replace(stamp) == Some(stamp);
        let [file, signature] = stamp;
        let is_of_signature = |tried: Stamp| {
            let [tried_file, tried_signature] = tried;
            tried_file == file && tried_signature != signature
        };
        let may_be_withdrawn = is_signature_demanded && self.tried.is_some_and(is_of_signature);
        let is_due = match look {
            Look::Always => self.is_broken || self.tried != Some(stamp),
            Look::IfTouched => (is_settled || may_be_withdrawn) && self.tried != Some(stamp),
        };
        if is_due {
            self.tried = Some(stamp);
        }
        is_due
    }
}

/// Whether the plan itself may be fine, and what vouches for it is missing or wrong.
const fn is_of_signature(problem: &HostingError) -> bool {
    matches!(problem, HostingError::Signature { .. } | HostingError::SignatureFile { .. })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PlanHost for PlanLibrary {
    fn models(&self) -> Vec<ModelCard> {
        self.read_shelf().models()
    }

    fn n_plans(&self) -> usize {
        self.read_shelf().len()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.read_shelf().public_plan(plan)
    }

    fn plan_name(&self, plan: &Digest) -> Option<Label> {
        self.read_shelf().plan_name(plan)
    }

    fn signature(&self, plan: &Digest) -> Option<OwnerSignature> {
        self.read_shelf().signature(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        self.read_shelf().segment(plan, segment)
    }

    fn limit_spare_memory(&self, max_bytes: u64) -> u64 {
        self.read_shelf().limit_spare_memory(max_bytes)
    }
}
