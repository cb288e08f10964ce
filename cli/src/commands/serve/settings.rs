//! The configuration of a server: defaults, then a file, then flags.

mod options;
mod value;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use protocol::limits::{ServerLimits, ServerTimeouts};
use toml::{Spanned, Value};

use self::options::{ConfigOption, OPTIONS, SECTIONS};
pub(super) use self::value::size;
use crate::args::ServeArguments;
use crate::failure::Hint;

/// Largest configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything a server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) listen: SocketAddr,
    pub(super) plans: PathBuf,
    pub(super) reload: Duration,
    pub(super) tls: PathBuf,
    pub(super) mask_key: Option<PathBuf>,
    pub(super) owners: Vec<PathBuf>,
    pub(super) access: Option<PathBuf>,
    pub(super) open: bool,
    pub(super) client_certificates: &'static str,
    pub(super) audit: Option<PathBuf>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) expose_admin: bool,
    pub(super) limits: ServerLimits,
    pub(super) timeouts: ServerTimeouts,
    pub(super) log_format: &'static str,
    pub(super) log_level: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7443)),
            plans: PathBuf::from("plans"),
            reload: Duration::from_secs(2),
            tls: PathBuf::from("tls"),
            mask_key: None,
            owners: Vec::new(),
            access: None,
            open: false,
            client_certificates: "no",
            audit: None,
            admin: None,
            expose_admin: false,
            limits: ServerLimits::default(),
            timeouts: ServerTimeouts::default(),
            log_format: "text",
            log_level: "info".to_owned(),
        }
    }
}

impl Settings {
    /// What a command line asks for.
    ///
    /// # Errors
    /// A file that cannot be read or is not a configuration, a value out of range, or nothing that
    /// says who may enter.
    pub(super) fn of(arguments: &ServeArguments) -> Result<Self> {
        let settings = Self::unchecked(arguments)?;
        settings.check()?;
        Ok(settings)
    }

    /// As [`of`](Self::of), without asking whether a server could run with it.
    ///
    /// # Errors
    /// A file that cannot be read or is not a configuration, or a value out of range.
    pub(super) fn unchecked(arguments: &ServeArguments) -> Result<Self> {
        let mut settings = Self::default();
        if let Some(path) = &arguments.config {
            settings.read_file(path)?;
        }
        settings.apply(arguments)?;
        Ok(settings)
    }

    fn read_file(&mut self, path: &Path) -> Result<()> {
        let shown = path.display();
        let file = fs::File::open(path)
            .with_context(|| format!("the configuration {shown} cannot be read"))?;
        let mut text = String::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .with_context(|| format!("the configuration {shown} cannot be read"))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            bail!("the configuration {shown} has more than {MAX_FILE_BYTES} bytes");
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        self.read(&text, folder)
            .map_err(|(line, message)| anyhow!("{shown}, line {line}: {message}"))
            .hint(|| "`securedl serve --print-config` prints every option with its default")
    }

    /// Read the text of a file, whose paths are relative to `folder`. On failure: the line, from 1,
    /// and what is wrong there.
    fn read(&mut self, text: &str, folder: &Path) -> Result<(), (usize, String)> {
        type Section = BTreeMap<String, Spanned<Value>>;
        let line =
            |position: usize| 1 + text.bytes().take(position).filter(|byte| *byte == b'\n').count();
        let sections: BTreeMap<String, Spanned<Section>> =
            toml::from_str(text).map_err(|error| {
                let position = error.span().map_or(0, |span| span.start);
                (line(position), error.message().to_owned())
            })?;
        for (section, entries) in sections {
            let known: Vec<&ConfigOption> =
                OPTIONS.iter().filter(|option| option.section == section).collect();
            if known.is_empty() {
                let names: Vec<String> =
                    SECTIONS.iter().map(|(name, _)| format!("[{name}]")).collect();
                let message =
                    format!("there is no section [{section}]; there are {}", names.join(", "));
                return Err((line(entries.span().start), message));
            }
            for (key, value) in entries.into_inner() {
                let at = line(value.span().start);
                let Some(option) = known.iter().find(|option| option.key == key) else {
                    let names: Vec<&str> = known.iter().map(|option| option.key).collect();
                    let names = names.join(", ");
                    return Err((at, format!("[{section}] has no key `{key}`; it has {names}")));
                };
                option.set(self, value.get_ref(), folder).map_err(|message| (at, message))?;
            }
        }
        Ok(())
    }

