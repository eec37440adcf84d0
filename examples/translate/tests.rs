//! The example from end to end, on tiny models with weights that were drawn and tokens that fairseq decoded.

use std::path::Path;

use clap::Parser;
use lightspan::Device;
use lightspan::models::{Hypothesis, LightConvConfig, LoadOptions};
use serde_json::{Value, json};

use crate::args::Args;
use crate::run;
use crate::search::{Search, translate};
use crate::shared::Texts;
use crate::shared::fixture::{Scratch, fixture, integers, numbers};
use crate::vocabulary::Vocabularies;

const LIGHT: &str = "seq2seq_light_tiny";
const DYNAMIC: &str = "seq2seq_dynamic_tiny";

fn ask(args: &[&str], input: &str) -> Result<String, String> {
    let args = Args::try_parse_from(["translate", "--backend", "cpu"].iter().chain(args)).unwrap();
    let texts = Texts { given: &args.texts, input: input.as_bytes(), batch: args.options.batch.get() };
    let mut out = vec![];
    run(&args, texts, &mut out).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

fn search(beams: Option<usize>, limit: usize) -> Search {
    Search { beams, length_penalty: 1.0, limit, end: 2, padding: 1 }
}

/// What a model makes of sources, all at once.
fn found(model: &str, sources: &[Vec<u32>], search: &Search) -> Vec<Hypothesis> {
    let (_, model) = LightConvConfig::load(fixture(model), &Device::cpu(), LoadOptions::default()).unwrap();
    let sources: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
    translate(&model, &sources, search, &Device::cpu()).unwrap()
}

/// The sources that fairseq was given, without their padding.
fn sources(model: &str) -> Vec<Vec<u32>> {
    let mut sources = integers(&fixture(model), "source_tokens");
    for source in &mut sources {
        source.retain(|&token| token != 1);
    }
    sources
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    f64::from(logits[token as usize]) - sum.ln()
}

#[test]
fn the_likeliest_tokens_are_those_of_fairseq() {
    for model in [LIGHT, DYNAMIC] {
        let expected = integers(&fixture(model), "greedy_tokens");
        let expected: Vec<&[u32]> = expected.iter().map(|tokens| &tokens[1..]).collect();
        let (sources, logits) = (sources(model), numbers(&fixture(model), "greedy_logits"));
        for beams in [None, Some(1)] {
            let found = found(model, &sources, &search(beams, expected[0].len()));
            let tokens: Vec<&[u32]> = found.iter().map(|found| found.tokens.as_slice()).collect();
            assert_eq!(tokens, expected, "{model}, {beams:?}");
            for (found, logits) in found.iter().zip(logits.chunks(tokens[0].len())) {
                let chosen = found.tokens.iter().zip(logits);
                let score: f64 = chosen.map(|(&token, logits)| log_probability(logits, token)).sum();
                assert!((f64::from(found.score) - score).abs() < 1e-4 * score.abs() && !found.ended);
            }
        }
    }
}

#[test]
fn a_text_gets_alone_what_it_gets_among_others() {
    for model in [LIGHT, DYNAMIC] {
        let (sources, search) = (sources(model), search(Some(4), 12));
        let together = found(model, &sources, &search);
        for (source, together) in sources.iter().zip(together) {
            let alone = found(model, std::slice::from_ref(source), &search).remove(0);
            assert_eq!(alone.tokens, together.tokens, "{model}");
            assert!((alone.score - together.score).abs() < 1e-4 * together.score.abs());
        }
    }
}

#[test]
fn lines_of_pieces_become_lines_of_words() {
    let folder = fixture(LIGHT);
    let folder = folder.to_str().unwrap();
    let config =
        LightConvConfig::from_json(&std::fs::read(fixture(LIGHT).join("config.json")).unwrap()).unwrap();
    let vocabularies = Vocabularies::open(&fixture(LIGHT), &config).unwrap();
    let texts = ["w4 w5@@ w6", "nowhere w59", "w10  w9@@ w9@@ w11 w12 w13@@ w14"];
    // In the dictionary every fourth word goes on.
    let tokens = [vec![4, 5, 6, 2], vec![3, 59, 2], vec![10, 9, 9, 11, 12, 13, 14, 2]];
    for (text, tokens) in texts.iter().zip(&tokens) {
        assert_eq!(vocabularies.read(text).unwrap().as_ref(), Some(tokens));
    }
    let search = search(Some(4), 9);
    let found = found(LIGHT, &tokens, &search);
    let piece = |&token: &u32| format!("w{token}{}", if token % 4 == 1 { "@@" } else { "" });
    let words = |found: &Hypothesis| {
        let pieces: Vec<String> = found.tokens.iter().map(piece).collect();
        pieces.join(" ").replace("@@ ", "")
    };
    let expected: Vec<String> = found.iter().map(words).collect();
    let lines = |args: &[&str], input: &str| -> Vec<String> {
        let out = ask(&[&[folder, "--limit", "9"], args].concat(), input).unwrap();
        out.lines().map(str::to_owned).collect()
    };
    assert_eq!(lines(&texts, "passed over"), expected);
    let input = format!("{}\n\n{}\n \t\n{}", texts[0], texts[1], texts[2]);
    for batch in ["1", "2", "5"] {
        let lines = lines(&["--batch", batch], &input);
        assert_eq!(lines, [&*expected[0], "", &*expected[1], "", &*expected[2]], "batch {batch}");
    }
    assert_eq!(lines(&["--batch", "3"], "\n\n"), ["", ""]);
    assert!(lines(&[], "").is_empty());

    let scored = lines(&[&["--scores"], &texts[..]].concat(), "");
    for ((line, expected), found) in scored.iter().zip(&expected).zip(&found) {
        let (score, text) = line.split_once('\t').unwrap();
        let tokens = found.tokens.len() + usize::from(found.ended);
        assert_eq!(text, expected);
        assert_eq!(score, format!("{:.4}", found.score / tokens as f32));
    }
    let greedy = lines(&["--greedy", texts[0]], "");
    assert_eq!(greedy, lines(&["--beams", "1", texts[0]], ""));
}

/// A tokenizer of words, which writes the end of a text itself or does not.
fn words(count: u32, template: bool) -> String {
    let word = |id: u32| if id == 2 { "</s>".to_owned() } else { format!("v{id}") };
    let vocabulary: serde_json::Map<String, Value> = (0..count).map(|id| (word(id), json!(id))).collect();
    let special = json!([{
        "id": 2, "content": "</s>", "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false
    }]);
    let end = json!({
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}
    });
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special,
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": if template { end } else { Value::Null }, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "v3"}
    });
    file.to_string()
}

