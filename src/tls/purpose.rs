//! The purpose of a certificate: RFC 5280, 4.2.1.12.

/// The purpose of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// id-kp-serverAuth, for dockerd.
    Server,
    /// id-kp-clientAuth, for Docker's clients.
    Client,
}