    /// Flags go before the file.
    fn apply(&mut self, arguments: &ServeArguments) -> Result<()> {
        for assignment in &arguments.settings {
            self.assign(assignment)?;
        }
        let ServeArguments { plans, listen, tls, admin, expose_admin, guards, .. } = arguments;
        if let Some(plans) = plans {
            self.plans.clone_from(plans);
        }
        if let Some(listen) = listen {
            self.listen = *listen;
        }
        if let Some(tls) = tls {
            self.tls.clone_from(tls);
        }
        if let Some(mask_key) = &arguments.mask_key {
            self.mask_key = Some(mask_key.clone());
        }
        if let Some(admin) = admin {
            self.admin = Some(*admin);
        }
        self.expose_admin |= expose_admin;
        if let Some(format) = arguments.log_format {
            self.log_format = format.as_str();
        }
        if let Some(memory) = &arguments.memory {
            self.assign(&format!("limits.memory={memory}"))?;
        }
        if let Some(access) = &guards.access {
            (self.access, self.open) = (Some(access.clone()), false);
        }
        if guards.open {
            (self.access, self.open) = (None, true);
        }
        if let Some(when) = guards.client_certificates {
            self.client_certificates = when.as_str();
        }
        if let Some(audit) = &guards.audit {
            self.audit = Some(audit.clone());
        }
        if !guards.owners.is_empty() {
            self.owners.clone_from(&guards.owners);
        }
        Ok(())
    }

    /// `section.key=value` from the command line.
    fn assign(&mut self, assignment: &str) -> Result<()> {
        let found = assignment.split_once('=').and_then(|(name, value)| {
            Some((OPTIONS.iter().find(|option| option.name() == name.trim())?, value.trim()))
        });
        let Some((option, value)) = found else {
            return Err(anyhow!("`--set {assignment}` does not name an option"))
                .hint(|| "--set SECTION.KEY=VALUE; `securedl serve --print-config` prints them");
        };
        // A number, a list or a quoted text as in the file; anything else is text.
        let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
            .ok()
            .and_then(|mut table| table.remove("value"));
        let value = parsed.unwrap_or_else(|| Value::from(value));
        option.set(self, &value, Path::new("")).map_err(|message| anyhow!("--set: {message}"))
    }

    fn check(&self) -> Result<()> {
        self.limits.check().context("the limits do not fit each other")?;
        match (&self.access, self.open) {
            (None, false) => Err(anyhow!("nothing says who may enter")).hint(|| {
                "--access FILE lets in the clients of a list (made by `securedl access add`), \
                 --open everybody; or access.file, access.open in the configuration"
            }),
            (Some(_), true) => Err(anyhow!(
                "access.file and access.open contradict each other: take one of them out"
            )),
            _ => Ok(()),
        }
    }

    /// The whole configuration as a file, every option with its words.
    pub(super) fn print(&self) -> String {
        let mut text = String::from(
            "# Configuration of `securedl serve --config FILE`. What is not here has its default,\n\
             # which is what is shown. Flags go before the file. Paths are relative to its folder.\n",
        );
        for (section, about) in SECTIONS {
            // Writing to a string does not fail.
            let _ = write!(text, "\n# {about}\n[{section}]\n");
            for option in OPTIONS.iter().filter(|option| option.section == section) {
                text.push('\n');
                for line in option.about {
                    let _ = writeln!(text, "# {line}");
                }
                let _ = writeln!(text, "# Allowed: {}.", option.kind.allowed());
                let _ = writeln!(text, "{} = {}", option.key, option.kind.show(self));
            }
        }
        text
    }
}

impl ConfigOption {
    fn set(&self, settings: &mut Settings, value: &Value, folder: &Path) -> Result<(), String> {
        let mut changed = settings.clone();
        self.kind
            .read(&mut changed, value, folder)
            .ok_or_else(|| format!("{} = {value} is not {}", self.name(), self.kind.allowed()))?;
        *settings = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
