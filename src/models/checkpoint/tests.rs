#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;

/// Name, type, shape and little-endian values of a tensor to write.
type Spec<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

fn f32s(name: &str, shape: &[usize], values: &[f32]) -> (String, Dtype, Vec<usize>, Vec<u8>) {
    (
        name.into(),
        Dtype::F32,
        shape.to_vec(),
        values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    )
}

fn serialized(tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views: BTreeMap<_, _> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            (
                name.clone(),
                TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
            )
        })
        .collect();
    safetensors::serialize(views, None).unwrap()
}

fn in_memory(tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::from_bytes("test", serialized(tensors)).unwrap())
}

fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let map: BTreeMap<_, _> = entries.iter().copied().collect();
    serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map})
        .to_string()
        .into_bytes()
}

#[test]
fn one_file_is_read_with_names_shapes_and_types() {
    let dir = folder(&[(
        SINGLE_FILE,
        serialized(&[
            f32s("b", &[2], &[1., 2.]),
            f32s("a", &[1, 3], &[1., 2., 3.]),
        ]),
    )]);
    let checkpoint = Checkpoint::open_folder(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.shape("a"), Some([1, 3].as_slice()));
    assert_eq!(checkpoint.dtype("a"), Some(DType::F32));
    assert_eq!(checkpoint.num_parameters(), 5);
    let values = checkpoint
        .tensor("b", DType::F32, &Device::Cpu)
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    assert_eq!(values, [1., 2.]);
}

/// Names and shapes as in `gpt2`, Pythia and BERT on the hub, smaller.
#[test]
fn masks_and_other_buffers_are_no_parameters() {
    let zeros = |name: &str, shape: &[usize]| {
        let count = shape.iter().product();
        f32s(name, shape, &vec![0.0; count])
    };
    let checkpoint = in_memory(&[
        zeros("h.0.attn.bias", &[1, 1, 8, 8]),
        zeros("h.0.attn.masked_bias", &[]),
        zeros("h.0.attn.c_attn.bias", &[6]),
        zeros("layers.0.attention.bias", &[1, 1, 8, 8]),
        zeros("layers.0.attention.masked_bias", &[]),
        zeros("layers.0.attention.rotary_emb.inv_freq", &[4]),
        zeros("layers.0.attention.dense.weight", &[2, 3]),
        (
            "embeddings.position_ids".into(),
            Dtype::I64,
            vec![1, 8],
            vec![0; 64],
        ),
        (
            "h.1.attn.bias".into(),
            Dtype::BOOL,
            vec![1, 1, 2, 2],
            vec![0; 4],
        ),
        ("wte.weight".into(), Dtype::BF16, vec![2, 2], vec![0; 8]),
    ]);
    assert_eq!(checkpoint.num_parameters(), 6 + 6 + 4);
}

/// Their first bytes are those of a web page and of a pickle.
#[test]
fn a_header_of_any_length_is_read() {
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    for length in [60, 640] {
        let mut file = u64::to_le_bytes(length).to_vec();
        file.extend(format!("{header:<width$}", width = length as usize).into_bytes());
        file.extend(1f32.to_le_bytes());
        let files = folder(&[(SINGLE_FILE, file.clone())]);
        for checkpoint in [
            Checkpoint::open_folder(files.path()),
            Checkpoint::from_bytes("test", file),
        ] {
            let checkpoint = checkpoint.unwrap();
            assert_eq!(checkpoint.num_parameters(), 1, "a header of {length} bytes");
        }
    }
}

#[test]
fn every_float_type_is_converted_to_the_wanted_one() {
    let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
    let brain = |v: f32| half::bf16::from_f32(v).to_le_bytes();
    let specs: Vec<Spec> = vec![
        ("f16", Dtype::F16, vec![2], [half(1.5), half(-2.)].concat()),
        (
            "bf16",
            Dtype::BF16,
            vec![2],
            [brain(1.5), brain(-2.)].concat(),
        ),
        (
            "f32",
            Dtype::F32,
            vec![2],
            [1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat(),
        ),
        (
            "f64",
            Dtype::F64,
            vec![2],
            [1.5f64.to_le_bytes(), (-2f64).to_le_bytes()].concat(),
        ),
    ];
    let specs: Vec<_> = specs
        .into_iter()
        .map(|(n, d, s, b)| (n.to_string(), d, s, b))
        .collect();
    let checkpoint = in_memory(&specs);
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let vb = checkpoint.var_builder("", dtype, &Device::Cpu);
        for name in ["f16", "bf16", "f32", "f64"] {
            let tensor = vb.get(2, name).unwrap();
            assert_eq!(tensor.dtype(), dtype, "{name}");
            assert_eq!(
                tensor
                    .to_dtype(DType::F64)
                    .unwrap()
                    .to_vec1::<f64>()
                    .unwrap(),
                [1.5, -2.],
                "{name}"
            );
        }
    }
}

