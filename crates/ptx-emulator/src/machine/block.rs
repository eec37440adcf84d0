//! A block: its warps take turns, each running until all its lanes wait at a barrier or have ended.

use crate::fault::{Fault, FaultKind};
use crate::machine::lanes;
use crate::machine::launch::Shape;
use crate::machine::shared::Shared;
use crate::machine::warp::{Group, State, Warp};
use crate::memory::Table;
use crate::profile::Profile;
use crate::program::{Filled, Op, Program, Together};

pub(crate) struct Block<'a> {
    pub program: &'a Program,
    pub memory: &'a Table,
    pub params: &'a [u8],
    pub source: &'a str,
    pub shape: &'a Shape,
    /// `%ctaid`
    pub index: [u32; 3],
    pub shared: Shared,
    pub profile: Profile,
    /// Warp instructions that may still run.
    pub budget: u64,
    warps: Vec<Warp<'a>>,
}

impl<'a> Block<'a> {
    /// A place for blocks of a launch to run in, one after another.
    pub(crate) fn new(
        program: &'a Program,
        memory: &'a Table,
        params: &'a [u8],
        source: &'a str,
        shape: &'a Shape,
    ) -> Self {
        let shared = Shared::new(program.shared_bytes + u64::from(shape.dynamic_shared), shape.races);
        let warps = (0..shape.threads().div_ceil(32)).map(|index| Warp::new(index, program)).collect();
        let profile = Profile::of(&program.counted);
        Self { program, memory, params, source, shape, index: [0; 3], shared, profile, budget: 0, warps }
    }

    /// Runs a block to its end.
    pub(crate) fn run(&mut self, index: [u32; 3]) -> Result<(), Box<Fault>> {
        self.index = index;
        self.budget = self.shape.instruction_limit;
        self.shared.restart();
        let mut warps = std::mem::take(&mut self.warps);
        let result = self.run_warps(&mut warps);
        self.warps = warps;
        result
    }

    fn run_warps(&mut self, warps: &mut [Warp]) -> Result<(), Box<Fault>> {
        let threads = self.shape.threads();
        for warp in &mut *warps {
            let present = (threads - warp.index * 32).min(32);
            warp.restart(self.program, u32::MAX >> (32 - present));
            for &(reg, what) in &self.program.filled {
                let index = warp.index;
                *warp.register_mut(reg) = std::array::from_fn(|lane| self.filled(what, index, lane as u32));
            }
        }
        loop {
            for warp in &mut *warps {
                self.run_warp(warp)?;
            }
            if warps.iter().all(|w| w.groups.is_empty()) {
                return Ok(());
            }
            self.release(warps, threads)?;
        }
    }

    fn filled(&self, what: Filled, warp: u32, lane: u32) -> u64 {
        let below = (1u64 << lane) - 1;
        let own = 1u64 << lane;
        match what {
            Filled::Constant(value) => value,
            Filled::Tid(axis) => self.shape.thread(warp * 32 + lane)[axis].into(),
            Filled::Ntid(axis) => self.shape.block[axis].into(),
            Filled::Ctaid(axis) => self.index[axis].into(),
            Filled::Nctaid(axis) => self.shape.grid[axis].into(),
            Filled::Laneid => lane.into(),
            Filled::Warpid => warp.into(),
            Filled::LanemaskEq => own,
            Filled::LanemaskLt => below,
            Filled::LanemaskLe => below | own,
            Filled::LanemaskGt => !(below | own) & 0xffff_ffff,
            Filled::LanemaskGe => !below & 0xffff_ffff,
            Filled::DynamicShared => self.shape.dynamic_shared.into(),
        }
    }

    pub(crate) fn fault(&self, at: usize, thread: u32, kind: FaultKind) -> Box<Fault> {
        let line = self.program.instructions[at].line;
        let text = self.source.lines().nth(line as usize - 1).unwrap_or("").trim().to_owned();
        let kernel = self.program.name.clone();
        Box::new(Fault { kernel, line, text, block: self.index, thread: self.shape.thread(thread), kind })
    }

    /// Runs a warp until nothing of it can go on.
    fn run_warp(&mut self, warp: &mut Warp) -> Result<(), Box<Fault>> {
        while let Some(mut current) = warp.next() {
            // Alone, lanes run on without a look at the others.
            loop {
                let at = warp.groups[current].at;
                if self.budget == 0 {
                    let lane = warp.groups[current].lanes.trailing_zeros();
                    let limit = FaultKind::TooLong(self.shape.instruction_limit);
                    return Err(self.fault(at, warp.index * 32 + lane, limit));
                }
                self.budget -= 1;
                self.step(warp, current, at)
                    .map_err(|(lane, kind)| self.fault(at, warp.index * 32 + lane, kind))?;
                if warp.groups.len() > 1
                    || warp.groups[0].lanes == 0
                    || warp.groups[0].state != State::Running
                {
                    break;
                }
                current = 0;
            }
            warp.regroup();
        }
        // Those that wait wait for lanes that have ended or are at a barrier.
        if let Some(&group) = warp.groups.iter().find(|g| g.state == State::Waiting) {
            let lane = group.lanes.trailing_zeros();
            let mask = self.mask_of(warp, group.at, lane);
            let kind = FaultKind::WarpSyncNotReached { mask, missing: mask & !group.lanes };
            return Err(self.fault(group.at, warp.index * 32 + lane, kind));
        }
        Ok(())
    }

