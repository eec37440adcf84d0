//! One allocation of global memory.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::fault::{FaultKind, Nearest, Space};

/// Held in words: blocks that run at the same time may write different bytes of one.
#[derive(Debug)]
pub(crate) struct Allocation {
    name: String,
    length: u64,
    read_only: bool,
    words: Vec<AtomicU32>,
    /// Four bits a word, one for each of its bytes.
    written: Vec<AtomicU8>,
}

/// The bits of `written` of this many bytes of a word from this one on.
fn mask(first: u64, bytes: u64) -> u8 {
    (15u8 >> (4 - bytes)) << first
}

/// The words that hold these bytes: each with the first of them in it, and how many.
fn parts(offset: u64, length: u64) -> impl Iterator<Item = (usize, u64, u64)> {
    let end = offset + length;
    let words = if length == 0 { 0..0 } else { offset / 4..end.div_ceil(4) };
    words.map(move |word| {
        let first = offset.max(4 * word);
        (word as usize, first % 4, end.min(4 * word + 4) - first)
    })
}

impl Allocation {
    /// None where the host has no room for it.
    pub(crate) fn new(name: &str, length: u64, read_only: bool) -> Option<Self> {
        let count = length.div_ceil(4) as usize;
        let (mut words, mut written) = (vec![], vec![]);
        words.try_reserve_exact(count).ok()?;
        written.try_reserve_exact(count).ok()?;
        words.resize_with(count, AtomicU32::default);
        written.resize_with(count, AtomicU8::default);
        Some(Self { name: name.to_owned(), length, read_only, words, written })
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn nearest(&self, offset: i64) -> Nearest {
        Nearest { name: self.name.clone(), length: self.length, offset }
    }

    #[cold]
    pub(crate) fn uninitialised(&self, address: u64, offset: u64, bytes: u64) -> FaultKind {
        let nearest = Some(self.nearest(offset as i64));
        FaultKind::Uninitialised { space: Space::Global, address, bytes, nearest }
    }

    /// Loads 1, 2, 4, 8 or 16 bytes, aligned, into words; false when a byte of them was never written.
    #[inline]
    pub(crate) fn load(&self, offset: u64, bytes: u64, to: &mut [u32; 4]) -> bool {
        let (word, first) = ((offset / 4) as usize, offset % 4);
        if bytes < 4 {
            let needed = mask(first, bytes);
            to[0] = self.words[word].load(Ordering::Relaxed) >> (8 * first) & (u32::MAX >> (32 - 8 * bytes));
            return self.written[word].load(Ordering::Relaxed) & needed == needed;
        }
        let range = word..word + (bytes / 4) as usize;
        let mut written = 15;
        for ((to, word), marks) in to.iter_mut().zip(&self.words[range.clone()]).zip(&self.written[range]) {
            *to = word.load(Ordering::Relaxed);
            written &= marks.load(Ordering::Relaxed);
        }
        written == 15
    }

    /// Writes 1, 2, 4, 8 or 16 bytes, aligned, from words.
    #[inline]
    pub(crate) fn store(&self, offset: u64, bytes: u64, from: &[u32; 4]) {
        let (word, first) = ((offset / 4) as usize, offset % 4);
        if bytes < 4 {
            self.put(word, first, bytes, from[0]);
            return;
        }
        for (i, &value) in from.iter().take((bytes / 4) as usize).enumerate() {
            self.put(word + i, 0, 4, value);
        }
    }

    /// Writes some bytes of a word.
    fn put(&self, word: usize, first: u64, bytes: u64, value: u32) {
        if bytes == 4 {
            self.words[word].store(value, Ordering::Relaxed);
            self.written[word].store(15, Ordering::Relaxed);
            return;
        }
        // Another block may write the other bytes of the word at the same time.
        let bits = (u32::MAX >> (32 - 8 * bytes)) << (8 * first);
        let put = |old: u32| Some(old & !bits | (value << (8 * first)) & bits);
        let _ = self.words[word].fetch_update(Ordering::Relaxed, Ordering::Relaxed, put);
        self.written[word].fetch_or(mask(first, bytes), Ordering::Relaxed);
    }

    /// Copies bytes in from any offset on.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for (word, first, count) in parts(offset, bytes.len() as u64) {
            let (part, after) = rest.split_at(count as usize);
            let mut value = [0; 4];
            value[..part.len()].copy_from_slice(part);
            self.put(word, first, count, u32::from_le_bytes(value));
            rest = after;
        }
    }

    /// Copies bytes out from any offset on; the offset of the first that nobody wrote, if there is one.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Option<u64> {
        let mut rest = bytes;
        for (word, first, count) in parts(offset, rest.len() as u64) {
            let missing = mask(first, count) & !self.written[word].load(Ordering::Relaxed);
            if missing != 0 {
                return Some(4 * word as u64 + u64::from(missing.trailing_zeros()));
            }
            let value = self.words[word].load(Ordering::Relaxed).to_le_bytes();
            let (part, after) = rest.split_at_mut(count as usize);
            part.copy_from_slice(&value[first as usize..(first + count) as usize]);
            rest = after;
        }
        None
    }

    /// The offsets among these of bytes that nobody wrote.
    pub(crate) fn unwritten(&self, offset: u64, length: u64) -> impl Iterator<Item = u64> {
        parts(offset, length).flat_map(|(word, first, count)| {
            let missing = mask(first, count) & !self.written[word].load(Ordering::Relaxed);
            (0..4).filter(move |bit| missing >> bit & 1 == 1).map(move |bit| 4 * word as u64 + bit)
        })
    }

    pub(crate) fn forget(&self, offset: u64, length: u64) {
        for (word, first, count) in parts(offset, length) {
            self.written[word].fetch_and(!mask(first, count), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width() {
        let allocation = Allocation::new("a", 32, false).unwrap();
        let load = |offset, bytes| {
            let mut words = [0; 4];
            allocation.load(offset, bytes, &mut words).then_some(words)
        };
        allocation.store(8, 8, &[0x5566_7788, 0x1122_3344, 0, 0]);
        assert_eq!(load(8, 8), Some([0x5566_7788, 0x1122_3344, 0, 0]));
        assert_eq!(load(14, 2), Some([0x1122, 0, 0, 0]));
        allocation.store(13, 1, &[0xff, 0, 0, 0]);
        assert_eq!(load(12, 4), Some([0x1122_ff44, 0, 0, 0]));
        assert_eq!(load(6, 2), None);
        assert_eq!(load(0, 16), None);
        allocation.store(16, 16, &[1, 2, 3, 4]);
        assert_eq!(load(16, 16), Some([1, 2, 3, 4]));
        assert_eq!(load(24, 8), Some([3, 4, 0, 0]));
    }

    #[test]
    fn bytes_from_any_offset_on() {
        for offset in 0..9 {
            for length in 0..9 {
                let allocation = Allocation::new("a", 20, false).unwrap();
                let bytes: Vec<u8> = (1..=length).collect();
                allocation.write(offset, &bytes);
                let mut found = vec![0; bytes.len()];
                assert_eq!(allocation.read(offset, &mut found), None);
                assert_eq!(found, bytes);
                let count = u64::from(length);
                let unwritten: Vec<u64> = allocation.unwritten(0, 20).collect();
                assert!(unwritten.iter().all(|at| !(offset..offset + count).contains(at)));
                assert_eq!(unwritten.len() as u64, 20 - count);
                assert_eq!(allocation.read(offset, &mut vec![0; bytes.len() + 1]), Some(offset + count));
            }
        }
    }
}
