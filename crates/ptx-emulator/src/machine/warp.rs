//! A warp: its registers, and where its lanes are.

use crate::arith::Lanes;
use crate::machine::accesses::Who;
use crate::program::{Pred, PredSource, Program, Reg};

/// Lanes that are at one place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub at: usize,
    pub lanes: u32,
    pub state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// At a barrier of the block, with its number.
    Barrier(u32),
    /// At a `.sync` instruction, for lanes that it names and that are elsewhere.
    Waiting,
}

/// A copy on its way to shared memory.
#[derive(Debug)]
pub(crate) struct Pending {
    pub lane: u32,
    pub group: u64,
    pub to: u64,
    pub bytes: usize,
    pub data: [u8; 16],
}

#[derive(Debug)]
pub(crate) struct Warp<'a> {
    pub index: u32,
    constants: &'a [Lanes],
    registers: Vec<Lanes>,
    pub predicates: Vec<u32>,
    pub groups: Vec<Group>,
    /// Lanes that are threads and have not ended.
    pub live: u32,
    /// How often all live lanes have met at `bar.warp.sync`.
    pub meetings: u32,
    pub pending: Vec<Pending>,
    /// Groups of asynchronous copies that each lane has committed.
    pub committed: [u64; 32],
    /// Local memory of the lanes, one after another, and which of its bytes were written.
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
}

impl<'a> Warp<'a> {
    pub(crate) fn new(index: u32, program: &'a Program) -> Self {
        let local = program.local_bytes as usize * 32;
        Self {
            index,
            constants: &program.constants,
            registers: vec![[0; 32]; program.registers],
            predicates: vec![0; program.predicates],
            groups: Vec::new(),
            live: 0,
            meetings: 0,
            pending: Vec::new(),
            committed: [0; 32],
            local: vec![0; local],
            local_written: vec![false; local],
        }
    }

    /// At the start of the program, with these lanes. Special registers are the block's to fill.
    pub(crate) fn restart(&mut self, program: &Program, live: u32) {
        for &reg in &program.zeroed {
            *self.register_mut(reg) = [0; 32];
        }
        self.predicates.fill(0);
        self.groups.clear();
        self.groups.push(Group { at: 0, lanes: live, state: State::Running });
        self.live = live;
        self.meetings = 0;
        self.pending.clear();
        self.committed = [0; 32];
        self.local_written.fill(false);
    }

    pub(crate) fn who(&self, lane: u32) -> Who {
        Who { thread: self.index * 32 + lane, meeting: self.meetings }
    }

    pub(crate) fn predicate(&self, (p, negated): PredSource) -> u32 {
        let value = self.predicates[p as usize];
        if negated { !value } else { value }
    }

    pub(crate) fn set_predicate(&mut self, p: Pred, value: u32, active: u32) {
        let p = &mut self.predicates[p as usize];
        *p = *p & !active | value & active;
    }

    #[inline]
    pub(crate) fn register(&self, r: Reg) -> &Lanes {
        let r = r as usize;
        match self.constants.get(r) {
            Some(constant) => constant,
            None => &self.registers[r - self.constants.len()],
        }
    }

    /// A register that is no constant.
    #[inline]
    pub(crate) fn register_mut(&mut self, r: Reg) -> &mut Lanes {
        &mut self.registers[r as usize - self.constants.len()]
    }

    /// Writes the active lanes of a register.
    #[inline]
    pub(crate) fn set(&mut self, r: Reg, value: &Lanes, active: u32) {
        let to = self.register_mut(r);
        if active == u32::MAX {
            *to = *value;
            return;
        }
        for (lane, (to, value)) in to.iter_mut().zip(value).enumerate() {
            *to = if active >> lane & 1 == 1 { *value } else { *to };
        }
    }

    /// Joins lanes that run, or wait, at one place.
    pub(crate) fn regroup(&mut self) {
        self.groups.retain(|g| g.lanes != 0);
        let mut i = 0;
        while i < self.groups.len() {
            let mut j = i + 1;
            while j < self.groups.len() {
                let (a, b) = (self.groups[i], self.groups[j]);
                let barrier = |s| matches!(s, State::Barrier(_));
                let alike = a.state == b.state || !barrier(a.state) && !barrier(b.state);
                if a.at == b.at && alike {
                    // One that waited looks again who is there.
                    self.groups[i].lanes |= b.lanes;
                    self.groups[i].state = if barrier(a.state) { a.state } else { State::Running };
                    self.groups.swap_remove(j);
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }

    /// The lanes to run next: those furthest behind, so that the others are met where paths join.
    pub(crate) fn next(&self) -> Option<usize> {
        let running = self.groups.iter().enumerate().filter(|(_, g)| g.state == State::Running);
        running.min_by_key(|(_, g)| g.at).map(|(i, _)| i)
    }
}
