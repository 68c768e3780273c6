//! A tiny Llama against `transformers` (`tests/fixtures/make_language.py`): logits, generation, packing, gradients.
#![expect(
    clippy::unwrap_used,
    clippy::result_large_err,
    reason = "a failure to set up is a failure of the test, an error ends it"
)]

#[path = "../adapters/tests/device/mod.rs"]
mod device;

use std::path::PathBuf;
use std::sync::Arc;

use autopeft::base::BaseModel;
use autopeft::data::language::{Content, Learned, Passage, PassageEncoder, pack};
use autopeft::data::{self, Batch, Encoded, Example, Padding, Target, collate};
use autopeft::generate::{Sampler, SamplerOptions, Stop, generate};
use autopeft::models::checkpoint::Checkpoint;
use autopeft::models::{self, CausalLm, Config, Inputs};
use autopeft::task::Objective;
use autopeft::train::{evaluate, outputs};
use autopeft_adapters::{Adapters, LoraPlan, LoraTargets, Pass, Superset};
use candle_core::{DType, Tensor};
use device::device;
use tokenizers::Tokenizer;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language/llama")
}

fn model(adapters: &Adapters, dtype: DType) -> Box<dyn CausalLm> {
    let config = Config::read(&folder().join("config.json")).unwrap();
    let checkpoint = Arc::new(Checkpoint::open_folder(&folder()).unwrap());
    models::load_causal(&config, &checkpoint, adapters, dtype, device()).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(folder().join("tokenizer.json")).unwrap()
}

fn passages() -> Vec<Passage> {
    let row = |(prompt, completion): (&str, &str)| Passage {
        content: Content::Completion(prompt.into(), Some(completion.into())),
        line: 1,
    };
    [
        ("name: Blue Spice", "Blue Spice is a pub."),
        ("area: river", "It is by the river and it was good."),
        ("film", "dull"),
        ("The movie was", "good, and the end was fun!"),
        ("Slow", "a mess"),
    ]
    .map(row)
    .to_vec()
}

fn encoded(learned: Learned) -> Encoded {
    let tokenizer = tokenizer();
    let encoder = PassageEncoder {
        tokenizer: &tokenizer,
        template: None,
        as_chat: false,
        end: Some(2),
        separator: "\n",
        learned,
        max_length: 64,
    };
    encoder.encode(&passages()).unwrap()
}

/// `tokenizer.json` may hold how its last user padded and cut; that is no part of the model.
#[test]
fn what_a_tokenizers_file_says_of_padding_and_length_is_left_alone() {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    stored["truncation"] = serde_json::json!({
        "direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0
    });
    stored["padding"] = serde_json::json!({
        "strategy": {"Fixed": 24}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "</s>"
    });
    std::fs::write(&path, stored.to_string()).unwrap();
    let base = BaseModel::open(copy.path().to_str().unwrap(), "main", &mut |_| {}).unwrap();

    let plain = tokenizer();
    let (stored, plain) = (&base.tokenizer, &plain);
    for passage in passages() {
        let prompt = |tokenizer| {
            let encoder = PassageEncoder {
                tokenizer,
                template: None,
                as_chat: false,
                end: Some(2),
                separator: "\n",
                learned: Learned::Completion,
                max_length: 64,
            };
            encoder.prompt(&passage).unwrap()
        };
        assert_eq!(prompt(stored), prompt(plain));
    }
    // The side from which a classifier's rows are cut is the tokenizer's own.
    let row = |tokenizer, max_length| {
        let example = Example {
            text: "The movie was good, and the end was fun!".into(),
            pair: None,
            target: None,
            line: 1,
        };
        let encoded = data::encode(tokenizer, &[example], max_length).unwrap();
        encoded.rows[0].input_ids.clone()
    };
    let whole = row(plain, 64);
    assert_eq!(row(stored, 64), whole);
    assert_eq!(row(stored, 6).last(), whole.last());
    assert_ne!(row(plain, 6).last(), whole.last());
}

const PADDING: Padding = Padding {
    id: 2,
    multiple_of: 1,
    max_length: 96,
};

