//! The example from end to end, on a tiny model with weights that were drawn and logits that transformers computed.

use clap::Parser;
use lightspan::Device;
use lightspan::models::{ConvBertConfig, ConvBertForMaskedLm, LoadOptions};
use serde_json::{Value, json};

use crate::args::Args;
use crate::guess::{Guess, guesses};
use crate::masked::{Masked, Reader};
use crate::run;
use crate::shared::Texts;
use crate::shared::fixture::{Scratch, fixture, integers, numbers};

const TINY: &str = "convbert_tiny";

fn ask(args: &[&str], input: &str) -> Result<String, String> {
    let args = Args::try_parse_from(["fill_mask", "--backend", "cpu"].iter().chain(args)).unwrap();
    let texts = Texts { given: &args.texts, input: input.as_bytes(), batch: args.options.batch.get() };
    let mut out = vec![];
    run(&args, texts, &mut out).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

fn model() -> ConvBertForMaskedLm {
    ConvBertForMaskedLm::load(fixture(TINY), &Device::cpu(), LoadOptions::default()).unwrap().1
}

fn close(got: &[Guess], expected: &[Guess]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(got.token, expected.token);
        assert!((got.probability - expected.probability).abs() < 1e-6, "{got:?}, expected {expected:?}");
    }
}

/// All tokens of texts as masks, and the whole vocabulary as guesses.
#[test]
fn guesses_are_those_of_transformers() {
    let folder = fixture(TINY);
    let (ids, types) = (integers(&folder, "input_ids"), integers(&folder, "token_type_ids"));
    let lengths =
        integers(&folder, "attention_mask").into_iter().map(|mask| mask.iter().sum::<u32>() as usize);
    let text = |((ids, types), length): ((Vec<u32>, Vec<u32>), usize)| Masked {
        text: String::new(),
        ids: ids[..length].to_vec(),
        types: types[..length].to_vec(),
        masks: (0..length).collect(),
    };
    let texts: Vec<Masked> = ids.into_iter().zip(types).zip(lengths).map(text).collect();
    let logits = numbers(&folder, "logits");
    let (model, top, device) = (model(), logits[0].len(), Device::cpu());
    let found = guesses(&model, &texts, top, &device).unwrap();

    // The first is the longest and was computed without padding.
    assert_eq!(found[0].len(), texts[0].ids.len());
    for (guesses, logits) in found[0].iter().zip(&logits) {
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let guess = |(token, &logit): (usize, &f32)| Guess {
            token: token as u32,
            probability: (f64::from(logit).exp() / sum) as f32,
        };
        let mut expected: Vec<Guess> = logits.iter().enumerate().map(guess).collect();
        expected.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        for (got, expected) in guesses.iter().zip(&expected) {
            assert!((got.probability - expected.probability).abs() < 1e-6, "{got:?}, {expected:?}");
            let its = logits[got.token as usize];
            assert!((f64::from(its).exp() / sum - f64::from(got.probability)).abs() < 1e-6, "{got:?}");
        }
    }
    // All get what they get alone.
    for (text, found) in texts.iter().zip(&found) {
        let alone = guesses(&model, std::slice::from_ref(text), top, &device).unwrap();
        for (got, alone) in found.iter().zip(&alone[0]) {
            let by_token = |guesses: &[Guess]| {
                let mut guesses = guesses.to_vec();
                guesses.sort_by_key(|guess| guess.token);
                guesses
            };
            close(&by_token(got), &by_token(alone));
        }
    }
}

