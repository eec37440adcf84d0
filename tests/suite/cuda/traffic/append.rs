use lightspan::cuda::Append;
use lightspan::problem::AppendProblem;
use lightspan::{DType, Device, Sequences};
use proptest::prelude::*;

use super::{assert_counted, profiled_launches};
use crate::append::{Case, case};
use crate::support::config;

/// Runs a call, and holds its traffic against the prediction.
fn check(device: &Device, case: &Case) {
    let gpu = device.cuda_gpu().unwrap();
    let launches = profiled_launches(device, || case.run(device));
    assert_eq!(launches.len(), usize::from(case.sequences.shape().tokens() > 0));
    let predicted = Append::new(gpu, case.problem).unwrap().traffic(&case.sequences).unwrap();
    launches.iter().for_each(|launch| assert_counted(launch, predicted));
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn append_reads_and_writes_what_is_predicted(case in case()) {
        check(&Device::cuda_emulated(), &case);
    }
}

/// Rows of whole sectors move once, and padding does not move.
#[test]
fn append_moves_no_more_than_it_must() {
    let device = Device::cuda_emulated();
    let gpu = device.cuda_gpu().unwrap();
    let lengths = [40, 0, 7, 13];
    let some = [
        (Sequences::batch(64, 1).unwrap(), 64),
        (Sequences::padded(40, &lengths).unwrap(), 60),
        (Sequences::packed(&[0, 40, 40, 47, 60]).unwrap(), 60),
    ];
    for ((sequences, tokens), dtype) in some.iter().flat_map(|some| DType::ALL.map(|dtype| (some, dtype))) {
        let sequences = sequences.clone().after(&vec![5; sequences.shape().sequences()]).unwrap();
        let problem = AppendProblem::new(sequences.shape(), 512, 50, dtype).unwrap();
        let predicted = Append::new(gpu, problem).unwrap().traffic(&sequences).unwrap();
        let row = 512 * dtype.size() as u64;
        assert_eq!(predicted.token_bytes(), 2 * tokens * row, "{dtype}");
        assert_eq!(predicted.read, predicted.written);
        // A warp moves a sixteenth of a row and more, and looks up one sequence.
        let warps = sequences.shape().tokens() as u64 * row / 512;
        let looks = if problem.sequences().tokens() == 60 { 3 } else { 1 };
        assert!(predicted.parameters <= looks * warps, "{predicted:?}");
        check(&device, &Case::draw(sequences, 512, 5, dtype, 1));
    }
}
