//! The families compute what `transformers` and AdapterHub's `adapters` compute.

mod golden;

use std::collections::BTreeMap;

use autopeft::models::{self, Head, HeadSource, Inputs, ModelError, Pooling};
use autopeft_adapters::{Adapters, Pass};
use candle_core::{DType, Tensor};
use golden::{Golden, assert_close, device};

/// Golden numbers are exact values rounded to f32, so this bounds our own rounding.
const TOLERANCE: f64 = 1e-5;

fn logits(golden: &Golden, head: Head, dtype: DType) -> Tensor {
    let model = golden.model(&Adapters::none(), head, dtype);
    model
        .forward(&golden.inputs, &Pass::eval())
        .expect("logits")
}

#[test]
fn classifiers_have_the_logits_of_transformers() {
    let mut checked = Vec::new();
    for golden in Golden::all() {
        let Some(expected) = golden.expected.get("logits") else {
            continue;
        };
        for dtype in [DType::F32, DType::F64] {
            let got = logits(&golden, Head::new(3), dtype);
            let tolerance = golden.tolerance(TOLERANCE);
            assert_close(
                &got,
                expected,
                tolerance,
                tolerance,
                &format!("{} {dtype:?}", golden.name),
            );
        }
        checked.push(golden.config.model_type);
    }
    for model_type in models::SUPPORTED {
        assert!(
            checked.iter().any(|checked| checked == model_type),
            "no fixture of {model_type}"
        );
    }
}

/// A head that shows what it reads: as many labels as hidden units, the weight is the identity.
fn transparent(golden: &Golden, pooling: Pooling) -> Tensor {
    let hidden = golden.config.hidden_size;
    let adapters = Adapters::none();
    let head = Head {
        num_labels: hidden,
        pooling,
        source: HeadSource::Fresh,
    };
    let model = golden.model(&adapters, head, DType::F32);
    for parameter in adapters.parameters() {
        assert_eq!(parameter.module(), "classifier");
        let value = match parameter.name().as_str() {
            "classifier.weight" => Tensor::eye(hidden, DType::F32, device()),
            _ => Tensor::zeros(hidden, DType::F32, device()),
        };
        parameter
            .set(&value.expect("a tensor"))
            .expect("the same shape");
    }
    model
        .forward(&golden.inputs, &Pass::eval())
        .expect("logits")
}

#[test]
fn mean_pooling_has_the_mean_over_the_tokens_of_every_checkpoint() {
    for golden in Golden::all() {
        let got = transparent(&golden, Pooling::Mean);
        assert_close(
            &got,
            &golden.expected["mean_pooled"],
            golden.tolerance(TOLERANCE),
            golden.tolerance(TOLERANCE),
            &golden.name,
        );
    }
}

/// What `transformers` computes of a row over many draws of its dropout, attention probabilities apart.
#[derive(serde::Deserialize)]
struct Dropped {
    row: Vec<u32>,
    rate: f64,
    draws: f64,
    mean: Vec<f64>,
    std: Vec<f64>,
}

