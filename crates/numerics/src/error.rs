//! The error of parsing a name.

/// A name that is not in a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {found:?}; known: {known}")]
pub struct UnknownName {
    what: &'static str,
    found: String,
    known: String,
}

impl UnknownName {
    pub(crate) fn new<const N: usize>(what: &'static str, found: &str, known: [&'static str; N]) -> Self {
        Self { what, found: found.to_owned(), known: known.join(", ") }
    }
}
