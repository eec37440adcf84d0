//! Instructions that need a warp or a block around them.

mod common;

use common::{ROOM, STORE, lanes, refusal, run, warp, words};
use ptx_emulator::Launch;

#[test]
fn lanes_part_and_meet_again() {
    let body = format!(
        "and.b32 %r3, %r1, 1; setp.eq.s32 %p1, %r3, 0; @%p1 bra EVEN;
         mul.lo.s32 %r2, %r1, 3; bra.uni JOIN;
         EVEN: add.s32 %r2, %r1, 100;
         JOIN: activemask.b32 %r4; setp.ne.s32 %p2, %r4, -1; @%p2 mov.u32 %r2, 7;\n{STORE}"
    );
    assert_eq!(warp(&body, &[0]), lanes(|l| if l % 2 == 0 { l + 100 } else { 3 * l }));
}

#[test]
fn loops_of_different_lengths() {
    let body = format!(
        "mov.u32 %r2, 0; mov.u32 %r3, 0;
         LOOP: setp.ge.u32 %p1, %r3, %r1; @%p1 bra DONE; add.s32 %r2, %r2, %r3; add.s32 %r3, %r3, 1; bra LOOP;
         DONE: bar.warp.sync -1;\n{STORE}"
    );
    assert_eq!(warp(&body, &[0]), lanes(|l| l * l.saturating_sub(1) / 2));
}

#[test]
fn a_shuffle_waits_for_lanes_that_come_another_way() {
    // Lane 0 arrives after a detour that lies further down.
    let body = format!(
        "setp.eq.s32 %p1, %r1, 0; mov.u32 %r3, 5; @%p1 bra AWAY;
         BACK: shfl.sync.idx.b32 %r2, %r3, 0, 31, -1; bra END;
         AWAY: mov.u32 %r3, 9; bra BACK; END:\n{STORE}"
    );
    assert_eq!(warp(&body, &[0]), [9; 32]);
}

#[test]
fn shuffles_of_every_kind() {
    let of = |how: &str| warp(&format!("shfl.sync.{how}, -1;\n{STORE}"), &[0]);
    assert_eq!(of("up.b32 %r2, %r1, 3, 0"), lanes(|l| if l >= 3 { l - 3 } else { l }));
    assert_eq!(of("down.b32 %r2, %r1, 3, 31"), lanes(|l| if l + 3 < 32 { l + 3 } else { l }));
    assert_eq!(of("bfly.b32 %r2, %r1, 5, 31"), lanes(|l| l ^ 5));
    assert_eq!(of("idx.b32 %r2, %r1, 6, 31"), [6; 32]);
    // Segments of eight, as `__shfl_*_sync` with a width of 8 makes them.
    assert_eq!(of("idx.b32 %r2, %r1, 6, 0x181f"), lanes(|l| l / 8 * 8 + 6));
    assert_eq!(of("down.b32 %r2, %r1, 3, 0x181f"), lanes(|l| if l % 8 + 3 < 8 { l + 3 } else { l }));
    assert_eq!(of("up.b32 %r2, %r1, 3, 0x1800"), lanes(|l| if l % 8 >= 3 { l - 3 } else { l }));
    let within =
        warp(&format!("shfl.sync.down.b32 %r3|%p1, %r1, 3, 31, -1; selp.b32 %r2, 1, 0, %p1;\n{STORE}"), &[0]);
    assert_eq!(within, lanes(|l| u32::from(l < 29)));
}

#[test]
fn votes_and_reductions() {
    let of = |text: &str| warp(&format!("setp.lt.u32 %p1, %r1, 5; {text}\n{STORE}"), &[0])[9];
    assert_eq!(of("vote.sync.ballot.b32 %r2, %p1, -1;"), 31);
    assert_eq!(of("vote.sync.ballot.b32 %r2, !%p1, -1;"), !31);
    assert_eq!(of("vote.sync.any.pred %p2, %p1, -1; selp.u32 %r2, 1, 0, %p2;"), 1);
    assert_eq!(of("vote.sync.all.pred %p2, %p1, -1; selp.u32 %r2, 1, 0, %p2;"), 0);
    assert_eq!(of("redux.sync.add.u32 %r2, %r1, -1;"), 496);
    assert_eq!(of("sub.s32 %r3, %r1, 7; redux.sync.min.s32 %r2, %r3, -1;"), -7i32 as u32);
}

