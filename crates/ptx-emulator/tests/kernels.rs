//! Kernels as NVRTC makes them, against plain loops. The sources stand beside the PTX in `fixtures`.

use half::{bf16, f16};
use ptx_emulator::{Arg, Class, Launch, LaunchError, Memory, Module};

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn put(memory: &Memory, name: &str, bytes: &[u8]) -> u64 {
    let at = memory.allocate(name, bytes.len() as u64).unwrap();
    memory.write(at, bytes).unwrap();
    at
}

fn read(memory: &Memory, at: u64, count: usize) -> Vec<f32> {
    let bytes = memory.read(at, 4 * count as u64).unwrap();
    bytes.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// Numbers between -1 and 1 that look like any.
fn numbers(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

#[test]
fn saxpy_is_exact_and_its_traffic_is_counted() {
    for n in [1usize, 31, 1024, 4099] {
        let memory = Memory::new();
        let module = Module::load(include_str!("fixtures/saxpy.ptx"), &memory).unwrap();
        let (x, y) = (numbers(n), numbers(2 * n)[n..].to_vec());
        let (at_x, at_y) = (put(&memory, "x", &floats(&x)), put(&memory, "y", &floats(&y)));
        let args = [Arg::I32(n as i32), Arg::F32(0.3), Arg::U64(at_x), Arg::U64(at_y)];
        let profile = module.launch("saxpy", &Launch::linear(3, 64), &args, &memory).unwrap();
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 0.3f32.mul_add(*x, *y)).collect();
        assert_eq!(read(&memory, at_y, n), expected);
        assert_eq!(profile.global_loads.bytes, 8 * n as u64);
        assert_eq!(profile.global_stores.bytes, 4 * n as u64);
        if n == 1024 {
            assert_eq!(profile.global_loads.sectors, 8 * n as u64 / 32);
            assert_eq!(profile.global_stores.sectors, 4 * n as u64 / 32);
        }
        assert_eq!(profile.instructions(Class::F32).threads, n as u64);
    }
}

#[test]
fn an_argument_of_the_wrong_size_is_refused() {
    let memory = Memory::new();
    let module = Module::load(include_str!("fixtures/saxpy.ptx"), &memory).unwrap();
    let of = |args: &[Arg]| module.launch("saxpy", &Launch::linear(1, 32), args, &memory).unwrap_err();
    assert!(matches!(of(&[Arg::U32(1)]), LaunchError::Arguments(_)));
    assert!(matches!(of(&[Arg::U64(1), Arg::F32(1.0), Arg::U64(0), Arg::U64(0)]), LaunchError::Arguments(_)));
}

fn softmax(
    kernel: &str,
    bytes: &[u8],
    width: usize,
    rows: usize,
    columns: usize,
) -> (Vec<u8>, ptx_emulator::Profile) {
    let memory = Memory::new();
    let module = Module::load(include_str!("fixtures/softmax.ptx"), &memory).unwrap();
    let x = put(&memory, "x", bytes);
    let y = memory.allocate("y", bytes.len() as u64).unwrap();
    let args = [Arg::I32(columns as i32), Arg::U64(x), Arg::U64(y)];
    let profile = module.launch(kernel, &Launch::linear(rows as u32, 128), &args, &memory).unwrap();
    (memory.read(y, (rows * columns * width) as u64).unwrap(), profile)
}

#[test]
fn softmax_in_three_types() {
    let (rows, columns) = (5, 333);
    let x = numbers(rows * columns);
    let check = |x: &[f64], y: &[f64], tolerance: f64| {
        for (x, y) in x.chunks(columns).zip(y.chunks(columns)) {
            let sum: f64 = x.iter().map(|x| x.exp()).sum();
            for (x, y) in x.iter().zip(y) {
                let expected = x.exp() / sum;
                assert!((y - expected).abs() <= tolerance * expected, "{y} for {expected}");
            }
        }
    };
    let exact: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let (y, profile) = softmax("softmax_f32", &floats(&x), 4, rows, columns);
    let y: Vec<f64> = y.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap()).into()).collect();
    check(&exact, &y, 1e-6);
    assert_eq!(profile.shared_loads.conflicts(), 0);
    assert!(profile.instructions(Class::Approximate).threads >= 2 * (rows * columns) as u64);

    let halves: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
    let bytes: Vec<u8> = halves.iter().flat_map(|v| v.to_le_bytes()).collect();
    let y = softmax("softmax_f16", &bytes, 2, rows, columns).0;
    let y: Vec<f64> = y.chunks(2).map(|c| f16::from_le_bytes(c.try_into().unwrap()).to_f64()).collect();
    check(&halves.iter().map(|v| v.to_f64()).collect::<Vec<_>>(), &y, 6e-4);

    let brains: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
    let bytes: Vec<u8> = brains.iter().flat_map(|v| v.to_le_bytes()).collect();
    let y = softmax("softmax_bf16", &bytes, 2, rows, columns).0;
    let y: Vec<f64> = y.chunks(2).map(|c| bf16::from_le_bytes(c.try_into().unwrap()).to_f64()).collect();
    check(&brains.iter().map(|v| v.to_f64()).collect::<Vec<_>>(), &y, 4e-3);
}

