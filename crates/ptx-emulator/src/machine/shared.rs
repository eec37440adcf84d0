//! Shared memory of a block, and the checks on it.
//!
//! Two accesses of a byte by different threads, one of them a write, must have a barrier of the block between them, or,
//! when the threads are of one warp, a `bar.warp.sync` of all its live lanes. Atomics race with plain accesses and
//! not with one another. Each byte remembers its last writer and a reader since the last barrier; of readers of several
//! warps it remembers one, which is enough to find every race and name one party to it.
//!
//! Most accesses are of whole words, and the four bytes of a word then share one memory of who accessed them. It is
//! split where an access takes a part of a word, and put together again when a whole one finds the four alike.

use crate::fault::{FaultKind, Nearest, Space};
use crate::machine::accesses::{Accesses, Race, Who};
use crate::program::OWN_BASE;

const WHOLE: u8 = 15;

#[derive(Debug)]
pub(crate) struct Shared {
    length: u64,
    words: Vec<u32>,
    /// Of each word: in the lower half, which of its bytes were written; in the upper one, which a copy is to fill.
    marks: Vec<u8>,
    accesses: Vec<Accesses>,
    /// Those of single bytes, of the words whose `accesses` say so. Empty until there is one.
    split: Vec<[Accesses; 4]>,
    /// Counts the barriers of all blocks that ran here, from 1.
    phase: u32,
    races: bool,
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Atomic,
}

impl Kind {
    #[inline]
    fn note(self, accesses: &mut Accesses, phase: u32, who: Who) -> Result<(), Race> {
        match self {
            Self::Read => accesses.read(phase, who),
            Self::Write => accesses.write(phase, who, false),
            Self::Atomic => accesses.write(phase, who, true),
        }
    }
}

#[cold]
fn race(word: usize, byte: usize, (other, other_wrote): Race) -> FaultKind {
    FaultKind::Race { address: OWN_BASE + (4 * word + byte) as u64, other, other_wrote }
}

/// The word that less than four aligned bytes are in, with their mask.
fn part(start: u64, bytes: u64) -> (usize, u8) {
    ((start / 4) as usize, (WHOLE >> (4 - bytes)) << (start % 4))
}

/// The words that aligned bytes are in, with the mask of those in each.
fn parts(start: u64, bytes: u64) -> impl Iterator<Item = (usize, u8)> {
    let (word, mask) = if bytes < 4 { part(start, bytes) } else { ((start / 4) as usize, WHOLE) };
    (word..word + bytes.div_ceil(4) as usize).map(move |word| (word, mask))
}

impl Shared {
    pub(crate) fn new(length: u64, races: bool) -> Self {
        let words = length.div_ceil(4) as usize;
        Self {
            length,
            words: vec![0; words],
            marks: vec![0; words],
            accesses: vec![Accesses::default(); if races { words } else { 0 }],
            split: Vec::new(),
            phase: 0,
            races,
        }
    }

    /// Another block begins: nothing is written, and nobody was here.
    pub(crate) fn restart(&mut self) {
        self.marks.fill(0);
        self.barrier();
    }

    pub(crate) fn barrier(&mut self) {
        if self.phase == u32::MAX {
            self.accesses.fill(Accesses::default());
            self.phase = 0;
        }
        self.phase += 1;
    }

    /// Where the bytes of an access begin.
    #[inline]
    fn start(&self, address: u64, bytes: u64) -> Result<u64, FaultKind> {
        let start = address.wrapping_sub(OWN_BASE);
        if start < self.length && bytes <= self.length - start {
            return Ok(start);
        }
        let nearest =
            Some(Nearest { name: "shared memory".into(), length: self.length, offset: start as i64 });
        Err(FaultKind::OutOfBounds { space: Space::Shared, address, bytes, nearest })
    }

    /// Refuses bytes of a word that a copy is to fill, and, to readers, those that nobody wrote.
    #[inline]
    fn check_marks(&self, word: usize, mask: u8, needed: bool) -> Result<(), FaultKind> {
        let marks = self.marks[word];
        let flying = marks >> 4 & mask;
        let missing = if needed { !marks & mask } else { 0 };
        if flying | missing == 0 {
            return Ok(());
        }
        let at = |bits: u8| OWN_BASE + 4 * word as u64 + u64::from(bits.trailing_zeros());
        if flying != 0 {
            return Err(FaultKind::AsyncNotWaited { address: at(flying) });
        }
        let bytes = mask.count_ones().into();
        Err(FaultKind::Uninitialised { space: Space::Shared, address: at(mask), bytes, nearest: None })
    }

    /// Notes an access of bytes of a word, unless it races.
    #[inline]
    fn note(&mut self, word: usize, mask: u8, kind: Kind, who: Who) -> Result<(), FaultKind> {
        if !self.races {
            return Ok(());
        }
        let accesses = &mut self.accesses[word];
        if mask == WHOLE && !accesses.split {
            return match kind.note(accesses, self.phase, who) {
                Ok(()) => Ok(()),
                Err(other) => Err(race(word, 0, other)),
            };
        }
        self.note_parts(word, mask, kind, who)
    }

