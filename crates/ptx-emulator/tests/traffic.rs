//! The counters: sectors of global memory, banks of shared memory, by line.

mod common;

use common::{around, run};
use ptx_emulator::{Banks, Class, Launch, Profile, Traffic};

/// The profile of one warp that runs `access` with `%r3` the address in `room` that `of` gives each lane; all of
/// `room` that it can reach was written before, without a conflict. `skip` lanes stay away.
fn shared(access: &str, of: impl Fn(u32) -> u32, skip: u32) -> Profile {
    let body = format!(
        "mov.u32 %r4, room; shl.b32 %r5, %r1, 2; add.s32 %r5, %r5, %r4; mov.u32 %r6, 0; mov.u32 %r7, 7;
         L: st.shared.u32 [%r5], %r7; add.s32 %r5, %r5, 128; add.s32 %r6, %r6, 1; setp.lt.u32 %p1, %r6, 32; @%p1 bra L;
         bar.sync 0; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd1; ld.global.u32 %r3, [%rd3];
         add.s32 %r3, %r3, %r4; setp.lt.u32 %p2, %r1, {skip}; @%p2 exit;\n{access}"
    );
    let offsets: Vec<u32> = (0..32).map(of).collect();
    let launch = Launch { races: false, ..Launch::linear(1, 32) };
    run(&body, &launch, &offsets, 4).result.unwrap_or_else(|e| panic!("{e}"))
}

fn banks(instructions: u64, least: u64, passes: u64) -> Banks {
    Banks { instructions, least, passes }
}

/// What filling `room` costs.
const FILLED: u64 = 32;

#[test]
fn passes_over_the_banks() {
    // Bytes a lane, and from one lane to the next; passes needed at least, and taken.
    for (bytes, stride, least, passes) in [
        (4, 4, 1, 1),
        (4, 8, 1, 2),
        (4, 12, 1, 1),
        (4, 64, 1, 16),
        (4, 128, 1, 32),
        (4, 0, 1, 1),
        // Lanes that share a word: four bytes, two halves.
        (1, 1, 1, 1),
        (2, 2, 1, 1),
        (2, 4, 1, 1),
        (2, 128, 1, 32),
        // Halves of a warp: 16 lanes of two words fill the banks once.
        (8, 8, 2, 2),
        (8, 16, 2, 4),
        (8, 24, 2, 2),
        (8, 128, 2, 32),
        (8, 0, 2, 2),
        // Quarters: 8 lanes of four words.
        (16, 16, 4, 4),
        (16, 32, 4, 8),
        (16, 48, 4, 4),
        (16, 64, 4, 16),
        (16, 80, 4, 4),
        (16, 128, 4, 32),
        (16, 0, 4, 4),
    ] {
        let ty = match bytes {
            1 => "u8",
            2 => "u16",
            4 => "u32",
            8 => "v2.u32",
            _ => "v4.u32",
        };
        let registers = match bytes {
            1 | 2 => "%rs1",
            4 => "%r10",
            8 => "{%r10,%r11}",
            _ => "{%r10,%r11,%r12,%r13}",
        };
        let of = |lane| lane * stride;
        let read = shared(&format!("ld.shared.{ty} {registers}, [%r3];"), of, 0);
        assert_eq!(read.shared_loads, banks(1, least, passes), "{bytes} bytes, {stride} apart");
        assert_eq!(read.shared_loads.conflicts(), passes - least);
        assert_eq!(read.shared_stores, banks(FILLED, FILLED, FILLED));
        let wrote = shared(&format!("st.shared.{ty} [%r3], {registers};"), of, 0);
        assert_eq!(wrote.shared_stores, banks(1 + FILLED, least + FILLED, passes + FILLED));
        assert_eq!(wrote.shared_loads, banks(0, 0, 0));
    }
}

