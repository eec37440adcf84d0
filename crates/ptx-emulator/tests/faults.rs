//! Each check, proved by a kernel that commits the fault on purpose, and by its neighbour that does not.

mod common;

use common::{LOAD, ROOM, STORE, fault, run, warp};
use ptx_emulator::{Arg, FaultKind, Launch, LaunchError, Memory, Module, Space};

#[test]
fn out_of_bounds_names_all_there_is_to_name() {
    let found = fault("add.s64 %rd3, %rd1, 4096;\nld.global.u32 %r2, [%rd3+-4];\n", 32);
    let FaultKind::OutOfBounds { space: Space::Global, bytes: 4, nearest: Some(nearest), .. } = &found.kind
    else {
        panic!("{found}")
    };
    assert_eq!((nearest.name.as_str(), nearest.length, nearest.offset), ("a", 256, 4092));
    assert_eq!((found.kernel.as_str(), found.block, found.thread), ("test", [0; 3], [0; 3]));
    assert_eq!(found.line, 11);
    assert_eq!(found.text, "ld.global.u32 %r2, [%rd3+-4];");
    assert!(found.to_string().contains("byte 4092 of `a`, which has 256"), "{found}");
}

#[test]
fn the_thread_that_overruns_is_named() {
    // 64 words, 96 threads: the 65th is the first outside.
    let found = fault(&format!("{LOAD}{STORE}"), 96);
    assert_eq!(found.thread, [64, 0, 0]);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { .. }));
}

#[test]
fn a_vector_that_hangs_over_the_end_is_out_of_bounds() {
    let found = fault("ld.global.v4.u32 {%r2,%r3,%r4,%r5}, [%rd1+256];", 1);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { bytes: 16, .. }));
}

#[test]
fn shared_and_local_bounds() {
    let found = fault("mov.u32 %r3, room; ld.shared.u32 %r2, [%r3+4096];", 1);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { space: Space::Shared, .. }));
    let found = fault("mov.u32 %r3, 0; st.shared.u32 [%r3], %r3;", 1);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { space: Space::Shared, .. }));
    let found = fault(".local .b8 own[16]; mov.u64 %rd3, own; st.local.u32 [%rd3+16], %r1;", 1);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { space: Space::Local, .. }));
}

#[test]
fn misaligned() {
    let found = fault("ld.global.u32 %r2, [%rd1+2];", 1);
    assert!(matches!(found.kind, FaultKind::Misaligned { bytes: 4, .. }));
    let found = fault("ld.global.v2.u32 {%r2, %r3}, [%rd1+4];", 1);
    assert!(matches!(found.kind, FaultKind::Misaligned { bytes: 8, .. }));
}

#[test]
fn reads_of_what_nobody_wrote() {
    let found = fault("st.global.u8 [%rd2+1], %r1; ld.global.u16 %rs1, [%rd2];", 1);
    assert!(matches!(found.kind, FaultKind::Uninitialised { space: Space::Global, bytes: 2, .. }));
    let found = fault(&format!("{ROOM} ld.shared.u32 %r2, [%r3];"), 32);
    assert!(matches!(found.kind, FaultKind::Uninitialised { space: Space::Shared, .. }));
    let found = fault(".local .b8 own[16]; ld.local.u32 %r2, [own];", 1);
    assert!(matches!(found.kind, FaultKind::Uninitialised { space: Space::Local, .. }));
}

#[test]
fn a_race_of_a_write_and_a_read_of_another_warp() {
    let body = |barrier: &str| {
        format!(
            "{ROOM} st.shared.u32 [%r3], 0; bar.sync 0; st.shared.u32 [%r3], %r1; {barrier}
             xor.b32 %r5, %r4, 128; mov.u32 %r6, room; add.s32 %r5, %r5, %r6; ld.shared.u32 %r2, [%r5];\n{STORE}"
        )
    };
    // The first warp reads before the second writes, here; on a device it may be the other way about.
    let found = fault(&body(""), 64);
    assert!(matches!(found.kind, FaultKind::Race { other: 0, other_wrote: false, .. }), "{found}");
    assert_eq!(found.thread, [32, 0, 0]);
    let ran = run(&body("bar.sync 0;"), &Launch::linear(1, 64), &[0], 256);
    ran.result.unwrap();
}