#[test]
fn counts_are_the_same_in_every_run() {
    let bytes = floats(&numbers(40 * 100));
    let first = softmax("softmax_f32", &bytes, 4, 40, 100);
    for _ in 0..5 {
        assert_eq!(softmax("softmax_f32", &bytes, 4, 40, 100), first);
    }
}

#[test]
fn a_matrix_product_through_cp_async_ldmatrix_and_mma() {
    for k in [16usize, 32, 80] {
        let memory = Memory::new();
        let module = Module::load(include_str!("fixtures/matmul.ptx"), &memory).unwrap();
        let half = |v: Vec<f32>| v.into_iter().map(f16::from_f32).collect::<Vec<_>>();
        let bytes = |v: &[f16]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (a, b) = (half(numbers(16 * k)), half(numbers(100 + 8 * k)[100..].to_vec()));
        let (at_a, at_b) = (put(&memory, "a", &bytes(&a)), put(&memory, "b", &bytes(&b)));
        let d = memory.allocate("d", 16 * 8 * 4).unwrap();
        let args = [Arg::I32(k as i32), Arg::U64(at_a), Arg::U64(at_b), Arg::U64(d)];
        let profile = module.launch("matmul_f16", &Launch::linear(1, 32), &args, &memory).unwrap();
        for (i, found) in read(&memory, d, 16 * 8).into_iter().enumerate() {
            let (row, column) = (i / 8, i % 8);
            let expected: f64 = (0..k).map(|j| a[row * k + j].to_f64() * b[j * 8 + column].to_f64()).sum();
            assert!((f64::from(found) - expected).abs() < 1e-5, "{found} for {expected}");
        }
        assert_eq!(profile.matrix_multiply_adds, (16 * 8 * k) as u64);
        assert_eq!(profile.instructions(Class::Matrix).warps, k as u64 / 16);
        assert_eq!(profile.global_loads.bytes, (16 * k + 8 * k) as u64 * 2);
        // Rows of 24 halves: eight of them begin on eight different groups of four banks.
        assert_eq!(profile.shared_loads.conflicts(), 0);
    }
}

#[test]
fn pairs_of_halves_and_precise_functions() {
    let n = 100;
    let memory = Memory::new();
    let module = Module::load(include_str!("fixtures/halves.ptx"), &memory).unwrap();
    let values = numbers(4 * n);
    let x: Vec<f16> = values[..2 * n].iter().map(|&v| f16::from_f32(v)).collect();
    let y: Vec<bf16> = values[2 * n..].iter().map(|&v| bf16::from_f32(v)).collect();
    let z: Vec<u8> = (0..n).map(|i| (i * 37 % 256) as u8).collect();
    let bytes = |v: &[u16]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let at_x = put(&memory, "x", &bytes(&x.iter().map(|v| v.to_bits()).collect::<Vec<_>>()));
    let at_y = put(&memory, "y", &bytes(&y.iter().map(|v| v.to_bits()).collect::<Vec<_>>()));
    let at_z = put(&memory, "z", &z);
    let out = memory.allocate("out", 8 * n as u64).unwrap();
    let launch = Launch { dynamic_shared: 64 * 4, ..Launch::linear(2, 64) };
    let args = [Arg::I32(n as i32), Arg::U64(at_x), Arg::U64(at_y), Arg::U64(at_z), Arg::U64(out)];
    module.launch("halves", &launch, &args, &memory).unwrap();
    let at = |v: &dyn Fn(usize) -> f64, i: usize| if i < n { v(i) } else { 0.0 };
    // a a + 1 is at least a half of itself, so that the greater is it; b b + b.
    let square =
        |i: usize, j: usize| at(&|i| f16::from_f64(x[2 * i + j].to_f64().powi(2) + 1.0).to_f64(), i).max(1.0);
    let brain = |i: usize, j: usize| {
        let b = |i: usize| y[2 * i + j].to_f64();
        at(&|i| bf16::from_f64(b(i) * b(i) + b(i)).to_f64(), i)
    };
    let found = read(&memory, out, 2 * n);
    for i in 0..n {
        let ring = i / 64 * 64 + (i + 1) % 64;
        let lane = i / 32 * 32 + (i + 1) % 32;
        let odd = (i / 32 * 32..i / 32 * 32 + 32).filter(|&j| j < n && z[j] % 2 == 1).count() as f64;
        let q = f64::from(z[i]);
        let first = square(ring, 0) + brain(i, 0) + f64::from(z[i] >> 3) + brain(lane, 1);
        let w = brain(i, 1);
        let second =
            square(ring, 1) + w.tanh() + (first * 0.01).exp() + (1.0 + q).ln() + (1.0 + q).powf(-0.5) + odd;
        for (found, expected) in [(found[2 * i], first), (found[2 * i + 1], second)] {
            assert!(
                (f64::from(found) - expected).abs() < 4e-6 * expected.abs().max(1.0),
                "{i}: {found} for {expected}"
            );
        }
    }
}
