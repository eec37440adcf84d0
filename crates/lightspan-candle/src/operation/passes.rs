//! Both passes of an operation: from candle's storages to the operator, in the room that they lie in.

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Device, Error, Layout, Result, Shape, Tensor,
    bail,
};
use lightspan::Dims;

use crate::check::{self, Named};
use crate::error::carry;
use crate::operation::locks::{Address, Locks};
use crate::operation::{Operand, Operation, Operator, Role, Source};
#[cfg(feature = "cuda")]
use crate::room::Cuda;
use crate::room::{Cpu, Input, Room};
use crate::rows;

/// An operator in a room. Inputs are checked, and come in the order in which they were applied; outputs are contiguous.
pub(crate) trait RunsOn<R: Room, const N: usize>: Operator<N> {
    /// Writes the output.
    fn forward(
        &self,
        room: &R,
        inputs: [Option<Input<R::Elements<'_>>>; N],
        y: R::ElementsMut<'_>,
    ) -> lightspan::Result<()>;

    /// Writes the gradients that there is memory for, of the shapes and types of the inputs in their places.
    fn backward(
        &self,
        room: &R,
        inputs: [Option<Input<R::Elements<'_>>>; N],
        dy: Input<R::Elements<'_>>,
        gradients: [Option<R::ElementsMut<'_>>; N],
    ) -> lightspan::Result<()>;
}

/// An operator in every room that this build has.
#[cfg(not(feature = "cuda"))]
pub(crate) trait RunsAnywhere<const N: usize>: RunsOn<Cpu, N> {}
#[cfg(not(feature = "cuda"))]
impl<O: RunsOn<Cpu, N>, const N: usize> RunsAnywhere<N> for O {}
/// An operator in every room that this build has.
#[cfg(feature = "cuda")]
pub(crate) trait RunsAnywhere<const N: usize>: RunsOn<Cpu, N> + RunsOn<Cuda, N> {}
#[cfg(feature = "cuda")]
impl<O: RunsOn<Cpu, N> + RunsOn<Cuda, N>, const N: usize> RunsAnywhere<N> for O {}

/// What is read of a storage, and how far apart its rows are.
fn input<'a, R: Room>(
    name: &'static str,
    found: Option<(&'a R::Storage, &Layout)>,
    start: usize,
    role: Role,
) -> Result<Input<R::Elements<'a>>> {
    let found = found.and_then(|(storage, layout)| {
        Some((R::elements(storage, layout.start_offset().checked_add(start)?)?, layout))
    });
    // All tensors were on one device, and of types that the rooms have, when the operation was made.
    let Some((elements, layout)) = found else { bail!("{name}: a tensor is on another device than it was") };
    let stride = match role {
        Role::Tokens(sizes) => rows::stride(layout, sizes),
        Role::Parameter => None,
    };
    Ok(Input { elements, stride })
}

/// An input as a pass finds it: where it lies, and what of it is its own.
type Found<'a, R> = Option<(&'a <R as Room>::Storage, &'a Layout)>;

impl<O: Operator<N>, const N: usize> Operation<O, N> {
    /// The tensors that the operation holds.
    fn held(&self) -> impl Iterator<Item = (Address, &Tensor)> {
        self.operands.iter().flatten().filter_map(|operand| match &operand.source {
            Source::Held(tensor, address) => Some((*address, tensor)),
            _ => None,
        })
    }

    /// Where each input lies: an argument where that was found, what is held in a storage that `find` knows.
    fn inputs<'a, R: Room>(
        &'a self,
        arguments: &[Found<'a, R>],
        find: impl Fn(Address) -> Option<&'a R::Storage>,
    ) -> Result<[Option<Input<R::Elements<'a>>>; N]> {
        let mut inputs = [const { None }; N];
        for (place, operand) in inputs.iter_mut().zip(&self.operands) {
            let Some(Operand { source, role, .. }) = operand else { continue };
            let argument = |index: usize| arguments.get(index).copied().flatten();
            let (found, start) = match source {
                Source::Argument(index) => (argument(*index), 0),
                Source::Part(index, start) => (argument(*index), *start),
                Source::Held(tensor, address) => (find(*address).map(|s| (s, tensor.layout())), 0),
            };
            *place = Some(input::<R>(O::NAME, found, start, *role)?);
        }
        Ok(inputs)
    }

    /// Of arguments that candle has locked.
    fn forward<R: Room>(&self, room: &R, arguments: &[(&R::Storage, &Layout)]) -> Result<(R::Storage, Shape)>
    where
        O: RunsOn<R, N>,
    {
        let (shape, dtype) = self.operator.output();
        let locked: Vec<_> = arguments.iter().map(|(storage, _)| Address::of_storage(*storage)).collect();
        let locks = Locks::new(self.held(), &locked);
        let argument = |address| locked.iter().position(|&a| a == address).map(|i| arguments[i].0);
        let find = |address| argument(address).or_else(|| locks.find::<R>(address));
        let found: Vec<_> = arguments.iter().copied().map(Some).collect();
        let inputs = self.inputs::<R>(&found, find)?;
        let mut y = room.output(dtype, shape.elem_count()).map_err(carry(O::NAME))?;
        let Some(elements) = R::elements_mut(&mut y) else { bail!("{}: no room for its output", O::NAME) };
        self.operator.forward(room, inputs, elements).map_err(carry(O::NAME))?;
        Ok((y, shape.clone()))
    }

    /// The gradients of the inputs that candle tracks.
    fn backward<R: Room>(&self, room: &R, arguments: &[&Tensor], dy: &Tensor) -> Result<[Option<Tensor>; N]>
    where
        O: RunsOn<R, N>,
    {
        // All addresses before the first lock.
        let read = arguments.iter().copied().chain([dy]);
        let read: Vec<_> = read.map(|tensor| (Address::of(tensor), tensor)).collect();
        let locks = Locks::new(self.held().chain(read.iter().copied()), &[]);
        let find = |address| locks.find::<R>(address);
        let mut found: Vec<Found<'_, R>> = vec![];
        for &(address, tensor) in &read {
            found.push(find(address).map(|storage| (storage, tensor.layout())));
        }
        let dy = input::<R>(O::NAME, found.pop().flatten(), 0, Role::Tokens(1))?;
        let inputs = self.inputs::<R>(&found, find)?;

        let mut memory = [const { None }; N];
        for (memory, operand) in memory.iter_mut().zip(&self.operands) {
            let Some(Operand { source, shape, dtype, .. }) = operand else { continue };
            let wanted = match source {
                Source::Argument(index) | Source::Part(index, _) => arguments[*index].track_op(),
                Source::Held(..) => false,
            };
            if wanted {
                *memory = Some(room.output(*dtype, shape.elem_count()).map_err(carry(O::NAME))?);
            }
        }
        let mut gradients = [const { None }; N];
        for (gradient, memory) in gradients.iter_mut().zip(&mut memory) {
            *gradient = memory.as_mut().and_then(R::elements_mut);
        }
        self.operator.backward(room, inputs, dy, gradients).map_err(carry(O::NAME))?;
        let mut tensors = [const { None }; N];
        for ((tensor, memory), operand) in tensors.iter_mut().zip(memory).zip(&self.operands) {
            let (Some(memory), Some(Operand { shape, .. })) = (memory, operand) else { continue };
            let storage = R::into_storage(memory);
            *tensor = Some(Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false));
        }
        Ok(tensors)
    }

    /// The gradients of the arguments that candle tracks.
    fn gradients<const A: usize>(&self, arguments: [&Tensor; A], dy: &Tensor) -> Result<[Option<Tensor>; A]>
    where
        O: RunsAnywhere<N>,
    {
        let (shape, dtype) = self.operator.output();
        if dy.shape() != shape {
            let (expected, got) = (Dims::from(shape.dims()), Dims::from(dy.dims()));
            return Err(carry(O::NAME)(lightspan::Error::Shape { tensor: "dy", expected, got }));
        }
        let got = Named::new(O::NAME, "dy", dy)?.dtype;
        if got != dtype {
            let error = lightspan::Error::DType { tensor: "dy", expected: vec![dtype], got };
            return Err(carry(O::NAME)(error));
        }
        check::device(dy.device()).map_err(carry(O::NAME))?;
        let dy = rows::readable(dy, 1)?;
        let mut found = match dy.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let room = Cuda::of(device).map_err(carry(O::NAME))?;
                self.backward::<Cuda>(&room, &arguments, &dy)?
            }
            Device::Cpu => self.backward::<Cpu>(&Cpu, &arguments, &dy)?,
            _ => return Err(Error::BackwardNotSupported { op: O::NAME }),
        };

