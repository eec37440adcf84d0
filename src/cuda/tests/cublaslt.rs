//! Which problems are plain products, and what is said of them.

use crate::cuda::linear::Places;
use crate::cuda::linear::cublaslt::product;
use crate::cuda::plan::Place;
use crate::problem::{Activation, LinearProblem};
use crate::{DType, Result};

fn plain(dtype: DType) -> LinearProblem {
    LinearProblem::new(5, 6, 7, dtype).unwrap().with_bias(true).with_residual(true)
}

#[test]
fn what_is_not_plain_is_no_product() {
    let of = |problem: Result<LinearProblem>| {
        let problem = problem.unwrap();
        product(&problem, &Places::contiguous(&problem), 0)
    };
    for dtype in DType::ALL {
        assert!(of(Ok(plain(dtype))).is_some());
        for activation in Activation::ALL {
            let there = of(plain(dtype).with_activation(activation)).is_some();
            assert_eq!(there, activation == Activation::Identity);
        }
        let parameters = of(plain(dtype).with_parameters(DType::F32));
        assert_eq!(parameters.is_some(), dtype == DType::F32);
        assert_eq!(of(LinearProblem::new(5, 6, 8, dtype).and_then(|problem| problem.with_groups(2))), None);
        for [rows, inputs, outputs] in [[0, 6, 7], [5, 1, 7], [5, 6, 1]] {
            assert_eq!(of(LinearProblem::new(rows, inputs, outputs, dtype)), None);
        }
        assert!(of(LinearProblem::new(1, 2, 2, dtype)).is_some());
    }
}

#[test]
fn a_product_is_said_as_it_lies() {
    let place = |address, stride| Place { address, stride };
    let (x, residual, y) = (place(0x1008, 6), place(0x1004, 9), place(0x1110, 8));
    let places = Places { x, weight: place(0x1_0000, 6), residual, y };
    let found = product(&plain(DType::F32), &places, 0x1_0040).unwrap();
    assert_eq!([found.rows, found.inputs, found.outputs], [5, 6, 7]);
    assert_eq!((found.strides, found.alignment, found.bias), ([6, 9, 8], [16, 8, 4, 16], Some(16)));
    let found = product(&plain(DType::F16), &places, 0x1_0042).unwrap();
    assert_eq!((found.bias, found.residual, found.alignment), (Some(2), true, [16, 8, 4, 16]));
    // Where there is no residual, y takes its place.
    let alone = LinearProblem::new(5, 6, 7, DType::F32).unwrap();
    let found = product(&alone, &places, 0).unwrap();
    assert_eq!((found.strides, found.alignment), ([6, 8, 8], [16, 8, 16, 16]));
    // One row may have any stride.
    let wide = Places { y: place(0, usize::MAX), ..places };
    assert_eq!(product(&plain(DType::F32), &wide, 0), None);
}
