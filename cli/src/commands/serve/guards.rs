//! Who may enter and what is written down.

use std::path::PathBuf;

use anyhow::Result;
use protocol::access::{AccessControl, AccessFile, Look};
use protocol::audit::{AuditLimits, AuditLog};
use protocol::identity::Identity;
use protocol::server::{Server, ServerOptions};
use protocol::signature::OwnerPublic;
use protocol::tls::{self, ClientCertificates, ServerTls};
use tracing::{info, warn};

use super::settings::Settings;
use crate::commands::sign;

/// What guards a server.
pub(super) struct Guards {
    pub(super) tls: ServerTls,
    pub(super) owners: Vec<OwnerPublic>,
    directory: PathBuf,
    file: Option<AccessFile>,
    access: AccessControl,
    audit: Option<AuditLog>,
}

impl Guards {
    /// Read every file.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub(super) fn open(settings: &Settings) -> Result<Self> {
        let clients = match settings.client_certificates {
            "required" => ClientCertificates::Required,
            "optional" => ClientCertificates::Optional,
            _ => ClientCertificates::NotAsked,
        };
        let (file, access) = match &settings.access {
            Some(path) => {
                let (file, list) = AccessFile::open(path)?;
                (Some(file), AccessControl::listed(list))
            }
            None => {
                warn!("open to everybody: whoever reaches the port may use every plan");
                (None, AccessControl::open())
            }
        };
        let audit = settings.audit.as_deref();
        Ok(Self {
            tls: ServerTls::load_with(&settings.tls, clients)?,
            owners: sign::owners(&settings.owners)?,
            directory: settings.tls.clone(),
            file,
            access,
            audit: audit.map(|path| AuditLog::open(path, AuditLimits::default())).transpose()?,
        })
    }

    /// The server's options with these guards.
    pub(super) fn guard(&self, options: ServerOptions) -> ServerOptions {
        ServerOptions { access: self.access.clone(), audit: self.audit.clone(), ..options }
    }

    /// Look at the access file; with `Look::Always`, at certificates and identity as well.
    pub(super) fn refresh(&mut self, look: Look, server: &Server) {
        if let Some(file) = &mut self.file {
            match file.refresh(look) {
                Ok(None) => {}
                Ok(Some(list)) => {
                    info!(clients = list.clients().len(), "new access file");
                    self.access.replace(list);
                }
                Err(error) => warn!(%error, "the access file cannot be used; the old one stays"),
            }
        }
        if look == Look::Always {
            match self.tls.reload(&self.directory) {
                Ok(()) => info!("certificates read again"),
                Err(error) => warn!(%error, "certificates cannot be used; the old ones stay"),
            }
            match Identity::load(&self.directory.join(tls::IDENTITY_FILE)) {
                Ok(identity) => server.replace_identity(identity),
                Err(error) => warn!(%error, "the identity cannot be used; the old one stays"),
            }
        }
    }
}
