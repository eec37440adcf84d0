//! Kernels at random against the same steps in Rust: registers that share places, guards, branches and loops.

mod common;

use common::{run, words};
use ptx_emulator::Launch;

/// Steps of a kernel over 24 registers, for each thread alike.
#[derive(Debug, Clone, Copy)]
enum Step {
    Set(usize, u32),
    Add(usize, usize, usize),
    Xor(usize, usize, usize),
    /// Only in threads of which this bit is set.
    AddWhere(u32, usize, usize, usize),
    /// Past the next few steps, where this bit of a register is set.
    Skip(usize, u32, usize),
    /// Back by a few steps, once in each thread of which this bit is set.
    Again(usize, u32),
}

const STEPS: usize = 120;
/// As a compiler does, most steps write a register of their own, and read those of steps shortly before.
const REGISTERS: usize = STEPS;
/// Those that count in the end: the others die on the way.
const READ: usize = 4;

/// xorshift
fn random(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 16) as usize % below
}

fn steps(seed: u64) -> Vec<Step> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut r = |below| random(&mut state, below);
    let mut step = |i: usize| {
        let to = if r(4) == 0 { i.saturating_sub(r(12)) } else { i };
        let (a, b) = (i.saturating_sub(1 + r(12)), i.saturating_sub(1 + r(12)));
        match r(10) {
            0 => Step::Set(to, r(1 << 30) as u32),
            1..4 => Step::Add(to, a, b),
            4..6 => Step::Xor(to, a, b),
            6 | 7 => Step::AddWhere(r(5) as u32, to, a, b),
            8 => Step::Skip(a, r(8) as u32, 1 + r(8).min(STEPS - i - 1)),
            _ => Step::Again(r(16).min(i), r(5) as u32),
        }
    };
    (0..STEPS).map(&mut step).collect()
}

/// The kernel's text; each register is declared, and none is written first but by chance: those are zero.
fn text(steps: &[Step]) -> String {
    let mut out = String::from(".reg .b32 %x<120>; .reg .pred %again<120>;\nadd.u32 %x0, %x0, %r1;\n");
    for (i, step) in steps.iter().enumerate() {
        out += &format!("L{i}: ");
        out += &match *step {
            Step::Set(to, value) => format!("mov.u32 %x{to}, {value};"),
            Step::Add(to, a, b) => format!("mad.lo.u32 %x{to}, %x{a}, 3, %x{b};"),
            Step::Xor(to, a, b) => format!("xor.b32 %x{to}, %x{a}, %x{b};"),
            Step::AddWhere(bit, to, a, b) => {
                let mask = 1 << bit;
                format!(
                    "and.b32 %r5, %r1, {mask}; setp.ne.u32 %p1, %r5, 0; @%p1 add.u32 %x{to}, %x{a}, %x{b};"
                )
            }
            Step::Skip(of, bit, steps) => {
                let (mask, to) = (1u32 << bit, i + 1 + steps);
                format!("and.b32 %r5, %x{of}, {mask}; setp.ne.u32 %p1, %r5, 0; @%p1 bra L{to};")
            }
            Step::Again(steps, bit) => {
                let (mask, to) = (1u32 << bit, i - steps);
                format!(
                    "and.b32 %r5, %r1, {mask}; setp.ne.and.u32 %p1, %r5, 0, !%again{i}; mov.pred %again{i}, 1;
                     @%p1 bra L{to};"
                )
            }
        };
        out += "\n";
    }
    for i in steps.len()..steps.len() + 10 {
        out += &format!("L{i}: ");
    }
    out += "mov.u32 %r2, 0;\n";
    for register in REGISTERS - READ..REGISTERS {
        out += &format!("mad.lo.u32 %r2, %r2, 31, %x{register};\n");
    }
    out + common::STORE
}

fn expected(steps: &[Step], thread: u32) -> u32 {
    let mut x = [0u32; REGISTERS];
    x[0] = thread;
    let mut again = [false; STEPS];
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        let here = at;
        at += 1;
        match *step {
            Step::Set(to, value) => x[to] = value,
            Step::Add(to, a, b) => x[to] = x[a].wrapping_mul(3).wrapping_add(x[b]),
            Step::Xor(to, a, b) => x[to] = x[a] ^ x[b],
            Step::AddWhere(bit, to, a, b) if thread >> bit & 1 == 1 => x[to] = x[a].wrapping_add(x[b]),
            Step::Skip(of, bit, steps) if x[of] >> bit & 1 == 1 => at += steps,
            Step::Again(steps, bit) if thread >> bit & 1 == 1 && !again[here] => {
                again[here] = true;
                at = here - steps;
            }
            Step::Again(..) => again[here] = true,
            Step::AddWhere(..) | Step::Skip(..) => {}
        }
    }
    x[REGISTERS - READ..].iter().fold(0, |sum: u32, x| sum.wrapping_mul(31).wrapping_add(*x))
}

#[test]
fn kernels_at_random() {
    for seed in 0..300 {
        let steps = steps(seed);
        let limited = Launch { instruction_limit: 1 << 22, ..Launch::linear(1, 64) };
        let ran = run(&text(&steps), &limited, &[0], 256);
        ran.result.unwrap_or_else(|e| panic!("{seed}: {e}"));
        let found = words(&ran.memory, ran.b, 64);
        let expected: Vec<u32> = (0..64).map(|thread| expected(&steps, thread)).collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}
