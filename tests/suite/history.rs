use lightspan::problem::{Convolution, HistoryProblem};
use lightspan::{ops, reference};
use proptest::prelude::*;

use crate::support::{Numbers, config, conv_case, devices, overwritten};

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(case in conv_case().prop_filter("causal", |case| case.window.is_causal())) {
        let (sequences, channels) = (&case.sequences, case.channels());
        let conv = Convolution::new(sequences.shape(), channels, 1, case.window, case.dtype).unwrap();
        let problem = HistoryProblem::new(conv).unwrap();
        let mut numbers = Numbers::new(case.seed);
        let x = numbers.tokens(sequences, channels, case.dtype, 2.0);
        let history = numbers.draw(&problem.convolution().history_shape(), case.dtype, 2.0);
        let expected = reference::history(&problem, sequences, &x.data, &history.data);
        for device in devices() {
            let (x, history) = (x.on(&device), history.on(&device));
            let next = ops::history(&x, &history, case.window, Some(sequences)).unwrap();
            let next = overwritten(next, |next| {
                ops::history_into(next, &x, &history, case.window, Some(sequences))
            });
            let next: Vec<f64> = next.to_f32().unwrap().into_iter().map(f64::from).collect();
            prop_assert_eq!(&next, &expected);
        }
    }
}