/// Without any one of the places a mean or a standard deviation changes by 2.9 % of the deviation or more, measured in `transformers`;
/// the bound is 1.7 %.
#[test]
fn what_is_dropped_is_dropped_where_transformers_drops_it() {
    const COPIES: usize = 512;
    const PASSES: u64 = 200;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dropout.json");
    let json = std::fs::read(file).expect("the fixture is committed");
    let all: BTreeMap<String, Dropped> = serde_json::from_slice(&json).expect("its fields");
    assert_eq!(all.len(), 6);
    for (name, expected) in all {
        let golden = Golden::open(&name);
        let model = golden.model(&Adapters::none(), Head::new(3), DType::F32);
        let shape = (COPIES, expected.row.len());
        let input_ids = Tensor::from_vec(expected.row.repeat(COPIES), shape, device());
        let input_ids = input_ids.expect("token numbers");
        let inputs = Inputs {
            attention_mask: input_ids.ones_like().expect("a mask"),
            token_type_ids: input_ids.zeros_like().expect("token types"),
            input_ids,
            segments: None,
        };
        let (mut sum, mut squares) = ([0.0; 3], [0.0; 3]);
        for seed in 0..PASSES {
            let pass = Pass::train_dropping(seed, expected.rate);
            let logits = model.forward(&inputs, &pass).expect("logits");
            for row in logits.to_vec2::<f32>().expect("three labels a row") {
                for (label, logit) in row.into_iter().enumerate() {
                    sum[label] += f64::from(logit);
                    squares[label] += f64::from(logit).powi(2);
                }
            }
        }
        let draws = (COPIES as u64 * PASSES) as f64;
        for label in 0..3 {
            let mean = sum[label] / draws;
            let std = (squares[label] / draws - mean * mean).sqrt();
            // Four and a half standard errors of the difference of two means; those of the deviations are smaller.
            let bound = 4.5 * std * (1.0 / draws + 1.0 / expected.draws).sqrt();
            let what = format!(
                "{name}, label {label}: {mean} ± {std}, expected {} ± {}",
                expected.mean[label], expected.std[label]
            );
            assert!((mean - expected.mean[label]).abs() < bound, "{what}");
            assert!((std - expected.std[label]).abs() < bound, "{what}");
        }
    }
}

#[test]
fn the_pooler_of_a_bare_encoder_is_used() {
    let golden = Golden::open("bert-bare");
    let got = transparent(&golden, Pooling::Default);
    assert_close(
        &got,
        &golden.expected["pooler_output"],
        TOLERANCE,
        TOLERANCE,
        "pooler",
    );
}

#[test]
fn half_precision_stays_close() {
    let golden = Golden::open("bert");
    for dtype in [DType::BF16, DType::F16] {
        let got = logits(&golden, Head::new(3), dtype);
        // bf16 has 8 bits of mantissa, and logits are of size 1.
        assert_close(
            &got,
            &golden.expected["logits"],
            0.05,
            0.05,
            &format!("{dtype:?}"),
        );
    }
}

#[test]
fn head_modules_that_the_checkpoint_lacks_start_fresh_and_are_listed() {
    let cases: [(&str, &[&str]); 7] = [
        ("bert", &[]),
        ("bert-bare", &["classifier"]),
        ("bert-bare-no-pooler", &["bert.pooler.dense", "classifier"]),
        ("roberta", &[]),
        ("roberta-bare", &["classifier.dense", "classifier.out_proj"]),
        (
            "roberta-masked-lm",
            &["classifier.dense", "classifier.out_proj"],
        ),
        ("distilbert-bare", &["pre_classifier", "classifier"]),
    ];
    for (name, expected) in cases {
        let golden = Golden::open(name);
        let adapters = Adapters::none();
        let model = golden.model(&adapters, Head::new(3), DType::F32);
        assert_eq!(adapters.fresh(), expected, "{name}");
        assert_eq!(model.num_labels(), 3);
    }
}

#[test]
fn a_head_for_another_number_of_labels_is_refused_unless_a_fresh_one_is_asked_for() {
    for name in ["bert", "roberta", "distilbert"] {
        let golden = Golden::open(name);
        let load = |source| {
            let head = Head {
                source,
                ..Head::new(5)
            };
            let adapters = Adapters::none();
            models::load(
                &golden.config,
                &golden.checkpoint,
                &adapters,
                head,
                DType::F32,
                device(),
            )
        };
        let error = load(HeadSource::Checkpoint).expect_err("another shape");
        let text = error.to_string();
        assert!(
            text.contains("[3, 16]") && text.contains("[5, 16]"),
            "{text}"
        );
        assert!(error.hint().expect("a hint").contains("fresh head"));
        let model = load(HeadSource::Fresh).expect("a fresh head");
        let got = model
            .forward(&golden.inputs, &Pass::eval())
            .expect("logits");
        assert_eq!(got.dim(1).expect("a matrix"), 5);
    }
}

