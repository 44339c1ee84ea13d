//! Documents of a text in memory, and how they are split off from each other.

/// A list of documents in one string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Documents {
    text: String,
    /// Where each document ends; it begins where the one before ends.
    ends: Vec<usize>,
}

impl Documents {
    /// Adds a document, unless it is blank.
    pub(super) fn push(&mut self, document: &str) {
        if !document.trim().is_empty() {
            self.text.push_str(document);
            self.ends.push(self.text.len());
        }
    }

    /// Adds the documents of a file. An empty separator makes the file one document.
    pub(super) fn push_file(&mut self, text: &str, separator: &str) {
        if separator.is_empty() {
            self.push(text);
        } else {
            text.split(separator).for_each(|document| self.push(document));
        }
    }

    /// The documents.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> + Clone + Send {
        let start = |i: usize| if i == 0 { 0 } else { self.ends[i - 1] };
        self.ends.iter().enumerate().map(move |(i, &end)| &self.text[start(i)..end])
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// UTF-8 bytes of all documents.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Splits off the last `fraction` (between 0 and 1) of the documents, rounded to whole ones. Where that is less than one,
    /// the last `fraction` of the text is split off instead, at the paragraph break nearest to the exact place, or at the
    /// nearest line break where there is no paragraph break at all. `None`, if the text cannot be split.
    pub(super) fn split_off(self, fraction: f64) -> Option<(Self, Self)> {
        let last = (self.len() as f64 * fraction).round() as usize;
        let at = if last == 0 {
            self.break_near((self.bytes() as f64 * (1.0 - fraction)).round() as usize)?
        } else {
            *self.ends.get(self.len().checked_sub(last + 1)?)?
        };
        let (mut before, mut after) = (Self::default(), Self::default());
        let mut start = 0;
        for document in self.iter() {
            let end = start + document.len();
            if end <= at {
                before.push(document);
            } else if start >= at {
                after.push(document);
            } else {
                before.push(&document[..at - start]);
                after.push(&document[at - start..]);
            }
            start = end;
        }
        (before.len() > 0 && after.len() > 0).then_some((before, after))
    }

    /// The end of the paragraph, or else of the line, that lies nearest to byte `target`, with text on both sides.
    fn break_near(&self, target: usize) -> Option<usize> {
        let first = self.text.len() - self.text.trim_start().len();
        let last = self.text.trim_end().len();
        let nearest = |breaks: &str| {
            let after = self.text.match_indices(breaks).map(|(at, _)| at + breaks.len());
            after.filter(|&at| at > first && at < last).min_by_key(|at| at.abs_diff(target))
        };
        nearest("\n\n").or_else(|| nearest("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn documents(text: &str) -> Documents {
        let mut documents = Documents::default();
        documents.push_file(text, "|");
        documents
    }

    fn split(text: &str, fraction: f64) -> Option<(Vec<String>, Vec<String>)> {
        let owned = |documents: Documents| documents.iter().map(str::to_owned).collect();
        documents(text).split_off(fraction).map(|(before, after)| (owned(before), owned(after)))
    }

    #[test]
    fn files_are_split_at_separators_and_blanks_are_dropped() {
        assert_eq!(documents("a|\nb\n|| \n|c").iter().collect::<Vec<_>>(), ["a", "\nb\n", "c"]);
        assert_eq!(documents("a|b").bytes(), 2);
        let mut whole = Documents::default();
        whole.push_file("a|b", "");
        assert_eq!(whole.iter().collect::<Vec<_>>(), ["a|b"]);
    }

    #[test]
    fn the_last_documents_are_split_off() {
        let strings = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        assert_eq!(split("a|b|c|d", 0.25), Some((strings(&["a", "b", "c"]), strings(&["d"]))));
        assert_eq!(split("a|b|c|d", 0.6), Some((strings(&["a", "b"]), strings(&["c", "d"]))));
        assert_eq!(split("a|b", 0.9), None, "nothing would be left");
    }

    #[test]
    fn few_documents_are_cut_at_a_paragraph_or_a_line() {
        let strings = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            split("aaaa\n\nbb\nbb\n\ncc", 0.1),
            Some((strings(&["aaaa\n\nbb\nbb\n\n"]), strings(&["cc"])))
        );
        assert_eq!(
            split("aaaa\nbbbb\ncccc\n", 0.4),
            Some((strings(&["aaaa\nbbbb\n"]), strings(&["cccc\n"])))
        );
        assert_eq!(
            split("x|aaaa\nbbbb\ncccc", 0.2),
            Some((strings(&["x", "aaaa\nbbbb\n"]), strings(&["cccc"])))
        );
        assert_eq!(split("all on one line", 0.2), None);
        assert_eq!(split("one line\n\n", 0.2), None);
        assert_eq!(split("", 0.2), None);
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole_and_do_not_overlap(text in "[a\n|]{0,80}", fraction in 0.01_f64..0.99) {
            let whole = documents(&text);
            if let Some((before, after)) = whole.clone().split_off(fraction) {
                prop_assert!(whole.text.starts_with(&before.text) && whole.text.ends_with(&after.text));
                let between = whole.text.get(before.bytes()..whole.bytes() - after.bytes());
                prop_assert_eq!(between.map(str::trim), Some(""), "they overlap, or text is lost");
                prop_assert!(before.bytes() > 0 && after.bytes() > 0);
                let whole_documents = (whole.len() as f64 * fraction).round() as usize;
                prop_assert!(whole_documents == 0 || after.len() == whole_documents);
            }
        }
    }
}
