//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use lightspan::{Backend, DType};

/// Races light, dynamic and span-based dynamic convolution against attention.
#[derive(Debug, Parser)]
#[command(name = "race")]
pub(crate) struct Args {
    /// Race whole encoders, of convolutions and of attention, and not single operators (feature models)
    #[arg(long)]
    pub(crate) model: bool,

    /// Which encoders [default: small]
    #[arg(long, value_enum, requires = "model")]
    pub(crate) size: Option<Size>,

    /// Sequence lengths, separated by commas [default: 64,128,256,512,1024,2048,4096]
    #[arg(long, value_delimiter = ',', value_parser = at_least_one, value_name = "T,..")]
    pub(crate) lengths: Vec<usize>,

    /// Channels of a token
    #[arg(long, default_value_t = 512, value_name = "C", conflicts_with = "model")]
    pub(crate) channels: usize,

    /// Heads, which must divide the channels
    #[arg(long, default_value_t = 8, value_name = "H", conflicts_with = "model")]
    pub(crate) heads: usize,

    /// Taps of the convolutions, centred; local attention sees the same tokens
    #[arg(long, default_value_t = 31, value_name = "K", conflicts_with = "model")]
    pub(crate) width: usize,

    /// What tensors are stored in: f32, f16 or bf16
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: DType,

    /// Where to run: cpu, wgpu or cuda [default: the fastest there is]
    #[arg(long)]
    pub(crate) backend: Option<Backend>,

    /// Run on wgpu, on the first adapter whose name contains this; a software adapter is used only so
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,

    /// Sequences in a call, the same number at every length
    #[arg(long, default_value_t = 1, value_parser = at_least_one, value_name = "B")]
    pub(crate) batch: usize,

    /// Fewer lengths (unless --lengths says which) and shorter timing
    #[arg(long)]
    pub(crate) quick: bool,

    /// A text of your own; one shorter than a call needs is repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,

    /// Where the picture goes
    #[arg(long, default_value = "race.svg", value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// Encoders of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// 2 layers of 128 channels: seconds on two cores
    Tiny,
    /// 6 layers of 512 channels: a minute on two cores
    #[default]
    Small,
    /// The 12 layers of 768 channels of the paper: some minutes on two cores
    Base,
}

fn at_least_one(number: &str) -> Result<usize, String> {
    match number.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("a whole number from 1 is wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read() {
        let args = Args::try_parse_from(["race", "--lengths", "64,7", "--dtype", "bf16", "--backend", "cpu"])
            .unwrap();
        assert_eq!(args.lengths, [64, 7]);
        assert_eq!((args.dtype, args.backend), (DType::BF16, Some(Backend::Cpu)));
        assert!(!args.model);
        let args = Args::try_parse_from(["race", "--model", "--size", "tiny"]).unwrap();
        assert_eq!((args.model, args.size), (true, Some(Size::Tiny)));
    }

    #[test]
    fn nonsense_is_refused() {
        for args in [["--lengths", "64,0"], ["--batch", "0"], ["--dtype", "f64"], ["--backend", "tpu"]] {
            assert!(Args::try_parse_from(["race"].into_iter().chain(args)).is_err(), "{args:?}");
        }
    }

    #[test]
    fn models_have_sizes_and_operators_have_channels() {
        for args in
            [["--size", "tiny", "--quick"], ["--model", "--channels", "64"], ["--model", "--width", "3"]]
        {
            assert!(Args::try_parse_from(["race"].into_iter().chain(args)).is_err(), "{args:?}");
        }
    }
}