        let mut gradients = [const { None }; A];
        for (index, gradient) in gradients.iter_mut().enumerate() {
            let mut parts = vec![];
            for (operand, found) in self.operands.iter().zip(&mut found) {
                match operand.as_ref().map(|operand| &operand.source) {
                    Some(Source::Argument(argument)) if *argument == index => *gradient = found.take(),
                    Some(Source::Part(argument, _)) if *argument == index => parts.extend(found.take()),
                    _ => {}
                }
            }
            if !parts.is_empty() {
                let flat = parts.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
                *gradient = Some(Tensor::cat(&flat, 0)?);
            }
        }
        Ok(gradients)
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda(&self, arguments: &[(&CudaStorage, &Layout)]) -> Result<(CudaStorage, Shape)>
    where
        O: RunsOn<Cuda, N>,
    {
        let room = Cuda::of(&arguments[0].0.device).map_err(carry(O::NAME))?;
        self.forward::<Cuda>(&room, arguments)
    }

    #[cfg(not(feature = "cuda"))]
    fn forward_cuda(&self, _: &[(&CudaStorage, &Layout)]) -> Result<(CudaStorage, Shape)> {
        Err(Error::NotCompiledWithCudaSupport)
    }
}

impl<O: RunsAnywhere<N>, const N: usize> CustomOp1 for Operation<O, N> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward::<Cpu>(&Cpu, &[(s1, l1)])
    }

    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward_cuda(&[(s1, l1)])
    }

    fn bwd(&self, arg1: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let [d1] = self.gradients([arg1], dy)?;
        Ok(d1)
    }
}

impl<O: RunsAnywhere<N>, const N: usize> CustomOp2 for Operation<O, N> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward::<Cpu>(&Cpu, &[(s1, l1), (s2, l2)])
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward_cuda(&[(s1, l1), (s2, l2)])
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [d1, d2] = self.gradients([arg1, arg2], dy)?;
        Ok((d1, d2))
    }
}

impl<O: RunsAnywhere<N>, const N: usize> CustomOp3 for Operation<O, N> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward::<Cpu>(&Cpu, &[(s1, l1), (s2, l2), (s3, l3)])
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward_cuda(&[(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        arg3: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [d1, d2, d3] = self.gradients([arg1, arg2, arg3], dy)?;
        Ok((d1, d2, d3))
    }
}
