//! What the backward pass of a dynamic convolution launches: the logits again, their gradients, what the query adds to the
//! gradient of x, that gradient, and sums over all tokens.

use crate::cuda::dynamic_conv::backward::logits::{self, LogitPlaces};
use crate::cuda::dynamic_conv::plan::{Logits, product};
use crate::cuda::dynamic_conv::{multiply_add, transposed};
use crate::cuda::light_conv::{Filter, Places};
use crate::cuda::limits::Limits;
use crate::cuda::linear;
use crate::cuda::linear::product::{ColumnSums, Form, Product, ProductPlaces};
use crate::cuda::plan::{DropoutParams, Launch, Place};
use crate::cuda::traffic::Traffic;
use crate::problem::{DynamicConvBackwardProblem, Taps};
use crate::{DType, Result, Sequences};

/// Where the tensors lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackwardPlaces {
    pub(crate) x: Place,
    /// Logits or W.
    pub(crate) source: Place,
    pub(crate) query: Place,
    /// Those that are given, or generated again.
    pub(crate) logits: Place,
    pub(crate) dy: Place,
    pub(crate) dx: Place,
    /// Of the logits.
    pub(crate) gradients: Place,
}

impl BackwardPlaces {
    pub(crate) fn contiguous(problem: &DynamicConvBackwardProblem) -> Self {
        let forward = problem.forward();
        let tokens = Place::contiguous(forward.convolution().channels());
        let logits = Place::contiguous(forward.logits());
        let query = match forward.taps() {
            Taps::Given => tokens,
            Taps::Generated { query_channels, .. } => Place::contiguous(query_channels),
        };
        BackwardPlaces { x: tokens, source: query, query, logits, dy: tokens, dx: tokens, gradients: logits }
    }
}

/// Where the parts of scratch memory begin, in numbers of f32, and all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scratch {
    pub(super) logits: u64,
    pub(super) gradients: u64,
    pub(super) addend: u64,
    pub(super) sums: u64,
    pub(super) len: u64,
}

/// Numbers of f32 in a sector: parts of scratch memory begin on one.
const ALIGNED: u64 = 8;

/// The launch that makes the gradient of x, in one of two forms, which take different arguments.
#[derive(Clone, Debug)]
pub(super) enum OfX {
    Transposed(Launch),
    MultiplyAdd(Launch),
}

impl OfX {
    fn into_launch(self) -> Launch {
        match self {
            OfX::Transposed(launch) | OfX::MultiplyAdd(launch) => launch,
        }
    }
}

/// What a call does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    problem: DynamicConvBackwardProblem,
    /// What the gradient of the query is made of, its own or what it adds to that of x.
    pub(super) query: Option<Product>,
    pub(super) weight: Option<Product>,
    pub(super) weight_bias: Option<ColumnSums>,
    pub(super) bias: Option<ColumnSums>,
    pub(super) scratch: Scratch,
}

impl Parts {
    pub(crate) fn new(problem: &DynamicConvBackwardProblem, limits: &Limits) -> Result<Self> {
        let (forward, wanted) = (problem.forward(), problem.wanted());
        let (conv, logits) = (forward.convolution(), forward.logits());
        let (rows, tokens) = (conv.sequences().tokens(), Some(conv.sequences()));
        let (parameters, sum) = (conv.parameters(), problem.parameters());
        let (channels, separate) = match forward.taps() {
            Taps::Given => (conv.channels(), None),
            Taps::Generated { query_channels, query, .. } => (query_channels, query),
        };
        let f32 = DType::F32;
        let to = match separate {
            Some(dtype) if wanted.query => Some(dtype),
            _ => problem.own_query().then_some(f32),
        };
        let query = to.map(|to| {
            let product = Product::new(Form::Plain, [rows, channels, logits], [f32, parameters, to]);
            Product { tokens, ..product }
        });
        let types = [f32, separate.unwrap_or(conv.dtype()), sum];
        let weight = Product::new(Form::Transposed, [logits, channels, rows], types);
        let sums = |columns, dtype| ColumnSums { rows, columns, dtype, gate: None, sum, tokens };
        let mut parts = Parts {
            problem: *problem,
            query,
            weight: wanted.weight.then_some(Product { tokens, ..weight }),
            weight_bias: wanted.weight_bias.then(|| sums(logits, f32)),
            bias: wanted.bias.then(|| sums(conv.channels(), conv.dtype())),
            scratch: Scratch { logits: 0, gradients: 0, addend: 0, sums: 0, len: 0 },
        };
        parts.scratch = parts.scratch(limits);
        Ok(parts)
    }

    fn scratch(&self, limits: &Limits) -> Scratch {
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let conv = forward.convolution();
        let rows = |columns: usize| (conv.sequences().tokens() as u64).saturating_mul(columns as u64);
        let products = [self.query, self.weight].into_iter().flatten().map(|of| of.scratch_len(limits));
        let sums = [self.weight_bias, self.bias].into_iter().flatten().map(|of| of.scratch_len(limits));
        let lens = [
            if self.generates() { rows(forward.logits()) } else { 0 },
            if self.problem.needs_logits() && !wanted.logits { rows(forward.logits()) } else { 0 },
            if self.adds_query() { rows(conv.channels()) } else { 0 },
            products.chain(sums).max().unwrap_or(0),
        ];
        let mut at = 0u64;
        let [gradients, addend, sums, len] = lens.map(|len| {
            at = at.saturating_add(len).checked_next_multiple_of(ALIGNED).unwrap_or(u64::MAX);
            at
        });
        Scratch { logits: 0, gradients, addend, sums, len }
    }

