//! Products and sums of columns of the backward pass, of every type and either way: on the emulated device, against sums in
//! f64.

use ptx_emulator::Profile;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::products::Matrix;
use crate::cuda::call::{Binder, Bound, Rows, RowsMut};
use crate::cuda::linear::product::{ColumnSums, Form, Gate, Product, ProductBound, push_product, push_sums};
use crate::cuda::traffic::Traffic;
use crate::reference::{ARITHMETIC, PER_TERM};
use crate::{DType, Device, Sequences};

const U32: f64 = 1.0 / 16_777_216.0;

/// A matrix that is drawn, with NaN in the rows that `sequences` call padding.
struct Drawn<'a> {
    device: &'a Device,
    rng: SmallRng,
    gap: usize,
    /// Numbers of each matrix that are infinite or NaN.
    wild: usize,
}

impl Drawn<'_> {
    fn matrix(&mut self, dtype: DType, sizes: [usize; 2]) -> Matrix {
        Matrix::draw(&mut self.rng, self.device, dtype, sizes, self.gap)
    }

    /// Rows that are no token are NaN.
    fn tokens(&mut self, dtype: DType, sizes: [usize; 2], token: impl Fn(usize) -> bool) -> Matrix {
        let mut matrix = self.matrix(dtype, sizes);
        let mut numbers = matrix.memory.to_f32().unwrap();
        for row in (0..sizes[0]).filter(|&row| !token(row)) {
            numbers[matrix.offset + row * matrix.stride..][..sizes[1]].fill(f32::NAN);
        }
        for _ in 0..self.wild {
            let [row, column] = sizes.map(|size| self.rng.random_range(0..size));
            let number = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN][self.rng.random_range(0..3)];
            if token(row) {
                numbers[matrix.offset + row * matrix.stride + column] = number;
                matrix.values[row * sizes[1] + column] = number.into();
            }
        }
        matrix.memory = crate::Tensor::from_f32(&numbers, &[numbers.len()], dtype, self.device).unwrap();
        matrix
    }
}

fn rows<'a>(binder: Binder<'a>, matrix: &'a Matrix, sizes: [usize; 2]) -> Bound<'a> {
    binder
        .rows("a matrix", Rows::strided(matrix.elements(), matrix.stride), matrix.memory.dtype(), sizes)
        .unwrap()
}

fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => U32,
        DType::F16 => 1.0 / 2048.0,
        DType::BF16 => 1.0 / 256.0,
    }
}

/// What a number of A, or of a matrix, is with its gate.
fn gated(gate: Option<(Gate, &Matrix)>, number: f64, at: usize) -> f64 {
    match gate {
        None => number,
        Some((Gate::Relu(_), gate)) => {
            let gate = gate.values[at];
            if gate > 0.0 {
                number
            } else if gate.is_nan() {
                gate
            } else {
                0.0
            }
        }
        Some((Gate::Times(_), gate)) => number * gate.values[at],
    }
}

/// Runs a product and holds it against sums in f64; what it did, and what was predicted.
fn check_product(
    product: Product,
    sequences: Option<&Sequences>,
    gap: usize,
    seed: u64,
) -> (Vec<Profile>, Traffic) {
    check_wild_product(product, sequences, gap, (seed, 0))
}

