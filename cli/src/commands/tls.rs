//! `securedl tls`: certificates for development.

use anyhow::{Result, bail};
use protocol::tls;

use crate::args::{TlsClientArguments, TlsInitArguments};
use crate::failure::Outcome;
use crate::report::Console;
use crate::report::terminal::Ink;

/// Make an authority, a server certificate, and a server identity.
pub(crate) fn init(arguments: &TlsInitArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(None);
    for name in &arguments.clients {
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            bail!(
                "`{name}` cannot be a client's name here, where it becomes part of a folder's: use no slashes, \
                 and no dot at the beginning"
            );
        }
    }
    let created = tls::init(&arguments.directory, &arguments.names)?;
    let what = [
        "clients need this file, and only this one",
        "certificate of the server",
        "key of the certificate: stays with the server",
        "signs receipts: stays with the server",
    ];
    let width =
        created.files.iter().map(|file| file.display().to_string().len()).max().unwrap_or(0);
    for (file, what) in created.files.iter().zip(what) {
        let name = file.display().to_string();
        screen.line(format_args!(
            "  {}{:pad$}  {}",
            screen.paint(Ink::Accent, &name),
            "",
            screen.paint(Ink::Dim, what),
            pad = width - name.len(),
        ));
    }
    screen.gap();
    screen.fact("Valid for", created.names.join(", "));
    screen.fact("Valid until", &created.valid_until);
    screen.fact("Identity", created.identity);
    for name in &arguments.clients {
        let folder = arguments.directory.join(format!("client-{name}"));
        let created = tls::client(&arguments.directory, name, &folder)?;
        screen.gap();
        screen.fact("Client", format!("{name}: {}", folder.display()));
        screen.fact("Fingerprint", created.fingerprint);
    }
    screen.finish()?;
    Ok(Outcome::Success)
}

/// Make a client's certificate.
pub(crate) fn client(arguments: &TlsClientArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(None);
    let created = tls::client(&arguments.directory, &arguments.name, &arguments.out)?;
    for file in &created.files {
        screen.line(format_args!("  {}", screen.paint(Ink::Accent, file.display())));
    }
    screen.gap();
    screen.fact("Valid until", &created.valid_until);
    screen.fact("Fingerprint", created.fingerprint);
    let text = "  The fingerprint goes into `certificates` of the client in the access file.";
    screen.line(screen.paint(Ink::Dim, text));
    screen.finish()?;
    Ok(Outcome::Success)
}