    /// Whether the logits are generated again.
    fn generates(&self) -> bool {
        let problem = &self.problem;
        problem.forward().taps() != Taps::Given && (problem.wanted().x || problem.needs_logits())
    }

    /// Whether the gradient of x has another part, by the query that it is.
    pub(super) fn adds_query(&self) -> bool {
        self.problem.own_query()
    }

    /// Logits and their gradients: those of given ones in the types of the call, others in f32.
    fn types(&self) -> [DType; 2] {
        match self.problem.forward().taps() {
            Taps::Given => [self.problem.forward().convolution().parameters(), self.problem.parameters()],
            Taps::Generated { .. } => [DType::F32; 2],
        }
    }

    fn any(&self) -> bool {
        self.problem.forward().convolution().sequences().tokens() > 0
    }

    /// The logits again.
    pub(super) fn generate(&self, places: &BackwardPlaces, limits: &Limits) -> Result<Option<Launch>> {
        if !self.generates() {
            return Ok(None);
        }
        let (product, types) = product(self.problem.forward())?;
        let (y, residual) = (places.logits, places.logits);
        let lies = linear::Places { x: places.query, weight: places.source, residual, y };
        linear::plan(&product, &lies, types, limits)
    }

    /// Their gradients.
    pub(super) fn logits(
        &self,
        dropout: DropoutParams,
        places: &BackwardPlaces,
        listed: bool,
        limits: &Limits,
    ) -> Result<Option<Launch>> {
        if !self.any() || !self.problem.needs_logits() {
            return Ok(None);
        }
        let [logits, gradients] = self.types();
        let lies = LogitPlaces {
            x: places.x,
            dy: places.dy,
            logits: Logits { dtype: logits, place: places.logits },
            gradients: Logits { dtype: gradients, place: places.gradients },
        };
        logits::plan(self.problem.forward().convolution(), dropout, &lies, listed, limits).map(Some)
    }

    /// The gradient of x.
    pub(super) fn x(
        &self,
        dropout: DropoutParams,
        places: &BackwardPlaces,
        listed: bool,
        limits: &Limits,
    ) -> Result<Option<OfX>> {
        if !self.any() || !self.problem.wanted().x {
            return Ok(None);
        }
        let conv = self.problem.forward().convolution().mirrored();
        let addends = self.adds_query();
        let lies = Places { x: places.dy, history: Place::contiguous(conv.channels()), y: places.dx };
        let logits = Logits { dtype: self.types()[0], place: places.logits };
        if let Some(launch) = transposed::plan(&conv, (dropout, addends), &lies, logits, listed, limits)? {
            return Ok(Some(OfX::Transposed(launch)));
        }
        let filter = Filter { dropout, mirrored: true, addends };
        let launch = multiply_add::plan(&conv, filter, &lies, logits, listed, limits)?;
        Ok(Some(OfX::MultiplyAdd(launch)))
    }

    /// All launches, on memory where everything lies without gaps but what `places` says.
    pub(crate) fn launches(
        &self,
        dropout: DropoutParams,
        places: &BackwardPlaces,
        listed: bool,
        limits: &Limits,
    ) -> Result<Vec<Launch>> {
        let mut all: Vec<_> = [
            self.generate(places, limits)?,
            self.logits(dropout, places, listed, limits)?,
            self.x(dropout, places, listed, limits)?.map(OfX::into_launch),
        ]
        .into_iter()
        .flatten()
        .collect();
        for product in [self.query, self.weight].into_iter().flatten() {
            let c = Place::contiguous(product.columns);
            let b = if product.form == Form::Plain { places.source } else { places.query };
            let lies = ProductPlaces { a: places.gradients, gate: c, b, addend: c, factor: c, c, scratch: c };
            all.extend(product.plan(&lies, limits)?);
        }
        for (sums, place) in [(self.weight_bias, places.gradients), (self.bias, places.dy)] {
            if let Some(sums) = sums {
                all.extend(sums.plan([place; 2], limits)?);
            }
        }
        Ok(all)
    }

    /// What they read and write.
    pub(super) fn traffic(&self, sequences: &Sequences, limits: &Limits) -> Result<Traffic> {
        let conv = self.problem.forward().convolution();
        let mut all = vec![];
        if self.any() && self.generates() {
            let (product, types) = product(self.problem.forward())?;
            all.push(linear::traffic(&product, types, limits));
        }
        if self.any() && self.problem.needs_logits() {
            all.push(logits::traffic(conv, self.types(), sequences, limits)?);
        }
        if self.any() && self.problem.wanted().x {
            let (conv, addends, dtype) = (conv.mirrored(), self.adds_query(), self.types()[0]);
            all.push(match transposed::traffic(&conv, addends, dtype, sequences, limits)? {
                Some(traffic) => traffic,
                None => {
                    let filter = Filter { mirrored: true, addends, ..Filter::default() };
                    multiply_add::traffic(&conv, filter, dtype, sequences, limits)?
                }
            });
        }
        all.extend([self.query, self.weight].into_iter().flatten().map(|of| of.traffic(limits)));
        all.extend([self.weight_bias, self.bias].into_iter().flatten().map(|of| of.traffic(limits)));
        Ok(all.into_iter().fold(Traffic::default(), |all, of| all + of))
    }
}
