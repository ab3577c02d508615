//! What a certificate is for: RFC 5280, 4.2.1.12.

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The daemon's side.
    Server,
    /// The other one.
    Client,
}
