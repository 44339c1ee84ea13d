//! Errors of configuration: where, what was found, what to do.

use std::path::PathBuf;

use super::place::{line_column, path_at};

/// A config that cannot be used. The message starts with its place: `file:line:column` or the override that holds it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {reason}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What went wrong and what to do.
        reason: String,
    },
    /// Something in it is wrong.
    #[error("{place}: {message}")]
    Invalid {
        /// `file:line:column`, or `-o key=value`, or `default of key`.
        place: String,
        /// What was found and what was expected.
        message: String,
    },
}

impl ConfigError {
    /// What is wrong with a TOML text, be it a run config or not, at its place: `name:line:column: key: message`.
    pub fn in_toml(name: &str, text: &str, error: &toml::de::Error) -> Self {
        Self::at_offset(name, text, error.span().map(|span| span.start), &with_suggestion(error.message()))
    }

    /// An error at a byte offset of a TOML text.
    pub(super) fn at_offset(name: &str, text: &str, offset: Option<usize>, message: &str) -> Self {
        let Some(offset) = offset else {
            return Self::Invalid { place: name.to_owned(), message: message.to_owned() };
        };
        let (line, column) = line_column(text, offset);
        let message = match path_at(text, offset) {
            Some(key) if !message.starts_with("unknown field") => format!("{key}: {message}"),
            Some(_) | None => message.to_owned(),
        };
        Self::Invalid { place: format!("{name}:{line}:{column}"), message }
    }
}

/// Adds "did you mean" to serde's "unknown field" and "unknown variant" messages.
pub(super) fn with_suggestion(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let [found, expected @ ..] = quoted.as_slice() else { return message.to_owned() };
    if !unknown || expected.is_empty() {
        return message.to_owned();
    }
    let kind = if message.starts_with("unknown field") { "unknown field" } else { "unknown value" };
    let choices = expected.join(", ");
    match closest(found, expected) {
        Some(best) => format!("{kind} `{found}`, did you mean `{best}`? (known here: {choices})"),
        None => format!("{kind} `{found}` (known here: {choices})"),
    }
}

/// The candidate nearest to `found` by edit distance, when it is near enough to be what was meant.
pub fn closest<'a>(found: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|c| (strsim::jaro_winkler(&found.to_lowercase(), c), *c))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_nearest_key() {
        let message = with_suggestion("unknown field `warmup_step`, expected one of `kind`, `warmup_steps`");
        assert!(message.contains("did you mean `warmup_steps`?"), "{message}");
        let message = with_suggestion("unknown variant `cosin`, expected one of `cosine`, `linear`");
        assert_eq!(message, "unknown value `cosin`, did you mean `cosine`? (known here: cosine, linear)");
    }

    #[test]
    fn stays_silent_when_nothing_is_near() {
        assert!(!with_suggestion("unknown field `zzz`, expected `lr` or `eps`").contains("did you mean"));
        assert_eq!(with_suggestion("invalid type: string"), "invalid type: string");
    }
}
