//! Memory and modules shared by threads of the host.

mod common;

use common::{LOAD, STORE, around};
use ptx_emulator::{Arg, Launch, LaunchError, Memory, MemoryError, Module, Profile};

/// b = 3 a, a word a thread, over as many threads as asked for.
fn triple() -> String {
    let index = "mov.u32 %r5, %ctaid.x; mov.u32 %r6, %ntid.x; mad.lo.u32 %r1, %r5, %r6, %r1;";
    around(&format!("{index} {LOAD} mul.lo.u32 %r2, %r2, 3;\n{STORE}"))
}

fn launch(module: &Module, memory: &Memory, blocks: u32, from: u64, to: u64) -> Result<Profile, LaunchError> {
    module.launch("test", &Launch::linear(blocks, 64), &[Arg::U64(from), Arg::U64(to)], memory)
}

#[test]
fn threads_allocate_launch_and_free_at_the_same_time() {
    let memory = Memory::new();
    let module = Module::load(&triple(), &memory).unwrap();
    let work = |thread: u32| -> Result<(), Box<dyn std::error::Error>> {
        for round in 0..30 {
            let words: Vec<u32> = (0..128).map(|i| i + 1000 * thread + round).collect();
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            let (from, to) = (memory.allocate("from", 512)?, memory.allocate("to", 512)?);
            memory.write(from, &bytes)?;
            assert_eq!(memory.unwritten(to, 512)?.len(), 1);
            launch(&module, &memory, 2, from, to)?;
            assert_eq!(memory.unwritten(to, 512)?, []);
            let expected: Vec<u32> = words.iter().map(|w| 3 * w).collect();
            assert_eq!(common::words(&memory, to, 128), expected);
            memory.free(from)?;
            assert!(launch(&module, &memory, 2, from, to).is_err());
            memory.free(to)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || work(thread).unwrap());
        }
    });
    assert_eq!(memory.held(), (0, 0));
}

#[test]
fn many_blocks_and_one_thread_say_the_same() {
    let memory = Memory::new();
    let module = Module::load(&triple(), &memory).unwrap();
    let blocks = 500;
    let bytes = 4 * 64 * u64::from(blocks);
    let (from, to) = (memory.allocate("from", bytes).unwrap(), memory.allocate("to", bytes).unwrap());
    memory.write(from, &vec![1; bytes as usize]).unwrap();
    let by = |threads| {
        memory.forget(to, bytes).unwrap();
        let threads = std::num::NonZero::new(threads);
        let launch = Launch { threads, ..Launch::linear(blocks, 64) };
        let profile = module.launch("test", &launch, &[Arg::U64(from), Arg::U64(to)], &memory).unwrap();
        (profile, memory.read(to, bytes).unwrap())
    };
    let one = by(1);
    assert_eq!(one.1, vec![3; bytes as usize]);
    assert_eq!(one.0.global_loads.sectors, bytes / 32);
    for threads in [2, 3, 8] {
        assert_eq!(by(threads), one);
    }
}

#[test]
fn what_a_kernel_leaves_out_is_told() {
    let memory = Memory::new();
    let module = Module::load(&triple(), &memory).unwrap();
    let (from, to) = (memory.allocate("from", 512).unwrap(), memory.allocate("to", 512).unwrap());
    memory.write(from, &[1; 512]).unwrap();
    // 64 words in the middle: what lies before and after is not touched.
    launch(&module, &memory, 1, from, to + 64).unwrap();
    assert_eq!(memory.unwritten(to, 512).unwrap(), [to..to + 64, to + 320..to + 512]);
    let MemoryError::Access(fault) = memory.read(to, 512).unwrap_err() else { panic!() };
    assert!(fault.to_string().contains("never written"), "{fault}");
    // A buffer used again hides nothing.
    memory.forget(to, 512).unwrap();
    launch(&module, &memory, 1, from, to).unwrap();
    assert_eq!(memory.unwritten(to, 512).unwrap(), common::one(to + 256..to + 512));
}

#[test]
fn a_module_gives_its_variables_back() {
    let memory = Memory::new();
    let with = |body: &str| {
        let entry = triple();
        let at = entry.find(".visible").unwrap();
        format!(
            "{}.global .u32 count[4] = {{1, 2}};\n.const .u64 limit = 7;\n{}{body}",
            &entry[..at],
            &entry[at..]
        )
    };
    let module = Module::load(&with(""), &memory).unwrap();
    assert_eq!(memory.held(), (2, 24));
    module.unload(&memory).unwrap();
    assert_eq!(memory.held(), (0, 0));
    // And so does one that could not be loaded.
    assert!(Module::load(&with(".visible .entry more() { sad.u32 %r1; }"), &memory).is_err());
    assert_eq!(memory.held(), (0, 0));
}
