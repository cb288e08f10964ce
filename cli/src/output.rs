//! Files the commands write: checked before the work, written at its end, whole or not at all.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nn_poly::artifact;

use crate::args::OutputPath;
use crate::failure::Hint;

/// A file that will be written.
///
/// Regular files are replaced in one step (a temporary file beside them, then a rename); anything
/// else that exists, such as a pipe or `/dev/null`, is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputFile {
    /// As the user wrote it.
    shown: PathBuf,
    /// Where it really is.
    path: PathBuf,
}

impl OutputFile {
    /// Check that `path` can be written, and that nobody has to find out after hours of work.
    ///
    /// Leaves nothing behind.
    ///
    /// # Errors
    /// A folder that is missing or not writable, or a path that is a folder.
    pub(crate) fn check(path: &Path) -> Result<Self> {
        let name = path.display();
        if path.is_dir() {
            bail!("cannot write {name}: it is a folder; give the path of a file");
        }
        // A link stays a link: what it points to is replaced.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let output = Self { shown: path.to_owned(), path: real };
        if output.is_special() {
            return Ok(output);
        }
        let folder = output.folder();
        if !folder.is_dir() {
            return Err(anyhow::anyhow!(
                "cannot write {name}: there is no folder {}",
                folder.display()
            ))
            .hint(|| format!("create it with: mkdir -p {}", folder.display()));
        }
        if output.path.file_name().is_none() {
            bail!("cannot write {name}: it names no file");
        }
        tempfile::Builder::new().prefix(".securedl-check-").tempfile_in(folder).with_context(
            || format!("cannot write {name}: the folder {} takes no files", folder.display()),
        )?;
        Ok(output)
    }

    /// Write the file.
    ///
    /// # Errors
    /// Whatever the system says; an earlier file then is as it was.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        if self.is_special() {
            let write = || fs::OpenOptions::new().write(true).open(&self.path)?.write_all(bytes);
            return write().with_context(|| format!("cannot write {}", self.shown.display()));
        }
        Ok(artifact::write_file(&self.path, bytes)?)
    }

    /// Write the file piece by piece.
    ///
    /// # Errors
    /// Whatever `write` or the system says; an earlier file then is as it was.
    pub(crate) fn write_with(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let name = || format!("cannot write {}", self.shown.display());
        if self.is_special() {
            let file = fs::OpenOptions::new().write(true).open(&self.path).with_context(name)?;
            let mut out = BufWriter::new(file);
            write(&mut out).with_context(name)?;
            return out.flush().with_context(name);
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".securedl-");
        // As any new file, not as a secret one.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(self.folder()).with_context(name)?;
        let mut out = BufWriter::new(&mut file);
        write(&mut out).with_context(name)?;
        out.flush().with_context(name)?;
        drop(out);
        file.as_file().sync_all().with_context(name)?;
        file.persist(&self.path).map_err(|error| error.error).with_context(name)?;
        Ok(())
    }

    /// A file beside this one, with one more ending; `None` beside something that is no regular file.
    pub(crate) fn beside(&self, ending: &str) -> Option<PathBuf> {
        let mut name = self.path.file_name()?.to_owned();
        name.push(".");
        name.push(ending);
        (!self.is_special()).then(|| self.path.with_file_name(name))
    }

    /// Whether there is a regular file already.
    pub(crate) fn exists(&self) -> bool {
        self.path.is_file()
    }

    /// The path as the user wrote it, for messages.
    pub(crate) fn shown(&self) -> &Path {
        &self.shown
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// Whether something exists there that must not be replaced by a regular file.
    fn is_special(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| !found.is_file() && !found.is_dir())
    }
}

/// Where a report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Standard output; people then read standard error.
    Stdout,
    /// A file.
    File(OutputFile),
}

impl Destination {
    /// Check that the report can be written.
    ///
    /// # Errors
    /// As [`OutputFile::check`].
    pub(crate) fn check(path: &OutputPath) -> Result<Self> {
        Ok(match path {
            OutputPath::Stdout => Self::Stdout,
            OutputPath::File(path) => Self::File(OutputFile::check(path)?),
        })
    }

    /// Write `text`.
    ///
    /// # Errors
    /// Whatever the system says.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        match self {
            Self::File(file) => file.write(text.as_bytes()),
            Self::Stdout => {
                let mut stdout = std::io::stdout().lock();
                match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
                    // Whoever asked for it went away.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                    result => result.context("cannot write to standard output"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_refused_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        for (path, expected) in [
            (folder.path().to_owned(), "it is a folder"),
            (folder.path().join("no/such/file"), "there is no folder"),
        ] {
            let error = OutputFile::check(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_are_replaced_and_links_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let output = OutputFile::check(&path).unwrap();
        assert!(!output.exists());
        output.write(b"one").unwrap();
        output.write(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        #[cfg(unix)]
        {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            OutputFile::check(&link).unwrap().write(b"three").unwrap();
            assert!(link.is_symlink());
            assert_eq!(fs::read(&path).unwrap(), b"three");
        }
    }

    #[test]
    fn files_written_in_pieces_are_whole_or_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let output = OutputFile::check(&folder.path().join("a.csv")).unwrap();
        output.write_with(|out| Ok(out.write_all(b"one")?)).unwrap();
        let failed = output.write_with(|out| {
            out.write_all(b"half of two")?;
            bail!("no more")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("a.csv: no more"));
        assert_eq!(fs::read(folder.path().join("a.csv")).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        assert_eq!(output.beside("journal").unwrap(), output.path.with_file_name("a.csv.journal"));
    }

    #[test]
    #[cfg(unix)]
    fn devices_are_written_to_and_not_replaced() {
        let null = OutputFile::check(Path::new("/dev/null")).unwrap();
        null.write(b"nothing").unwrap();
        null.write_with(|out| Ok(out.write_all(b"nothing")?)).unwrap();
        assert!(null.is_special());
        assert_eq!(null.beside("journal"), None);
    }
}
