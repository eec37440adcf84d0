//! An operator as one operation of candle's: how its tensors travel, and how gradients come back to them.
//!
//! candle's custom operations track three arguments, and an operator may have five inputs. So what needs no gradient is held
//! by the operation itself, is no argument of it, and is copied nowhere; of the rest, where it is more than three tensors,
//! parameters travel as one tensor, made by a `Tensor::cat` that candle takes apart on the way back. Tokens are never copied
//! to that end: no operator has more than two such tensors.

mod locks;
mod passes;
#[cfg(test)]
mod tests;

use candle_core::{Error, Result, Shape, Tensor, bail};

use crate::check::Named;
use crate::rows;

use locks::Address;
pub(crate) use passes::RunsOn;

/// An operator with room for N inputs, described.
pub(crate) trait Operator<const N: usize>: Send + Sync + 'static {
    /// What candle and the errors call it.
    const NAME: &'static str;

    /// Sizes and type of its output.
    fn output(&self) -> (&Shape, lightspan::DType);
}

/// What a tensor is to an operator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Rows, with so many sizes of their own after those of the tokens.
    Tokens(usize),
    /// Numbers that all tokens share.
    Parameter,
}

/// An input of an operation.
struct Operand {
    source: Source,
    role: Role,
    shape: Shape,
    dtype: lightspan::DType,
}

/// Where an operation finds an input.
enum Source {
    /// An argument of it.
    Argument(usize),
    /// A part of an argument that several parameters share, from an element on.
    Part(usize, usize),
    /// Held by itself, and where it lies: no gradient is wanted.
    Held(Tensor, Address),
}

/// candle's operation: an operator, and where its inputs are.
struct Operation<O, const N: usize> {
    operator: O,
    operands: [Option<Operand>; N],
}

/// The most arguments that candle tracks.
const MOST: usize = 3;

/// Applies an operator to inputs that were checked, in its own order.
pub(crate) fn apply<O, const N: usize>(operator: O, inputs: [Option<(Role, Named<'_>)>; N]) -> Result<Tensor>
where
    O: passes::RunsAnywhere<N>,
{
    let mut operands = [const { None }; N];
    for (operand, input) in operands.iter_mut().zip(inputs) {
        let Some((role, Named { tensor, dtype, .. })) = input else { continue };
        let tensor = match role {
            Role::Tokens(sizes) => rows::readable(tensor, sizes)?,
            Role::Parameter => tensor.contiguous()?,
        };
        let (shape, address) = (tensor.shape().clone(), Address::of(&tensor));
        *operand = Some(Operand { source: Source::Held(tensor, address), role, shape, dtype });
    }
    let arguments = arguments(&mut operands)?;
    let operation = Operation { operator, operands };
    match &arguments[..] {
        [a] => a.apply_op1(operation),
        [a, b] => a.apply_op2(b, operation),
        [a, b, c] => a.apply_op3(b, c, operation),
        other => bail!("{}: {} arguments", O::NAME, other.len()),
    }
}

/// The arguments of an operation, taken from its inputs: those that gradients are wanted of.
fn arguments<const N: usize>(operands: &mut [Option<Operand>; N]) -> Result<Vec<Tensor>> {
    let is_tracked = |operand: &Operand| matches!(&operand.source, Source::Held(t, _) if t.track_op());
    let all: Vec<_> = operands.iter_mut().flatten().collect();
    let tracked = all.iter().filter(|operand| is_tracked(operand)).count();
    let bundled = |operand: &Operand| tracked > MOST && operand.role == Role::Parameter;
    let bundle = all.iter().filter(|operand| is_tracked(operand) && !bundled(operand)).count();

    let (mut arguments, mut parts, mut start) = (vec![], vec![], 0);
    for (index, operand) in all.into_iter().enumerate() {
        // candle's operations have one argument at least: where no gradient is wanted, the first input.
        if !(is_tracked(operand) || tracked == 0 && index == 0) {
            continue;
        }
        let source =
            if bundled(operand) { Source::Part(bundle, start) } else { Source::Argument(arguments.len()) };
        let Source::Held(tensor, _) = std::mem::replace(&mut operand.source, source) else {
            return Err(Error::msg("an input was taken twice"));
        };
        if bundled(operand) {
            start += tensor.elem_count();
            parts.push(tensor.flatten_all()?);
        } else {
            arguments.push(tensor);
        }
    }
    if !parts.is_empty() {
        arguments.push(Tensor::cat(&parts, 0)?);
    }
    Ok(arguments)
}