#[test]
fn one_vector_of_eight_bytes_is_counted_as_one_number_of_eight() {
    let by = |access: &str| shared(access, |lane| lane * 16, 0).shared_loads;
    assert_eq!(by("ld.shared.u64 %rd5, [%r3];"), by("ld.shared.v2.u32 {%r10,%r11}, [%r3];"));
    assert_eq!(by("ld.shared.v4.u16 {%rs1,%rs2,%rs3,%rs4}, [%r3];"), banks(1, 2, 4));
    let generic = "cvta.shared.u64 %rd5, %rd5; ld.u32 %r10, [%rd5];";
    assert_eq!(by(&format!("cvt.u64.u32 %rd5, %r3; {generic}")), banks(1, 1, 4));
}

#[test]
fn lanes_that_stay_away_cost_nothing() {
    let by = |ty: &str, registers: &str, stride: u32, skip: u32| {
        shared(&format!("ld.shared.{ty} {registers}, [%r3];"), |lane| lane * stride, skip).shared_loads
    };
    assert_eq!(by("u32", "%r10", 128, 24), banks(1, 1, 8));
    assert_eq!(by("v2.u32", "{%r10,%r11}", 8, 16), banks(1, 1, 1));
    assert_eq!(by("v4.u32", "{%r10,%r11,%r12,%r13}", 128, 20), banks(1, 2, 12));
}

#[test]
fn words_shared_by_some_lanes_are_served_once() {
    // Two lanes to a word, and all on one bank: 16 words. Then four words of one bank, in an order that repeats.
    let read = |of: &dyn Fn(u32) -> u32| shared("ld.shared.u32 %r10, [%r3];", of, 0).shared_loads;
    assert_eq!(read(&|lane| lane / 2 * 128), banks(1, 1, 16));
    assert_eq!(read(&|lane| lane % 4 * 128), banks(1, 1, 4));
    // Quads: each quarter of the warp reads the same two, on the same banks.
    let quads = shared("ld.shared.v4.u32 {%r10,%r11,%r12,%r13}, [%r3];", |lane| lane % 2 * 128, 0);
    assert_eq!(quads.shared_loads, banks(1, 4, 8));
}

#[test]
fn each_matrix_of_ldmatrix_is_served_by_itself() {
    for (pitch, each) in [(16, 1), (32, 2), (64, 4), (80, 1), (48, 1), (112, 1), (128, 8)] {
        for (count, to) in [(1, "{%r10}"), (2, "{%r10,%r11}"), (4, "{%r10,%r11,%r12,%r13}")] {
            for trans in ["", ".trans"] {
                let access = format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {to}, [%r3];");
                let read = shared(&access, |lane| lane * pitch, 0);
                assert_eq!(read.shared_loads, banks(1, count, each * count), "{pitch} {count}");
                assert_eq!(read.instructions(Class::Shared).warps, 1 + FILLED);
            }
        }
    }
}

#[test]
fn asynchronous_copies_are_global_loads_and_shared_stores() {
    for (cache, bytes, least) in [("ca", 4, 1), ("ca", 8, 2), ("ca", 16, 4), ("cg", 16, 4)] {
        for hint in ["", ".L2::64B", ".L2::128B", ".L2::256B"] {
            let copy = |offset: u32| {
                format!(
                    "mov.u32 %r4, room; mul.lo.u32 %r5, %r1, {bytes}; add.s32 %r6, %r4, %r5;
                     cvt.u64.u32 %rd3, %r5; add.s64 %rd3, %rd3, %rd1;
                     cp.async.{cache}.shared.global{hint} [%r6+{offset}], [%rd3], {bytes}; cp.async.wait_all;"
                )
            };
            let profile = run(&copy(256), &Launch::linear(1, 32), &[0; 128], 4).result.unwrap();
            let total = 32 * bytes;
            let traffic = Traffic { instructions: 1, bytes: total, sectors: total / 32 };
            assert_eq!(profile.global_loads, traffic, "{cache} {bytes} {hint}");
            assert_eq!(profile.shared_stores, banks(1, least, least));
            assert_eq!((profile.global_stores.bytes, profile.shared_loads.instructions), (0, 0));
        }
    }
}

