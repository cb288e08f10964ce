//! `securedl tls init`: certificates for development.

use anyhow::Result;
use protocol::tls;

use crate::args::TlsInitArguments;
use crate::failure::Outcome;
use crate::report::Console;
use crate::report::terminal::Ink;

/// Make an authority, a server certificate, and a server identity.
pub(crate) fn init(arguments: &TlsInitArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(None);
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
    screen.finish()?;
    Ok(Outcome::Success)
}