/// The same with some numbers that are infinite or NaN in each matrix.
fn check_wild_product(
    product: Product,
    sequences: Option<&Sequences>,
    gap: usize,
    (seed, wild): (u64, usize),
) -> (Vec<Profile>, Traffic) {
    let device = Device::cuda_emulated();
    let gpu = device.cuda_gpu().unwrap();
    let binder = Binder { gpu };
    let mut draw = Drawn { device: &device, rng: SmallRng::seed_from_u64(seed), gap, wild };
    let product = Product { tokens: sequences.map(Sequences::shape), ..product };
    let Product { form, rows: down, columns, depth, .. } = product;
    let is_token = |row: usize| {
        sequences.is_none_or(|of| of.as_slice().iter().any(|s| (s.first..s.first + s.length).contains(&row)))
    };
    let (a_sizes, b_sizes) = match form {
        Form::Plain => ([down, depth], [depth, columns]),
        Form::Transposed => ([depth, down], [depth, columns]),
        Form::ByRows => ([down, depth], [columns, depth]),
    };
    let a = draw.tokens(product.a, a_sizes, is_token);
    let gate_type = product.gate.map(|gate| match gate {
        Gate::Relu(dtype) | Gate::Times(dtype) => dtype,
    });
    let gate = gate_type.map(|dtype| draw.tokens(dtype, a_sizes, is_token));
    let b = draw.tokens(product.b, b_sizes, |row| form != Form::Transposed || is_token(row));
    let addend = product.addend.map(|dtype| draw.matrix(dtype, [down, columns]));
    let factor = product.factor.map(|dtype| draw.matrix(dtype, [down, columns]));
    let out_gap = if form == Form::Transposed { 0 } else { gap };
    let mut c = Matrix::draw(&mut draw.rng, &device, product.c, [down, columns], out_gap);
    let numbers = product.scratch_len(gpu.limits());
    let predicted = product.traffic(gpu.limits());
    gpu.with_scratch([numbers, 0], |[scratch, _]| {
        let nothing = Bound::nothing;
        let [bound_a, bound_b] = [rows(binder, &a, a_sizes), rows(binder, &b, b_sizes)];
        let bound_gate = gate.as_ref().map_or_else(nothing, |gate| rows(binder, gate, a_sizes));
        let bound_addend =
            addend.as_ref().map_or_else(nothing, |addend| rows(binder, addend, [down, columns]));
        let bound_factor =
            factor.as_ref().map_or_else(nothing, |factor| rows(binder, factor, [down, columns]));
        let uploaded = sequences.map(|sequences| gpu.sequences(sequences).unwrap());
        let list = uploaded.as_ref().map_or_else(nothing, |uploaded| binder.list(uploaded).unwrap());
        let bound_c = {
            let elements = c.memory.cuda_mut().unwrap().at(c.offset);
            binder.rows_mut("c", RowsMut::strided(elements, c.stride), product.c, [down, columns])?
        };
        let scratch = binder.scratch(scratch, numbers)?;
        let bound = ProductBound {
            a: &bound_a,
            gate: &bound_gate,
            b: &bound_b,
            addend: &bound_addend,
            factor: &bound_factor,
            list: &list,
            c: &bound_c,
            scratch: &scratch,
        };
        gpu.start_profile();
        push_product(binder, &product, &bound)
    })
    .unwrap();
    let profiles = gpu.take_profile().into_iter().map(|launch| launch.profile).collect();

    let got = c.memory.to_f32().unwrap();
    for row in 0..down {
        for column in 0..columns {
            let (mut sum, mut size) = (0.0, 0.0);
            for k in (0..depth).filter(|&k| is_token(if form == Form::Transposed { k } else { row })) {
                let at_a = if form == Form::Transposed { k * down + row } else { row * depth + k };
                let at_b = if form == Form::ByRows { column * depth + k } else { k * columns + column };
                let of_a = gated(product.gate.zip(gate.as_ref()), a.values[at_a], at_a);
                sum += of_a * b.values[at_b];
                size += (of_a * b.values[at_b]).abs();
            }
            if form == Form::Transposed || is_token(row) {
                let at = row * columns + column;
                let added = addend.as_ref().map_or(0.0, |addend| addend.values[at]);
                let times = factor.as_ref().map_or(1.0, |factor| factor.values[at]);
                (sum, size) = ((sum + added) * times, (size + added.abs()) * times.abs());
            }
            let bound =
                (ARITHMETIC + PER_TERM * depth as f64) * U32 * size + unit(product.c) * sum.abs() + 1e-37;
            let bound = bound + if product.c == DType::F16 { 6.2e-5 } else { 0.0 };
            let got = f64::from(got[c.offset + row * c.stride + column]);
            let same = got == sum || got.is_nan() && sum.is_nan();
            assert!(
                same || (got - sum).abs() <= bound && sum.is_finite(),
                "{product:?}, seed {seed}, {row}, {column}: {got}, not {sum}"
            );
        }
    }
    (profiles, predicted)
}