#[test]
fn sectors_are_counted_once_an_instruction_whatever_the_cache() {
    let load = |kind: &str, shift: u32, offset: u32| {
        let body = format!(
            "shl.b32 %r3, %r1, {shift}; cvt.u64.u32 %rd3, %r3; add.s64 %rd3, %rd3, %rd1; {kind} [%rd3+{offset}];"
        );
        run(&body, &Launch::linear(1, 32), &[0; 1024], 4).result.unwrap().global_loads
    };
    let traffic = |bytes, sectors| Traffic { instructions: 1, bytes, sectors };
    for modifiers in [
        "global",
        "global.nc",
        "global.ca",
        "global.cg",
        "global.cs",
        "global.nc.L2::128B",
        "global.L2::256B",
        "global.L1::no_allocate.L2::128B",
        "global.nc.L1::evict_last",
        "volatile.global",
        "relaxed.gpu.global",
    ] {
        let kind = format!("ld.{modifiers}.u32 %r2,");
        assert_eq!(load(&kind, 2, 0), traffic(128, 4), "{modifiers}");
        assert_eq!(load(&kind, 2, 4), traffic(128, 5), "{modifiers}");
        assert_eq!(load(&kind, 6, 0), traffic(128, 32), "{modifiers}");
    }
    let quad = "ld.global.nc.v4.u32 {%r10,%r11,%r12,%r13},";
    assert_eq!(load(quad, 4, 0), traffic(512, 16));
    assert_eq!(load(quad, 4, 16), traffic(512, 17));
    assert_eq!(load("ld.global.u8 %rs1,", 0, 0), traffic(32, 1));
}

#[test]
fn sectors_in_no_order_are_each_counted_once() {
    // Lane i at sector (5 i) mod 16: every one of the 16, twice.
    let body =
        "mul.lo.u32 %r3, %r1, 160; and.b32 %r3, %r3, 511; cvt.u64.u32 %rd3, %r3; add.s64 %rd3, %rd3, %rd1;
        ld.global.u32 %r2, [%rd3];";
    let profile = run(body, &Launch::linear(1, 32), &[0; 128], 4).result.unwrap();
    assert_eq!(profile.global_loads, Traffic { instructions: 1, bytes: 128, sectors: 16 });
}

#[test]
fn lines_with_conflicts_are_told() {
    let body = "mov.u32 %r4, room; shl.b32 %r5, %r1, 6; add.s32 %r5, %r5, %r4;
st.shared.u32 [%r5], %r1;
bar.sync 0;
ld.shared.u32 %r6, [%r5];
ld.shared.u32 %r6, [room];
mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd2;
st.global.u32 [%rd3], %r6; ld.global.u32 %r7, [%rd3];";
    let source = around(body);
    let ran = run(body, &Launch { races: false, ..Launch::linear(2, 32) }, &[0], 128);
    let profile = ran.result.unwrap();
    let module = ptx_emulator::Module::load(&source, &ptx_emulator::Memory::new()).unwrap();
    let text = |line| module.line(line);
    let lines: Vec<&str> = profile.lines().iter().map(|l| text(l.line)).collect();
    let expected = [
        "st.shared.u32 [%r5], %r1;",
        "ld.shared.u32 %r6, [%r5];",
        "ld.shared.u32 %r6, [room];",
        "st.global.u32 [%rd3], %r6; ld.global.u32 %r7, [%rd3];",
    ];
    assert_eq!(lines, expected);
    let conflicts = profile.conflicts();
    let found: Vec<_> = conflicts.iter().map(|l| (text(l.line), l.conflicts())).collect();
    assert_eq!(found, [(expected[0], 30), (expected[1], 30)]);
    assert_eq!(conflicts[0].shared_stores, banks(2, 2, 32));
    assert_eq!(conflicts[1].shared_loads, banks(2, 2, 32));
    // The lines make up the whole, and so they do in a sum of launches.
    let mut sum = profile.clone();
    sum += &profile;
    assert_eq!(sum.lines().len(), 4);
    for (total, part) in [(&profile, 1), (&sum, 2)] {
        let traffic = total.lines().last().unwrap();
        assert_eq!((traffic.global_loads.sectors, traffic.global_stores.sectors), (8 * part, 8 * part));
        assert_eq!(traffic.global_loads, total.global_loads);
        let passes: u64 = total.lines().iter().map(|l| l.shared_loads.passes).sum();
        assert_eq!((passes, total.shared_loads.passes), (34 * part, 34 * part));
    }
}
