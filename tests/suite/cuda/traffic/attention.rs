use lightspan::cuda::{Attention, AttentionBackward, LaunchProfile, Traffic};
use lightspan::ops::{self, AttentionBackwardTensors, AttentionOptions};
use lightspan::problem::{
    Alignment, AttentionBackwardProblem, AttentionKind, AttentionProblem, AttentionWanted, Mask,
};
use lightspan::{DType, Device, Sequences, Tensor};
use proptest::prelude::*;

use super::{assert_all_counted, profiled_launches};
use crate::support::{Numbers, config, sequences};

/// A call whose heads begin on sectors, without its numbers.
#[derive(Clone, Debug)]
struct Case {
    problem: AttentionProblem,
    kind: AttentionKind,
    queries: Sequences,
    keys: Sequences,
}

fn cases() -> impl Strategy<Value = Case> {
    let pair = (1usize..4).prop_flat_map(|n| {
        let past = prop::option::of(prop::collection::vec(0usize..200, n));
        (sequences(n..n + 1, 0..200), sequences(n..n + 1, 0..200), past)
    });
    let sizes = (1usize..4, prop::sample::select(&[1usize, 2, 4, 5, 8, 9, 16][..]));
    let bound = || prop::option::of(0usize..150);
    let mask = (bound(), bound()).prop_map(|(left, right)| Mask::local(left, right));
    let kind = prop::sample::select(&[AttentionKind::Naive, AttentionKind::Fused][..]);
    (pair, sizes, mask, prop::sample::select(&DType::ALL[..]), kind).prop_map(
        |((queries, keys, past), (heads, sixteens), mask, dtype, kind)| {
            let (queries, alignment) = match past {
                Some(past) => (queries.after(&past).unwrap(), Alignment::Past),
                None => (queries, Alignment::End),
            };
            let problem = AttentionProblem::new(queries.shape(), keys.shape(), heads, 16 * sixteens, dtype)
                .unwrap()
                .with_mask(mask)
                .with_alignment(alignment);
            Case { problem, kind, queries, keys }
        },
    )
}

impl Case {
    fn options(&self) -> AttentionOptions<'_> {
        AttentionOptions {
            scale: None,
            mask: self.problem.mask(),
            alignment: self.problem.alignment(),
            queries: Some(&self.queries),
            keys: Some(&self.keys),
            kind: self.kind,
        }
    }

    /// So many tensors of queries, and of keys.
    fn draw<const Q: usize, const K: usize>(&self, device: &Device) -> ([Tensor; Q], [Tensor; K]) {
        let mut numbers = Numbers::new(5);
        let mut draw = |of: &Sequences| {
            numbers.draw(&of.shape().tensor(self.problem.channels()), self.problem.dtype(), 1.0).on(device)
        };
        ([(); Q].map(|()| draw(&self.queries)), [(); K].map(|()| draw(&self.keys)))
    }

    /// Runs attention, holds its traffic against the prediction, and returns what its launches did.
    fn run(&self, device: &Device) -> Vec<LaunchProfile> {
        let gpu = device.cuda_gpu().unwrap();
        let operator = Attention::new(gpu, self.problem, self.kind).unwrap();
        let predicted: Traffic = operator.traffic(&self.queries, &self.keys).unwrap();
        let ([q], [k, v]) = self.draw(device);
        let run = || ops::attention(&q, &k, &v, self.problem.heads(), &self.options()).unwrap();
        let launches = profiled_launches(device, run);
        assert_all_counted(&launches, predicted);
        launches
    }

    /// The same of its gradients.
    fn run_backward(&self, device: &Device, wanted: AttentionWanted) {
        let problem = AttentionBackwardProblem::new(self.problem, wanted);
        let operator = AttentionBackward::new(device.cuda_gpu().unwrap(), problem, self.kind).unwrap();
        let predicted = operator.traffic(&self.queries, &self.keys).unwrap();
        let ([q, y, dy], [k, v]) = self.draw(device);
        let tensors = AttentionBackwardTensors { q: &q, k: &k, v: &v, y: &y, dy: &dy };
        let launches = profiled_launches(device, || {
            ops::attention_backward(&tensors, self.problem.heads(), &self.options(), &wanted).unwrap()
        });
        assert_all_counted(&launches, predicted);
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn attention_reads_and_writes_what_is_predicted(case in cases()) {
        case.run(&Device::cuda_emulated());
    }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn attention_backward_reads_and_writes_what_is_predicted(
        case in cases(),
        [q, k, v] in any::<[bool; 3]>(),
    ) {
        case.run_backward(&Device::cuda_emulated(), AttentionWanted { q, k, v });
    }
}

/// 16 bits go to the tensor cores, with all that the mask lets through, and f32 does not; nothing meets a bank twice.
#[test]
fn attention_uses_matrices_and_does_not_fight_for_banks() {
    let device = Device::cuda_emulated();
    let (queries, keys) = (Sequences::batch(1, 200).unwrap(), Sequences::batch(1, 333).unwrap());
    for (dtype, head_channels) in DType::ALL.into_iter().flat_map(|dtype| [64, 128, 256].map(|d| (dtype, d)))
    {
        for (kind, mask) in [AttentionKind::Naive, AttentionKind::Fused]
            .into_iter()
            .flat_map(|kind| [Mask::FULL, Mask::CAUSAL].map(|mask| (kind, mask)))
        {
            let problem = AttentionProblem::new(queries.shape(), keys.shape(), 2, head_channels, dtype)
                .unwrap()
                .with_mask(mask);
            let launches = Case { problem, kind, queries: queries.clone(), keys: keys.clone() }.run(&device);
            let products: u64 = launches.iter().map(|launch| launch.profile.matrix_multiply_adds).sum();
            let all = problem.flops() / 2;
            assert!(if dtype == DType::F32 { products == 0 } else { products >= all }, "{products} of {all}");
            for launch in &launches {
                let profile = &launch.profile;
                let conflicts = [profile.shared_loads.conflicts(), profile.shared_stores.conflicts()];
                let of = (launch.module, launch.entry);
                assert_eq!(conflicts, [0, 0], "{of:?}, D = {head_channels}, {mask:?}");
            }
        }
    }
}
