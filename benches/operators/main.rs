//! Every operator beside a copy of its tokens, what people write without it, and attention.
//!
//! ```text
//! cargo bench                                      everything, some ten minutes
//! cargo bench -- light_conv_by_width               one group
//! cargo bench -- 'by_length/.*/1024$'              one length
//! cargo bench -- --quick                           a rough answer
//! ```
//!
//! Throughput is the bytes that the operator must move at least ([`lightspan::problem`]) over the time it took, for the
//! unfused compositions too: so within a group GB/s compare as speeds do, and against `copy` they say how far the
//! operator is from the speed of memory.

mod attention;
mod dynamic_conv;
mod light_conv;
mod linear;
mod span_conv;
mod support;
mod unfused;

use std::time::Duration;

use criterion::Criterion;

fn main() -> lightspan::Result<()> {
    // A baseline that computes something else is no baseline.
    unfused::check_against_operators()?;

    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    by_length(&mut criterion)?;
    light_conv::by_width(&mut criterion)?;
    dynamic_conv::by_width(&mut criterion)?;
    linear::by_rows(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// Convolutions, what people write without them, and attention, with the same number of tokens in longer and longer
/// sequences.
fn by_length(criterion: &mut Criterion) -> lightspan::Result<()> {
    let mut group = criterion.benchmark_group("by_length");
    for time in support::LENGTHS {
        support::measure_copy(&mut group, time, support::TOKENS);
        light_conv::by_length(&mut group, time)?;
        dynamic_conv::by_length(&mut group, time)?;
        span_conv::by_length(&mut group, time)?;
        attention::by_length(&mut group, time)?;
    }
    group.finish();
    Ok(())
}