#[test]
fn tokenizers_do_for_dictionaries() {
    let tokens = vec![vec![9, 3, 12, 2]];
    let search = search(Some(4), 200);
    let expected = found(LIGHT, &tokens, &search).remove(0);
    let expected: Vec<String> = expected.tokens.iter().map(|token| format!("v{token}")).collect();
    for template in [false, true] {
        let one = Scratch::of(LIGHT, &[]).write("tokenizer.json", &words(60, template));
        let two = Scratch::of(LIGHT, &[])
            .write("source.json", &words(60, template))
            .write("target.json", &words(60, !template));
        for scratch in [one, two] {
            let out = ask(&[scratch.path().to_str().unwrap(), "v9 unheard v12"], "").unwrap();
            assert_eq!(out.trim_end_matches('\n'), expected.join(" "));
        }
    }
}

#[test]
fn what_is_wrong_is_one_clear_line() {
    let error = |folder: &Path, args: &[&str]| {
        let folder = folder.to_str().unwrap();
        let error = ask(&[&[folder], args].concat(), "").unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        error.replace(folder, "FOLDER")
    };
    let dictionaries =
        |scratch: Scratch| scratch.with(LIGHT, "dict.source.txt").with(LIGHT, "dict.target.txt");
    let short = dictionaries(Scratch::of(LIGHT, &[("max_positions", json!(5))]));
    assert_eq!(
        error(short.path(), &["a b c d", "a b c d e"]),
        "text 2: 6 tokens, and the model has positions for 5"
    );
    assert_eq!(
        error(short.path(), &["a", "--limit", "6"]),
        "--limit 6: the model has positions for 5 tokens"
    );
    // Which is what it is cut at without being asked.
    assert!(ask(&[short.path().to_str().unwrap(), "a b c d"], "").is_ok());
    assert!(error("no such folder".as_ref(), &["a"]).starts_with("FOLDER/config.json: "));

    let scratch = Scratch::of(LIGHT, &[]);
    assert_eq!(
        error(scratch.path(), &["a"]),
        "FOLDER has none of dict.source.txt and dict.target.txt, source.json and target.json, tokenizer.json"
    );
    let scratch = scratch.with(LIGHT, "dict.source.txt");
    assert!(error(scratch.path(), &["a"]).starts_with("FOLDER/dict.target.txt: "));
    let scratch = scratch.with(LIGHT, "dict.target.txt").write("tokenizer.json", "{}");
    assert_eq!(
        error(scratch.path(), &["a"]),
        "FOLDER has dict.source.txt and dict.target.txt beside tokenizer.json"
    );
    let scratch = dictionaries(Scratch::of(LIGHT, &[])).write("dict.target.txt", "a 1\n");
    assert_eq!(
        error(scratch.path(), &["a"]),
        "FOLDER/dict.target.txt has 5 with the special ones, and the model has 60 tokens: they are not of one model"
    );
    let scratch = scratch.write("dict.target.txt", "a\n");
    assert_eq!(error(scratch.path(), &["a"]), "FOLDER/dict.target.txt: line 1: no token and its count");
    let scratch = Scratch::of(LIGHT, &[]).write("tokenizer.json", &words(61, false));
    assert_eq!(
        error(scratch.path(), &["a"]),
        "FOLDER/tokenizer.json numbers \"v60\" 60, and the model has 60 tokens: they are not of one model"
    );

    let changed =
        |key: &str, value: Value| error(dictionaries(Scratch::of(LIGHT, &[(key, value)])).path(), &["a"]);
    assert_eq!(
        changed("encoder_kernel_widths", json!([3, 7, 15, 31])),
        "the weights have no encoder.layers.3.linear1.bias of shape [64]"
    );
    assert_eq!(
        changed("ffn_embed_dim", json!(63)),
        "encoder.layers.0.fc1.bias must have shape [63], got [64]"
    );
    assert_eq!(
        changed("model", json!("lightconv_lm")),
        "configuration model must be lightconv, or lightconv_lm for a language model, got lightconv_lm"
    );
    assert!(changed("surprise", json!(1)).starts_with("config.json: unknown field `surprise`"));
}

#[test]
fn both_sides_may_have_dictionaries_of_their_own() {
    let scratch = Scratch::of(DYNAMIC, &[("source_vocab_size", json!(61))]);
    let scratch = scratch.write("source.json", &words(61, true)).write("target.json", &words(60, true));
    // Its tables are both of 60 rows.
    let error = ask(&[scratch.path().to_str().unwrap(), "v60"], "").unwrap_err();
    assert_eq!(error, "encoder.embed_tokens.weight must have shape [61, 32], got [60, 32]");
}
