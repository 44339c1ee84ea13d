//! Cutting long texts where no token can span.
//!
//! The tokenizers library needs far more than linear time for one very long string, and a single string cannot be tokenised
//! in parallel. GPT-2's pre-tokenizer never puts whitespace *behind* other characters into one piece (whitespace only begins
//! a piece or is one), looks ahead no further than one character after whitespace, and never looks back. So a text may be
//! cut before any whitespace character that follows a non-whitespace character, and the tokens of the parts are exactly
//! the tokens of the whole.

/// Splits `text` at safe places into parts of at least `target` bytes (the last may be shorter). A part is longer where no
/// safe place comes sooner. The parts concatenate to the text; an empty text has none.
pub(super) fn chunks(text: &str, target: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (chunk, after) = rest.split_at(cut(rest, target));
        rest = after;
        Some(chunk)
    })
}

/// The first safe place at or after byte `target`; the end of the text, if there is none.
fn cut(text: &str, target: usize) -> usize {
    let start = text.ceil_char_boundary(target.max(1));
    let mut after_space = text[..start].chars().next_back().is_none_or(char::is_whitespace);
    for (at, c) in text[start..].char_indices() {
        if c.is_whitespace() && !after_space {
            return start + at;
        }
        after_space = c.is_whitespace();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cuts_come_before_whitespace_after_letters() {
        let parts = |text, target| chunks(text, target).collect::<Vec<_>>();
        assert_eq!(parts("ab cd  ef\n\ngh", 1), ["ab", " cd", "  ef", "\n\ngh"]);
        assert_eq!(parts("ab cd  ef\n\ngh", 4), ["ab cd", "  ef", "\n\ngh"]);
        assert_eq!(parts("  \n  ", 1), ["  \n  "]);
        assert_eq!(parts("abc", 100), ["abc"]);
        assert_eq!(parts("", 1), [""; 0]);
        assert_eq!(parts("é\u{3000}é", 1), ["é", "\u{3000}é"]);
    }

    proptest! {
        #[test]
        fn parts_concatenate_to_the_text(text in "[ab \n\té\u{a0}.]{0,60}", target in 0_usize..20) {
            let parts: Vec<&str> = chunks(&text, target).collect();
            prop_assert_eq!(parts.concat(), text.as_str());
            prop_assert!(parts.iter().all(|part| !part.is_empty()));
            prop_assert!(parts.iter().rev().skip(1).all(|part| part.len() >= target));
        }
    }
}