/// The tolerance is that of `f32` logits of size 10, against `transformers` in double precision.
#[test]
fn logits_are_those_of_transformers_whatever_the_padding() {
    let expected =
        candle_core::safetensors::load(folder().join("expected.safetensors"), device()).unwrap();
    let ids = expected["input_ids"].to_dtype(DType::U32).unwrap();
    let mask: Vec<Vec<u32>> = expected["attention_mask"]
        .to_dtype(DType::U32)
        .unwrap()
        .to_vec2()
        .unwrap();
    let logits: Vec<Vec<Vec<f32>>> = expected["logits"].to_vec3().unwrap();
    let model = model(&Adapters::none(), DType::F32);
    let rows: Vec<Vec<u32>> = ids.to_vec2().unwrap();
    let sequences: Vec<Vec<u32>> = rows
        .iter()
        .zip(&mask)
        .map(|(row, mask)| row[..mask.iter().sum::<u32>() as usize].to_vec())
        .collect();
    let inputs = Inputs::padded(&sequences, 2, device()).unwrap();
    let hidden = model.hidden(&inputs, &Pass::eval()).unwrap();
    for (row, sequence) in sequences.iter().enumerate() {
        let got: Vec<Vec<f32>> = model
            .unembed(&hidden.get(row).unwrap())
            .unwrap()
            .to_vec2()
            .unwrap();
        for at in 0..sequence.len() {
            for (got, expected) in got[at].iter().zip(&logits[row][at]) {
                assert!(
                    (got - expected).abs() < 1e-4,
                    "row {row}, place {at}: {got} is not {expected}"
                );
            }
        }
    }
}