#[test]
fn packing_and_vectors() {
    let body = format!(
        "ld.global.v4.u16 {{%rs1,%rs2,_,%rs4}}, [%rd1]; mov.b32 %r2, {{%rs4, %rs1}};
         mov.b64 %rd3, {{%r2, %r1}}; mov.b64 {{%r3, %r4}}, %rd3; add.s32 %r2, %r3, %r4;\n{STORE}"
    );
    assert_eq!(warp(&body, &[0x2222_1111, 0x4444_3333]), lanes(|l| 0x1111_4444 + l));
}

#[test]
fn signed_loads_fill_their_register() {
    let body = format!(
        "ld.global.s8 %r2, [%rd1]; ld.global.s8 %rs1, [%rd1+1]; cvt.s32.s16 %r3, %rs1; add.s32 %r2, %r2, %r3;\n{STORE}"
    );
    assert_eq!(warp(&body, &[0xfe80])[0] as i32, -130);
}

#[test]
fn generic_addresses_reach_every_space() {
    let body = format!(
        ".local .align 4 .b8 own[8]; {ROOM}
         cvt.u64.u32 %rd3, %r3; cvta.shared.u64 %rd3, %rd3; st.u32 [%rd3], %r1; ld.shared.u32 %r2, [%r3];
         cvta.local.u64 %rd4, own; st.u32 [%rd4+4], 1000; ld.local.u32 %r5, [own+4]; add.s32 %r2, %r2, %r5;
         cvta.to.shared.u64 %rd5, %rd3; ld.shared.u32 %r6, [%rd5]; add.s32 %r2, %r2, %r6;
         cvta.global.u64 %rd6, %rd1; ld.u32 %r7, [%rd6]; add.s32 %r2, %r2, %r7;\n{STORE}"
    );
    assert_eq!(warp(&body, &[50_000]), lanes(|l| 2 * l + 51_000));
}

#[test]
fn atomics_of_all_blocks_come_to_one_sum() {
    let body = "atom.global.add.u32 %r2, [%rd1], 1; red.shared.add.u32 [room], 1;";
    let body = format!("mov.u32 %r9, 0; setp.eq.s32 %p1, %r1, 0; @%p1 st.shared.u32 [room], %r9; bar.sync 0;
        {body} bar.sync 0; ld.shared.u32 %r3, [room]; mul.wide.u32 %rd9, %r1, 4; add.s64 %rd9, %rd9, %rd2; red.global.max.u32 [%rd1+4], %r3;");
    let ran = run(&body, &Launch::linear(10, 64), &[0, 0], 256);
    ran.result.unwrap();
    assert_eq!(words(&ran.memory, ran.a, 2), [640, 64]);
    let cas = format!("atom.global.cas.b32 %r2, [%rd1], %r1, 77;\n{STORE}");
    assert_eq!(warp(&cas, &[2])[..4], [2, 2, 2, 77]);
    let sum = format!(
        "cvt.rn.f32.u32 %f1, %r1; atom.global.add.f32 %f2, [%rd1], %f1; cvt.rzi.u32.f32 %r2, %f2;\n{STORE}"
    );
    assert_eq!(warp(&sum, &[0]), lanes(|l| l * l.saturating_sub(1) / 2));
}

#[test]
fn variables_of_a_module() {
    let source = ".version 8.4\n.target sm_80\n.address_size 64\n.const .align 4 .u32 table[3] = {5, 6, 7};\n.global .u32 cell;\n\
        .entry k(.param .u64 p) { .reg .b64 %rd<3>; .reg .b32 %r<4>; ld.param.u64 %rd1, [p]; mov.u64 %rd2, table;\n\
        ld.const.u32 %r1, [%rd2+8]; ld.global.u32 %r2, [cell]; add.s32 %r1, %r1, %r2; st.global.u32 [%rd1], %r1; ret; }";
    let memory = ptx_emulator::Memory::new();
    let module = ptx_emulator::Module::load(source, &memory).unwrap();
    let at = memory.allocate("out", 4).unwrap();
    let args = [ptx_emulator::Arg::U64(at)];
    module.launch("k", &Launch::linear(1, 1), &args, &memory).unwrap();
    assert_eq!(words(&memory, at, 1), [7]);
}

#[test]
fn what_is_not_known_is_refused_with_its_line() {
    let of = |body: &str| {
        let error = refusal(&common::around(body));
        assert_eq!(error.line, 10, "{error}");
        error.to_string()
    };
    for (body, what) in [
        ("sad.u32 %r2, %r1, %r1, %r1;", "unknown instruction `sad.u32`"),
        ("add.rna.f32 %f1, %f2, %f3;", "unknown modifier `.rna` of `add.rna.f32`"),
        ("ld.global.L3.u32 %r2, [%rd1];", "unknown modifier `.L3`"),
        ("add.s32.x %r2, %r1, %r1;", "unknown modifier `.x`"),
        ("fma.f32 %f1, %f1, %f1, %f1;", "unknown modifier `.f32`"),
        ("cvt.f16.f32 %rs1, %f1;", "unknown modifier"),
        ("cvt.s32.f32 %r1, %f1;", "unknown modifier"),
        (".target sm_80", "unknown directive `.target`"),
        ("add.s32 %r2, %r1, %rd1;", "`%rd1` has 64 bits where 32 are needed"),
        ("add.s32 %r2, %r1;", "3 operands expected"),
        ("add.s32 %r2, %r1, %q1;", "unknown name `%q1`"),
        ("mov.u32 %r2, %clock;", "unknown name `%clock`"),
        ("bra NOWHERE;", "unknown name `NOWHERE`"),
        ("ld.global.u32 %r2, [room];", "`room` is not in global memory"),
        ("add.f32 %f1, %f1, 1;", "an operand that the instruction does not take"),
        ("@%r1 exit;", "`%r1` is not a predicate"),
        (
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r1}, {%r1}, {%r1};",
            "unknown modifier `.m16n8k32`",
        ),
    ] {
        let error = of(body);
        assert!(error.contains(what), "{error}");
    }
    assert!(
        refusal(".version 8.4\n.target sm_80\n.address_size 64\n.func f() {}")
            .to_string()
            .contains("`.func`")
    );
    assert!(refusal(".target sm_80").to_string().contains("`.version`"));
}

