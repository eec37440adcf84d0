//! The fragments of `mma` and `ldmatrix`, lane by lane, against the formulas of the PTX ISA (9.7.14.5 and `ldmatrix`).

mod common;

use common::{run, words};
use ptx_emulator::{FaultKind, Launch, LaunchError};

/// Row and column of element `i` of a lane's fragment of A, which has 16 rows and `depth` columns.
fn of_a(lane: usize, i: usize, depth: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    if depth == 8 {
        return (if i < 2 { group } else { group + 8 }, in_group * 2 + (i & 1));
    }
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    (row, in_group * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
}

/// Of B, which has as many rows as A has columns, and 8 columns.
fn of_b(lane: usize, i: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    (in_group * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group)
}

/// Of C and D, with 16 rows and 8 columns.
fn of_c(lane: usize, i: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, in_group * 2 + (i & 1))
}

/// Types and depths that there are.
const SHAPES: [(&str, usize); 4] = [("f16", 8), ("f16", 16), ("bf16", 8), ("bf16", 16)];

/// Products a b + c, a block each, of the elements that these give by place in a lane's fragment; the lanes' fragments
/// of D in order, 4 to a lane.
fn products(
    ty: &str,
    depth: usize,
    blocks: usize,
    a: impl Fn(usize, usize, usize) -> f32,
    b: impl Fn(usize, usize, usize) -> f32,
    c: impl Fn(usize, usize, usize) -> f32,
) -> Vec<f32> {
    let bits = |v: f32| match ty {
        "f16" => half::f16::from_f32(v).to_bits(),
        _ => half::bf16::from_f32(v).to_bits(),
    };
    let pair = |low: f32, high: f32| u32::from(bits(low)) | u32::from(bits(high)) << 16;
    let mut given = Vec::new();
    for block in 0..blocks {
        for lane in 0..32 {
            // Registers that m16n8k8 has not stay zero.
            let element =
                |of: &dyn Fn(usize, usize, usize) -> f32, i, n| if i < n { of(block, lane, i) } else { 0.0 };
            given.extend(
                (0..4).map(|i| pair(element(&a, 2 * i, depth / 2), element(&a, 2 * i + 1, depth / 2))),
            );
            given.extend(
                (0..2).map(|i| pair(element(&b, 2 * i, depth / 4), element(&b, 2 * i + 1, depth / 4))),
            );
            given.extend((0..4).map(|i| c(block, lane, i).to_bits()));
        }
    }
    let sources = if depth == 16 { "{%r10,%r11,%r12,%r13}, {%r14,%r15}" } else { "{%r10,%r11}, {%r14}" };
    let body = format!(
        "mov.u32 %r2, %ctaid.x; mad.lo.u32 %r2, %r2, 32, %r1; mul.wide.u32 %rd3, %r2, 40; add.s64 %rd3, %rd3, %rd1;
         ld.global.v2.u32 {{%r10,%r11}}, [%rd3]; ld.global.v2.u32 {{%r12,%r13}}, [%rd3+8];
         ld.global.v2.u32 {{%r14,%r15}}, [%rd3+16]; ld.global.v2.f32 {{%f1,%f2}}, [%rd3+24];
         ld.global.v2.f32 {{%f3,%f4}}, [%rd3+32];
         mma.sync.aligned.m16n8k{depth}.row.col.f32.{ty}.{ty}.f32 {{%f1,%f2,%f3,%f4}}, {sources}, {{%f1,%f2,%f3,%f4}};
         mul.wide.u32 %rd4, %r2, 16; add.s64 %rd4, %rd4, %rd2; st.global.v4.f32 [%rd4], {{%f1,%f2,%f3,%f4}};"
    );
    let ran = run(&body, &Launch::linear(blocks as u32, 32), &given, 512 * blocks as u64);
    let profile = ran.result.unwrap();
    assert_eq!(profile.matrix_multiply_adds, (blocks * 16 * 8 * depth) as u64);
    words(&ran.memory, ran.b, 128 * blocks as u64).into_iter().map(f32::from_bits).collect()
}

