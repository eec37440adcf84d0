//! What an operator is asked for, and where it finds its inputs: seen by one that computes nothing.

use std::sync::{Arc, Mutex};

use candle_core::{DType as CandleDType, Device, Result, Shape, Tensor, Var};
use lightspan::{DType, Error, cpu};

use crate::check::Named;
use crate::lightspan_error;
use crate::operation::{Operator, Role, RunsOn, apply};
use crate::room::{Cpu, Input};

/// What the operator saw in one pass: addresses and strides of its inputs, and which gradients it was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    inputs: Vec<Option<(usize, Option<usize>)>>,
    wanted: Vec<bool>,
}

/// An operator whose output has the shape of its first input, and is all ones; a gradient is the number of its input.
struct Watcher {
    shape: Shape,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Watcher {
    fn see<const N: usize>(
        &self,
        inputs: &[Option<Input<cpu::Elements<'_>>>; N],
        wanted: impl Iterator<Item = bool>,
    ) {
        let inputs = inputs.iter().map(|input| input.as_ref().map(|i| (address(i.elements), i.stride)));
        self.seen.lock().unwrap().push(Seen { inputs: inputs.collect(), wanted: wanted.collect() });
    }
}

fn address(elements: cpu::Elements<'_>) -> usize {
    match elements {
        cpu::Elements::F32(slice) => slice.as_ptr() as usize,
        cpu::Elements::F16(slice) => slice.as_ptr() as usize,
        cpu::Elements::BF16(slice) => slice.as_ptr() as usize,
    }
}

fn fill(elements: cpu::ElementsMut<'_>, value: f32) {
    match elements {
        cpu::ElementsMut::F32(slice) => slice.fill(value),
        _ => panic!("f32 was asked for"),
    }
}

impl<const N: usize> Operator<N> for Watcher {
    const NAME: &'static str = "watcher";

    fn output(&self) -> (&Shape, DType) {
        (&self.shape, DType::F32)
    }
}

impl<const N: usize> RunsOn<Cpu, N> for Watcher {
    fn forward(
        &self,
        _: &Cpu,
        inputs: [Option<Input<cpu::Elements<'_>>>; N],
        y: cpu::ElementsMut<'_>,
    ) -> lightspan::Result<()> {
        self.see(&inputs, std::iter::empty());
        fill(y, 1.0);
        Ok(())
    }

    fn backward(
        &self,
        _: &Cpu,
        inputs: [Option<Input<cpu::Elements<'_>>>; N],
        dy: Input<cpu::Elements<'_>>,
        gradients: [Option<cpu::ElementsMut<'_>>; N],
    ) -> lightspan::Result<()> {
        self.see(&inputs, gradients.iter().map(Option::is_some));
        assert!(dy.stride.is_some());
        for (i, gradient) in gradients.into_iter().enumerate() {
            if let Some(gradient) = gradient {
                fill(gradient, i as f32 + 1.0);
            }
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl<const N: usize> RunsOn<crate::room::Cuda, N> for Watcher {
    fn forward(
        &self,
        _: &crate::room::Cuda,
        _: [Option<Input<lightspan::cuda::Elements<'_>>>; N],
        _: lightspan::cuda::ElementsMut<'_>,
    ) -> lightspan::Result<()> {
        Err(Error::Missing { tensor: "a GPU" })
    }

    fn backward(
        &self,
        _: &crate::room::Cuda,
        _: [Option<Input<lightspan::cuda::Elements<'_>>>; N],
        _: Input<lightspan::cuda::Elements<'_>>,
        _: [Option<lightspan::cuda::ElementsMut<'_>>; N],
    ) -> lightspan::Result<()> {
        Err(Error::Missing { tensor: "a GPU" })
    }
}

const NAMES: [&str; 5] = ["x", "query", "weight", "weight_bias", "bias"];
const TOKENS: usize = 2;

/// Applies the watcher to five tensors, the first two of them tokens.
fn watch(tensors: [Option<&Tensor>; 5]) -> Result<(Tensor, Arc<Mutex<Vec<Seen>>>)> {
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let shape = tensors[0].unwrap().shape().clone();
    let watcher = Watcher { shape, seen: seen.clone() };
    let mut inputs = [const { None }; 5];
    for (i, (input, tensor)) in inputs.iter_mut().zip(tensors).enumerate() {
        let role = if i < TOKENS { Role::Tokens(1) } else { Role::Parameter };
        *input = match tensor {
            Some(tensor) => Some((role, Named::new("watcher", NAMES[i], tensor)?)),
            None => None,
        };
    }
    Ok((apply(watcher, inputs)?, seen))
}

fn inputs() -> Result<[Tensor; 5]> {
    let tensor = |dims: &[usize]| Tensor::zeros(dims, CandleDType::F32, &Device::Cpu);
    Ok([tensor(&[2, 3, 4])?, tensor(&[2, 3, 5])?, tensor(&[6, 5])?, tensor(&[6])?, tensor(&[4])?])
}

/// The address of a tensor's first number.
fn address_of(tensor: &Tensor) -> usize {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(candle_core::CpuStorage::F32(vec)) => {
            vec[layout.start_offset()..].as_ptr() as usize
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn asked_for_the_gradients_of_variables_and_no_others() -> Result<()> {
    // Every choice of inputs, and every choice of variables among them.
    for there in (0u32..32).filter(|there| there & 1 == 1) {
        for tracked in (0u32..32).filter(|tracked| tracked & !there == 0) {
            let mut tensors = inputs()?;
            for (i, tensor) in tensors.iter_mut().enumerate() {
                if tracked >> i & 1 == 1 {
                    *tensor = Var::from_tensor(tensor)?.into_inner();
                }
            }
            let given = std::array::from_fn(|i| (there >> i & 1 == 1).then_some(&tensors[i]));
            let (y, seen) = watch(given)?;
            assert_eq!(y.track_op(), tracked != 0);
            let gradients = y.sum_all()?.backward()?;
            for (i, tensor) in tensors.iter().enumerate() {
                let expected = (tracked >> i & 1 == 1).then_some(i as f32 + 1.0);
                let found = gradients.get(tensor);
                assert_eq!(found.map(Tensor::dims), expected.map(|_| tensor.dims()));
                if let (Some(found), Some(expected)) = (found, expected) {
                    assert!(found.flatten_all()?.to_vec1::<f32>()?.iter().all(|&x| x == expected));
                }
            }
            let wanted = |seen: &Seen| seen.wanted.clone();
            let seen = seen.lock().unwrap();
            let expected: Vec<bool> = (0..5).map(|i| tracked >> i & 1 == 1).collect();
            let expected = if tracked == 0 { vec![vec![]] } else { vec![vec![], expected] };
            assert_eq!(seen.iter().map(wanted).collect::<Vec<_>>(), expected, "{there:b} {tracked:b}");
        }
    }
    Ok(())
}

#[test]
fn nothing_is_copied_that_can_be_read_where_it_lies() -> Result<()> {
    let [_, query, weight, weight_bias, bias] = inputs()?;
    let gated = Tensor::zeros((2, 3, 8), CandleDType::F32, &Device::Cpu)?;
    for tracked in [false, true] {
        let gated = if tracked { Var::from_tensor(&gated)?.into_inner() } else { gated.clone() };
        let x = gated.narrow(2, 4, 4)?;
        let (y, seen) = watch([Some(&x), Some(&query), Some(&weight), Some(&weight_bias), Some(&bias)])?;
        let mut expected: Vec<_> = [&x, &query, &weight, &weight_bias, &bias]
            .map(|tensor| Some((address_of(tensor), None)))
            .to_vec();
        expected[0] = Some((address_of(&gated) + 16, Some(8)));
        expected[1] = Some((address_of(&query), Some(5)));
        if tracked {
            y.sum_all()?.backward()?;
        }
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), if tracked { 2 } else { 1 });
        assert!(seen.iter().all(|seen| seen.inputs == expected), "{seen:?}");
    }
    // Two parameters beside one tensor of tokens are arguments of their own.
    let [x, _, weight, weight_bias, _] = inputs()?.map(|t| Var::from_tensor(&t).map(Var::into_inner));
    let (x, weight, weight_bias) = (x?, weight?, weight_bias?);
    let (_, seen) = watch([Some(&x), None, Some(&weight), Some(&weight_bias), None])?;
    let seen = seen.lock().unwrap()[0].inputs.clone();
    assert_eq!(seen[2], Some((address_of(&weight), None)));
    assert_eq!(seen[3], Some((address_of(&weight_bias), None)));
    Ok(())
}

#[test]
fn the_gradient_of_the_output_may_lie_in_any_way() -> Result<()> {
    let [x, ..] = inputs()?;
    let x = Var::from_tensor(&x)?;
    let shape = x.shape().clone();
    let all = [
        Tensor::ones((), CandleDType::F32, &Device::Cpu)?.broadcast_as(&shape)?,
        Tensor::ones((1, 3, 1), CandleDType::F32, &Device::Cpu)?.broadcast_as(&shape)?,
        Tensor::ones((4, 3, 2), CandleDType::F32, &Device::Cpu)?.permute((2, 1, 0))?,
        Tensor::ones((2, 3, 9), CandleDType::F32, &Device::Cpu)?.narrow(2, 3, 4)?,
    ];
    for dy in all {
        let operation = super::Operation::<_, 5> {
            operator: Watcher { shape: shape.clone(), seen: Arc::default() },
            operands: [
                Some(super::Operand {
                    source: super::Source::Argument(0),
                    role: Role::Tokens(1),
                    shape: shape.clone(),
                    dtype: DType::F32,
                }),
                None,
                None,
                None,
                None,
            ],
        };
        let found = candle_core::CustomOp1::bwd(&operation, &x, &x, &dy)?;
        assert_eq!(found.map(|found| found.dims().to_vec()), Some(shape.dims().to_vec()));

        let wrong = dy.narrow(1, 0, 2)?;
        let error = candle_core::CustomOp1::bwd(&operation, &x, &x, &wrong).unwrap_err();
        let (expected, got) = ([2, 3, 4].into(), [2, 2, 4].into());
        assert_eq!(lightspan_error(&error), Some(&Error::Shape { tensor: "dy", expected, got }));
        let wrong = dy.to_dtype(CandleDType::BF16)?;
        let error = candle_core::CustomOp1::bwd(&operation, &x, &x, &wrong).unwrap_err();
        let (expected, got) = (vec![DType::F32], DType::BF16);
        assert_eq!(lightspan_error(&error), Some(&Error::DType { tensor: "dy", expected, got }));
    }
    Ok(())
}