#[test]
fn registers_and_labels_of_inner_scopes_hide_the_outer() {
    let body = format!(
        "mov.u32 %r2, 1; {{ .reg .b32 %r2; mov.u32 %r2, 50; bra L; mov.u32 %r3, 0; L: mov.u32 %r3, %r2; }} L: add.s32 %r2, %r2, %r3;\n{STORE}"
    );
    assert_eq!(warp(&body, &[0]), [51; 32]);
}

#[test]
fn a_copy_of_fewer_bytes_fills_up_with_zeros() {
    let body = format!(
        "shl.b32 %r5, %r1, 4; mov.u32 %r6, room; add.s32 %r5, %r5, %r6; sub.s32 %r7, 8, %r1;
         cp.async.ca.shared.global [%r5], [%rd1], 16, %r7; cp.async.wait_all; ld.shared.u32 %r2, [%r5+4];\n{STORE}"
    );
    let ran = run(&body, &Launch::linear(1, 9), &[0x0403_0201, 0x0807_0605], 36);
    ran.result.unwrap();
    let expected = [0x0807_0605, 0x07_0605, 0x0605, 0x05, 0, 0, 0, 0, 0];
    assert_eq!(words(&ran.memory, ran.b, 9), expected);
}

#[test]
fn launches_are_held_to_the_directives() {
    let memory = ptx_emulator::Memory::new();
    let of = |memory: &_, directive: &str, launch: Launch| {
        let head = ".version 8.4\n.target sm_80\n.address_size 64\n.entry k()";
        let module = ptx_emulator::Module::load(&format!("{head} {directive} {{ ret; }}"), memory).unwrap();
        module.launch("k", &launch, &[], memory)
    };
    assert!(of(&memory, ".maxntid 64, 1, 1 .minnctapersm 2", Launch::linear(1, 64)).is_ok());
    assert!(of(&memory, ".maxntid 64, 1, 1", Launch::linear(1, 96)).is_err());
    assert!(of(&memory, ".reqntid 64", Launch::linear(1, 32)).is_err());
    assert!(of(&memory, "", Launch::linear(1, 1025)).is_err());
    assert!(of(&memory, "", Launch { dynamic_shared: 300_000, ..Launch::linear(1, 32) }).is_err());
    let of_99_kib = Launch { dynamic_shared: 99 << 10, shared_limit: 99 << 10, ..Launch::linear(1, 32) };
    assert!(of(&memory, "", of_99_kib.clone()).is_ok());
    let refused = of(&memory, "", Launch { dynamic_shared: (99 << 10) + 1, ..of_99_kib }).unwrap_err();
    assert_eq!(refused.to_string(), "101377 bytes of shared memory where a block has 101376");
}

