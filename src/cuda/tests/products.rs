//! Products of types that no linear layer has, as they generate the taps of a dynamic convolution: on the emulated device,
//! against the reference.

use ptx_emulator::Profile;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::products;
use crate::cuda::call::{Binder, Bound, Elements, Rows, RowsMut};
use crate::cuda::linear::{self, Places, Types};
use crate::cuda::plan::Place;
use crate::problem::LinearProblem;
use crate::reference::{self, LinearInputs};
use crate::{DType, Device, Tensor};

/// A matrix in a device's memory, from element `offset` on, with NaN before it and between its rows.
pub(super) struct Matrix {
    pub(super) memory: Tensor,
    pub(super) values: Vec<f64>,
    pub(super) offset: usize,
    pub(super) stride: usize,
}

impl Matrix {
    pub(super) fn elements(&self) -> Elements<'_> {
        self.memory.cuda().unwrap().at(self.offset)
    }

    pub(super) fn draw(
        rng: &mut SmallRng,
        device: &Device,
        dtype: DType,
        [rows, width]: [usize; 2],
        gap: usize,
    ) -> Self {
        let (offset, stride) = (gap, width + gap);
        let mut numbers = vec![f32::NAN; offset + rows * stride];
        for row in 0..rows {
            for number in &mut numbers[offset + row * stride..][..width] {
                // Of many sizes, so that terms cancel.
                *number = rng.random_range(-1.0f32..1.0) * 2.0f32.powi(rng.random_range(-12..4));
            }
        }
        let memory = Tensor::from_f32(&numbers, &[numbers.len()], dtype, device).unwrap();
        let stored = memory.to_f32().unwrap();
        let row = |row: usize| stored[offset + row * stride..][..width].iter().map(|&number| number.into());
        let values = (0..rows).flat_map(row).collect();
        Matrix { memory, values, offset, stride }
    }
}

/// A product of these sizes, and what it did. Rows begin where `gap` says.
fn check(types: Types, [rows, inputs, outputs]: [usize; 3], bias: bool, gap: usize, seed: u64) -> Profile {
    let device = Device::cuda_emulated();
    let (gpu, mut rng) = (device.cuda_gpu().unwrap(), SmallRng::seed_from_u64(seed));
    let x = Matrix::draw(&mut rng, &device, types.x, [rows, inputs], gap);
    let weight = Matrix::draw(&mut rng, &device, types.parameters, [1, outputs * inputs], gap);
    let biases = Matrix::draw(&mut rng, &device, types.parameters, [1, outputs], gap);
    let mut y = Matrix::draw(&mut rng, &device, types.y, [rows, outputs], gap);

    let problem = LinearProblem::new(rows, inputs, outputs, types.y).unwrap().with_bias(bias);
    let binder = Binder { gpu };
    let bound_x = binder.rows("x", Rows::strided(x.elements(), x.stride), types.x, [rows, inputs]).unwrap();
    let bound_weight =
        binder.elements("weight", weight.elements(), types.parameters, outputs * inputs).unwrap();
    let bound_bias =
        binder.optional("bias", bias.then(|| biases.elements()), bias, types.parameters, outputs).unwrap();
    {
        let elements = y.memory.cuda_mut().unwrap().at(y.offset);
        let bound_y =
            binder.rows_mut("y", RowsMut::strided(elements, y.stride), types.y, [rows, outputs]).unwrap();
        let weight_place = Place { stride: inputs, ..bound_weight.place };
        let places =
            Places { x: bound_x.place, weight: weight_place, residual: bound_y.place, y: bound_y.place };
        let launch = linear::plan(&problem, &places, types, gpu.limits()).unwrap().unwrap();
        gpu.start_profile();
        let inputs = [&bound_x, &bound_weight, &bound_bias, &Bound::nothing()];
        let [x, weight, bias, residual] = inputs;
        binder.launch(&launch, [x, weight, bias, residual, &bound_y]).unwrap();
    }
    let profile = gpu.take_profile().remove(0).profile;

    let got = y.memory.to_f32().unwrap();
    let bias = bias.then_some(&biases.values[..]);
    for row in 0..rows {
        let inputs = LinearInputs { x: &x.values, weight: &weight.values, bias, residual: None };
        let got = &got[y.offset + row * y.stride..][..outputs];
        for (output, (expected, &got)) in
            reference::linear(&problem, inputs, row).into_iter().zip(got).enumerate()
        {
            assert!(
                expected.admits(got.into(), types.y),
                "{types:?}, seed {seed}, row {row}, output {output} of {rows} x {outputs}: {got}, not {expected:?}"
            );
        }
    }
    profile
}

/// All types, sizes and alignments.
#[test]
fn equal_the_reference() {
    let mut rng = SmallRng::seed_from_u64(1);
    for types in products() {
        for seed in 0..24 {
            let sizes = [rng.random_range(1..200), rng.random_range(1..90), rng.random_range(1..150)];
            let sizes = if seed % 2 == 0 { sizes.map(|size: usize| size.next_multiple_of(8)) } else { sizes };
            let profile = check(types, sizes, seed % 3 == 0, [0, 1, 2, 4, 8][seed as usize % 5], seed);
            assert_eq!(profile.matrix_multiply_adds == 0, types.x == DType::F32, "{types:?}");
        }
    }
}

/// Small tiles and big ones, where rows begin on sectors.
#[test]
fn read_and_write_what_is_predicted() {
    for types in products() {
        for sizes in [[130, 96, 192], [1200, 32, 1152]] {
            for bias in [false, true] {
                let [rows, inputs, outputs] = sizes;
                let problem = LinearProblem::new(rows, inputs, outputs, types.y).unwrap().with_bias(bias);
                let device = Device::cuda_emulated();
                let predicted = linear::traffic(&problem, types, device.cuda_gpu().unwrap().limits());
                let profile = check(types, sizes, bias, 0, 5);
                assert_eq!(
                    profile.global_loads.sectors,
                    predicted.read + predicted.parameters,
                    "{types:?}, {sizes:?}"
                );
                assert_eq!(profile.global_stores.sectors, predicted.written, "{types:?}, {sizes:?}");
                let conflicts = [profile.shared_loads.conflicts(), profile.shared_stores.conflicts()];
                assert_eq!(conflicts, [0, 0], "{types:?}, {sizes:?}");
            }
        }
    }
}