#[test]
fn padding_and_company_change_no_logits() {
    for name in ["bert", "roberta", "distilbert"] {
        let golden = Golden::open(name);
        let model = golden.model(&Adapters::none(), Head::new(3), DType::F64);
        let mask = golden
            .inputs
            .attention_mask
            .to_vec2::<u32>()
            .expect("a matrix");
        let lengths: Vec<usize> = mask
            .iter()
            .map(|row| row.iter().sum::<u32>() as usize)
            .collect();
        assert!(
            lengths.iter().min() < lengths.iter().max(),
            "{name}: all of one length"
        );
        let together = model
            .forward(&golden.inputs, &Pass::eval())
            .expect("logits");
        for (row, &length) in lengths.iter().enumerate() {
            let cut = |tensor: &Tensor| {
                tensor
                    .narrow(0, row, 1)
                    .and_then(|row| row.narrow(1, 0, length)?.contiguous())
                    .expect("a row")
            };
            let alone = Inputs {
                segments: None,
                input_ids: cut(&golden.inputs.input_ids),
                token_type_ids: cut(&golden.inputs.token_type_ids),
                attention_mask: cut(&golden.inputs.attention_mask),
            };
            let alone = model.forward(&alone, &Pass::eval()).expect("logits");
            let expected = together.narrow(0, row, 1).expect("a row");
            assert_close(&alone, &expected, 0.0, 1e-12, &format!("{name}, row {row}"));
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let golden = Golden::open("roberta");
    let model = golden.model(&Adapters::none(), Head::new(3), DType::F32);
    let run = |inputs: &Inputs| model.forward(inputs, &Pass::eval());
    let padded = |sequences: &[Vec<u32>]| Inputs::padded(sequences, 1, device()).expect("a batch");

    // 42 rows of positions, two of them for numbers up to the padding token.
    assert!(run(&padded(&[vec![5; 40]])).is_ok());
    let error = run(&padded(&[vec![5; 41]])).expect_err("too long");
    assert_eq!(
        error.to_string(),
        "a sequence of 41 tokens is longer than the model's 40 positions"
    );

    let beyond = u32::try_from(golden.config.vocab_size).expect("a small vocabulary");
    let error = run(&padded(&[vec![5], vec![5, beyond]])).expect_err("no such token");
    assert!(
        error
            .to_string()
            .starts_with("example 1, token 1: token id is"),
        "{error}"
    );

    let mut inputs = padded(&[vec![5, 6]]);
    inputs.token_type_ids = Tensor::ones((1, 2), DType::U32, device()).expect("ones");
    let error = run(&inputs).expect_err("no such type");
    assert!(matches!(
        error,
        ModelError::OutOfVocabulary {
            what: "token type",
            ..
        }
    ));

    inputs.attention_mask = Tensor::ones((1, 3), DType::U32, device()).expect("ones");
    assert!(matches!(
        run(&inputs),
        Err(ModelError::Inputs {
            name: "attention_mask",
            ..
        })
    ));
    assert!(matches!(run(&padded(&[])), Err(ModelError::Inputs { .. })));
}

#[test]
fn a_configuration_of_another_model_is_refused_with_both_shapes() {
    let mut golden = Golden::open("distilbert");
    golden.config.intermediate_size = 48;
    let error = models::load(
        &golden.config,
        &golden.checkpoint,
        &Adapters::none(),
        Head::new(3),
        DType::F32,
        device(),
    )
    .expect_err("another shape");
    assert!(matches!(error, ModelError::Checkpoint(_)), "{error:?}");
    let text = error.to_string();
    for part in ["ffn.lin1.weight", "[32, 16]", "[48, 16]"] {
        assert!(text.contains(part), "{part} not in: {text}");
    }
    assert!(error.hint().is_some());
}
