//! From a key to its place in a TOML text, and back.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Line and column (both from 1, columns in characters) of a byte offset.
pub(super) fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset.min(text.len()))];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Byte range of the key `path`, or of its nearest parent that the text has.
pub(super) fn span_of(text: &str, path: &[&str]) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut found = None;
    for part in path {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == *part) else { break };
        found = Some(key.span());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    found
}

/// Dotted path of the key whose value (or the key itself) contains the byte `offset`.
pub(super) fn path_at(text: &str, offset: usize) -> Option<String> {
    fn walk(table: &DeTable<'_>, offset: usize, path: &mut Vec<String>) -> bool {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            if key.span().contains(&offset) {
                return true;
            }
            if let DeValue::Table(inner) = value.get_ref()
                && walk(inner, offset, path)
            {
                return true;
            }
            if value.span().contains(&offset) {
                return true;
            }
            path.pop();
        }
        false
    }
    let document = DeTable::parse(text).ok()?;
    let mut path = Vec::new();
    walk(document.get_ref(), offset, &mut path).then(|| path.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "seed = 1\n[model]\nd_model = 64\n[model.ffn]\nwidth = { exact = 3 }\n";

    #[test]
    fn finds_keys_and_parents() {
        let at = |path: &[&str]| span_of(TEXT, path).map(|s| line_column(TEXT, s.start));
        assert_eq!(at(&["seed"]), Some((1, 1)));
        assert_eq!(at(&["model", "d_model"]), Some((3, 1)));
        assert_eq!(at(&["model", "ffn", "width", "exact"]), Some((5, 11)));
        assert_eq!(at(&["model", "ffn", "preset"]), Some((4, 8)));
        assert_eq!(at(&["optim", "lr"]), None);
    }

    #[test]
    fn finds_the_path_of_an_offset() {
        assert_eq!(path_at(TEXT, TEXT.find("64").unwrap()).as_deref(), Some("model.d_model"));
        assert_eq!(path_at(TEXT, TEXT.find("exact").unwrap()).as_deref(), Some("model.ffn.width.exact"));
        assert_eq!(line_column("äb\nü = x", 7), (2, 3));
    }
}