#[test]
fn greedy_generation_gives_the_tokens_of_transformers() {
    let text = std::fs::read_to_string(folder().join("generated.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    for dtype in [DType::F64, DType::F32] {
        let model = model(&Adapters::none(), dtype);
        for case in cases.as_array().unwrap() {
            let prompt: Vec<u32> = serde_json::from_value(case["prompt"].clone()).unwrap();
            let expected: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
            let stop = Stop {
                tokens: vec![2],
                max_new_tokens: 20,
            };
            let mut sampler = Sampler::new(SamplerOptions {
                repetition_penalty: case["repetition_penalty"].as_f64().unwrap(),
                ..SamplerOptions::default()
            });
            let mut cache = model.cache();
            let mut next = |unseen: &[u32]| {
                let scores = model.advance(unseen, &mut cache)?;
                Ok(scores.to_dtype(DType::F32)?.to_vec1()?)
            };
            let got = generate(&prompt, &stop, &mut sampler, &mut next, &mut |_| Ok(true)).unwrap();
            assert_eq!(got, expected, "{case}");
        }
    }
}

#[test]
fn a_cache_gives_the_logits_of_the_whole_sequence_however_it_is_cut() {
    let model = model(&Adapters::none(), DType::F64);
    let tokens: Vec<u32> = (0..12).map(|at| (7 * at + 5) % 110).collect();
    let inputs = Inputs::padded(std::slice::from_ref(&tokens), 2, device()).unwrap();
    let hidden = model
        .hidden(&inputs, &Pass::eval())
        .unwrap()
        .squeeze(0)
        .unwrap();
    let whole: Vec<Vec<f64>> = model.unembed(&hidden).unwrap().to_vec2().unwrap();
    for cuts in [vec![12], vec![1; 12], vec![5, 4, 3]] {
        let mut cache = model.cache();
        assert!(cache.is_empty());
        let mut start = 0;
        for cut in cuts {
            let logits = model
                .advance(&tokens[start..start + cut], &mut cache)
                .unwrap();
            start += cut;
            let logits: Vec<f64> = logits.to_vec1().unwrap();
            for (got, expected) in logits.iter().zip(&whole[start - 1]) {
                assert!((got - expected).abs() < 1e-10);
            }
            assert_eq!(cache.len(), start);
        }
    }
    let mut cache = model.cache();
    assert!(
        model.advance(&[5; 97], &mut cache).is_err(),
        "the model has 96 positions"
    );
}

#[test]
fn completions_are_learned_and_prompts_are_not_unless_asked() {
    let tokenizer = tokenizer();
    let learned = |learned| -> Vec<String> {
        let encoded = encoded(learned);
        encoded
            .rows
            .iter()
            .map(|row| {
                let Some(Target::Tokens(marks)) = &row.target else {
                    panic!("no marks")
                };
                let ids = row.input_ids.iter().zip(marks).filter(|(_, mark)| **mark);
                let ids: Vec<u32> = ids.map(|(id, _)| *id).collect();
                tokenizer.decode(&ids, false).unwrap()
            })
            .collect()
    };
    assert_eq!(
        learned(Learned::Completion)[0],
        "Blue Spice is a pub.<|im_end|>"
    );
    assert_eq!(learned(Learned::All)[2], "film\ndull<|im_end|>");
}

#[test]
fn packed_passages_do_not_see_each_other() {
    let model = model(&Adapters::none(), DType::F64);
    let rows = encoded(Learned::Completion);
    let packed = pack(&rows, 64);
    assert!(packed.rows.len() < rows.rows.len());
    let loss = |rows: &Encoded| {
        let evaluation = evaluate(&model, rows, PADDING, 2, device()).unwrap();
        (evaluation.loss, evaluation.scores)
    };
    let ((apart, scores), (together, packed_scores)) = (loss(&rows), loss(&packed));
    assert!(
        (apart - together).abs() < 1e-10,
        "{together} is not {apart}"
    );
    let tokens = |scores| match scores {
        autopeft::metrics::Scores::Tokens { tokens, .. } => tokens,
        other => panic!("{other:?}"),
    };
    assert_eq!(tokens(scores), tokens(packed_scores));
}

/// Gradients of every LoRA and norm against differences of the loss, on a padded and on a packed batch.
#[test]
fn gradients_equal_finite_differences() {
    let adapters = Adapters::superset(
        Superset {
            lora: Some(LoraPlan {
                rank_blocks: vec![2],
                scale: 0.5,
                dropout: 0.0,
            }),
            lora_targets: LoraTargets::AllLinear,
            bias: true,
            inert_bias: false,
            norm: true,
            bottleneck: None,
            base: false,
            exclude: Vec::new(),
        },
        5,
    );
    let model = model(&adapters, DType::F64);
    let parameters = adapters.parameters();
    // Seven projections with two halves each and two norms a layer, and the last norm.
    assert_eq!(parameters.len(), 2 * (7 * 2 + 2) + 1);
    let wave = |shape: &[usize], salt: f64| {
        let count: usize = shape.iter().product();
        let numbers: Vec<f64> = (0..count).map(|i| (1.7 * i as f64 + salt).sin()).collect();
        Tensor::from_vec(numbers, shape, device()).unwrap()
    };
    for parameter in &parameters {
        let noise = (wave(parameter.initial().dims(), parameter.index() as f64) * 0.2).unwrap();
        parameter
            .set(&(parameter.value() + noise).unwrap())
            .unwrap();
    }
    let rows = encoded(Learned::Completion);
    for rows in [rows.clone(), pack(&rows, 64)] {
        let all: Vec<usize> = (0..rows.rows.len()).collect();
        let batch: Batch = collate(&rows, &all, PADDING, device()).unwrap();
        let pass = Pass::gradients();
        let outcome = model.outcome(&batch, &pass).unwrap();
        let gradients = pass.backward(&outcome.scalar().unwrap()).unwrap();
        for parameter in &parameters {
            let direction = wave(parameter.initial().dims(), 0.4 + parameter.index() as f64);
            let value = parameter.value();
            let at = |step: f64| {
                parameter
                    .set(&(&value + (&direction * step).unwrap()).unwrap())
                    .unwrap();
                model.outcome(&batch, &Pass::eval()).unwrap().loss()
            };
            let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
            parameter.set(&value).unwrap();
            let exact: f64 = (gradients.get(parameter.index()).unwrap() * &direction)
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!(
                (numeric - exact).abs() < 1e-6 * (1.0 + exact.abs()),
                "{}: {exact} against {numeric}",
                parameter.module()
            );
        }
    }
}

#[test]
fn outputs_are_the_same_in_any_batch() {
    let model = model(&Adapters::none(), DType::F64);
    let rows = encoded(Learned::Completion);
    let alone = outputs(&model, &rows, PADDING, 1, device()).unwrap();
    let together = outputs(&model, &rows, PADDING, 5, device()).unwrap();
    for (a, b) in alone.iter().flatten().zip(together.iter().flatten()) {
        assert!((a - b).abs() < 1e-10);
    }
}
