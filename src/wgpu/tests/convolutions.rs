//! Plans of the backward passes of convolutions: as `plans` for the forward ones.

use crate::gpu::{STEPS, listed};
use crate::problem::{
    Convolution, DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, LightConvBackwardProblem,
    LightConvProblem, LightConvWanted, Taps,
};
use crate::wgpu::plan::Launch;
use crate::wgpu::shader::{MEMORY, WORKGROUP};
use crate::wgpu::tests::plans::{big, convolutions, parameter};
use crate::wgpu::{Limits, dynamic_conv, light_conv};
use crate::{Normalize, Result};

pub(super) fn light_backward(conv: &Convolution, limits: &Limits) -> Result<Vec<Launch>> {
    let forward = LightConvProblem::new(*conv);
    let problem = LightConvBackwardProblem::new(forward, LightConvWanted::ALL)?;
    let places = light_conv::BackwardPlaces::contiguous(&problem);
    let launches = light_conv::backward_plan(&problem, &places, listed(conv.sequences()), limits)?;
    Ok(launches.all().collect())
}

/// What the kernels of backward passes take for granted of their parameters.
pub(super) fn assert_fits(launch: &Launch) {
    let p = |name| parameter(launch, name);
    let groups: u64 = launch.grid.iter().map(|&size| u64::from(size)).product();
    match launch.kernel.name {
        "softmax_statistics" => {
            let rows = p("heads") * p("phases") * p("steps");
            assert!(rows <= WORKGROUP && p("quads") > 0 && rows * p("quads") <= MEMORY);
            assert!(p("columns") * p("heads") >= p("all_heads"));
        }
        "light_conv_backward" => {
            assert!(p("lanes") * p("time_groups") <= WORKGROUP);
            assert_eq!(p("time_groups") * p("run") * STEPS, p("phases") * p("steps"));
            assert!(p("steps") % (p("run") * STEPS) == 0, "a run is of one phase");
            assert!(p("parts") * p("tiles_of_part") >= p("groups"));
            assert!(groups >= (p("parts") * p("channel_columns") * p("tap_groups")) as u64);
        }
        "dynamic_conv_backward" => {
            let (heads, rows, quads) = (p("heads"), p("row_groups"), p("quads"));
            assert!(heads > 0 && rows > 0 && quads > 0 && heads * rows * quads <= WORKGROUP);
            let tokens = p("phases") * p("steps");
            assert_eq!(rows * STEPS, tokens);
            let channel = (tokens / 4 + p("phases") * (p("steps") / 4 + quads)) | 1;
            assert!(p("depth") > 0 && heads * p("depth") * channel <= MEMORY);
            assert!(p("head_columns") * heads >= p("all_heads"));
            if p("columns") == 1 && p("head_columns") > 1 {
                assert!(p("parts") * p("tiles_of_part") >= p("groups"));
            } else if p("parts") == 1 {
                assert!(groups >= p("groups") as u64);
            }
        }
        _ => {}
    }
}

pub(super) fn dynamic_backward(forward: DynamicConvProblem, limits: &Limits) -> Result<Vec<Launch>> {
    let problem = DynamicConvBackwardProblem::new(forward, DynamicConvWanted::ALL)?;
    dynamic_conv::backward_plan(&problem, limits)
}

#[test]
fn gradients_of_light_convolutions_fit_the_smallest_device() {
    for conv in convolutions() {
        for normalize in [Normalize::Softmax, Normalize::SoftmaxInRange] {
            let conv = conv.with_normalize(normalize);
            let launches = light_backward(&conv, &Limits::default()).unwrap();
            assert_eq!(launches, light_backward(&conv, &big()).unwrap());
            let some = if normalize == Normalize::Softmax { 3 } else { 5 };
            assert_eq!(launches.len(), if conv.sequences().tokens() > 0 { some } else { 1 });
            launches.iter().for_each(assert_fits);
        }
    }
}

#[test]
fn gradients_of_dynamic_convolutions_fit_the_smallest_device() {
    for conv in convolutions() {
        for forward in [DynamicConvProblem::given(conv), DynamicConvProblem::generated(conv)] {
            let forward = forward.unwrap();
            // Generators that no device could hold are refused.
            let Ok(launches) = dynamic_backward(forward, &Limits::default()) else { continue };
            assert_eq!(launches, dynamic_backward(forward, &big()).unwrap());
            let names: Vec<_> = launches.iter().map(|launch| launch.kernel.name).collect();
            let some = conv.sequences().tokens() > 0;
            for name in ["softmax_statistics", "dynamic_conv_backward", "dynamic_conv"] {
                assert_eq!(names.contains(&name), some, "{names:?}");
            }
            assert_eq!(names.contains(&"linear"), some && forward.taps() != Taps::Given, "{names:?}");
            launches.iter().for_each(assert_fits);
        }
    }
}