#[test]
fn a_text_becomes_a_table_of_words() {
    let folder = fixture(TINY);
    let folder = folder.to_str().unwrap();
    let text = "w5 [MASK] w7[MASK] unheard";
    // [CLS] w5 [MASK] w7 [MASK] [UNK] [SEP]
    let read = Masked {
        text: text.to_owned(),
        ids: vec![0, 5, 4, 7, 4, 3, 2],
        types: vec![0; 7],
        masks: vec![2, 4],
    };
    let expected = guesses(&model(), &[read], 3, &Device::cpu()).unwrap().remove(0);
    let special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"];
    let word =
        |token: u32| special.get(token as usize).map_or(format!("w{token}"), |word| (*word).to_owned());
    let rows = |masks: &[Vec<Guess>]| -> Vec<Vec<String>> {
        let cells = |guess: &Guess| [word(guess.token), format!("{:.4}", guess.probability)];
        (0..3).map(|rank| masks.iter().flat_map(|guesses| cells(&guesses[rank])).collect()).collect()
    };
    let printed = |args: &[&str], input: &str| -> Vec<Vec<String>> {
        let out = ask(&[&[folder, "--top", "3"], args].concat(), input).unwrap();
        out.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let table = printed(&[text], "");
    assert_eq!(table[0], ["mask", "1", "mask", "2"]);
    assert_eq!(table[1..], rows(&expected));

    // Lines of the input, each before its table.
    let lines = printed(&["--batch", "2"], &format!("{text}\n[MASK]\n\n \n{text}\n\n"));
    let alone = printed(&["[MASK]"], "");
    let title: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(lines[0], title);
    assert_eq!(lines[1..5], table[..]);
    assert_eq!(lines[5], ["[MASK]"]);
    assert_eq!(lines[6..9], alone[..]);
    assert_eq!(lines[9], title);
    assert_eq!(lines[10..], table[..]);
}

#[test]
fn what_is_wrong_is_one_clear_line() {
    let folder = fixture(TINY);
    let error = |folder: &std::path::Path, args: &[&str]| {
        let folder = folder.to_str().unwrap();
        let error = ask(&[&[folder], args].concat(), "").unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        error.replace(folder, "FOLDER")
    };
    let no_mask = "no mask: write [MASK] where a word is to be guessed";
    assert_eq!(error(&folder, &["[MASK]", "w5 w6"]), format!("text 2: {no_mask}"));
    assert_eq!(error(&folder, &[" "]), format!("text 1: {no_mask}"));
    let long = "[MASK]".repeat(63);
    assert_eq!(error(&folder, &[&long]), "text 1: 65 tokens, and the model has positions for 64");
    assert_eq!(error(&folder, &["[MASK]", "--top", "121"]), "the 121 largest of 120 numbers are asked for");
    assert_eq!(
        error(&folder, &["[MASK]", "--cased"]),
        "--cased is for vocab.txt: FOLDER/tokenizer.json says it itself"
    );
    assert!(error("no such folder".as_ref(), &["[MASK]"]).starts_with("FOLDER/config.json: "));

    let changed = |key: &str, value: Value| {
        let scratch = Scratch::of(TINY, &[(key, value)]).with(TINY, "tokenizer.json");
        error(scratch.path(), &["[MASK]"])
    };
    assert_eq!(
        changed("vocab_size", json!(119)),
        "FOLDER/tokenizer.json numbers \"w119\" 119, and the vocab_size of config.json is 119: they are of different models"
    );
    assert_eq!(
        changed("num_hidden_layers", json!(3)),
        "the weights have no convbert.encoder.layer.2.intermediate.dense.bias of shape [96]"
    );
    assert_eq!(
        changed("intermediate_size", json!(95)),
        "convbert.encoder.layer.0.intermediate.dense.bias must have shape [95], got [96]"
    );
    assert!(changed("num_hidden_layers", json!(1)).starts_with("the model has no place for "));
    assert_eq!(changed("model_type", json!("bert")), "configuration model_type must be convbert, got bert");

    let scratch = Scratch::of(TINY, &[]);
    assert_eq!(error(scratch.path(), &["[MASK]"]), "FOLDER has neither tokenizer.json nor vocab.txt");
    let scratch = scratch.write("vocab.txt", "[CLS]\n[SEP]\n[MASK]\n");
    assert_eq!(error(scratch.path(), &["[MASK]"]), "FOLDER/vocab.txt: no [UNK]");
    let scratch = scratch.write("vocab.txt", "[CLS]\n[SEP]\n[UNK]\n");
    assert_eq!(
        error(scratch.path(), &["[MASK]"]),
        "FOLDER/vocab.txt: no mask token: [MASK] or <mask> is not in it"
    );
    let scratch = scratch.write("tokenizer.json", "{}");
    assert!(error(scratch.path(), &["[MASK]"]).starts_with("FOLDER/tokenizer.json: "));
    let scratch = Scratch::of(TINY, &[]).with(TINY, "tokenizer.json").write("model.safetensors", "short");
    assert!(error(scratch.path(), &["[MASK]"]).starts_with("FOLDER/model.safetensors: "));
}

#[test]
fn surplus_weights_are_passed_over_where_that_is_asked_for() {
    let scratch = Scratch::of(TINY, &[("num_hidden_layers", json!(1))]).with(TINY, "tokenizer.json");
    let folder = scratch.path().to_str().unwrap();
    assert_eq!(ask(&[folder, "[MASK]", "--allow-surplus"], "").unwrap().lines().count(), 5);
}

#[test]
fn a_list_of_words_is_read_as_bert_reads_it() {
    let words = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cap", "##ital", ",", "The", "cafe", "Café",
        "<m>", "中",
    ];
    let scratch = Scratch::of(TINY, &[]).write("vocab.txt", &words.join("\r\n"));
    let config = ConvBertConfig { vocab_size: words.len(), ..Default::default() };
    let pieces = |scratch: &Scratch, cased: bool, text: &str| -> (Vec<&str>, Vec<usize>) {
        let read = Reader::open(scratch.path(), cased, &config).unwrap().read(text).unwrap();
        (read.ids.iter().map(|&id| words[id as usize]).collect(), read.masks)
    };
    let text = "The CAPital,[MASK] Café中";
    let lower = ["[CLS]", "the", "cap", "##ital", ",", "[MASK]", "cafe", "中", "[SEP]"];
    let cased = ["[CLS]", "The", "[UNK]", ",", "[MASK]", "Café", "中", "[SEP]"];
    assert_eq!(pieces(&scratch, false, text), (lower.to_vec(), vec![5]));
    assert_eq!(pieces(&scratch, true, text), (cased.to_vec(), vec![4]));
    let said = |settings: &str| {
        Scratch::of(TINY, &[]).write("vocab.txt", &words.join("\n")).write("tokenizer_config.json", settings)
    };
    assert_eq!(pieces(&said(r#"{"do_lower_case": false}"#), false, text).0, cased);
    assert_eq!(pieces(&said(r#"{"do_lower_case": true}"#), false, text).0, lower);
    let other = said(r#"{"mask_token": {"content": "<m>"}, "strip_accents": false}"#);
    let (read, masks) = pieces(&other, false, "the<m>café");
    assert_eq!((read, masks), (vec!["[CLS]", "the", "<m>", "[UNK]", "[SEP]"], vec![2]));
    let broken = said("{").path().to_owned();
    assert!(Reader::open(&broken, false, &config).is_err());

    let reader = Reader::open(scratch.path(), false, &config).unwrap();
    let written: Vec<String> = [5, 7, 4, 99].map(|token| reader.word(token)).to_vec();
    assert_eq!(written, ["the", "##ital", "[MASK]", "#99"]);
}

#[test]
fn a_tokenizer_neither_cuts_texts_nor_fills_them_up() {
    let file = std::fs::read_to_string(fixture(TINY).join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_str(&file).unwrap();
    file["truncation"] =
        json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 1, "pad_type_id": 0, "pad_token": "[PAD]"
    });
    // A mask that is a word among others is found whole as well.
    file["added_tokens"] = json!([]);
    let scratch = Scratch::of(TINY, &[]).write("tokenizer.json", &file.to_string());
    let config = ConvBertConfig { vocab_size: 120, ..Default::default() };
    let read = Reader::open(scratch.path(), false, &config).unwrap().read("w5 w6 w7[MASK]").unwrap();
    assert_eq!((read.ids, read.masks), (vec![0, 5, 6, 7, 4, 2], vec![4]));
}
