//! The disk cache of what takes long to compute: trained tokenizers and token streams.
//!
//! An entry is one file, named by what it is and by a hash of everything that decides its content. It begins with one line
//! of JSON that holds the length and hash of the payload behind it. Entries are written beside their place and renamed into
//! it, so that a reader sees a whole entry or none, and of several writers the last wins with the same content. What does
//! not match its header, for whatever reason, counts as absent and is made again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::Hash;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::stream::Bytes;

/// The longest header that is looked for.
const MAX_HEADER: usize = 4096;

/// A folder for cached data, or the decision to do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheDir(Option<PathBuf>);

/// `$FFNLAB_CACHE`, else `ffnlab` in `$XDG_CACHE_HOME`, else `~/.cache/ffnlab`; none, if all of these are unset or empty.
impl Default for CacheDir {
    fn default() -> Self {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let xdg = || folder("XDG_CACHE_HOME").map(|cache| cache.join("ffnlab"));
        let home = || folder("HOME").map(|home| home.join(".cache").join("ffnlab"));
        Self(folder("FFNLAB_CACHE").or_else(xdg).or_else(home))
    }
}

impl CacheDir {
    /// This folder; it is made when something is to be stored.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(Some(path.into()))
    }

    /// No cache: nothing is found, nothing is stored.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// The folder.
    pub fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    /// The entry of this kind and key, if there is a sound one.
    pub(super) fn get(&self, kind: &str, key: &Hash) -> Option<Entry> {
        let file = File::open(self.entry(kind, key)?).ok()?;
        // SAFETY: entries are never changed in place, only replaced by a rename, which leaves this mapping its old file.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let start = map.iter().take(MAX_HEADER).position(|&byte| byte == b'\n')? + 1;
        let header: Header = serde_json::from_slice(&map[..start]).ok()?;
        let payload = &map[start..];
        let sound = header.kind == kind
            && header.key == key.to_hex().as_str()
            && header.bytes == payload.len() as u64
            && header.blake3 == blake3::hash(payload).to_hex().as_str();
        sound.then(|| Entry { meta: header.meta, payload: Bytes::Mapped(Arc::new(map), start) })
    }

    /// Stores an entry, atomically and durably. Does nothing without a folder.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub(super) fn put(&self, kind: &str, key: &Hash, meta: Meta, payload: &[u8]) -> io::Result<()> {
        let Some(path) = self.entry(kind, key) else { return Ok(()) };
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let header = Header {
            kind: kind.to_owned(),
            key: key.to_hex().to_string(),
            bytes: payload.len() as u64,
            blake3: blake3::hash(payload).to_hex().to_string(),
            meta,
        };
        let mut line = serde_json::to_vec(&header)?;
        line.push(b'\n');
        let (temporary, mut file) = temporary_beside(&path)?;
        let written =
            file.write_all(&line).and_then(|()| file.write_all(payload)).and_then(|()| file.sync_all());
        let renamed = written.and_then(|()| fs::rename(&temporary, &path));
        if renamed.is_err() {
            // What is left of a failed attempt is of no use; that it cannot be removed either is no further news.
            let _ = fs::remove_file(&temporary);
        }
        renamed
    }

    fn entry(&self, kind: &str, key: &Hash) -> Option<PathBuf> {
        Some(self.path()?.join(format!("{kind}-{}", &key.to_hex()[..32])))
    }
}

/// A new file that no other thread or process writes, in the folder of `path`.
fn temporary_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            // Left over from a process that had our id, or of another host that shares the folder.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// A stored payload.
pub(super) struct Entry {
    /// What was stored with it.
    pub(super) meta: Meta,
    /// The payload, mapped.
    pub(super) payload: Bytes,
}

/// What is known about the text of a token stream; empty for other entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// UTF-8 bytes of the documents, without separators.
    pub(super) text_bytes: u64,
    /// Exact negative log-likelihood of the documents in nats, where it is known.
    pub(super) nll: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    kind: String,
    key: String,
    bytes: u64,
    blake3: String,
    meta: Meta,
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta { text_bytes: 12, nll: Some(0.1 + 0.2) };

    fn key() -> Hash {
        blake3::hash(b"key")
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CacheDir::at(folder.path().join("made/on/demand"));
        assert!(cache.get("tokens", &key()).is_none());
        for payload in [b"payload\nof any bytes\xff".as_slice(), b"", b"\n"] {
            cache.put("tokens", &key(), META, payload).unwrap();
            let entry = cache.get("tokens", &key()).unwrap();
            assert_eq!((entry.payload.as_slice(), entry.meta), (payload, META));
        }
        assert!(cache.get("tokenizer", &key()).is_none());
        assert!(cache.get("tokens", &blake3::hash(b"other")).is_none());
        assert_eq!(fs::read_dir(cache.path().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn every_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CacheDir::at(folder.path());
        cache.put("tokens", &key(), META, b"0123456789").unwrap();
        let path = cache.entry("tokens", &key()).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(cache.get("tokens", &key()).is_none(), "cut to {len} bytes");
        }
        let payload = whole.len() - 10;
        for at in payload..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(cache.get("tokens", &key()).is_none(), "byte {at} flipped");
        }
        fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
        assert!(cache.get("tokens", &key()).is_none(), "bytes appended");
        fs::write(&path, &whole).unwrap();
        assert!(cache.get("tokens", &key()).is_some());
        // An entry under the name of another one.
        fs::rename(&path, cache.entry("tokens", &blake3::hash(b"other")).unwrap()).unwrap();
        assert!(cache.get("tokens", &blake3::hash(b"other")).is_none());
    }

    #[test]
    fn concurrent_writers_leave_a_sound_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CacheDir::at(folder.path());
        let payload = vec![7; 100_000];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        cache.put("tokens", &key(), META, &payload).unwrap();
                        assert_eq!(cache.get("tokens", &key()).unwrap().payload.as_slice(), payload);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn without_a_folder_nothing_is_kept_and_a_bad_folder_is_an_error() {
        let none = CacheDir::disabled();
        none.put("tokens", &key(), META, b"x").unwrap();
        assert!(none.get("tokens", &key()).is_none());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let blocked = CacheDir::at(file.join("cache"));
        assert!(blocked.put("tokens", &key(), META, b"x").is_err());
        assert!(blocked.get("tokens", &key()).is_none());
    }
}
