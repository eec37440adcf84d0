//! What the tests share: kernels around a body, and buffers.
#![allow(dead_code, reason = "each test uses its part")]

use ptx_emulator::{Arg, Fault, Launch, LaunchError, LoadError, Memory, Module, Profile};

/// A module with one entry `test` of two pointers, with registers of every kind declared. Before the body, `%rd1` and
/// `%rd2` hold the pointers in global memory and `%r1` the thread.
pub fn around(body: &str) -> String {
    format!(
        ".version 8.4\n.target sm_80\n.address_size 64\n.visible .entry test(.param .u64 a, .param .u64 b)\n{{\n\
         .reg .pred %p<8>; .reg .b16 %rs<16>; .reg .b32 %r<32>; .reg .f32 %f<32>; .reg .b64 %rd<16>; .reg .f64 %fd<8>;\n\
         .shared .align 16 .b8 room[4096];\n\
         ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b];\n\
         mov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"
    )
}

pub struct Ran {
    pub memory: Memory,
    pub a: u64,
    pub b: u64,
    pub result: Result<Profile, LaunchError>,
}

/// Runs a body over `a`, which holds these words, and `b`, as many bytes of it as asked for, unwritten.
pub fn run(body: &str, launch: &Launch, a: &[u32], b: u64) -> Ran {
    let memory = Memory::new();
    let module = Module::load(&around(body), &memory).unwrap_or_else(|e| panic!("{e}"));
    let from = memory.allocate("a", a.len() as u64 * 4).unwrap();
    let bytes: Vec<u8> = a.iter().flat_map(|v| v.to_le_bytes()).collect();
    memory.write(from, &bytes).unwrap();
    let to = memory.allocate("b", b).unwrap();
    let result = module.launch("test", launch, &[Arg::U64(from), Arg::U64(to)], &memory);
    Ran { memory, a: from, b: to, result }
}

/// One warp, and the 32 words it wrote to `b`.
pub fn warp(body: &str, a: &[u32]) -> Vec<u32> {
    let ran = run(body, &Launch::linear(1, 32), a, 128);
    ran.result.unwrap_or_else(|e| panic!("{e}"));
    words(&ran.memory, ran.b, 32)
}

pub fn words(memory: &Memory, at: u64, count: u64) -> Vec<u32> {
    let bytes = memory.read(at, count * 4).unwrap();
    bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// The fault of a body that commits one.
pub fn fault(body: &str, threads: u32) -> Fault {
    match run(body, &Launch::linear(1, threads), &[0; 64], 256).result {
        Err(LaunchError::Fault(fault)) => *fault,
        other => panic!("no fault: {other:?}"),
    }
}

/// What is said of a module that cannot be loaded.
pub fn refusal(source: &str) -> ptx_emulator::ParseError {
    match Module::load(source, &Memory::new()) {
        Err(LoadError::Parse(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

/// The end of a body: stores `%r2` to `b`, one word a thread.
pub const STORE: &str = "mul.wide.u32 %rd9, %r1, 4; add.s64 %rd9, %rd9, %rd2; st.global.u32 [%rd9], %r2;\n";
/// The start of one: loads a word a thread of `a` into `%r2`.
pub const LOAD: &str = "mul.wide.u32 %rd8, %r1, 4; add.s64 %rd8, %rd8, %rd1; ld.global.u32 %r2, [%rd8];\n";
/// `%r3` is the address of this thread's word of `room`.
pub const ROOM: &str = "mov.u32 %r3, room; shl.b32 %r4, %r1, 2; add.s32 %r3, %r3, %r4;\n";

pub fn lanes(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

/// A list of one range.
pub fn one(range: std::ops::Range<u64>) -> Vec<std::ops::Range<u64>> {
    vec![range]
}