#[test]
fn every_element_of_a_alone() {
    for (ty, depth) in SHAPES {
        // A block for each element of A, which alone is 1. B has its own row everywhere: D tells row and column.
        let each = depth / 2;
        let d = products(
            ty,
            depth,
            32 * each,
            |block, lane, i| f32::from(u8::from(block == lane * each + i)),
            |_, lane, i| of_b(lane, i).0 as f32 + 1.0,
            |_, _, _| 0.0,
        );
        for (at, found) in d.into_iter().enumerate() {
            let (row, column) = of_a(at / 128 / each, at / 128 % each, depth);
            let expected = if of_c(at % 128 / 4, at % 4).0 == row { column as f32 + 1.0 } else { 0.0 };
            assert_eq!(found, expected, "{ty} {depth} {row} {column}");
        }
    }
}

#[test]
fn every_element_of_b_alone() {
    for (ty, depth) in SHAPES {
        let each = depth / 4;
        let d = products(
            ty,
            depth,
            32 * each,
            |_, lane, i| of_a(lane, i, depth).1 as f32 + 1.0,
            |block, lane, i| f32::from(u8::from(block == lane * each + i)),
            |_, _, _| 0.0,
        );
        for (at, found) in d.into_iter().enumerate() {
            let (row, column) = of_b(at / 128 / each, at / 128 % each);
            let expected = if of_c(at % 128 / 4, at % 4).1 == column { row as f32 + 1.0 } else { 0.0 };
            assert_eq!(found, expected, "{ty} {depth} {row} {column}");
        }
    }
}

#[test]
fn every_element_of_c_stays_where_it_is() {
    for (ty, depth) in SHAPES {
        let c = |lane: usize, i: usize| (lane * 4 + i) as f32 + 0.25;
        let d = products(ty, depth, 1, |_, _, _| 0.0, |_, _, _| 0.0, |_, lane, i| c(lane, i));
        for (at, found) in d.into_iter().enumerate() {
            assert_eq!(found, c(at / 4, at % 4));
        }
    }
}

#[test]
fn a_product_of_matrices_of_distinct_elements() {
    for (ty, depth) in SHAPES {
        // Every integer up to 256 is a number of both types, and no two elements of a matrix are alike.
        let a = |row: usize, column: usize| ((row * 16 + column) * 37 % 256) as f32;
        let b = |row: usize, column: usize| ((row * 8 + column) * 29 % 128) as f32 - 64.0;
        let c = |row: usize, column: usize| (row * 8 + column) as f32 * 0.5;
        let d = products(
            ty,
            depth,
            1,
            |_, lane, i| a(of_a(lane, i, depth).0, of_a(lane, i, depth).1),
            |_, lane, i| b(of_b(lane, i).0, of_b(lane, i).1),
            |_, lane, i| c(of_c(lane, i).0, of_c(lane, i).1),
        );
        for (at, found) in d.into_iter().enumerate() {
            let (row, column) = of_c(at / 4, at % 4);
            let sum: f32 = (0..depth).map(|k| a(row, k) * b(k, column)).sum();
            assert_eq!(found, sum + c(row, column), "{ty} {depth} {row} {column}");
        }
    }
}

#[test]
fn sums_of_a_product_that_an_f32_would_lose() {
    // 2^30 + 1 - 2^30, the products of one instruction: summed exactly, and rounded once.
    for (ty, depth) in SHAPES {
        let a = [32768.0, 1.0, -32768.0];
        let b = [32768.0, 1.0, 32768.0];
        let d = products(
            ty,
            depth,
            1,
            |_, lane, i| a.get(of_a(lane, i, depth).1).copied().unwrap_or(0.0),
            |_, lane, i| b.get(of_b(lane, i).0).copied().unwrap_or(0.0),
            |_, _, _| 0.0,
        );
        assert_eq!(d, [1.0; 128]);
    }
}

