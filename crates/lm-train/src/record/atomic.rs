//! Files that are either whole or absent.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes `bytes` to `path` so that a reader, or a crash, sees the old file or the new one and nothing between.
///
/// # Errors
/// As [`write_atomic_with`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |temporary| Ok(fs::write(temporary, bytes)?))
}

/// Lets `write` make the file under a temporary name beside `path`, makes it durable and puts it in the place of `path`, so
/// that a reader, or a crash, sees the old file or the new one and nothing between.
///
/// # Errors
/// What `write` says; a folder that cannot be written (no space, no permission). The old file is then untouched.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let place = || format!("cannot write {}", path.display());
    let name = path.file_name().context("the path names no file").with_context(place)?;
    let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let put = || -> std::io::Result<()> {
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path.parent().unwrap_or(Path::new(".")))
    };
    write(&temporary)
        .and_then(|()| Ok(put()?))
        .inspect_err(|_| {
            // What is left of a failed attempt is of no use; that it cannot be removed either is no further news.
            let _ = fs::remove_file(&temporary);
        })
        .with_context(place)
}

/// Makes a rename inside `folder` durable.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_attempt_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |temporary| {
            fs::write(temporary, b"half of the n")?;
            anyhow::bail!("no space left")
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("a.json: no space left"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unwritable_folder_is_an_error_that_names_the_file() {
        let error = write_atomic(Path::new("no-such-folder/a.json"), b"x").unwrap_err();
        assert!(format!("{error:#}").contains("a.json"));
        let error = write_atomic(Path::new("/"), b"x").unwrap_err();
        assert!(format!("{error:#}").contains("names no file"));
    }
}
