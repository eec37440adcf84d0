//! What was trained here, saved as candle saves it, is loaded by `lightspan::models` and gives the same numbers.

use std::fs;
use std::path::PathBuf;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap, loss};
use lightspan::models::{ConvBertForMaskedLm, LightConvConfig, LoadOptions};
use lightspan::nn::Memory;
use lightspan::{Sequences, Tokens};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{assert_same_model, fixture, settled};
use crate::{convbert, fairseq};

const BATCH: usize = 4;
const TIME: usize = 12;
const STEPS: usize = 30;

/// The variables of a model when a loss is well below what it was.
fn train(mut loss_of: impl FnMut(&VarBuilder<'_>) -> Result<Tensor>) -> Result<VarMap> {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    // The first call makes the variables, with other numbers in each run.
    loss_of(&vb)?;
    settled(&variables, DType::F32)?;
    let first = loss_of(&vb)?.to_scalar::<f32>()?;
    let params = ParamsAdamW { lr: 0.003, ..Default::default() };
    let mut optimizer = AdamW::new(variables.all_vars(), params)?;
    for _ in 0..STEPS {
        optimizer.backward_step(&loss_of(&vb)?)?;
    }
    let last = loss_of(&vb)?.to_scalar::<f32>()?;
    assert!(last < 0.8 * first, "the loss went from {first} to {last}");
    Ok(variables)
}

/// A folder of a model as users have it, which goes when this does.
struct Folder(PathBuf);

impl Folder {
    /// With the configuration of a fixture and these parameters.
    fn new(like: &str, variables: &VarMap) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("lightspan-trained-{like}-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let config = PathBuf::from(fixture(like, "model")).with_file_name("config.json");
        fs::copy(config, folder.join("config.json"))?;
        variables.save(folder.join("model.safetensors"))?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind in the system's own folder of temporary files is no failure.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Words `[BATCH, TIME]` from `first` on.
fn words(rng: &mut SmallRng, first: u32, count: usize) -> Vec<u32> {
    (0..BATCH * TIME).map(|_| rng.random_range(first..count as u32)).collect()
}

fn tensor(tokens: &[u32]) -> Result<Tensor> {
    Tensor::from_slice(tokens, (BATCH, TIME), &Device::Cpu)
}

fn tokens(tokens: &[u32]) -> Tokens {
    Tokens::from_slice(tokens, &[BATCH, TIME], &lightspan::Device::cpu()).unwrap()
}

fn logits(found: &lightspan::Tensor) -> Result<Tensor> {
    Tensor::from_vec(found.to_f32().unwrap(), found.shape(), &Device::Cpu)
}

/// Learns to copy its source, of which some sequences are padded.
fn translates_the_same(config: &fairseq::Config) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(11);
    let mut source = words(&mut rng, 4, fairseq::WORDS);
    source[2 * TIME - 5..2 * TIME].fill(fairseq::PADDING);
    let target: Vec<u32> = source.chunks(TIME).flat_map(|row| [&[2], &row[..TIME - 1]].concat()).collect();
    let (x, y) = (tensor(&source)?, tensor(&target)?);
    let variables = train(|vb| {
        let [_, logits] = config.forward(vb, &x, &y, true)?;
        loss::cross_entropy(&logits.reshape(((), fairseq::WORDS))?, &x.flatten_all()?)
    })?;
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let [_, expected] = config.forward(&vb, &x, &y, false)?;

    let folder = Folder::new(config.folder, &variables)?;
    let cpu = lightspan::Device::cpu();
    let (_, model) = LightConvConfig::load(&folder.0, &cpu, LoadOptions::default()).unwrap();
    let sources = fairseq::sequences(&x)?;
    let memory = model.encode(&tokens(&source), &sources).unwrap();
    let memory = Memory { tokens: &memory, sequences: &sources };
    let targets = Sequences::batch(BATCH, TIME).unwrap();
    let found = model.forward(&tokens(&target), &targets, memory).unwrap();
    assert_same_model("logits", &logits(&found)?, &expected, &fairseq::sequences(&y)?)
}

#[test]
fn light_model() -> Result<()> {
    translates_the_same(&fairseq::LIGHT)
}

#[test]
fn dynamic_model() -> Result<()> {
    translates_the_same(&fairseq::DYNAMIC)
}

/// Learns its words by heart.
#[test]
fn convbert() -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(12);
    let given = words(&mut rng, 0, convbert::WORDS);
    let of_type: Vec<u32> = words(&mut rng, 0, 2);
    let (x, types) = (tensor(&given)?, tensor(&of_type)?);
    let mask = Tensor::ones((BATCH, TIME), DType::U32, &Device::Cpu)?;
    let forward = |vb: &VarBuilder<'_>| -> Result<Tensor> {
        let mut found = convbert::forward(vb, &x, &types, &mask)?;
        Ok(found.pop().expect("the logits come last"))
    };
    let variables =
        train(|vb| loss::cross_entropy(&forward(vb)?.reshape(((), convbert::WORDS))?, &x.flatten_all()?))?;
    let expected = forward(&VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;

    let folder = Folder::new(convbert::FOLDER, &variables)?;
    let cpu = lightspan::Device::cpu();
    let (_, model) = ConvBertForMaskedLm::load(&folder.0, &cpu, LoadOptions::default()).unwrap();
    let all = Sequences::batch(BATCH, TIME).unwrap();
    let found = model.forward(&tokens(&given), Some(&tokens(&of_type)), &all).unwrap();
    assert_same_model("logits", &logits(&found)?, &expected, &all)
}