#[test]
fn a_race_of_two_writes_and_of_a_read_and_a_later_write() {
    let found = fault("mov.u32 %r3, room; st.shared.u32 [%r3], %r1;", 64);
    assert!(matches!(found.kind, FaultKind::Race { other: 0, other_wrote: true, .. }), "{found}");
    assert_eq!(found.thread, [1, 0, 0]);
    // All read word 0 after a barrier; then thread 40 writes it with no barrier between.
    let body = |barrier: &str| {
        format!(
            "{ROOM} st.shared.u32 [%r3], %r1; bar.sync 0; ld.shared.u32 %r2, [room]; {barrier}
             setp.eq.s32 %p1, %r1, 40; @%p1 st.shared.u32 [room], %r1;\n{STORE}"
        )
    };
    let found = fault(&body(""), 64);
    assert!(matches!(found.kind, FaultKind::Race { other_wrote: false, .. }), "{found}");
    assert_eq!(found.thread, [40, 0, 0]);
    run(&body("bar.sync 0;"), &Launch::linear(1, 64), &[0], 256).result.unwrap();
}

#[test]
fn races_within_a_warp_and_the_warp_barrier_that_ends_them() {
    let body = |barrier: &str| {
        format!(
            "{ROOM} st.shared.u32 [%r3], %r1; {barrier} xor.b32 %r5, %r4, 4; mov.u32 %r6, room; add.s32 %r5, %r5, %r6; ld.shared.u32 %r2, [%r5];\n{STORE}"
        )
    };
    assert!(matches!(fault(&body(""), 32).kind, FaultKind::Race { other: 1, other_wrote: true, .. }));
    assert_eq!(warp(&body("bar.warp.sync -1;"), &[0])[..4], [1, 0, 3, 2]);
}

#[test]
fn a_barrier_that_some_threads_miss() {
    let found = fault("setp.lt.u32 %p1, %r1, 40;\n@%p1 bar.sync 0;\n", 64);
    assert!(matches!(found.kind, FaultKind::BarrierNotReached { missing: 24, waiting: 0 }), "{found}");
    assert_eq!((found.thread, found.text.as_str()), ([40, 0, 0], "@%p1 bar.sync 0;"));
    // Two barriers are not one.
    let found = fault("setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 0; bra B; A: bar.sync 0; B:", 64);
    assert!(matches!(found.kind, FaultKind::BarrierNotReached { missing: 32, .. }), "{found}");
}

#[test]
fn a_shuffle_that_some_lanes_miss() {
    let found = fault("setp.lt.u32 %p1, %r1, 8; @%p1 bra L; shfl.sync.idx.b32 %r2, %r1, 0, 31, -1; L:", 32);
    assert!(matches!(found.kind, FaultKind::WarpSyncNotReached { missing: 0xff, .. }), "{found}");
    let found = fault("shfl.sync.idx.b32 %r2, %r1, 0, 31, 15;", 32);
    assert!(matches!(found.kind, FaultKind::NotInMask { mask: 15 }), "{found}");
    assert_eq!(found.thread, [4, 0, 0]);
}

const COPY: &str =
    "shl.b32 %r5, %r1, 4; mov.u32 %r6, room; add.s32 %r5, %r5, %r6; mul.wide.u32 %rd4, %r1, 16;
    add.s64 %rd4, %rd4, %rd1; cp.async.cg.shared.global [%r5], [%rd4], 16; cp.async.commit_group;\n";

