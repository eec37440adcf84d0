//! 3. Padding and packing: sequences of different lengths in one call.
//!
//! Real batches are ragged. There are two ways to hold them, and `Sequences` describes both:
//!
//! - *padded*: `[batch, time, channels]`, every sequence with room for the longest and a length of its own;
//! - *packed*: `[tokens, channels]`, one sequence after another, and the offsets where each begins.
//!
//! Both give the same numbers for the same sequence. What lies in the padding is never part of the result, not even a
//! NaN: it is left out, rather than multiplied by zero. And no sequence sees its neighbour in the batch.
//!
//! Before: 02_dynamic_conv. Next: 04_decoding.

use lightspan::{Device, Sequences, Tensor, Window, ops};

const CHANNELS: usize = 4;
const HEADS: usize = 2;
const WIDTH: usize = 5;

fn main() -> lightspan::Result<()> {
    let device = Device::cpu();
    // Taps on both sides, so that a token would read into its neighbours if it could.
    let window = Window::same(WIDTH)?;
    let weight = Tensor::from_slice(&wave(HEADS * WIDTH * CHANNELS), &[HEADS * WIDTH, CHANNELS], &device)?;
    let dynamic_conv = |x: &Tensor, sequences: &Sequences| {
        let options = ops::DynamicConvOptions { sequences: Some(sequences), ..Default::default() };
        ops::dynamic_conv(x, &weight, HEADS, window, &options)?.to_f32()
    };

    // Three sequences of 3, 7 and 2 tokens: twelve tokens in all.
    let lengths = [3, 7, 2];
    let offsets = [0, 3, 10, 12];
    let tokens = wave(12 * CHANNELS);
    let of = |sequence: usize| offsets[sequence] * CHANNELS..offsets[sequence + 1] * CHANNELS;

    // Packed, the twelve tokens are the tensor.
    let packed = Sequences::packed(&offsets)?;
    let x = Tensor::from_slice(&tokens, &[12, CHANNELS], &device)?;
    let from_packed = dynamic_conv(&x, &packed)?;

    // Padded to the longest, the tensor has room for 21, and something has to stand in the other nine: here the worst
    // that could.
    let time = 7;
    let mut padded_tokens = vec![f32::NAN; lengths.len() * time * CHANNELS];
    for (sequence, room) in padded_tokens.chunks_exact_mut(time * CHANNELS).enumerate() {
        let tokens = &tokens[of(sequence)];
        room[..tokens.len()].copy_from_slice(tokens);
    }
    let padded = Sequences::padded(time, &lengths)?;
    let x = Tensor::from_slice(&padded_tokens, &[lengths.len(), time, CHANNELS], &device)?;
    let from_padded = dynamic_conv(&x, &padded)?;

    println!("packed: {}, {} rows", packed.shape(), packed.shape().tokens());
    println!("padded: {}, {} rows", padded.shape(), padded.shape().tokens());
    for (sequence, room) in from_padded.chunks_exact(time * CHANNELS).enumerate() {
        let (outputs, padding) = room.split_at(lengths[sequence] * CHANNELS);
        // The same sequence has the same outputs, and those of the padding are zero.
        assert_close(outputs, &from_packed[of(sequence)]);
        assert!(padding.iter().all(|&y| y == 0.0));

        // And they are the outputs of that sequence all by itself.
        let alone = Tensor::from_slice(&tokens[of(sequence)], &[1, lengths[sequence], CHANNELS], &device)?;
        let alone_outputs = dynamic_conv(&alone, &Sequences::batch(1, lengths[sequence])?)?;
        assert_close(outputs, &alone_outputs);
        println!("sequence {sequence} of {} tokens: the same padded, packed and alone", lengths[sequence]);
    }

    // Lengths and offsets are checked once, when they are described, and then used by any number of calls.
    let error = Sequences::padded(time, &[3, 8, 2]).unwrap_err();
    println!("a wrong length: {error}");
    Ok(())
}

/// Numbers to compute with.
fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 1.7).sin()).collect()
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-5, "{got} is not {expected}");
    }
}
