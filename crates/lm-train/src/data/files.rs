//! Finding the files that a config names.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use blake3::Hash;

use super::synthetic::Split;

/// A file and the hash of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HashedFile {
    pub(super) path: PathBuf,
    pub(super) hash: Hash,
}

/// The files of both splits.
pub(super) struct SplitFiles {
    pub(super) train: Vec<HashedFile>,
    pub(super) valid: Vec<HashedFile>,
}

impl SplitFiles {
    /// Finds and hashes the files. Where the validation has no files of its own, `valid` stays empty.
    ///
    /// # Errors
    /// A path that names nothing, a folder or an empty file; a file that is in both splits, by name or by content.
    pub(super) fn find(train: &[String], valid: &[String]) -> Result<Self> {
        let files = Self { train: find(train, Split::Train)?, valid: find(valid, Split::Valid)? };
        for valid in &files.valid {
            if let Some(train) = files.train.iter().find(|train| train.hash == valid.hash) {
                let (train, valid) = (train.path.display(), valid.path.display());
                bail!(
                    "data.train and data.valid hold the same text: {train} and {valid}; hold out other text, or use data.valid_fraction"
                );
            }
        }
        Ok(files)
    }
}

/// The files that these paths and globs name, in order.
pub(super) fn find(patterns: &[String], split: Split) -> Result<Vec<HashedFile>> {
    let mut files = Vec::new();
    for pattern in patterns {
        let found = expand(pattern).with_context(|| format!("data.{}", split.name()))?;
        for path in found {
            let hash = hash(&path)
                .with_context(|| format!("data.{}: cannot read {}", split.name(), path.display()))?;
            files.push(HashedFile { path, hash });
        }
    }
    Ok(files)
}

/// The file of this name, or else the files that it matches as a glob, sorted.
pub(super) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let literal = Path::new(pattern);
    let paths = if literal.exists() {
        vec![literal.to_owned()]
    } else {
        let matches =
            glob::glob(pattern).map_err(|e| anyhow!("{pattern:?} is neither a file nor a glob: {e}"))?;
        let mut paths: Vec<PathBuf> =
            matches.collect::<Result<_, _>>().with_context(|| format!("cannot search {pattern:?}"))?;
        paths.sort();
        paths
    };
    if paths.is_empty() {
        bail!("no file matches {pattern:?}");
    }
    for path in &paths {
        let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if metadata.is_dir() {
            bail!(
                "{} is a folder; name its files, for example \"{}\"",
                path.display(),
                path.join("*.txt").display()
            );
        }
        if metadata.len() == 0 {
            bail!("{} is empty", path.display());
        }
    }
    Ok(paths)
}

fn hash(path: &Path) -> Result<Hash> {
    Ok(blake3::Hasher::new().update_reader(File::open(path)?)?.finalize())
}

/// The text of a file.
///
/// # Errors
/// A file that cannot be read, or is not UTF-8: with line and byte.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = bytes[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow!(
            "{} is not UTF-8 text: line {line}, byte offset {at}, has the byte 0x{:02x}",
            path.display(),
            bytes[at]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn names(folder: &Path, patterns: &[&str]) -> Result<Vec<String>> {
        let patterns: Vec<String> =
            patterns.iter().map(|p| folder.join(p).to_str().unwrap().to_owned()).collect();
        let found = find(&patterns, Split::Train)?;
        Ok(found.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn paths_and_globs_expand_in_order() {
        let folder = folder(&[("b.txt", b"b"), ("a.txt", b"a"), ("c[1].txt", b"c"), ("d.md", b"d")]);
        let found = |patterns: &[&str]| names(folder.path(), patterns).unwrap();
        assert_eq!(found(&["*.txt"]), ["a.txt", "b.txt", "c[1].txt"]);
        assert_eq!(found(&["d.md", "[ab].txt"]), ["d.md", "a.txt", "b.txt"]);
        assert_eq!(found(&["c[1].txt"]), ["c[1].txt"], "a name that exists is no glob");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = folder(&[("empty.txt", b""), ("a.txt", b"a")]);
        let error = |pattern: &str| format!("{:#}", names(folder.path(), &[pattern]).unwrap_err());
        assert!(error("*.json").contains("data.train: no file matches"));
        assert!(error("missing.txt").contains("missing.txt"));
        assert!(error("").contains("is a folder"));
        assert!(error("empty.txt").contains("empty.txt is empty"));
        assert!(error("a[.txt").contains("neither a file nor a glob"));
    }

    #[test]
    fn the_splits_share_no_file_and_no_content() {
        let folder = folder(&[("a.txt", b"same"), ("b.txt", b"same"), ("c.txt", b"other")]);
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let find = |train: &str, valid: &str| SplitFiles::find(&[path(train)], &[path(valid)]);
        for (train, valid) in [("a.txt", "a.txt"), ("a.txt", "b.txt"), ("*.txt", "c.txt")] {
            let error = find(train, valid).err().unwrap().to_string();
            assert!(error.contains("hold the same text"), "{error}");
        }
        assert_eq!(find("a.txt", "c.txt").unwrap().valid.len(), 1);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_located() {
        let folder = folder(&[("latin1.txt", b"one\ntwo\ncaf\xe9\n"), ("cut.txt", b"ab\xe6\xbc")]);
        let error = |name: &str| read_text(&folder.path().join(name)).unwrap_err().to_string();
        assert!(
            error("latin1.txt")
                .ends_with("latin1.txt is not UTF-8 text: line 3, byte offset 11, has the byte 0xe9")
        );
        assert!(error("cut.txt").contains("line 1, byte offset 2"));
    }
}