#[test]
fn bytes_in_the_binary_are_read_without_a_copy_of_the_file() {
    let bytes: &'static [u8] = Box::leak(serialized(&[f32s("a", &[1], &[4.])]).into_boxed_slice());
    let checkpoint = Checkpoint::from_bytes("embedded", bytes).unwrap();
    assert_eq!(
        checkpoint
            .tensor("a", DType::F32, &Device::Cpu)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap(),
        [4.]
    );
}

#[test]
fn a_bare_encoder_answers_to_the_names_of_the_task_model() {
    let checkpoint = in_memory(&[
        f32s("encoder.w", &[1], &[7.]),
        f32s("embeddings.LayerNorm.gamma", &[1], &[8.]),
    ]);
    let vb = checkpoint.var_builder("bert", DType::F32, &Device::Cpu);
    assert_eq!(
        vb.pp("bert")
            .pp("encoder")
            .get(1, "w")
            .unwrap()
            .to_vec1::<f32>()
            .unwrap(),
        [7.]
    );
    assert_eq!(
        vb.get(1, "bert.embeddings.LayerNorm.weight")
            .unwrap()
            .to_vec1::<f32>()
            .unwrap(),
        [8.]
    );
    assert!(vb.contains_tensor("bert.embeddings.LayerNorm.weight"));
    assert!(!vb.contains_tensor("bert.embeddings.LayerNorm.bias"));
    assert!(!vb.contains_tensor("classifier.weight"));
}

#[test]
fn a_task_model_is_not_read_under_stripped_names() {
    let checkpoint = in_memory(&[f32s("bert.w", &[1], &[7.]), f32s("w2", &[1], &[1.])]);
    let vb = checkpoint.var_builder("bert", DType::F32, &Device::Cpu);
    assert!(vb.contains_tensor("bert.w"));
    assert!(!vb.contains_tensor("bert.w2"));
}

#[test]
fn a_missing_tensor_is_named_with_its_neighbours_and_the_file() {
    let checkpoint = in_memory(&[f32s("encoder.layer.0.query.weight", &[1], &[7.])]);
    let vb = checkpoint.var_builder("bert", DType::F32, &Device::Cpu);
    let text = vb
        .get(1, "bert.encoder.layer.0.quary.weight")
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "the tensor `bert.encoder.layer.0.quary.weight` is not in `test`; similar names there: `encoder.layer.0.query.weight`"
    );
    assert!(matches!(
        checkpoint.take_failure(),
        Some(CheckpointError::MissingTensor { .. })
    ));
    assert!(checkpoint.take_failure().is_none());
}

#[test]
fn a_mis_shaped_tensor_is_named_with_both_shapes() {
    let checkpoint = in_memory(&[f32s("a", &[2, 1], &[1., 2.])]);
    let text = checkpoint
        .var_builder("", DType::F32, &Device::Cpu)
        .get((1, 2), "a")
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "the tensor `a` in `test` has shape [2, 1], the model needs [1, 2]"
    );
}

#[test]
fn nan_weights_are_refused_with_count_and_position() {
    let checkpoint = in_memory(&[
        f32s("a", &[2, 2], &[1., 2., f32::NAN, f32::INFINITY]),
        f32s("b", &[1], &[1.]),
    ]);
    let vb = checkpoint.var_builder("", DType::F32, &Device::Cpu);
    let text = vb.get((2, 2), "a").unwrap_err().to_string();
    assert_eq!(
        text,
        "the tensor `a` in `test` has 2 values that are NaN or infinite, the first at [1, 0] of [2, 2]"
    );
    assert!(vb.get(1, "b").is_ok());
}

#[test]
fn values_that_overflow_the_wanted_type_are_refused() {
    let checkpoint = in_memory(&[f32s("a", &[2], &[1., 1e6])]);
    let error = checkpoint
        .tensor("a", DType::F16, &Device::Cpu)
        .unwrap_err();
    assert!(
        matches!(error, CheckpointError::OutOfRange { count: 1, .. }),
        "{error}"
    );
}