#[test]
fn line_information_is_read_and_left_alone() {
    let body = format!(
        ".loc 1 3 5\n.loc 1 9 1, function_name $L__info_string0, inlined_at 1 3 5\nmov.u32 %r2, 4;\n{STORE}"
    );
    assert_eq!(warp(&body, &[0]), [4; 32]);
    let error = refusal(&common::around(".loc 1 9 1, discriminator 2"));
    assert!(error.to_string().contains("`function_name` expected"), "{error}");
}

#[test]
fn races_go_unwatched_when_asked() {
    let body = "mov.u32 %r3, room; st.shared.u32 [%r3], 1;";
    assert!(run(body, &Launch::linear(1, 64), &[0], 4).result.is_err());
    run(body, &Launch { races: false, ..Launch::linear(1, 64) }, &[0], 4).result.unwrap();
}

#[test]
fn switches_by_a_table_of_labels() {
    let body = |index: &str| {
        format!(
            "and.b32 %r3, %r1, {index}; mov.u32 %r2, 7; T: .branchtargets A, B, $C, A;
             brx.idx %r3, T; A: add.s32 %r2, %r2, 100; bra E; B: add.s32 %r2, %r2, 200; bra E;
             $C: add.s32 %r2, %r2, 300; E: bar.warp.sync -1;\n{STORE}"
        )
    };
    assert_eq!(warp(&body("3"), &[0]), lanes(|i| [107, 207, 307, 107][i as usize % 4]));
    let found = common::fault(&body("7"), 32);
    assert_eq!(found.kind, ptx_emulator::FaultKind::NoSuchLabel { index: 4, labels: 4 });
    assert_eq!(found.thread, [4, 0, 0]);
    assert!(refusal(&common::around("T: .branchtargets A; A: brx.idx %r1, U;")).to_string().contains("`U`"));
}

#[test]
fn a_trap_names_its_thread() {
    let found = common::fault("setp.eq.s32 %p1, %r1, 5;\n@%p1 trap;", 32);
    assert_eq!((found.kind, found.thread), (ptx_emulator::FaultKind::Trap, [5, 0, 0]));
}

#[test]
fn barriers_that_count() {
    let body = format!(
        "setp.lt.u32 %p1, %r1, 40; bar.red.popc.u32 %r2, 0, %p1; barrier.cta.red.or.pred %p2, 0, !%p1;
         bar.red.and.pred %p3, 0, %p1; bar.red.or.pred %p4, 0, %p3; setp.lt.u32 %p5, %r1, 64;
         bar.red.and.pred %p5, 0, %p5; @%p2 add.s32 %r2, %r2, 1000; @%p3 add.s32 %r2, %r2, 2000;
         @%p4 add.s32 %r2, %r2, 4000; @%p5 add.s32 %r2, %r2, 8000;\n{STORE}"
    );
    let ran = run(&body, &Launch::linear(1, 64), &[0], 256);
    ran.result.unwrap();
    assert_eq!(words(&ran.memory, ran.b, 64), [9040; 64]);
}

#[test]
fn lanes_that_match() {
    let body = |all: &str| format!("and.b32 %r3, %r1, 3; match.{all} %r2, %r3, -1;\n{STORE}");
    assert_eq!(warp(&body("any.sync.b32"), &[0]), lanes(|i| 0x1111_1111 << (i % 4)));
    assert_eq!(warp(&body("all.sync.b32"), &[0]), [0; 32]);
    let body = format!("match.all.sync.b32 %r2|%p1, 9, -1; @!%p1 mov.u32 %r2, 5;\n{STORE}");
    assert_eq!(warp(&body, &[0]), [u32::MAX; 32]);
}

#[test]
fn local_memory_is_each_threads_own() {
    let body = format!(
        ".local .align 8 .b8 own[16]; mov.u64 %rd3, own; st.local.v2.u32 [own], {{%r1, %r1}}; cvta.local.u64 %rd4, %rd3;
         ld.local.u32 %r3, [%rd3]; ld.u32 %r4, [%rd4+4]; mad.lo.u32 %r2, %r3, 100, %r4;\n{STORE}"
    );
    assert_eq!(warp(&body, &[0]), lanes(|i| 101 * i));
}
