use lightspan::cuda::Norm;
use lightspan::problem::{NormKind, NormProblem, NormResidual};
use lightspan::{DType, Device};

use super::{assert_counted, conflicts, profiled_launches};
use crate::norm;

/// Rows of a warp, of a block, and longer than a block keeps; what must move moves once where it is kept.
#[test]
fn norm_reads_and_writes_what_is_predicted() {
    let device = Device::cuda_emulated();
    let gpu = device.cuda_gpu().unwrap();
    let before = |sum| NormResidual::Before { sum };
    let residuals = [NormResidual::None, before(false), before(true), NormResidual::After];
    let types = DType::ALL.into_iter().flat_map(|dtype| [(dtype, dtype), (dtype, DType::F32)]);
    for (dtype, parameters) in types {
        for (tokens, channels) in [(1, 16), (9, 512), (20, 768), (8, 1024), (3, 1040), (2, 8192), (2, 10_000)]
        {
            for (kind, residual) in
                norm::KINDS.into_iter().flat_map(|kind| residuals.map(|other| (kind, other)))
            {
                let problem = NormProblem::new(kind, tokens, channels, dtype)
                    .and_then(|problem| problem.with_parameters(parameters))
                    .unwrap()
                    .with_bias(kind == NormKind::Layer)
                    .with_residual(residual);
                let call = norm::Call::draw(problem, 0.0, 3);
                let launches = profiled_launches(&device, || call.run(&device));
                // The call, and the same into tensors that are there.
                assert_eq!(launches.len(), 2);
                let predicted = Norm::new(gpu, problem).unwrap().traffic();
                launches.iter().for_each(|launch| assert_counted(launch, predicted));
                let least = problem.bytes()
                    - channels as u64 * parameters.size() as u64 * (1 + u64::from(problem.has_bias()));
                if channels <= 8192 {
                    assert_eq!(predicted.token_bytes(), least, "{problem:?}");
                }
                let [fights, _] = conflicts(&launches[0]);
                assert_eq!(fights, 0, "{problem:?}");
            }
        }
    }
}
