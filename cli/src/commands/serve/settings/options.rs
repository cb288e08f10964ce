//! Every option of `securedl serve --config`, with its words.

use std::time::Duration;

use super::value::Kind;

/// One option of the file.
pub(super) struct ConfigOption {
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    /// What it is for; one line of the printed configuration each.
    pub(super) about: &'static [&'static str],
    pub(super) kind: Kind,
}

impl ConfigOption {
    /// `section.key`.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// What the sections are about, in the order in which they are printed.
pub(super) const SECTIONS: [(&str, &str); 6] = [
    ("server", "What is served, and where."),
    ("access", "Who may enter, and what is written down."),
    ("admin", "Figures and health for operators: /metrics, /healthz, /readyz."),
    ("limits", "What is admitted at the same time."),
    ("timeouts", "Patience with clients, and with ourselves."),
    ("log", "The log on standard error. It holds no inputs, keys, ciphertexts or tokens."),
];

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const fn option(
    section: &'static str,
    key: &'static str,
    about: &'static [&'static str],
    kind: Kind,
) -> ConfigOption {
    ConfigOption { section, key, about, kind }
}

macro_rules! time {
    ($field:ident, $about:expr) => {
        option(
            "timeouts",
            stringify!($field),
            $about,
            Kind::Time {
                field: |settings| &mut settings.timeouts.$field,
                min: MILLISECOND,
                max: DAY,
            },
        )
    };
}

macro_rules! count {
    ($key:literal, $field:ident, $min:expr, $max:expr, $about:expr) => {
        option(
            "limits",
            $key,
            $about,
            Kind::Count { field: |settings| &mut settings.limits.$field, min: $min, max: $max },
        )
    };
}

macro_rules! size {
    ($section:literal, $key:literal, $part:ident . $field:ident, $max:expr, $about:expr) => {
        option(
            $section,
            $key,
            $about,
            Kind::Size { field: |settings| &mut settings.$part.$field, min: 1, max: $max },
        )
    };
}

