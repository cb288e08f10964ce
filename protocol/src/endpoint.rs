//! Endpoints that fingerprints are checked against: services over HTTP, and servers of encrypted
//! batches.
//!
//! ```text
//!            fingerprint::audit
//!                    │ trait Endpoint
//!        ┌───────────┴────────────┐
//!  HttpEndpoint             EncryptedEndpoint
//!  JSON, in the clear       a whole verified session per query
//!  (feature `http`)
//! ```
//! An HTTP service sees the samples and may log them; an encrypted one sees ciphertexts, and every
//! reply is checked besides.

#[cfg(feature = "http")]
mod address;
mod encrypted;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod template;

#[cfg(feature = "http")]
pub use self::address::{is_readable_on_the_way, shown_url};
pub use self::encrypted::EncryptedEndpoint;
#[cfg(feature = "http")]
pub use self::http::{HttpEndpoint, HttpSpec};
#[cfg(feature = "http")]
pub use self::template::{AnswerForm, ImageLayout, InputUnits};