    /// The mask of the `.sync` instruction at which this lane waits.
    fn mask_of(&self, warp: &Warp, at: usize, lane: u32) -> u32 {
        match &self.program.instructions[at].op {
            Op::WarpBarrier { mask }
            | Op::Shuffle { mask, .. }
            | Op::Ballot { mask, .. }
            | Op::VotePredicate { mask, .. }
            | Op::Match { mask, .. }
            | Op::Reduce { mask, .. } => warp.register(*mask)[lane as usize] as u32,
            _ => u32::MAX,
        }
    }

    /// All warps stand still: every thread must be at the same barrier, which then opens.
    fn release(&mut self, warps: &mut [Warp], threads: u32) -> Result<(), Box<Fault>> {
        let all = warps.iter().flat_map(|w| w.groups.iter().map(|g| (w.index, *g)));
        let Some((first_warp, first)) = all.clone().next() else {
            return Ok(());
        };
        let waiting = first_warp * 32 + first.lanes.trailing_zeros();
        let together = |g: &Group| g.at == first.at && g.state == first.state;
        let arrived: u32 = all.clone().filter(|(_, g)| together(g)).map(|(_, g)| g.lanes.count_ones()).sum();
        if arrived < threads {
            let here = |thread: u32| {
                all.clone()
                    .any(|(w, g)| w == thread / 32 && together(&g) && g.lanes >> (thread % 32) & 1 == 1)
            };
            let absent = (0..threads).find(|&t| !here(t)).unwrap_or(waiting);
            let kind = FaultKind::BarrierNotReached { missing: threads - arrived, waiting };
            return Err(self.fault(first.at, absent, kind));
        }
        if let Op::Barrier { reduction: Some((to, from)), .. } = self.program.instructions[first.at].op {
            let holds = |w: &Warp| w.groups.iter().fold(0, |lanes, g| lanes | g.lanes) & w.predicate(from);
            let count: u32 = warps.iter().map(|w| holds(w).count_ones()).sum();
            let all = |holds| if holds { u32::MAX } else { 0 };
            for warp in &mut *warps {
                match to {
                    Together::Count(to) => *warp.register_mut(to) = [count.into(); 32],
                    Together::All(to) => warp.set_predicate(to, all(count == threads), u32::MAX),
                    Together::Any(to) => warp.set_predicate(to, all(count > 0), u32::MAX),
                }
            }
        }
        for warp in warps {
            for group in &mut warp.groups {
                group.at += 1;
                group.state = State::Running;
            }
            warp.regroup();
        }
        self.shared.barrier();
        Ok(())
    }

    /// A barrier of the block: the active lanes wait, the others go on.
    pub(crate) fn wait_at_barrier(
        &mut self,
        warp: &mut Warp,
        current: usize,
        active: u32,
        id: u32,
        threads: Option<u32>,
    ) -> Result<(), (u32, FaultKind)> {
        let first = active.trailing_zeros();
        if threads.is_some_and(|n| n != self.shape.threads()) {
            return Err((first, FaultKind::Unsupported("a barrier of a part of the block")));
        }
        let at = warp.groups[current].at;
        warp.groups[current].at += 1;
        warp.groups[current].lanes &= !active;
        warp.groups.push(Group { at, lanes: active, state: State::Barrier(id) });
        Ok(())
    }

    /// A `.sync` instruction. The lanes that stand here with all that their masks name do it; the others wait.
    pub(crate) fn together(
        &mut self,
        warp: &mut Warp,
        current: usize,
        active: u32,
        mut act: impl FnMut(&mut Self, &mut Warp, u32) -> Result<(), (u32, FaultKind)>,
    ) -> Result<(), (u32, FaultKind)> {
        let at = warp.groups[current].at;
        let mut left = active;
        let mut waiting = 0;
        while left != 0 {
            let lane = left.trailing_zeros();
            let mask = self.mask_of(warp, at, lane);
            let of_mask = lanes(active).filter(|&l| self.mask_of(warp, at, l as u32) == mask);
            let set = of_mask.fold(0, |set, l| set | 1 << l);
            if set & !mask != 0 {
                return Err(((set & !mask).trailing_zeros(), FaultKind::NotInMask { mask }));
            }
            if mask & warp.live & !set == 0 {
                self.profile.count(self.program.instructions[at].class, set);
                act(self, warp, set)?;
            } else {
                waiting |= set;
            }
            left &= !set;
        }
        warp.groups[current].at += 1;
        warp.groups[current].lanes &= !waiting;
        if waiting != 0 {
            warp.groups.push(Group { at, lanes: waiting, state: State::Waiting });
        }
        Ok(())
    }
}