fn types() -> impl Iterator<Item = [DType; 3]> {
    DType::ALL
        .into_iter()
        .flat_map(|a| DType::ALL.into_iter().flat_map(move |b| DType::ALL.map(|c| [a, b, c])))
}

const FORMS: [Form; 3] = [Form::Plain, Form::Transposed, Form::ByRows];

/// All types, forms, sizes and alignments; with gates, addends, factors and padding.
#[test]
fn products_equal_sums_in_f64() {
    let mut rng = SmallRng::seed_from_u64(2);
    for types in types() {
        for form in FORMS {
            for turn in 0..4 {
                let mut draw = |most: usize| rng.random_range(1..most);
                let sizes = [draw(150), draw(90), draw(100)];
                let sizes =
                    if turn % 2 == 0 { sizes.map(|size: usize| size.next_multiple_of(8)) } else { sizes };
                let [down, _, depth] = sizes;
                let gate = [None, Some(Gate::Relu(types[1])), Some(Gate::Times(types[2]))][draw(300) % 3];
                let mut product = Product { gate, ..Product::new(form, sizes, types) };
                if form != Form::Transposed {
                    product.addend = [None, Some(DType::F32), Some(types[0])][draw(300) % 3];
                    product.factor = [None, Some(types[1])][draw(200) % 2];
                }
                let tokens = if form == Form::Transposed { depth } else { down };
                let lengths = [tokens / 2, 0, tokens - tokens / 2];
                let padded = Sequences::padded(tokens, &lengths).unwrap();
                let (sequences, product) = match (turn, form) {
                    (0, _) | (1, _) => (None, product),
                    (_, Form::Transposed) => (Some(&padded), Product { depth: 3 * depth, ..product }),
                    _ => (Some(&padded), Product { rows: 3 * down, ..product }),
                };
                check_product(product, sequences, [0, 1, 4, 8][draw(400) % 4], draw(1 << 20) as u64);
            }
        }
    }
}

/// What is infinite or NaN reaches the sums that it belongs to, as it would in f64, and no other.
#[test]
fn infinities_stay_where_they_belong() {
    for (seed, types) in types().enumerate() {
        for form in FORMS {
            for gate in [None, Some(Gate::Relu(types[0])), Some(Gate::Times(types[1]))] {
                let product = Product { gate, ..Product::new(form, [70, 36, 40], types) };
                check_wild_product(product, None, seed % 2 * 3, (seed as u64, 3));
            }
        }
    }
}

/// Contractions that are divided, and those over nothing.
#[test]
fn long_and_empty_contractions() {
    for (sizes, form) in
        [([70, 36, 1300], Form::Transposed), ([5, 3, 0], Form::Transposed), ([5, 3, 0], Form::Plain)]
    {
        for types in [[DType::F32; 3], [DType::F32, DType::F16, DType::BF16]] {
            let product = Product::new(form, sizes, types);
            let (profiles, _) = check_product(product, None, 1, 9);
            assert_eq!(profiles.len(), if sizes[2] > 256 { 2 } else { 1 });
        }
    }
}

/// Small tiles and big ones, where rows begin on sectors: what is predicted, and no bank twice.
#[test]
fn products_read_and_write_what_is_predicted() {
    let sizes = [[144, 96, 48], [1408, 1296, 32], [16, 32, 1200]];
    for types in [
        [DType::F32; 3],
        [DType::BF16; 3],
        [DType::F16, DType::F32, DType::F16],
        [DType::F32, DType::BF16, DType::F32],
    ] {
        for form in FORMS {
            for sizes in sizes {
                for gate in [None, Some(Gate::Times(types[0]))] {
                    let mut product = Product { gate, ..Product::new(form, sizes, types) };
                    if form == Form::Plain {
                        (product.addend, product.factor) = (Some(DType::F32), Some(types[0]));
                    }
                    let (profiles, predicted) = check_product(product, None, 0, 5);
                    let all = profiles.iter().fold([0; 4], |[a, b, c, d], profile| {
                        let conflicts = profile.shared_loads.conflicts() + profile.shared_stores.conflicts();
                        let products = profile.matrix_multiply_adds;
                        [
                            a + profile.global_loads.sectors,
                            b + profile.global_stores.sectors,
                            c + conflicts,
                            d + products,
                        ]
                    });
                    let expected = [predicted.read + predicted.parameters, predicted.written, 0];
                    // What goes to the tensor cores goes with all of it.
                    let least = sizes.into_iter().product::<usize>() as u64;
                    let matrices = all[3];
                    assert_eq!(matrices >= least, product.on_tensor_cores(), "{product:?}");
                    assert_eq!(matrices == 0, !product.on_tensor_cores(), "{product:?}");
                    assert_eq!(all[..3], expected, "{product:?}");
                }
            }
        }
    }
}

