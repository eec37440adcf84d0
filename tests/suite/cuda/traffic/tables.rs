use lightspan::cuda::{Embedding, TopK};
use lightspan::problem::{EmbeddingProblem, TopKProblem};
use lightspan::{DType, Device, Sequences};

use super::{assert_counted, profiled_launches};
use crate::{embedding, top_k};

/// Rows of few threads and of many, in parts and in one, with and without all that may be added; of the list of sequences what
/// the rows of a warp look at.
#[test]
fn embedding_reads_and_writes_what_is_predicted() {
    let device = Device::cuda_emulated();
    let gpu = device.cuda_gpu().unwrap();
    // No two tokens of a warp stand at one position, or they would share its row.
    let after = |sequences: Sequences, past: &[usize]| sequences.after(past).unwrap();
    let groups = [
        None,
        Some(Sequences::batch(1, 33).unwrap()),
        Some(after(Sequences::batch(3, 7).unwrap(), &[0, 10, 20])),
        Some(after(Sequences::padded(9, &[9, 0, 4]).unwrap(), &[0, 5, 10])),
        Some(after(Sequences::packed(&[0, 0, 5, 5, 12, 30, 31]).unwrap(), &[0, 0, 3, 5, 12, 30])),
    ];
    let types = DType::ALL.into_iter().flat_map(|dtype| [(dtype, dtype), (dtype, DType::F32)]);
    for (dtype, parameters) in types {
        for channels in [16, 48, 64, 512, 768, 1040, 4096, 20_000] {
            for (sequences, added) in groups.iter().flat_map(|all| [(all, false), (all, true)]) {
                let tokens = sequences.as_ref().map_or(21, |all| all.shape().tokens());
                let problem = match sequences {
                    None => EmbeddingProblem::new(tokens, tokens, channels, dtype),
                    Some(all) => EmbeddingProblem::of_sequences(all.shape(), tokens, channels, dtype),
                };
                let mut problem = problem.and_then(|problem| problem.with_parameters(parameters)).unwrap();
                if added {
                    problem = problem.with_types(tokens).unwrap();
                    if sequences.is_some() {
                        problem = problem.with_positions(70, 2).unwrap();
                    }
                }
                let mut shape = sequences.as_ref().map_or(vec![tokens, 1], |all| all.shape().tensor(1));
                shape.pop();
                let mut call = embedding::Call::draw(problem, sequences.clone(), &shape, 3);
                // Nor do two tokens, or two types.
                call.tokens = (0..tokens as u32).collect();
                call.type_ids.iter_mut().for_each(|ids| *ids = (0..tokens as u32).rev().collect());
                let launches = profiled_launches(&device, || call.run(&device));
                // The call, and the same into a tensor that is there.
                assert_eq!(launches.len(), 2);
                let predicted = Embedding::new(gpu, problem).unwrap().traffic(sequences.as_ref());
                launches.iter().for_each(|launch| assert_counted(launch, predicted));
                if sequences.is_none() && !added && channels == 512 {
                    let ids = 4 * tokens as u64;
                    let least = problem.bytes() - ids;
                    assert!(
                        (least..=least + 32 * tokens as u64).contains(&predicted.token_bytes()),
                        "{problem:?}"
                    );
                }
            }
        }
    }
}

/// A row is read for each of the largest numbers, and once more for a softmax.
#[test]
fn top_k_reads_and_writes_what_is_predicted() {
    let device = Device::cuda_emulated();
    let gpu = device.cuda_gpu().unwrap();
    for dtype in DType::ALL {
        for (rows, vocabulary, k) in [(1, 16, 3), (3, 32, 32), (2, 8192, 4), (1, 50_000, 2)] {
            for log_softmax in [false, true] {
                let problem =
                    TopKProblem::new(rows, vocabulary, k, dtype).unwrap().with_log_softmax(log_softmax);
                let call = top_k::Call::draw(problem, top_k::Kind::Equal, 4);
                let launches = profiled_launches(&device, || call.run(&device));
                assert_eq!(launches.len(), 2);
                let predicted = TopK::new(gpu, problem).unwrap().traffic();
                launches.iter().for_each(|launch| assert_counted(launch, predicted));
            }
        }
    }
}
