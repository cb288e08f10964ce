//! The files of the page, which are part of the program: nothing is fetched from anywhere.

use axum::http::HeaderValue;

use crate::report::html::STYLE;

/// Path, media type, content.
pub(super) const ASSETS: [(&str, HeaderValue, &str); 7] = [
    ("/", HTML, include_str!("../../assets/ui/index.html")),
    ("/style.css", HeaderValue::from_static("text/css; charset=utf-8"), STYLE),
    ("/app.js", SCRIPT, include_str!("../../assets/ui/app.js")),
    ("/connection.js", SCRIPT, include_str!("../../assets/ui/connection.js")),
    ("/pad.js", SCRIPT, include_str!("../../assets/ui/pad.js")),
    ("/files.js", SCRIPT, include_str!("../../assets/ui/files.js")),
    ("/live.js", SCRIPT, include_str!("../../assets/ui/live.js")),
];

pub(super) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