/// Sums of columns, of every type, divided and whole.
#[test]
fn sums_of_columns() {
    let device = Device::cuda_emulated();
    let gpu = device.cuda_gpu().unwrap();
    let binder = Binder { gpu };
    for [dtype, gate_type, sum] in types() {
        for (turn, (count, columns)) in [(0, 5), (40, 37), (700, 64), (1001, 8)].into_iter().enumerate() {
            for gate in [None, Some(Gate::Relu(gate_type)), Some(Gate::Times(gate_type))] {
                let mut draw = Drawn {
                    device: &device,
                    rng: SmallRng::seed_from_u64(turn as u64),
                    gap: if columns % 16 == 0 { 0 } else { turn },
                    wild: 0,
                };
                let padded = Sequences::padded(count, &[count / 2, count]).unwrap();
                let sequences = (turn % 2 == 1).then_some(&padded);
                let all = if sequences.is_some() { 2 * count } else { count };
                let is_token = |row| sequences.is_none() || row < count / 2 || row >= count;
                let matrix = draw.tokens(dtype, [all, columns], is_token);
                let gates = gate.map(|_| draw.tokens(gate_type, [all, columns], is_token));
                let mut out = draw.matrix(sum, [1, columns]);
                let sums = ColumnSums {
                    rows: all,
                    columns,
                    dtype,
                    gate,
                    sum,
                    tokens: sequences.map(Sequences::shape),
                };
                let numbers = sums.scratch_len(gpu.limits());
                let uploaded = sequences.map(|sequences| gpu.sequences(sequences).unwrap());
                gpu.with_scratch([numbers, 0], |[scratch, _]| {
                    let bound = rows(binder, &matrix, [all, columns]);
                    let bound_gate = gates
                        .as_ref()
                        .map_or_else(Bound::nothing, |gates| rows(binder, gates, [all, columns]));
                    let list = uploaded
                        .as_ref()
                        .map_or_else(Bound::nothing, |uploaded| binder.list(uploaded).unwrap());
                    let elements = out.memory.cuda_mut().unwrap().at(out.offset);
                    let bound_out =
                        binder.rows_mut("sums", RowsMut::contiguous(elements), sum, [1, columns])?;
                    let scratch = binder.scratch(scratch, numbers)?;
                    gpu.start_profile();
                    push_sums(binder, &sums, [&bound, &bound_gate, &list, &bound_out, &scratch])
                })
                .unwrap();
                let profiles = gpu.take_profile();
                if draw.gap == 0 && sequences.is_none() && count > 0 {
                    let counted = profiles.iter().fold([0; 2], |[a, b], launch| {
                        [a + launch.profile.global_loads.sectors, b + launch.profile.global_stores.sectors]
                    });
                    let predicted = sums.traffic(gpu.limits());
                    assert_eq!(counted, [predicted.read, predicted.written], "{sums:?}");
                }
                let got = out.memory.to_f32().unwrap();
                for column in 0..columns {
                    let terms = (0..all).filter(|&row| is_token(row)).map(|row| {
                        let at = row * columns + column;
                        gated(gate.zip(gates.as_ref()), matrix.values[at], at)
                    });
                    let (expected, size) =
                        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + f64::abs(term)));
                    let bound =
                        (ARITHMETIC + PER_TERM * all as f64) * U32 * size + unit(sum) * f64::abs(expected);
                    let bound = bound + if sum == DType::F16 { 6.2e-5 } else { 1e-37 };
                    let got = f64::from(got[out.offset + column]);
                    assert!((got - expected).abs() <= bound, "{sums:?}, {column}: {got}, not {expected}");
                }
            }
        }
    }
}