    fn note_parts(&mut self, word: usize, mask: u8, kind: Kind, who: Who) -> Result<(), FaultKind> {
        let phase = self.phase;
        let parts = self.parts_of(word);
        for (byte, part) in parts.iter_mut().enumerate() {
            if mask >> byte & 1 == 1 {
                kind.note(part, phase, who).map_err(|other| race(word, byte, other))?;
            }
        }
        if mask == WHOLE {
            let [first, rest @ ..] = parts.map(|part| part.since(phase));
            if rest.iter().all(|part| *part == first) {
                self.accesses[word] = first;
            }
        }
        Ok(())
    }

    /// The accesses of single bytes of a word, apart from now on.
    fn parts_of(&mut self, word: usize) -> &mut [Accesses; 4] {
        if self.split.is_empty() {
            self.split = vec![[Accesses::default(); 4]; self.words.len()];
        }
        if !self.accesses[word].split {
            self.split[word] = [self.accesses[word]; 4];
            self.accesses[word].split = true;
        }
        &mut self.split[word]
    }

    fn value(&self, start: u64, bytes: u64) -> [u32; 4] {
        let word = (start / 4) as usize;
        let mut out = [0; 4];
        if bytes < 4 {
            out[0] = self.words[word] >> (8 * (start % 4)) & (u32::MAX >> (32 - 8 * bytes));
        } else {
            let count = (bytes / 4) as usize;
            out[..count].copy_from_slice(&self.words[word..word + count]);
        }
        out
    }

    fn put(&mut self, start: u64, bytes: u64, from: &[u32; 4]) {
        for ((word, mask), &value) in parts(start, bytes).zip(from) {
            self.marks[word] |= mask;
            if mask == WHOLE {
                self.words[word] = value;
            } else {
                let shift = 8 * (start % 4);
                let bits = (u32::MAX >> (32 - 8 * bytes)) << shift;
                self.words[word] = self.words[word] & !bits | (value << shift) & bits;
            }
        }
    }

    /// Reads 1, 2, 4, 8 or 16 bytes, aligned, into words.
    #[inline]
    pub(crate) fn load(
        &mut self,
        address: u64,
        bytes: u64,
        who: Who,
        to: &mut [u32; 4],
    ) -> Result<(), FaultKind> {
        let start = self.start(address, bytes)?;
        if bytes < 4 {
            let (word, mask) = part(start, bytes);
            self.check_marks(word, mask, true)?;
            self.note(word, mask, Kind::Read, who)?;
            *to = self.value(start, bytes);
            return Ok(());
        }
        let words = (start / 4) as usize..((start + bytes) / 4) as usize;
        for word in words.clone() {
            self.check_marks(word, WHOLE, true)?;
            self.note(word, WHOLE, Kind::Read, who)?;
        }
        for (to, word) in to.iter_mut().zip(&self.words[words]) {
            *to = *word;
        }
        Ok(())
    }

    /// Writes 1, 2, 4, 8 or 16 bytes, aligned, from words.
    #[inline]
    pub(crate) fn store(
        &mut self,
        address: u64,
        bytes: u64,
        from: &[u32; 4],
        who: Who,
    ) -> Result<(), FaultKind> {
        let start = self.start(address, bytes)?;
        for (word, mask) in parts(start, bytes) {
            self.check_marks(word, mask, false)?;
            self.note(word, mask, Kind::Write, who)?;
        }
        self.put(start, bytes, from);
        Ok(())
    }

    /// Replaces a number by what `change` makes of it, and returns what was there.
    pub(crate) fn update(
        &mut self,
        address: u64,
        bytes: u64,
        who: Who,
        change: impl FnOnce(u64) -> u64,
    ) -> Result<u64, FaultKind> {
        let start = self.start(address, bytes)?;
        for (word, mask) in parts(start, bytes) {
            self.check_marks(word, mask, true)?;
            self.note(word, mask, Kind::Atomic, who)?;
        }
        let [low, high, ..] = self.value(start, bytes);
        let old = u64::from(low) | u64::from(high) << 32;
        let new = change(old);
        self.put(start, bytes, &[new as u32, (new >> 32) as u32, 0, 0]);
        Ok(old)
    }

    /// A copy of 4, 8 or 16 bytes sets out: what it will overwrite must not be in use.
    pub(crate) fn depart(&mut self, address: u64, bytes: u64, who: Who) -> Result<(), FaultKind> {
        let start = self.start(address, bytes)?;
        for (word, mask) in parts(start, bytes) {
            self.check_marks(word, mask, false)?;
            self.note(word, mask, Kind::Write, who)?;
            self.marks[word] |= mask << 4;
        }
        Ok(())
    }

    /// A copy was waited for by the thread that sent it: from now on it is that thread's write.
    pub(crate) fn arrive(&mut self, address: u64, data: &[u8], who: Who) -> Result<(), FaultKind> {
        let start = self.start(address, data.len() as u64)?;
        for ((word, _), data) in parts(start, data.len() as u64).zip(data.chunks_exact(4)) {
            self.words[word] = data.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            self.marks[word] = WHOLE;
            if self.races {
                // Nobody was here since it set out, or would have been found.
                self.accesses[word] = Accesses::of_writer(self.phase, who);
            }
        }
        Ok(())
    }
}
