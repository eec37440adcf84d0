//! One device, several threads.

use lightspan::{DType, Normalize, Sequences, Window};

use crate::light_conv::Call;
use crate::support::{ConvCase, devices, same_bits};

#[test]
fn threads_share_a_device() {
    for device in devices() {
        let call = |i: usize| {
            Call::draw(&ConvCase {
                sequences: Sequences::batch(1 + i % 3, 20 + 30 * i).unwrap(),
                heads: 1 + i % 4,
                head_channels: 3 + 5 * i,
                window: Window::causal(1 + 4 * i).unwrap(),
                normalize: Normalize::Softmax,
                dtype: DType::ALL[i % 3],
                parameters: DType::F32,
                bias: true,
                history: false,
                dropout: None,
                seed: i as u64,
            })
        };
        let expected: Vec<_> = (0..8).map(|i| call(i).run(&device)).collect();
        std::thread::scope(|scope| {
            for (i, expected) in expected.iter().enumerate() {
                let device = &device;
                scope.spawn(move || {
                    let call = call(i);
                    for _ in 0..50 {
                        assert!(same_bits(expected, &call.run(device)), "thread {i}");
                    }
                });
            }
        });
    }
}
