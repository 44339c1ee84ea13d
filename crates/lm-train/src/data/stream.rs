//! A sequence of token ids, in memory or in a mapped file, two or four bytes each.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

/// Bytes per token id, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    U16,
    U32,
}

impl Width {
    /// The narrower width that holds every id of a vocabulary.
    pub(super) fn of_vocab(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// Bytes per id.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// The ids as bytes. An id that does not fit is a bug of the caller.
    pub(super) fn encode(self, ids: &[u32]) -> Vec<u8> {
        match self {
            Self::U16 => {
                let narrow = |&id: &u32| u16::try_from(id).expect("the width was chosen for the vocabulary");
                ids.iter().flat_map(|id| narrow(id).to_le_bytes()).collect()
            }
            Self::U32 => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        }
    }
}

/// Where the bytes are.
#[derive(Clone)]
pub(super) enum Bytes {
    Memory(Arc<[u8]>),
    /// A mapped file, from this offset to its end.
    Mapped(Arc<Mmap>, usize),
}

impl Bytes {
    /// All of them.
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Mapped(map, start) => &map[*start..],
        }
    }
}

/// A sequence of token ids. Clones share it.
#[derive(Clone)]
pub struct TokenStream {
    bytes: Bytes,
    width: Width,
}

impl TokenStream {
    /// A stream in memory.
    pub fn from_ids(ids: &[u32]) -> Self {
        let width = Width::of_vocab(ids.iter().max().map_or(0, |&id| id as usize + 1));
        Self::from_bytes(Bytes::Memory(width.encode(ids).into()), width)
    }

    /// A stream over encoded ids; a last byte too few for an id is not part of it.
    pub(super) fn from_bytes(bytes: Bytes, width: Width) -> Self {
        Self { bytes, width }
    }

    /// How many tokens.
    pub fn len(&self) -> usize {
        self.bytes.as_slice().len() / self.width.bytes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `len` tokens, or all there are.
    pub fn prefix(&self, len: usize) -> Self {
        Self::from_ids(&self.get(0..len.min(self.len())))
    }

    /// The tokens of a range. Panics when it leaves the stream.
    pub fn get(&self, range: Range<usize>) -> Vec<u32> {
        self.iter(range).collect()
    }

    /// The tokens of a range, one by one. Panics when it leaves the stream.
    pub fn iter(&self, range: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        let size = self.width.bytes();
        let bytes = &self.bytes.as_slice()[range.start * size..range.end * size];
        bytes.chunks_exact(size).map(move |id| match *id {
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("an id has {size} bytes"),
        })
    }
}

impl std::fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.bytes {
            Bytes::Memory(_) => "in memory",
            Bytes::Mapped(..) => "mapped",
        };
        write!(f, "TokenStream({} tokens, {:?}, {place})", self.len(), self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_in_both_widths() {
        for (ids, width) in
            [(vec![0, 1, 65_535], Width::U16), (vec![7, 65_536, u32::MAX], Width::U32), (vec![], Width::U16)]
        {
            let stream = TokenStream::from_ids(&ids);
            assert_eq!((stream.width, stream.len(), stream.is_empty()), (width, ids.len(), ids.is_empty()));
            assert_eq!(stream.get(0..ids.len()), ids);
            assert_eq!(stream.clone().get(ids.len() / 2..ids.len()), ids[ids.len() / 2..]);
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn ranges_outside_are_a_bug() {
        TokenStream::from_ids(&[1, 2, 3]).get(2..4);
    }
}
