use lightspan::cuda::{Limits, SpanConvBackward};
use lightspan::{Device, Dropout, Sequences, Window};
use proptest::prelude::*;

use super::dynamic_conv_backward::normalizes;
use super::{assert_all_counted, profiled_launches};
use crate::span_conv::backward::Backward;
use crate::support::{ConvCase, config, dtypes, selection};

proptest! {
    #![proptest_config(config(60))]

    /// 8 heads, of whole sectors or so many to one: rows of logits begin on a sector whatever the width, as do those of tokens.
    #[test]
    fn span_conv_backward_reads_and_writes_what_is_predicted(
        // Products that leave out padding are not predicted.
        sequences in (1usize..5, 1usize..60, any::<bool>()).prop_map(|(count, time, packed)| {
            let offsets: Vec<_> = (0..=count).map(|i| i * i * time).collect();
            if packed { Sequences::packed(&offsets) } else { Sequences::batch(count, time) }.unwrap()
        }),
        (width, dilation, left) in (1usize..80, 1usize..4, any::<prop::sample::Index>()),
        (sixteens, head_channels) in (1usize..6, prop::sample::select(&[2usize, 4, 8, 16, 32, 48, 64][..])),
        ((dtype, parameters), normalize) in (dtypes(), normalizes()),
        (biases, dropout, few) in (any::<bool>(), any::<bool>(), any::<bool>()),
        (selection, seed) in (selection(), any::<u64>()),
    ) {
        let case = ConvCase {
            sequences,
            heads: 8,
            head_channels,
            window: Window::new(width, dilation, left.index((width - 1) * dilation + 1)).unwrap(),
            normalize,
            dtype,
            parameters,
            bias: biases,
            history: false,
            dropout: dropout.then(|| Dropout::new(0.5, seed).unwrap()),
            seed,
        };
        let mut backward = Backward::draw(&case, 16 * sixteens, selection);
        // A key bias that is read is not predicted.
        backward.call.key_bias = None;
        backward.call.problem = backward.call.problem.with_key_bias(false);
        let multiprocessors = if few { 2 } else { Limits::A100.multiprocessors };
        let device = Device::cuda_emulated_with(Limits { multiprocessors, ..Limits::A100 });
        let operator = SpanConvBackward::new(device.cuda_gpu().unwrap(), backward.problem()).unwrap();
        let predicted = operator.traffic(&case.sequences).unwrap();
        let launches = profiled_launches(&device, || backward.run(&device).unwrap());
        assert_all_counted(&launches, predicted);
    }
}