#[test]
fn a_copy_read_before_it_was_waited_for() {
    let body = |wait: &str| format!("{COPY} {wait} ld.shared.u32 %r2, [%r5];\n{STORE}");
    let found = fault(&body("bar.sync 0;"), 8);
    assert!(matches!(found.kind, FaultKind::AsyncNotWaited { .. }), "{found}");
    // One group may still be on its way, and that is this one.
    let found = fault(&body("cp.async.wait_group 1;"), 8);
    assert!(matches!(found.kind, FaultKind::AsyncNotWaited { .. }), "{found}");
    let a: Vec<u32> = (0..64).collect();
    let ran = run(&body("cp.async.wait_group 0;"), &Launch::linear(1, 8), &a, 32);
    ran.result.unwrap();
    assert_eq!(common::words(&ran.memory, ran.b, 8), [0, 4, 8, 12, 16, 20, 24, 28]);
    // Waited for by its thread, it is still no other thread's to read.
    let other = |barrier: &str| {
        format!(
            "{COPY} cp.async.wait_all; {barrier} xor.b32 %r5, %r5, 16; ld.shared.u32 %r2, [%r5];\n{STORE}"
        )
    };
    assert!(matches!(fault(&other(""), 8).kind, FaultKind::Race { other: 1, other_wrote: true, .. }));
    run(&other("bar.sync 0;"), &Launch::linear(1, 8), &a, 32).result.unwrap();
}

#[test]
fn a_copy_over_what_others_still_read() {
    let body = format!("{ROOM} st.shared.u32 [%r3], %r1; bar.sync 0; ld.shared.u32 %r2, [room+128];\n{COPY}");
    let found = fault(&body, 16);
    assert!(matches!(found.kind, FaultKind::Uninitialised { .. }), "{found}");
    let body = format!("{ROOM} st.shared.u32 [%r3], %r1; bar.sync 0; ld.shared.u32 %r2, [room];\n{COPY}");
    assert!(matches!(fault(&body, 16).kind, FaultKind::Race { other_wrote: false, .. }));
}

#[test]
fn a_loop_without_an_end_is_ended() {
    let limited = Launch { instruction_limit: 1000, ..Launch::linear(1, 1) };
    let ran = run("L: bra L;", &limited, &[0], 4);
    let found = ran.result.unwrap_err().to_string();
    assert!(found.contains("more than 1000 warp instructions"), "{found}");
}

#[test]
fn the_first_block_that_faults_is_reported_every_time() {
    for _ in 0..20 {
        let body = "mov.u32 %r2, %ctaid.x; setp.gt.u32 %p1, %r2, 6; @%p1 ld.global.u32 %r3, [%rd1+1000];";
        let LaunchError::Fault(found) = run(body, &Launch::linear(50, 32), &[0], 4).result.unwrap_err()
        else {
            panic!()
        };
        assert_eq!(found.block, [7, 0, 0]);
    }
}

#[test]
fn the_address_of_a_parameter_and_its_bounds() {
    // As NVRTC writes a `__grid_constant__` structure: its address is moved, and read through registers.
    let source = |offset: &str, load: &str| {
        format!(
            ".version 8.4\n.target sm_80\n.address_size 64\n
            .visible .entry test(.param .u64 to, .param .align 8 .b8 rows[24], .param .u64 after)\n{{
            .reg .b32 %r<4>; .reg .b64 %rd<8>;
            ld.param.u64 %rd1, [to]; mov.u32 %r1, %tid.x;
            mov.b64 %rd2, rows; mov.u64 %rd3, %rd2; mul.wide.u32 %rd4, %r1, 4; add.s64 %rd4, %rd3, %rd4;
            cvta.param.u64 %rd5, %rd4; cvta.to.param.u64 %rd6, %rd5;
            {load} %r2, [{offset}];
            mul.wide.u32 %rd4, %r1, 4; add.s64 %rd1, %rd1, %rd4; st.global.u32 [%rd1], %r2; ret;\n}}\n"
        )
    };
    let words = [10u32, 11, 12, 13, 14, 15];
    let run = |source: &str, threads| {
        let memory = Memory::new();
        let module = Module::load(source, &memory).unwrap();
        let to = memory.allocate("to", 24).unwrap();
        let rows = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let args = [Arg::U64(to), Arg::Bytes(rows), Arg::U64(7)];
        module.launch("test", &Launch::linear(1, threads), &args, &memory)?;
        Ok::<_, LaunchError>(common::words(&memory, to, 6))
    };
    for (offset, load) in [("%rd4", "ld.param.u32"), ("%rd6", "ld.param.u32"), ("%rd5", "ld.u32")] {
        assert_eq!(run(&source(offset, load), 6).unwrap(), words);
    }
    let found = |offset: &str, load: &str, threads| match run(&source(offset, load), threads) {
        Err(LaunchError::Fault(found)) => found,
        other => panic!("no fault: {other:?}"),
    };
    // The seventh word is that of no parameter, though `after` comes next.
    for (offset, load) in [("%rd4", "ld.param.u32"), ("%rd5", "ld.u32")] {
        let found = found(offset, load, 7);
        assert_eq!(found.thread, [6, 0, 0]);
        assert!(found.to_string().contains("byte 24 of `rows`, which has 24"), "{found}");
    }
    assert!(found("%rd4+-4", "ld.param.u32", 1).to_string().contains("byte -4 of `rows`"));
    assert!(matches!(found("%rd4+2", "ld.param.u32", 1).kind, FaultKind::Misaligned { .. }));
    let wrote = found("%rd5", "st.u32 [%rd5], %r1; ld.u32", 1);
    assert!(matches!(wrote.kind, FaultKind::ReadOnly { .. }), "{wrote}");
}