#[test]
fn integer_tensors_are_refused_only_when_asked_for() {
    let specs = [
        ("ids".to_string(), Dtype::I64, vec![1], vec![0; 8]),
        f32s("a", &[1], &[1.]),
    ];
    let checkpoint = in_memory(&specs);
    assert!(checkpoint.tensor("a", DType::F32, &Device::Cpu).is_ok());
    let text = checkpoint
        .tensor("ids", DType::F32, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(text.contains("stored as I64"), "{text}");
}

#[test]
fn damaged_files_are_refused_with_file_and_reason() {
    let whole = serialized(&[f32s("a", &[4], &[1., 2., 3., 4.])]);
    let cut = whole.get(..whole.len() - 3).unwrap().to_vec();
    let longer = [whole.clone(), vec![0]].concat();
    let in_header = whole.get(..12).unwrap().to_vec();
    let mut bad_json = whole.clone();
    *bad_json.get_mut(9).unwrap() = b'!';
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("empty", Vec::new(), "empty"),
        ("cut", cut, "cut off"),
        ("longer", longer, "was changed"),
        ("cut in the header", in_header, "cut off"),
        ("five bytes", vec![1; 5], "5 bytes"),
        ("bad json", bad_json, "JSON"),
        (
            "lfs",
            b"version https://git-lfs.github.com/spec/v1\noid".to_vec(),
            "git lfs pull",
        ),
        ("zip", b"PK\x03\x04abcdefgh".to_vec(), "pickled"),
        ("html", b"<!doctype html><html>".to_vec(), "web page"),
    ];
    for (case, bytes, expected) in cases {
        let dir = folder(&[(SINGLE_FILE, bytes.clone())]);
        let on_disk = Checkpoint::open_folder(dir.path()).unwrap_err().to_string();
        assert!(
            on_disk.contains(expected) && on_disk.contains(SINGLE_FILE),
            "{case}: {on_disk}"
        );
        let in_memory = Checkpoint::from_bytes("embedded", bytes)
            .unwrap_err()
            .to_string();
        assert!(
            in_memory.contains(expected) && in_memory.contains("embedded"),
            "{case}: {in_memory}"
        );
    }
}

#[test]
fn shards_of_an_index_are_read_as_one_checkpoint() {
    let dir = folder(&[
        ("1.safetensors", serialized(&[f32s("a", &[1], &[1.])])),
        ("2.safetensors", serialized(&[f32s("b", &[1], &[2.])])),
        (
            INDEX_FILE,
            index(&[("a", "1.safetensors"), ("b", "2.safetensors")]),
        ),
    ]);
    let checkpoint = Checkpoint::open_folder(dir.path()).unwrap();
    assert_eq!(
        checkpoint
            .tensor("b", DType::F32, &Device::Cpu)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap(),
        [2.]
    );
    assert_eq!(checkpoint.names().count(), 2);
}

#[test]
fn a_tensor_in_another_shard_than_promised_is_named() {
    let dir = folder(&[
        ("1.safetensors", serialized(&[f32s("a", &[1], &[1.])])),
        ("2.safetensors", serialized(&[f32s("b", &[1], &[2.])])),
        (
            INDEX_FILE,
            index(&[
                ("a", "1.safetensors"),
                ("b", "2.safetensors"),
                ("c", "2.safetensors"),
            ]),
        ),
    ]);
    let error = Checkpoint::open_folder(dir.path()).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::NotInShard { name, shard, .. } if name == "c" && shard == "2.safetensors"),
        "{error}"
    );
}

#[test]
fn the_same_tensor_in_two_files_is_refused() {
    let bytes = serialized(&[f32s("a", &[1], &[1.])]);
    let dir = folder(&[("1.safetensors", bytes.clone()), ("2.safetensors", bytes)]);
    let files = ["1.safetensors", "2.safetensors"].map(|name| dir.path().join(name));
    assert!(matches!(
        Checkpoint::open(&files).unwrap_err(),
        CheckpointError::Duplicate { .. }
    ));
}

#[test]
fn every_error_but_a_device_failure_says_what_to_do() {
    let dir = folder(&[("pytorch_model.bin", vec![1])]);
    assert!(
        Checkpoint::open_folder(dir.path())
            .unwrap_err()
            .hint()
            .is_some()
    );
    assert!(
        Checkpoint::open(&[dir.path().join("none")])
            .unwrap_err()
            .hint()
            .is_some()
    );
}
