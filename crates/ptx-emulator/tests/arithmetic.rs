//! What instructions compute, one after another.

mod common;

use common::{LOAD, STORE, lanes, run, warp};
use ptx_emulator::Launch;

#[test]
fn predicates_and_their_opposites() {
    let body = format!(
        "setp.lt.u32 %p1, %r1, 20; setp.gt.and.u32 %p2|%p3, %r1, 10, %p1;
         selp.u32 %r2, 1, 0, %p2; selp.u32 %r3, 2, 0, %p3; add.s32 %r2, %r2, %r3;
         xor.pred %p4, %p2, %p3; not.pred %p4, %p4; @%p4 add.s32 %r2, %r2, 8;\n{STORE}"
    );
    let expected = |l| u32::from(l > 10 && l < 20) + 2 * u32::from(l <= 10) + 8 * u32::from(l >= 20);
    assert_eq!(warp(&body, &[0]), lanes(expected));
}

#[test]
fn half_instructions_and_conversions_in_pairs() {
    let body = format!("{LOAD} mov.b32 %r3, 0x3c003c00; fma.rn.f16x2 %r2, %r2, %r2, %r3;\n{STORE}");
    assert_eq!(warp(&body, &[0x4000_3c00; 32])[0], 0x4500_4000);
    let body = format!("cvt.rn.bf16x2.f32 %r2, 0f40000000, 0f3F800000;\n{STORE}");
    assert_eq!(warp(&body, &[0])[0], 0x4000_3f80);
}

#[test]
fn selections_by_sign_and_by_space() {
    let body = format!(
        "{LOAD} mov.b32 %f1, %r2; slct.u32.f32 %r3, 1, 2, %f1; slct.u32.s32 %r4, 10, 20, %r2;
        add.s32 %r2, %r3, %r4;\n{STORE}"
    );
    let values = [0f32, -0.0, -1.0, 1.0, f32::NAN, -f32::MIN_POSITIVE];
    let given: Vec<u32> = (0..32).map(|i| values[i % 6].to_bits()).collect();
    let expected = lanes(|i| {
        let value = values[i as usize % 6];
        (if value >= 0.0 { 1 } else { 2 }) + if value.is_sign_positive() { 10 } else { 20 }
    });
    assert_eq!(warp(&body, &given), expected);
    let body = format!(
        ".local .b8 own[16]; mov.u32 %r3, room; cvt.u64.u32 %rd3, %r3; cvta.shared.u64 %rd3, %rd3; mov.u64 %rd4, own;
         cvta.local.u64 %rd4, %rd4; mov.b64 %rd5, a; cvta.param.u64 %rd5, %rd5; mov.u32 %r2, 0;
         isspacep.shared %p1, %rd3; @%p1 or.b32 %r2, %r2, 1; isspacep.local %p1, %rd4; @%p1 or.b32 %r2, %r2, 2;
         isspacep.global %p1, %rd2; @%p1 or.b32 %r2, %r2, 4; isspacep.param %p1, %rd5; @%p1 or.b32 %r2, %r2, 8;
         isspacep.global %p1, %rd5; @%p1 or.b32 %r2, %r2, 16; isspacep.shared %p1, %rd4; @%p1 or.b32 %r2, %r2, 32;
         isspacep.local %p1, %rd2; @%p1 or.b32 %r2, %r2, 64; isspacep.global %p1, %rd3; @%p1 or.b32 %r2, %r2, 128;\n{STORE}"
    );
    assert_eq!(warp(&body, &[0]), [31; 32]);
}

#[test]
fn highest_bits_and_dot_products() {
    let body = format!(
        "{LOAD} bfind.u32 %r3, %r2; bfind.shiftamt.s32 %r4, %r2; mad.lo.u32 %r2, %r3, 64, %r4;\n{STORE}"
    );
    let given: Vec<u32> =
        (0..32).map(|i| 5u32.wrapping_mul(1 << i) ^ if i % 2 == 1 { u32::MAX } else { 0 }).collect();
    let expected = lanes(|i| {
        let value = given[i as usize];
        let magnitude = if (value as i32) < 0 { !value } else { value };
        let high = if value == 0 { u32::MAX } else { 31 - value.leading_zeros() };
        let shift = if magnitude == 0 { u32::MAX } else { magnitude.leading_zeros() };
        high.wrapping_mul(64).wrapping_add(shift)
    });
    assert_eq!(warp(&body, &given), expected);
    let body = |types: &str| format!("dp4a.{types} %r2, 0x80ff7f02, 0xff02ff03, %r1;\n{STORE}");
    let dot = |signs: [bool; 2]| {
        let byte = |x: u8, signed: bool| if signed { i32::from(x as i8) } else { i32::from(x) };
        let pairs = [0x02u8, 0x7f, 0xff, 0x80].into_iter().zip([0x03u8, 0xff, 0x02, 0xff]);
        pairs.map(|(a, b)| byte(a, signs[0]) * byte(b, signs[1])).sum::<i32>() as u32
    };
    for (types, signs) in [
        ("u32.u32", [false; 2]),
        ("s32.u32", [true, false]),
        ("u32.s32", [false, true]),
        ("s32.s32", [true; 2]),
    ] {
        assert_eq!(warp(&body(types), &[0]), lanes(|i| dot(signs).wrapping_add(i)), "{types}");
    }
}

