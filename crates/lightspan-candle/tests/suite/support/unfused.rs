use candle_core::{D, DType, Device, Result, Tensor};
use lightspan::{Dropout, Normalize, Sequences, Window};

/// The convolutions of candle's own operations, one after another: every tap gathers its tokens, is multiplied with them and
/// added. It knows any sequences and windows, in any type that candle computes in, and candle differentiates it.
pub struct Unfused<'a> {
    pub sequences: &'a Sequences,
    pub window: Window,
    pub normalize: Normalize,
    pub dropout: Option<Dropout>,
}

/// Softmax of the last dimension.
fn softmax(logits: &Tensor) -> Result<Tensor> {
    let exps = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exps.broadcast_div(&exps.sum_keepdim(D::Minus1)?)
}

impl Unfused<'_> {
    fn tokens(&self) -> usize {
        self.sequences.shape().tokens()
    }

    /// Rows `[tokens, ..]` with zeros in the padding.
    pub fn rows(&self, tensor: &Tensor) -> Result<Tensor> {
        let tokens = self.tokens();
        let rows = tensor.reshape((tokens, tensor.elem_count() / tokens))?;
        let mut valid = vec![0u8; tokens];
        for sequence in self.sequences.as_slice() {
            valid[sequence.first..sequence.first + sequence.length].fill(1);
        }
        let valid = Tensor::from_vec(valid, (tokens, 1), &Device::Cpu)?.broadcast_as(rows.shape())?;
        valid.where_cond(&rows, &rows.zeros_like()?)
    }

    /// For each tap of each token the row that it reads, row `tokens` where that is none.
    fn reads(&self) -> Vec<Vec<u32>> {
        let width = self.window.width();
        let mut reads = vec![vec![self.tokens() as u32; self.tokens()]; width];
        for sequence in self.sequences.as_slice() {
            for t in 0..sequence.length {
                for tap in self.window.taps_in_range(t, sequence.length, 0) {
                    let read = sequence.first as isize + self.window.token(t, tap);
                    reads[tap][sequence.first + t] = read as u32;
                }
            }
        }
        reads
    }

    /// Weights `[tokens, H, K]` from logits `[H, K]` or `[tokens, H, K]`.
    fn weights(&self, logits: &Tensor, reads: &[Vec<u32>]) -> Result<Tensor> {
        let (tokens, width) = (self.tokens(), self.window.width());
        let heads = logits.dim(D::Minus2)?;
        let in_range = |row: usize, tap: usize| reads[tap][row] < tokens as u32;
        let flat = (0..tokens).flat_map(|row| (0..width).map(move |tap| (row, tap)));
        let in_range: Vec<u8> = flat.map(|(row, tap)| u8::from(in_range(row, tap))).collect();
        let shape = (tokens, heads, width);
        let in_range = Tensor::from_vec(in_range, (tokens, 1, width), &Device::Cpu)?.broadcast_as(shape)?;
        let weights = match self.normalize {
            Normalize::None => logits.broadcast_as(shape)?,
            Normalize::Softmax => softmax(logits)?.broadcast_as(shape)?,
            Normalize::SoftmaxInRange => {
                let logits = logits.broadcast_as(shape)?;
                let out = (logits.zeros_like()? - 1e30)?;
                softmax(&in_range.where_cond(&logits, &out)?)?
            }
        };
        let Some(dropout) = self.dropout else { return Ok(weights) };
        let scale = f64::from(dropout.rate().scale());
        let each = logits.rank() > 2;
        let keeps = (0..tokens * heads * width).map(|i| {
            let token = if each { i / width / heads } else { 0 };
            let keeps = dropout.keeps(token as u64, i / width % heads, i % width);
            if keeps { scale } else { 0.0 }
        });
        let mask = Tensor::from_vec(keeps.collect::<Vec<f64>>(), shape, &Device::Cpu)?;
        weights * mask.to_dtype(logits.dtype())?
    }

    /// y as x, with logits `[H, K]` for all tokens or `[tokens, H, K]` for each.
    pub fn convolve(&self, x: &Tensor, logits: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (tokens, reads) = (self.tokens(), self.reads());
        let channels = x.dim(D::Minus1)?;
        let weights = self.weights(logits, &reads)?;
        let heads = weights.dim(1)?;
        let rows = self.rows(x)?;
        let rows = Tensor::cat(&[&rows, &Tensor::zeros((1, channels), x.dtype(), &Device::Cpu)?], 0)?;
        let mut y = Tensor::zeros((tokens, heads, channels / heads), x.dtype(), &Device::Cpu)?;
        for (tap, reads) in reads.into_iter().enumerate() {
            let read = rows.index_select(&Tensor::from_vec(reads, tokens, &Device::Cpu)?, 0)?;
            let read = read.reshape((tokens, heads, channels / heads))?;
            y = (y + read.broadcast_mul(&weights.narrow(2, tap, 1)?)?)?;
        }
        let y = y.reshape((tokens, channels))?;
        let y = match bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        self.rows(&y)?.reshape(x.shape())
    }

    /// The logits `[tokens, H, K]` of a generator.
    pub fn generate(&self, query: &Tensor, weight: &Tensor, weight_bias: Option<&Tensor>) -> Result<Tensor> {
        let logits = self.rows(query)?.matmul(&weight.t()?)?;
        let logits = match weight_bias {
            Some(bias) => logits.broadcast_add(bias)?,
            None => logits,
        };
        let width = self.window.width();
        logits.reshape((self.tokens(), logits.dim(1)? / width, width))
    }

    /// The span-aware key times the query.
    pub fn key(
        &self,
        x: &Tensor,
        query: &Tensor,
        depthwise: &Tensor,
        pointwise: &Tensor,
        key_bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let plain = Unfused { normalize: Normalize::None, dropout: None, ..*self };
        let key = plain.rows(&plain.convolve(x, depthwise, None)?)?.matmul(&pointwise.t()?)?;
        let key = match key_bias {
            Some(bias) => key.broadcast_add(bias)?,
            None => key,
        };
        let z = (self.rows(query)? * key)?;
        self.rows(&z)?.reshape(query.shape())
    }
}

/// That the types are those that are meant: the composition is in f64 in the tests.
#[test]
fn softmax_sums_to_one() -> Result<()> {
    let logits = Tensor::new(&[[1f64, 2., 3.], [-1e30, 0., -1e30]], &Device::Cpu)?;
    let weights = softmax(&logits)?;
    assert_eq!(weights.dtype(), DType::F64);
    let sums: Vec<f64> = weights.sum(1)?.to_vec1()?;
    assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-12), "{sums:?}");
    Ok(())
}