/// The bytes from one row to the next where rows lie for `ldmatrix`.
const PITCH: usize = 48;

/// Fills `room` with the number of each half, and loads matrices whose row `r` of matrix `m` is row `place(m, r)` there.
fn matrices(count: usize, trans: &str, place: impl Fn(usize, usize) -> usize) -> Vec<u32> {
    let mut rows: Vec<u32> = (0..8 * count).map(|i| (place(i / 8, i % 8) * PITCH) as u32).collect();
    // What the other lanes give is no address at all, and must not be looked at.
    rows.resize(32, 0x7fff_fff1);
    let to = (0..count).map(|i| format!("%r{}", 10 + i)).collect::<Vec<_>>().join(",");
    let body = format!(
        "mov.u32 %r3, room; shl.b32 %r4, %r1, 7; add.s32 %r4, %r3, %r4; shl.b32 %r5, %r1, 6; mov.u32 %r6, 0;
         L: cvt.u16.u32 %rs1, %r5; st.shared.u16 [%r4], %rs1; add.s32 %r4, %r4, 2; add.s32 %r5, %r5, 1;
         add.s32 %r6, %r6, 1; setp.lt.u32 %p1, %r6, 64; @%p1 bra L; bar.sync 0;
         mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd1; ld.global.u32 %r7, [%rd3]; add.s32 %r7, %r7, %r3;
         mov.u32 %r10, 0; mov.u32 %r11, 0; mov.u32 %r12, 0; mov.u32 %r13, 0;
         ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{to}}}, [%r7];
         mul.wide.u32 %rd4, %r1, 16; add.s64 %rd4, %rd4, %rd2; st.global.v4.u32 [%rd4], {{%r10,%r11,%r12,%r13}};"
    );
    let ran = run(&body, &Launch::linear(1, 32), &rows, 512);
    ran.result.unwrap_or_else(|e| panic!("{e}"));
    words(&ran.memory, ran.b, 128)
}

#[test]
fn every_element_that_ldmatrix_loads() {
    for count in [1, 2, 4] {
        // Rows in an order of their own, no two of them side by side.
        let place = |matrix: usize, row: usize| (matrix * 8 + row) * 11 % 32;
        let half =
            |matrix: usize, row: usize, column: usize| (place(matrix, row) * PITCH / 2 + column) as u32;
        let (plain, transposed) = (matrices(count, "", place), matrices(count, ".trans", place));
        for lane in 0..32 {
            for matrix in 0..4 {
                // A lane has two elements side by side of row lane / 4, or, transposed, of column lane / 4.
                let (row, first) = (lane / 4, lane % 4 * 2);
                let (found, across) = (plain[4 * lane + matrix], transposed[4 * lane + matrix]);
                if matrix >= count {
                    assert_eq!((found, across), (0, 0));
                    continue;
                }
                assert_eq!(found, half(matrix, row, first) | half(matrix, row, first + 1) << 16);
                assert_eq!(across, half(matrix, first, row) | half(matrix, first + 1, row) << 16);
            }
        }
    }
}

#[test]
fn matrices_need_a_whole_warp() {
    let mma = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r2,%r3}, {%r4}, {%f1,%f2,%f3,%f4};";
    let load = "mov.u32 %r2, room; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r3}, [%r2];";
    for body in [mma, load] {
        let early = format!("setp.eq.u32 %p1, %r1, 9; @%p1 exit;\n{body}");
        for (body, threads, missing) in [(body, 31, 1 << 31), (early.as_str(), 32, 1 << 9)] {
            match run(body, &Launch::linear(1, threads), &[0], 4).result {
                Err(LaunchError::Fault(found)) => {
                    let expected = FaultKind::WarpSyncNotReached { mask: u32::MAX, missing };
                    assert_eq!(found.kind, expected);
                }
                other => panic!("no fault: {other:?}"),
            }
        }
    }
}
