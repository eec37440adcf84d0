use lightspan::cuda::{self as room, DeviceSequences};
use lightspan::problem::TopKProblem;
use lightspan::reference::Estimate;
use proptest::prelude::*;

use super::place;
use crate::support::config;
use crate::support::cuda::{Input, Scatter, cuda_device};
use crate::{embedding, top_k};

proptest! {
    #![proptest_config(config(300))]

    /// Tables and rows anywhere, so that units of every size are taken; ids of padding are not looked at, and a token whose id is
    /// past its table is NaN.
    #[test]
    fn embeddings(call in embedding::call(), wrong in any::<bool>(), seed in any::<u64>(), (place, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let gpu = device.cuda_gpu().unwrap();
        let mut scatter = Scatter::new(&device, place, step);
        let call = if wrong { call.with_wrong_ids(seed) } else { call };
        let expected = call.expected();
        let (call, problem) = (call.clone().with_wrong_padding(), call.problem);
        let channels = problem.channels();
        let table = scatter.rows(&call.table, channels);
        let [positions, types] =
            [&call.positions, &call.types].map(|values| values.as_ref().map(|v| scatter.rows(v, channels)));
        let tokens = scatter.ids(&call.tokens);
        let type_ids = call.type_ids.as_ref().map(|ids| scatter.ids(ids));
        let mut y = scatter.output(problem.tokens(), channels, problem.dtype());
        let sequences = call.sequences.as_ref().map(|all| DeviceSequences::new(gpu, all).unwrap());
        room::Embedding::new(gpu, problem)
            .unwrap()
            .launch(room::EmbeddingArgs {
                sequences: sequences.as_ref(),
                tokens: tokens.ids(),
                table: table.rows(),
                positions: positions.as_ref().map(Input::rows),
                type_ids: type_ids.as_ref().map(|ids| ids.ids()),
                types: types.as_ref().map(Input::rows),
                y: y.rows(),
            })
            .unwrap();
        y.check(&expected)?;
    }

    #[test]
    fn largest_numbers(
        problem in top_k::problem(), wanted in any::<bool>(), kind in top_k::kind(), seed in any::<u64>(),
        (place, step) in place()
    ) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let problem: TopKProblem = problem.with_values(wanted);
        let (call, mut scatter) = (top_k::Call::draw(problem, kind, seed), Scatter::new(&device, place, step));
        let expected = call.expected();
        let x = scatter.rows(&call.x, problem.vocabulary());
        let mut tokens = scatter.ids(&vec![7; expected.len()]);
        let mut values = scatter.output(problem.rows(), problem.k(), lightspan::DType::F32);
        room::TopK::new(device.cuda_gpu().unwrap(), problem)
            .unwrap()
            .launch(room::TopKArgs {
                x: x.rows(),
                values: wanted.then(|| values.rows()),
                tokens: tokens.ids_mut(),
            })
            .unwrap();
        let indices: Vec<u32> = expected.iter().map(|ranked| ranked.index).collect();
        prop_assert_eq!(tokens.written(), indices);
        let of_values: Vec<Estimate> = expected.iter().map(|ranked| ranked.value).collect();
        values.check(if wanted { &of_values } else { &[] })?;
    }
}