#[test]
fn carries_make_numbers_of_128_bits() {
    // (a, b) of 64 bits each, added, subtracted and multiplied by words.
    let numbers = [0u64, 1, u64::MAX, 0xffff_ffff, 1 << 32, 0x8000_0000_0000_0000, 0x1234_5678_9abc_def0];
    let given: Vec<(u64, u64)> =
        (0..32).map(|i| (numbers[i % 7], numbers[i / 7 % 7].wrapping_mul(1 + i as u64 / 5))).collect();
    let words: Vec<u32> =
        given.iter().flat_map(|&(a, b)| [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]).collect();
    let body = |rest: &str| {
        format!(
            "mul.wide.u32 %rd3, %r1, 16; add.s64 %rd3, %rd3, %rd1; ld.global.v4.u32 {{%r10,%r11,%r12,%r13}}, [%rd3];
             mov.u32 %r20, 0; mov.u32 %r21, 0; mov.u32 %r22, 0; mov.u32 %r23, 0; {rest}
             mul.wide.u32 %rd4, %r1, 16; add.s64 %rd4, %rd4, %rd2; st.global.v4.u32 [%rd4], {{%r20,%r21,%r22,%r23}};"
        )
    };
    let check = |rest: &str, of: &dyn Fn(u64, u64) -> u128| {
        let ran = run(&body(rest), &Launch::linear(1, 32), &words, 512);
        ran.result.unwrap();
        let found = common::words(&ran.memory, ran.b, 128);
        for (found, &(a, b)) in found.chunks(4).zip(&given) {
            let found = found.iter().rev().fold(0, |value: u128, &word| value << 32 | u128::from(word));
            assert_eq!(found, of(a, b), "{a:x} {b:x}");
        }
    };
    check("add.cc.u32 %r20, %r10, %r12; addc.cc.u32 %r21, %r11, %r13; addc.u32 %r22, 0, 0;", &|a, b| {
        u128::from(a) + u128::from(b)
    });
    check(
        "sub.cc.s32 %r20, %r10, %r12; subc.cc.s32 %r21, %r11, %r13; subc.s32 %r22, 0, 0; subc.u32 %r23, 0, 0;",
        &|a, b| u128::from(a).wrapping_sub(u128::from(b)),
    );
    check(
        "mul.lo.u32 %r20, %r10, %r12; mul.hi.u32 %r21, %r10, %r12;
         mad.lo.cc.u32 %r21, %r10, %r13, %r21; madc.hi.u32 %r22, %r10, %r13, 0;
         mad.lo.cc.u32 %r21, %r11, %r12, %r21; madc.hi.cc.u32 %r22, %r11, %r12, %r22; addc.u32 %r23, 0, 0;
         mad.lo.cc.u32 %r22, %r11, %r13, %r22; madc.hi.u32 %r23, %r11, %r13, %r23;",
        &|a, b| u128::from(a) * u128::from(b),
    );
    let body = format!(
        "{LOAD} mad24.lo.s32 %r3, %r2, -3, %r1; mul24.hi.u32 %r4, %r2, 0x123456; xor.b32 %r2, %r3, %r4;\n{STORE}"
    );
    let given: Vec<u32> = (0..32).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
    let expected = lanes(|i| {
        let x = given[i as usize];
        let low = (i64::from(((x << 8) as i32) >> 8) * -3) as u32;
        let high = ((u64::from(x & 0xff_ffff) * 0x12_3456) >> 16) as u32;
        low.wrapping_add(i) ^ high
    });
    assert_eq!(warp(&body, &given), expected);
}

#[test]
fn exponentials_flush_when_asked() {
    let body = |ftz: &str| {
        format!("{LOAD} mov.b32 %f1, %r2; ex2.approx{ftz}.f32 %f2, %f1; mov.b32 %r2, %f2;\n{STORE}")
    };
    let given =
        [0f32, -0.0, 1.0, -126.0, -127.0, -149.0, -151.0, 128.0, 1e-40, f32::INFINITY, f32::NEG_INFINITY];
    let mut bits: Vec<u32> = given.iter().map(|v| v.to_bits()).collect();
    bits.resize(32, 0x7fc0_0000);
    let of = |ftz: &str| warp(&body(ftz), &bits)[..12].iter().map(|&v| f32::from_bits(v)).collect::<Vec<_>>();
    let least = f32::from_bits(1);
    let expected =
        [1.0, 1.0, 2.0, f32::MIN_POSITIVE, f32::MIN_POSITIVE / 2.0, least, 0.0, f32::INFINITY, 1.0];
    assert_eq!(of("")[..9], expected);
    assert_eq!(of(".ftz")[..7], [1.0, 1.0, 2.0, f32::MIN_POSITIVE, 0.0, 0.0, 0.0]);
    assert_eq!(of(".ftz")[7..11], [f32::INFINITY, 1.0, f32::INFINITY, 0.0]);
    assert_eq!(of("")[11].to_bits(), 0x7fff_ffff);
}
