//! How many files and sockets this process may open.

/// Raise the limit to `wanted` if the system lets us. `Err`: what it is, and what to do.
#[cfg(unix)]
pub(crate) fn raise(wanted: u64) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if enough(limit.current) {
        return Ok(());
    }
    let most = if enough(limit.maximum) { Some(wanted) } else { limit.maximum };
    let raised = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: limit.maximum });
    let now = getrlimit(Resource::Nofile).current;
    match (raised, enough(now)) {
        (Ok(()), true) => Ok(()),
        _ => Err(format!(
            "this process may open {} files and sockets, not {wanted}: raise the hard limit \
             (LimitNOFILE= of the service, `ulimit -Hn` of the shell), or allow fewer connections",
            now.unwrap_or(u64::MAX)
        )),
    }
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub(crate) fn raise(_wanted: u64) -> Result<(), String> {
    Ok(())
}
