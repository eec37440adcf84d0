use lightspan::cuda::{Append, AppendArgs, DeviceSequences};
use proptest::prelude::*;

use super::place;
use crate::append::{Case, case};
use crate::support::config;
use crate::support::cuda::{Scatter, cuda_device};

proptest! {
    #![proptest_config(config(200))]

    /// A cache in memory that holds other things as well, to the bit.
    #[test]
    fn append(case in case(), (seed, step) in place()) {
        let Some(device) = cuda_device() else { return Ok(()) };
        let gpu = device.cuda_gpu().unwrap();
        let mut scatter = Scatter::new(&device, seed, step);
        let ([count, room, channels], dtype) = (case.problem.cache_shape(), case.problem.dtype());
        let x = scatter.bits(&case.x, channels, dtype);
        let mut cache = scatter.output(count * room, channels, dtype);
        let case = Case { cache: cache.bits_before(), ..case };
        let args = AppendArgs {
            sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
            x: x.rows(),
            cache: cache.rows(),
        };
        Append::new(gpu, case.problem).unwrap().launch(args).unwrap();
        cache.check_bits(&case.expected())?;
    }
}