#[test]
fn a_later_group_of_copies_that_was_not_waited_for() {
    // Two groups of 16 bytes a thread, and both are read: `wait_group 1` is enough for the first alone.
    let body = |wait: &str, at: &str| {
        format!(
            "{COPY} cp.async.cg.shared.global [%r5+1024], [%rd4+0], 16; cp.async.commit_group;\n{wait}
             ld.shared.u32 %r2, [%r5+{at}];\n{STORE}"
        )
    };
    let a: Vec<u32> = (0..64).collect();
    for (wait, at) in [("cp.async.wait_group 1;", "0"), ("cp.async.wait_group 0;", "1024")] {
        let ran = run(&body(wait, at), &Launch::linear(1, 8), &a, 32);
        ran.result.unwrap();
        assert_eq!(common::words(&ran.memory, ran.b, 8), [0, 4, 8, 12, 16, 20, 24, 28]);
    }
    let found = fault(&body("cp.async.wait_group 1;", "1024"), 8);
    let FaultKind::AsyncNotWaited { address } = found.kind else { panic!("{found}") };
    assert_eq!((address % 1024, found.thread), (0, [0; 3]));
    assert_eq!(found.text, "ld.shared.u32 %r2, [%r5+1024];");
    // What was not committed is in no group: `wait_group 0` does not wait for it, and `wait_all` does.
    let body = |wait: &str| {
        let copy = COPY.replace("cp.async.commit_group;", "");
        format!("{copy} {wait} ld.shared.u32 %r2, [%r5];\n{STORE}")
    };
    let found = fault(&body("cp.async.wait_group 0;"), 8);
    assert!(matches!(found.kind, FaultKind::AsyncNotWaited { .. }), "{found}");
    run(&body("cp.async.wait_all;"), &Launch::linear(1, 8), &a, 32).result.unwrap();
}

#[test]
fn a_copy_written_over_before_it_was_waited_for() {
    let found = fault(&format!("{COPY} st.shared.u32 [%r5], %r1;"), 8);
    assert!(matches!(found.kind, FaultKind::AsyncNotWaited { .. }), "{found}");
    let again = COPY.replace("cp.async.commit_group;", "");
    let found = fault(&format!("{COPY} {again}"), 8);
    assert!(matches!(found.kind, FaultKind::AsyncNotWaited { .. }), "{found}");
}