/// Every option, in the order in which they are printed.
pub(super) const OPTIONS: &[ConfigOption] = &[
    option(
        "server",
        "listen",
        &["Address and port for clients; port 0 is any free one. Flag: --listen."],
        Kind::Address { field: |settings| &mut settings.listen },
    ),
    option(
        "server",
        "plans",
        &[
            "Folder with plan files. New, replaced and removed files take effect while the server",
            "runs. Flag: --plans.",
        ],
        Kind::Path { field: |settings| &mut settings.plans },
    ),
    option(
        "server",
        "reload",
        &["How often to look at the folder and at the access file; SIGHUP looks at once."],
        Kind::Time { field: |settings| &mut settings.reload, min: MILLISECOND, max: DAY },
    ),
    option(
        "server",
        "tls",
        &["Folder made by `securedl tls init`. Flag: --tls."],
        Kind::Path { field: |settings| &mut settings.tls },
    ),
    option(
        "server",
        "mask_key",
        &[
            "Key of the masks of plans with the trust setting masked; made if there is no such file.",
            "Servers that stand in for one another need the same. Flag: --mask-key.",
        ],
        Kind::OptionalPath { field: |settings| &mut settings.mask_key },
    ),
    option(
        "server",
        "owners",
        &["Host only plans that one of these owners has signed (owner.pub). Flag: --owner."],
        Kind::Paths { field: |settings| &mut settings.owners },
    ),
    option(
        "access",
        "file",
        &["Who may enter, made by `securedl access add`. Flag: --access."],
        Kind::OptionalPath { field: |settings| &mut settings.access },
    ),
    option(
        "access",
        "open",
        &["Let everybody in who reaches the port; then no file is given. Flag: --open."],
        Kind::Flag { field: |settings| &mut settings.open },
    ),
    option(
        "access",
        "client_certificates",
        &["Ask clients for certificates of client-ca.pem. Flag: --client-certificates."],
        Kind::Choice {
            field: |settings| &mut settings.client_certificates,
            among: &["no", "optional", "required"],
        },
    ),
    option(
        "access",
        "audit",
        &["Append a line of JSON for every request: who asked for what. Flag: --audit."],
        Kind::OptionalPath { field: |settings| &mut settings.audit },
    ),
    option(
        "admin",
        "listen",
        &["Address and port for operators. Flag: --admin."],
        Kind::OptionalAddress { field: |settings| &mut settings.admin },
    ),
    option(
        "admin",
        "expose",
        &[
            "Allow an address that is not loopback: whoever reaches it sees how busy the server is,",
            "without a password. Flag: --expose-admin.",
        ],
        Kind::Flag { field: |settings| &mut settings.expose_admin },
    ),
    count!(
        "connections",
        max_connections,
        1,
        1 << 20,
        &["Connections. Each takes 64 KiB of the memory below, and a file descriptor."]
    ),
    count!(
        "connections_per_address",
        max_connections_per_address,
        1,
        1 << 20,
        &[
            "Connections of one address (of an IPv6 address the first 64 bits count); further ones are",
            "closed before the handshake. Clients behind one proxy or router share an address.",
        ]
    ),
    count!(
        "requests",
        max_requests,
        1,
        1 << 20,
        &["Requests that hold memory, whatever their size."]
    ),
    count!(
        "waiting",
        max_waiting,
        0,
        1 << 20,
        &["Requests that wait for memory; further ones are told to come back at once."]
    ),
    count!(
        "waiting_per_client",
        max_waiting_per_client,
        0,
        1 << 20,
        &["How many of these may be of one client of the access list, or of one address."]
    ),
    count!(
        "evaluations",
        max_evaluations,
        1,
        protocol::limits::MAX_EVALUATIONS,
        &[
            "Evaluations under way; each has two threads. They take turns on the processors: more",
            "of them bridge the pauses of slow clients and are not faster.",
        ]
    ),
    size!(
        "limits",
        "memory",
        limits.max_memory_bytes,
        1 << 46,
        &[
            "Memory of all requests and connections together. Plans and program come on top:",
            "leave room for them. Flag: --memory."
        ]
    ),
    size!(
        "limits",
        "request",
        limits.max_request_bytes,
        1 << 46,
        &["Largest payload of a request."]
    ),
    size!("limits", "reply", limits.max_reply_bytes, 1 << 46, &["Largest payload of a reply."]),
    option(
        "limits",
        "chunk",
        &["Payload bytes in one frame, either way."],
        Kind::Count {
            field: |settings| &mut settings.limits.chunk_bytes,
            min: 1,
            max: protocol::limits::MAX_CHUNK_BYTES,
        },
    ),
    time!(handshake, &["For the TLS handshake, and again for the first message."]),
    time!(idle, &["Between two requests of a connection."]),
    time!(stall, &["Between two frames of an upload, and for each frame of a reply to be taken."]),
    size!(
        "timeouts",
        "min_upload",
        timeouts.min_upload_bytes_per_second,
        1 << 40,
        &["Slowest upload per second, over a whole request. Our own delays do not count."]
    ),
    size!(
        "timeouts",
        "min_download",
        timeouts.min_download_bytes_per_second,
        1 << 40,
        &["Slowest download per second, over the time in which something waits to be sent."]
    ),
    time!(admission, &["How long a request waits for memory before it is told to come back."]),
    time!(evaluation, &["From the beginning of an evaluation to its receipt."]),
    time!(request, &["From admission to receipt, whoever is waited for."]),
    time!(
        progress,
        &["Between two signs of life during an evaluation. Clients give up after 30s of silence."]
    ),
    time!(drain, &["For running requests to finish after a stop signal; a second signal ends it."]),
    option(
        "log",
        "format",
        &["Text for people, or a JSON object per line. Flag: --log-format."],
        Kind::Choice { field: |settings| &mut settings.log_format, among: &["text", "json"] },
    ),
    option(
        "log",
        "level",
        &[
            "error, warn, info, debug or trace, or a list such as \"info,protocol=debug\". The",
            "variable RUST_LOG goes before it.",
        ],
        Kind::Text { field: |settings| &mut settings.log_level },
    ),
];
