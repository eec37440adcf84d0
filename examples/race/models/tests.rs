use lightspan::{DType, Device};

use super::cost::Work;
use super::encoder::{Setting, Shape};
use super::*;
use crate::args::Size;

fn tiny(kind: Kind, dtype: DType, device: &Device) -> Seq2Seq {
    let setting = Setting { size: Size::Tiny, shape: Shape::of(Size::Tiny), batch: 1, dtype };
    let options = LoadOptions { dtype: Some(dtype), ..Default::default() };
    kind.config(&setting, 100).seq2seq(&Weights::drawn(SEED, device, options)).unwrap()
}

#[test]
fn every_encoder_is_right_in_every_type() {
    let ids: Vec<u32> = (0..32).map(|i| i * 37 % 256).collect();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for kind in Kind::ALL {
            let error =
                check::largest_error(&tiny(kind, dtype, &Device::cpu()), &ids, &Device::cpu()).unwrap();
            assert!(error <= 1.0, "{kind:?} in {dtype}: {error} of the tolerance");
        }
    }
}

/// What CUDA rounds is within the same tolerance: tensor cores and all.
#[cfg(feature = "emulator")]
#[test]
fn encoders_are_right_on_the_emulator() {
    let device = Device::cuda_emulated();
    for (kind, dtype) in
        [(Kind::Dynamic, DType::F32), (Kind::Light, DType::F16), (Kind::Transformer, DType::BF16)]
    {
        let error = check::largest_error(&tiny(kind, dtype, &device), &[5; 20], &device).unwrap();
        assert!(error <= 1.0, "{kind:?} in {dtype}: {error} of the tolerance");
    }
}

#[test]
fn an_encoder_that_leaves_out_a_layer_is_wrong() {
    let ids: Vec<u32> = (0..32).collect();
    let mut model = tiny(Kind::Light, DType::BF16, &Device::cpu());
    let whole = check::largest_error(&model, &ids, &Device::cpu()).unwrap();
    // What the reference reads is not what was run.
    let before = model.encoder.clone();
    model.encoder.layers.pop();
    let sequences = Sequences::batch(1, 32).unwrap();
    let tokens = Tokens::from_slice(&ids, &[1, 32], &Device::cpu()).unwrap();
    let y = model.encode(&tokens, &sequences).unwrap();
    model.encoder = before;
    let error = check::error_of(&model, &ids, &y).unwrap();
    assert!(whole <= 1.0 && error > 1.0, "{whole}, and {error} without a layer");
}

/// Products are nearly all of the work: 11 C^2 multiply-adds a token and layer with a convolution, 12 with attention.
#[test]
fn the_cost_is_that_of_all_operators() {
    let sequences = Sequences::batch(2, 50).unwrap();
    let call = Call { sequences: sequences.shape(), dtype: DType::F32 };
    let flops = |work: &[Work]| work.iter().map(|work| work.flops).sum::<u64>();
    let (tokens, channels) = (100, 128u64);
    let products = |each: u64| 2 * 2 * tokens * each * channels * channels;
    // Norms and sums; and the scores and sums of attention.
    let rest = |cost: u64, each: u64| cost.checked_sub(products(each)).unwrap();
    let cost = |kind| flops(&call.encoder(&tiny(kind, DType::F32, &Device::cpu()).encoder).unwrap());
    let norms = 5 * tokens * channels * 4;
    assert_eq!(rest(cost(Kind::Depthwise), 11), norms + 2 * tokens * channels * 2 * 7);
    assert_eq!(rest(cost(Kind::Transformer), 12), norms + 2 * 4 * 50 * tokens * channels);
    // The generator makes 7 filters of each channel, and there is a pointwise product.
    assert!(rest(cost(Kind::Dynamic), 19) > norms);
    let layer = &tiny(Kind::Light, DType::F32, &Device::cpu()).encoder.layers[0];
    assert_eq!(call.layer(layer).unwrap().len(), 7);
}