#[test]
fn a_copy_that_lands_beside_a_read_of_another_warp() {
    // Warp 0 copies and waits; warp 1 reads, with a barrier before the wait and none after.
    let body = |before: &str, after: &str| {
        format!(
            "mov.u32 %r6, room; setp.ge.u32 %p1, %r1, 32; mov.u32 %r2, 0; @%p1 bra L; {COPY} L: {before}
             @%p1 bra M; cp.async.wait_all; M: {after}
             @!%p1 bra N; ld.shared.u32 %r2, [%r6]; N:\n{STORE}"
        )
    };
    let found = |body: &str| match run(body, &Launch::linear(1, 64), &[0; 128], 256).result {
        Err(LaunchError::Fault(found)) => found,
        other => panic!("no fault: {other:?}"),
    };
    let race = found(&body("", ""));
    assert!(matches!(race.kind, FaultKind::Race { other: 0, other_wrote: true, .. }), "{race}");
    assert_eq!((race.thread, race.text.as_str()), ([32, 0, 0], "@!%p1 bra N; ld.shared.u32 %r2, [%r6]; N:"));
    let race = found(&body("bar.sync 0;", ""));
    assert!(matches!(race.kind, FaultKind::Race { other: 0, other_wrote: true, .. }), "{race}");
    run(&body("", "bar.sync 0;"), &Launch::linear(1, 64), &[0; 128], 256).result.unwrap();
}

/// Each lane gives `ldmatrix` a row of its own of `room`, which all threads of the first warp have filled.
fn matrices(fill: &str, between: &str, offset: u32) -> String {
    format!(
        "mov.u32 %r3, room; shl.b32 %r4, %r1, 4; add.s32 %r4, %r3, %r4; {fill} {between}
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10,%r11,%r12,%r13}}, [%r4+{offset}];\n\
         mov.u32 %r2, %r10;\n{STORE}"
    )
}

const FILL: &str = "st.shared.v4.u32 [%r4], {%r1,%r1,%r1,%r1};";

#[test]
fn faults_of_ldmatrix() {
    warp(&matrices(FILL, "bar.sync 0;", 0), &[0]);
    // Rows of others, with no barrier since they were written: a lane's own row is its own to read.
    let found = fault(
        &matrices(FILL, "", 0)
            .replace("%r4+0", "%r5")
            .replace(FILL, &format!("{FILL} xor.b32 %r5, %r4, 16;")),
        32,
    );
    assert!(matches!(found.kind, FaultKind::Race { other: 1, other_wrote: true, .. }), "{found}");
    assert!(found.text.starts_with("ldmatrix"));
    // A row that another lane reads, written after that.
    let after = "xor.b32 %r5, %r4, 16; st.shared.u32 [%r5], %r1;";
    let found = fault(&format!("{}\n{after}", matrices(FILL, "bar.sync 0;", 0)), 32);
    assert!(matches!(found.kind, FaultKind::Race { other: 1, other_wrote: false, .. }), "{found}");
    assert_eq!((found.thread, found.text.as_str()), ([0; 3], after));
    let found = fault(&matrices("st.shared.v2.u32 [%r4], {%r1,%r1};", "bar.sync 0;", 0), 32);
    assert!(matches!(found.kind, FaultKind::Uninitialised { space: Space::Shared, .. }), "{found}");
    let found = fault(&matrices(FILL, "bar.sync 0;", 8), 32);
    assert!(matches!(found.kind, FaultKind::Misaligned { space: Space::Shared, bytes: 16, .. }), "{found}");
    let found = fault(&matrices(FILL, "bar.sync 0;", 4096), 32);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { space: Space::Shared, bytes: 16, .. }), "{found}");
    let copied = matrices(&COPY.replace("%r6, room", "%r6, %r3"), "bar.sync 0;", 0);
    let found = run(&copied, &Launch::linear(1, 32), &[0; 128], 128).result.unwrap_err().to_string();
    assert!(found.contains("cp.async that was not waited for"), "{found}");
}

