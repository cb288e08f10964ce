//! `securedl access`: who may enter a server.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use protocol::access::{AccessFile, AccessList, Token, TokenHash};
use protocol::tls::CertificateFingerprint;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::args::{AccessAddArguments, AccessCheckArguments};
use crate::failure::Outcome;
use crate::output::OutputFile;
use crate::report::Console;
use crate::report::table::{Grid, Lean};
use crate::report::terminal::{Ink, Screen};

/// Make a token and add its hash to the file.
pub(crate) fn add(arguments: &AccessAddArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(None);
    let path = &arguments.file;
    let output = OutputFile::check(path)?;
    let mut text = match path.exists() {
        // Read as a server does, so that a broken file is not made longer.
        true => {
            AccessFile::open(path)?;
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        false => "# Who may enter; `securedl access add` appends to it.\nversion = 1\n".to_owned(),
    };
    let mut rng =
        ChaCha20Rng::try_from_os_rng().context("the operating system gives no random numbers")?;
    let token = Token::generate(&mut rng);
    let hash = TokenHash::new(&token, &mut rng);
    append(&mut text, arguments, &hash)?;
    AccessList::parse(&text)
        .map_err(|(_, problem)| problem)
        .context("the entry would not be readable; check the name, the plans and the day")?;
    output.write(text.as_bytes())?;
    restrict(path)?;
    screen.fact("Client", &arguments.name);
    screen.fact("File", path.display());
    screen.fact("Token", screen.paint(Ink::Bold, &*token.to_text()));
    screen.gap();
    let text =
        "  Shown once. The client puts it into a file for --token-file, or into SECUREDL_TOKEN.";
    screen.line(screen.paint(Ink::Dim, text));
    screen.finish()?;
    Ok(Outcome::Success)
}

fn append(text: &mut String, arguments: &AccessAddArguments, hash: &TokenHash) -> Result<()> {
    let known = AccessList::parse(text).map_err(|(_, problem)| problem)?;
    let is_new = known.clients().iter().all(|client| client.name != arguments.name);
    let name = quoted(&arguments.name);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if is_new {
        if arguments.plans.is_empty() {
            bail!(
                "`{}` is a new client: name its plans with --plan, or --plan '*'",
                arguments.name
            );
        }
        let plans: Vec<String> = arguments.plans.iter().map(|plan| quoted(plan)).collect();
        write!(text, "\n[[client]]\nname = {name}\nplans = [{}]\n", plans.join(", "))?;
        let limits = [
            ("requests_per_minute", arguments.requests_per_minute.map(u64::from)),
            ("bytes_per_hour", arguments.bytes_per_hour),
            ("concurrent_requests", arguments.concurrent_requests.map(u64::from)),
        ];
        for (limit, value) in limits {
            if let Some(value) = value {
                writeln!(text, "{limit} = {value}")?;
            }
        }
        let certificates = arguments
            .certificates
            .iter()
            .map(|path| Ok(format!("\"{}\"", CertificateFingerprint::of_file(path)?)))
            .collect::<Result<Vec<_>>>()?;
        if !certificates.is_empty() {
            writeln!(text, "certificates = [{}]", certificates.join(", "))?;
        }
    } else if !arguments.plans.is_empty()
        || !arguments.certificates.is_empty()
        || arguments.requests_per_minute.is_some()
        || arguments.bytes_per_hour.is_some()
        || arguments.concurrent_requests.is_some()
    {
        bail!(
            "`{}` is in {} already: change its plans, limits and certificates there; without those flags it gets one more token",
            arguments.name,
            arguments.file.display()
        );
    }
    write!(text, "\n[[token]]\nclient = {name}\nhash = \"{hash}\"\n")?;
    if let Some(day) = &arguments.expires {
        let is_day = day.len() == 10 && day.chars().all(|c| c.is_ascii_digit() || c == '-');
        if !is_day {
            bail!("--expires {day} is no day such as 2027-06-30");
        }
        writeln!(text, "expires = {day}")?;
    }
    Ok(())
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Hashes are no secret, but who may enter is nobody else's business.
fn restrict(path: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot restrict {}", path.display()))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Read the file and show the clients.
pub(crate) fn check(arguments: &AccessCheckArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(None);
    let (_, list) = AccessFile::open(&arguments.file)?;
    print(&screen, &list);
    screen.finish()?;
    Ok(Outcome::Success)
}

fn print(screen: &Screen, list: &AccessList) {
    let columns = [
        ("client", Lean::Left),
        ("enabled", Lean::Left),
        ("plans", Lean::Right),
        ("tokens", Lean::Right),
        ("certificates", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for client in list.clients() {
        let n_tokens = list.tokens().filter(|(name, _)| *name == client.name).count();
        let n_certificates = list.certificates().filter(|(name, _)| *name == client.name).count();
        grid.row([
            client.name.clone(),
            if client.enabled { "yes" } else { "no" }.to_owned(),
            client.plans.len().to_string(),
            n_tokens.to_string(),
            n_certificates.to_string(),
        ]);
    }
    grid.print(screen);
}
