//! How this program shows a server who it is.

use std::path::Path;

use anyhow::{Context, Result, bail};
use protocol::access::Token;
use protocol::tls::{CA_FILE, ClientTls};
use zeroize::Zeroizing;

use crate::args::CredentialArguments;
use crate::failure::Hint;

/// Where the access token may stand, unless it is in a file.
const TOKEN_VARIABLE: &str = "SECUREDL_TOKEN";

/// The access token, from a file or from the environment; never from the command line, which every
/// process of the machine can read.
///
/// # Errors
/// A file that cannot be read, or text that is no token.
pub(crate) fn token(credentials: &CredentialArguments) -> Result<Option<Token>> {
    if let Some(path) = &credentials.token_file {
        return Ok(Some(Token::load(path)?));
    }
    match std::env::var(TOKEN_VARIABLE) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            Ok(Some(
                text.trim()
                    .parse()
                    .with_context(|| format!("{TOKEN_VARIABLE} holds no access token"))?,
            ))
        }
        Err(std::env::VarError::NotPresent) => Ok(None),
        // Its text is not shown: it may hold a secret.
        Err(std::env::VarError::NotUnicode(_)) => bail!(
            "{TOKEN_VARIABLE} is no text: set it to the token, or name a file with --token-file"
        ),
    }
}

/// Whom to trust, and the certificate to show, if there is one.
///
/// # Errors
/// Files that cannot be read or hold something else.
pub(crate) fn trust(tls: &Path, credentials: &CredentialArguments) -> Result<ClientTls> {
    match &credentials.client_cert {
        Some(client) => Ok(ClientTls::load_with_certificate(&tls.join(CA_FILE), client)?),
        None => ClientTls::load_directory(tls)
            .hint(|| "--tls names the folder with the server's ca.pem"),
    }
}