#[test]
fn bytes_side_by_side_do_not_race_and_the_same_byte_does() {
    // Threads write halves and bytes of shared words; then each reads another's with no barrier.
    for (shift, ty) in [(1, "u16"), (0, "u8")] {
        let body = |offset: u32, barrier: &str| {
            format!(
                "mov.u32 %r3, room; shl.b32 %r4, %r1, {shift}; add.s32 %r4, %r3, %r4; cvt.u16.u32 %rs1, %r1;
                 st.shared.{ty} [%r4], %rs1; {barrier} ld.shared.{ty} %rs2, [%r4+{offset}]; cvt.u32.u16 %r2, %rs2;\n{STORE}"
            )
        };
        let own = warp(&body(0, ""), &[0]);
        assert_eq!(own, (0..32).collect::<Vec<u32>>());
        let found = fault(&body(1 << shift, ""), 32);
        let FaultKind::Race { address, other: 1, other_wrote: true } = found.kind else { panic!("{found}") };
        assert_eq!(address & 3, 1 << shift);
        let found = fault(&body(1 << shift, "bar.sync 0;"), 32);
        assert!(matches!(found.kind, FaultKind::Uninitialised { .. }), "{found}");
        assert_eq!(found.thread, [31, 0, 0]);
    }
    // A word read whole after halves of it were written by two threads, in order and not.
    let body = |barrier: &str| {
        format!(
            "{ROOM} shl.b32 %r4, %r1, 1; mov.u32 %r5, room; add.s32 %r4, %r5, %r4; cvt.u16.u32 %rs1, %r1;
             st.shared.u16 [%r4], %rs1; {barrier} and.b32 %r6, %r1, 15; shl.b32 %r6, %r6, 2; add.s32 %r6, %r6, %r5;
             ld.shared.u32 %r2, [%r6]; {barrier} st.shared.u16 [%r4], %rs1;\n{STORE}"
        )
    };
    assert!(matches!(fault(&body(""), 32).kind, FaultKind::Race { .. }));
    let read = warp(&body("bar.sync 0;"), &[0]);
    assert_eq!(read[..3], [0x0001_0000, 0x0003_0002, 0x0005_0004]);
}

#[test]
fn atomics_race_with_plain_accesses_alone() {
    let body = |then: &str| {
        format!(
            "mov.u32 %r3, room; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r3], 0; bar.sync 0;
            atom.shared.add.u32 %r2, [%r3], 1; {then}\n{STORE}"
        )
    };
    warp(&body(""), &[0]);
    let found = fault(&body("ld.shared.u32 %r4, [%r3];"), 32);
    assert!(matches!(found.kind, FaultKind::Race { other_wrote: true, .. }), "{found}");
    warp(&body("bar.sync 0; ld.shared.u32 %r4, [%r3];"), &[0]);
}

#[test]
fn what_was_freed_is_named() {
    let memory = Memory::new();
    let module = Module::load(&common::around(&format!("{LOAD}{STORE}")), &memory).unwrap();
    let (a, b) = (memory.allocate("weights", 128).unwrap(), memory.allocate("b", 128).unwrap());
    memory.write(a, &[0; 128]).unwrap();
    let launch = || module.launch("test", &Launch::linear(1, 32), &[Arg::U64(a), Arg::U64(b)], &memory);
    launch().unwrap();
    memory.free(a).unwrap();
    let LaunchError::Fault(found) = launch().unwrap_err() else { panic!() };
    assert!(matches!(&found.kind, FaultKind::Freed { of, .. } if of.name == "weights"), "{found}");
    assert!(found.to_string().contains("were freed (byte 0 of `weights`, which has 128)"), "{found}");
}

#[test]
fn faults_of_a_later_block_and_a_grid_of_three_axes() {
    let body = "mov.u32 %r2, %ctaid.z; setp.ne.u32 %p1, %r2, 2; @%p1 exit; mov.u32 %r3, %tid.y;
        setp.ne.u32 %p1, %r3, 3; @%p1 exit; ld.global.u32 %r4, [%rd1+-8];";
    let LaunchError::Fault(found) =
        run(body, &Launch::new([2, 1, 3], [2, 4, 1]), &[0], 4).result.unwrap_err()
    else {
        panic!()
    };
    assert_eq!((found.block, found.thread, found.line), ([0, 0, 2], [0, 3, 0], 11));
}
