//! Addresses of services: what of them may be shown, and who can read what is sent there.

use std::net::IpAddr;

use fingerprint::endpoint::EndpointError;
use ureq::http::Uri;

/// What stands where something is not shown.
const HIDDEN: &str = "…";

/// Who can read requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// The service: TLS.
    Tls,
    /// This machine.
    Loopback,
    /// Everybody on the way.
    Readable,
}

/// An address without what may be a secret: user and password, values of the query, fragment.
///
/// `https://me:pw@host/classify?key=abc&v=2` becomes `https://…@host/classify?key=…&v=…`. Works on
/// addresses that cannot be used as well, so that messages never show more.
#[must_use]
pub fn shown_url(url: &str) -> String {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let url = url.split('#').next().unwrap_or_default();
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (url, None),
    };
    let (scheme, rest) = match base.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), base),
    };
    // An `@` of the path is hidden with what is before it: better too much than a password.
    let mut shown = match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{HIDDEN}@{host}"),
        None => format!("{scheme}{rest}"),
    };
    if let Some(query) = query {
        let names = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.chars().all(is_of_name) => format!("{name}={HIDDEN}"),
            // A lone word may be a token.
            Some(_) | None => HIDDEN.to_owned(),
        });
        shown = format!("{shown}?{}", names.collect::<Vec<_>>().join("&"));
    }
    shown.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether everybody on the way to a service can read what is sent: plain HTTP to another host.
///
/// Not so addresses that [`HttpEndpoint`](super::HttpEndpoint) refuses: nothing is sent there.
#[must_use]
pub fn is_readable_on_the_way(url: &str) -> bool {
    matches!(secrecy(url, "the endpoint's address"), Ok(Secrecy::Readable))
}

/// Who can read what is sent to `url`, which `name` says in messages.
///
/// # Errors
/// [`EndpointError::Setting`]: no address of a host by HTTP, or one with a user and password in it.
pub(super) fn secrecy(url: &str, name: &'static str) -> Result<Secrecy, EndpointError> {
    let setting = |problem: String| EndpointError::Setting { setting: name, problem };
    let uri: Uri = url.parse().map_err(|error| setting(format!("is no URL: {error}")))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(setting("must start with https:// or http://".to_owned()));
    };
    if authority.as_str().contains('@') {
        let problem = "holds a user or password, which logs and lists of processes would show: put \
                       `Authorization: …` into a file and name it with --header @FILE";
        return Err(setting(problem.to_owned()));
    }
    match scheme {
        "https" => Ok(Secrecy::Tls),
        "http" if is_loopback(authority.host()) => Ok(Secrecy::Loopback),
        "http" => Ok(Secrecy::Readable),
        _ => Err(setting("must start with https:// or http://".to_owned())),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        for (url, shown) in [
            ("https://api.example.org/v1/classify", "https://api.example.org/v1/classify"),
            ("https://me:hush@host:8/x?key=hush&v=2#hush", "https://…@host:8/x?key=…&v=…"),
            ("http://h/?hush", "http://h/?…"),
            ("http://h/?a=b=hush", "http://h/?a=…"),
            ("me:hush@host", "…@host"),
            ("http://me:hu/sh@host/", "http://…@host/"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }

    #[test]
    fn plain_http_is_read_by_others_unless_it_stays_on_this_machine() {
        for (url, expected) in [
            ("https://example.org/", Secrecy::Tls),
            ("http://example.org/", Secrecy::Readable),
            ("http://localhost:80/", Secrecy::Loopback),
            ("http://127.8.0.1/", Secrecy::Loopback),
            ("http://[::1]:8000/", Secrecy::Loopback),
            ("http://[2001:db8::1]/", Secrecy::Readable),
            ("http://localhost.example.org/", Secrecy::Readable),
            ("http://10.0.0.1/", Secrecy::Readable),
        ] {
            assert_eq!(secrecy(url, "it").unwrap(), expected, "{url}");
            assert_eq!(is_readable_on_the_way(url), expected == Secrecy::Readable);
        }
        for url in ["", "ftp://host/", "/path", "host:80", "http://me@host/", "http://me:pw@host/"]
        {
            assert!(secrecy(url, "it").is_err(), "{url}");
        }
        let error = secrecy("http://me:hush@host/", "it").unwrap_err().to_string();
        assert!(error.contains("--header @FILE") && !error.contains("hush"), "{error}");
    }

    proptest! {
        #[test]
        fn no_secret_is_shown_whatever_the_address(
            user in "[a-z:/?=&]{0,6}", host in "[a-z.]{0,8}", name in "[a-z]{0,4}",
        ) {
            let url = format!("http://{user}S3CRET@{host}/?{name}=S3CRET&S3CRET#S3CRET");
            prop_assert!(!shown_url(&url).contains("S3CRET"), "{}", shown_url(&url));
        }
    }
}
