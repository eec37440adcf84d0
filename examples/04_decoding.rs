//! 4. Decoding: a sequence that arrives in pieces.
//!
//! A decoder makes its tokens one by one, and for each of them attention reads all that came before. A causal convolution of
//! K taps reads K - 1 earlier tokens, so that is all it has to remember, however long the sequence gets: its *history*.
//! Two things go from one call to the next:
//!
//! - the history, `[sequences, K - 1, channels]`, zeros at first, which `ops::history` moves on;
//! - how many tokens have gone by, so that the first token of a piece is not taken for the first of the sequence.
//!
//! Feeding a sequence in pieces of any sizes gives the outputs of feeding it whole.
//!
//! Before: 03_padding_and_packing. Next: 05_own_buffers.

use lightspan::{DType, Device, Normalize, Sequences, Tensor, Window, ops};

const TIME: usize = 40;
const CHANNELS: usize = 4;
const HEADS: usize = 2;
const WIDTH: usize = 7;

fn main() -> lightspan::Result<()> {
    let device = Device::cpu();
    let window = Window::causal(WIDTH)?;
    let x = wave(TIME * CHANNELS);
    let weight = Tensor::from_slice(&wave(HEADS * WIDTH * CHANNELS), &[HEADS * WIDTH, CHANNELS], &device)?;

    // Whole, for comparison. Normalising over the taps in range makes the first tokens differ from all later ones,
    // so that a decoder that forgot where it is would be found out.
    let normalize = Normalize::SoftmaxInRange;
    let options = ops::DynamicConvOptions { normalize, ..Default::default() };
    let whole = Tensor::from_slice(&x, &[1, TIME, CHANNELS], &device)?;
    let whole = ops::dynamic_conv(&whole, &weight, HEADS, window, &options)?.to_f32()?;

    // In pieces: a prompt, then token by token, then a few at once as speculative decoding does.
    for pieces in [vec![TIME], vec![1; TIME], vec![12, 1, 1, 1, 3, 9, 1, 5, 7]] {
        assert_eq!(pieces.iter().sum::<usize>(), TIME);
        let mut history = Tensor::zeros(&[1, window.reach(), CHANNELS], DType::F32, &device)?;
        let mut gone_by = vec![0];
        let mut outputs = Vec::new();
        for &piece in &pieces {
            let start = gone_by[0] * CHANNELS;
            let x = &x[start..start + piece * CHANNELS];
            let x = Tensor::from_slice(x, &[1, piece, CHANNELS], &device)?;

            let sequences = Sequences::batch(1, piece)?.after(&gone_by)?;
            let options = ops::DynamicConvOptions {
                normalize,
                sequences: Some(&sequences),
                history: Some(&history),
                ..Default::default()
            };
            let y = ops::dynamic_conv(&x, &weight, HEADS, window, &options)?;
            outputs.extend(y.to_f32()?);

            history = ops::history(&x, &history, window, Some(&sequences))?;
            gone_by = sequences.gone_by();
        }
        let distance = outputs.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("in {:2} pieces: {distance:e} from the whole at most", pieces.len());
        assert_eq!(outputs.len(), whole.len());
        assert!(distance < 1e-5);
    }

    let remembered = window.reach() * CHANNELS;
    println!("remembered after {TIME} tokens, or any number: {remembered} numbers");

    // A window that looks ahead has no such state, and asking for one is an error.
    let sequence = Tensor::zeros(&[1, 1, CHANNELS], DType::F32, &device)?;
    let history = Tensor::zeros(&[1, window.reach(), CHANNELS], DType::F32, &device)?;
    let error = ops::history(&sequence, &history, Window::same(WIDTH)?, None).unwrap_err();
    println!("a centred window: {error}");
    Ok(())
}

/// Numbers to compute with.
fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 1.7).sin()).collect()
}
