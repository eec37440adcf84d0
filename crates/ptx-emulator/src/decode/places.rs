//! Places for registers.
//!
//! A compiler writes each value into a register of its own, thousands to a kernel; of the places they need here, 256
//! bytes a warp each, few hold anything at one time. A register has its place from where it is first written to where
//! it is last read, over all paths that a thread can take; then another one has it. What is read before it is written
//! is zero, as if each had its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::operands::Use;
use crate::program::{Filled, Instruction, Op, Reg};

/// What came of it.
pub(super) struct Places {
    /// How many there are after the constants.
    pub count: usize,
    /// Values of the constants, which come first of all registers and are the same in every warp.
    pub constants: Vec<u64>,
    pub filled: Vec<(Reg, Filled)>,
    /// Those that must be zero at the start.
    pub zeroed: Vec<Reg>,
}

/// Instructions that run one after another, and where they may go on.
struct Stretch {
    from: usize,
    to: usize,
    next: Vec<usize>,
}

type Set = Vec<u64>;

fn has(set: &Set, reg: usize) -> bool {
    set[reg / 64] >> (reg % 64) & 1 == 1
}

fn put(set: &mut Set, reg: usize) {
    set[reg / 64] |= 1 << (reg % 64);
}

/// Gives each register of these instructions its place, in them and in `filled`.
pub(super) fn place(
    instructions: &mut [Instruction],
    registers: usize,
    mut filled: Vec<(Reg, Filled)>,
) -> Places {
    filled.sort_by_key(|&(reg, _)| reg);
    let stretches = stretches(instructions);
    let live = live(instructions, &stretches, registers);
    let spans = spans(instructions, &stretches, &live, registers);

    let mut renamed: Vec<Reg> = vec![0; registers];
    let mut constants = Vec::new();
    let mut own = vec![false; registers];
    for &(reg, what) in &filled {
        own[reg as usize] = true;
        if let Filled::Constant(value) = what {
            renamed[reg as usize] = constants.len() as Reg;
            constants.push(value);
        }
    }
    let first = constants.len() as Reg;
    filled.retain(|(_, what)| !matches!(what, Filled::Constant(_)));
    for (i, (reg, _)) in filled.iter_mut().enumerate() {
        renamed[*reg as usize] = first + i as Reg;
        *reg = first + i as Reg;
    }

    let mut order: Vec<usize> = (0..registers).filter(|&r| !own[r] && spans[r].is_some()).collect();
    let span = |reg: usize| spans[reg].unwrap_or((0, 0));
    order.sort_by_key(|&r| span(r));
    let (mut held, mut free) = (BinaryHeap::new(), BinaryHeap::new());
    let mut count = filled.len();
    for &reg in &order {
        let (start, end) = span(reg);
        while let Some(&Reverse((last, place))) = held.peek() {
            if last >= start {
                break;
            }
            held.pop();
            free.push(Reverse(place));
        }
        let place = match free.pop() {
            Some(Reverse(place)) => place,
            None => {
                count += 1;
                count - 1
            }
        };
        renamed[reg] = first + place as Reg;
        held.push(Reverse((end, place)));
    }
    let unwritten = order.iter().filter(|&&reg| live.first().is_some_and(|set| has(set, reg)));
    let zeroed = unwritten.map(|&reg| renamed[reg]).collect();
    for instruction in instructions {
        instruction.op.visit(|reg, _| *reg = renamed[*reg as usize]);
    }
    Places { count, constants, filled, zeroed }
}

fn stretches(instructions: &[Instruction]) -> Vec<Stretch> {
    let mut starts = vec![false; instructions.len() + 1];
    starts[0] = true;
    for (at, instruction) in instructions.iter().enumerate() {
        match instruction.op {
            Op::Branch { to } => (starts[to], starts[at + 1]) = (true, true),
            Op::BranchIndexed { ref to, .. } => {
                starts[at + 1] = true;
                to.iter().for_each(|&to| starts[to] = true);
            }
            Op::Exit | Op::Trap => starts[at + 1] = true,
            _ => {}
        }
    }
    let from: Vec<usize> = (0..instructions.len()).filter(|&at| starts[at]).collect();
    let index = |at: usize| from.binary_search(&at).ok();
    let ends = from.iter().skip(1).copied().chain([instructions.len()]);
    from.iter()
        .zip(ends)
        .map(|(&from, to)| {
            let last = &instructions[to - 1];
            let (falls, jumps) = match last.op {
                Op::Branch { ref to } => (last.guard.is_some(), std::slice::from_ref(to)),
                Op::BranchIndexed { ref to, .. } => (last.guard.is_some(), to.as_slice()),
                Op::Exit | Op::Trap => (last.guard.is_some(), [].as_slice()),
                _ => (true, [].as_slice()),
            };
            let next = falls.then_some(to).into_iter().chain(jumps.iter().copied());
            Stretch { from, to, next: next.filter_map(index).collect() }
        })
        .collect()
}

/// The registers that each stretch may read before it writes them, or that those after it may.
fn live(instructions: &mut [Instruction], stretches: &[Stretch], registers: usize) -> Vec<Set> {
    let empty: Set = vec![0; registers.div_ceil(64)];
    let mut reads = Vec::with_capacity(stretches.len());
    let mut writes = Vec::with_capacity(stretches.len());
    for stretch in stretches {
        let (mut read, mut written) = (empty.clone(), empty.clone());
        for instruction in &mut instructions[stretch.from..stretch.to] {
            let guarded = instruction.guard.is_some();
            instruction.op.visit(|reg, how| {
                let reg = *reg as usize;
                match how {
                    Use::Read if !has(&written, reg) => put(&mut read, reg),
                    // Where the guard does not hold, what was there before remains.
                    Use::Written if !guarded => put(&mut written, reg),
                    _ => {}
                }
            });
        }
        reads.push(read);
        writes.push(written);
    }
    let mut live = reads;
    let mut changed = true;
    while changed {
        changed = false;
        for i in (0..stretches.len()).rev() {
            for &next in &stretches[i].next {
                for word in 0..empty.len() {
                    let more = live[i][word] | live[next][word] & !writes[i][word];
                    changed |= more != live[i][word];
                    live[i][word] = more;
                }
            }
        }
    }
    live
}

/// Where each register is first and last needed: twice the index of the instruction, and one more for what it writes.
/// An instruction reads all that it reads before it writes, so that one register may follow another in its place there.
fn spans(
    instructions: &mut [Instruction],
    stretches: &[Stretch],
    live: &[Set],
    registers: usize,
) -> Vec<Option<(usize, usize)>> {
    let mut spans: Vec<Option<(usize, usize)>> = vec![None; registers];
    let mut note = |reg: usize, at: usize| {
        let (first, last) = spans[reg].unwrap_or((at, at));
        spans[reg] = Some((first.min(at), last.max(at)));
    };
    let mut note_all = |set: &Set, at: usize| {
        for (i, &word) in set.iter().enumerate() {
            let mut word = word;
            while word != 0 {
                note(64 * i + word.trailing_zeros() as usize, at);
                word &= word - 1;
            }
        }
    };
    for (i, stretch) in stretches.iter().enumerate() {
        note_all(&live[i], 2 * stretch.from);
        for &next in &stretch.next {
            note_all(&live[next], 2 * stretch.to - 1);
        }
    }
    for (at, instruction) in instructions.iter_mut().enumerate() {
        instruction.op.visit(|reg, how| note(*reg as usize, 2 * at + usize::from(how == Use::Written)));
    }
    spans
}
