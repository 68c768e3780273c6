//! Whole files through `load`: every format, every fault.

use std::{fs, path::PathBuf, sync::Arc};

use ::parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type},
    file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use tempfile::TempDir;
use tokenizers::Tokenizer;

use super::*;

/// Words `a b c d` with the template of BERT.
pub(super) fn tokenizer() -> Tokenizer {
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let token = |id: &str| serde_json::json!({"SpecialToken": {"id": id, "type_id": 0}});
    let last = serde_json::json!({"SpecialToken": {"id": "[SEP]", "type_id": 1}});
    let text = |id: &str, kind: u32| serde_json::json!({"Sequence": {"id": id, "type_id": kind}});
    let named =
        |id: &str, number: u32| serde_json::json!({"id": id, "ids": [number], "tokens": [id]});
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [token("[CLS]"), text("A", 0), token("[SEP]")],
            "pair": [token("[CLS]"), text("A", 0), token("[SEP]"), text("B", 1), last],
            "special_tokens": {"[CLS]": named("[CLS]", 2), "[SEP]": named("[SEP]", 3)}},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6, "d": 7}},
    });
    Tokenizer::from_bytes(json.to_string()).expect("a valid tokenizer")
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().expect("temporary folder"))
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).expect("writable");
        path
    }
}

/// Loads `content` as a file of this name, half of it for validation.
fn load_as(name: &str, content: impl AsRef<[u8]>) -> Result<Dataset, DataError> {
    load_with(name, content, |_| ())
}

fn load_with(
    name: &str,
    content: impl AsRef<[u8]>,
    change: impl FnOnce(&mut DataSpec),
) -> Result<Dataset, DataError> {
    let files = Files::new();
    let mut spec = DataSpec::new(files.write(name, content));
    spec.validation_share = 0.5;
    change(&mut spec);
    load(&spec)
}

/// The message and hint of a fault, without the folder.
fn fault(name: &str, content: impl AsRef<[u8]>) -> (String, String) {
    let files = Files::new();
    let mut spec = DataSpec::new(files.write(name, content));
    spec.validation_share = 0.5;
    let error = load(&spec).expect_err("a fault");
    let folder = format!("{}/", files.0.path().display());
    (
        error.to_string().replace(&folder, ""),
        error.hint().unwrap_or_default(),
    )
}

/// All rows as `line:text|pair=label`, in the order of the file.
fn rows(data: &Dataset) -> Vec<String> {
    let mut all: Vec<&Example> = data.train.iter().chain(&data.validation).collect();
    all.sort_by_key(|example| example.line);
    let show = |example: &Example| {
        let label = example
            .class()
            .and_then(|label| data.labels.name(label))
            .unwrap_or("-");
        let pair = example
            .pair
            .as_ref()
            .map(|pair| format!("|{pair}"))
            .unwrap_or_default();
        format!("{}:{}{pair}={label}", example.line, example.text)
    };
    all.into_iter().map(show).collect()
}

const FOUR: &str = "text,label\na,x\nb,y\nc,x\nd,y\n";

#[test]
fn every_format_gives_the_same_rows() {
    let jsonl = "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\"}\n\
                 {\"label\":\"x\",\"text\":\"c\"}\n{\"text\":\"d\",\"label\":\"y\",\"id\":4}\n";
    let parquet = parquet_file(
        &["a", "b", "c", "d"],
        Column::Texts(&["x", "y", "x", "y"]),
        None,
    );
    let expected = load_as("f.jsonl", jsonl).expect("jsonl");
    assert_eq!(rows(&expected), ["1:a=x", "2:b=y", "3:c=x", "4:d=y"]);
    assert_eq!(expected.columns.unused, ["id"]);
    for (name, content) in [
        ("f.json", jsonl.as_bytes()),
        ("f.csv", FOUR.as_bytes()),
        ("f.tsv", FOUR.replace(',', "\t").as_bytes()),
        ("f.parquet", parquet.as_slice()),
    ] {
        let data = load_as(name, content).unwrap_or_else(|error| panic!("{name}: {error}"));
        let texts = |rows: &[Example]| rows.iter().map(|row| row.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&data.train), texts(&expected.train), "{name}");
        assert_eq!(
            texts(&data.validation),
            texts(&expected.validation),
            "{name}"
        );
        assert_eq!(data.labels.names(), ["x", "y"], "{name}");
        assert_eq!(
            (data.train.len(), data.skipped.len(), data.overlap),
            (2, 0, 0),
            "{name}"
        );
    }
}

#[test]
fn byte_order_mark_carriage_returns_and_blank_lines_change_nothing() {
    let csv = "\u{feff}text,label\r\n\r\na,x\r\n\r\n\r\nb,y\r\nc,x\r\nd,y";
    assert_eq!(
        rows(&load_as("f.csv", csv).expect("csv")),
        ["3:a=x", "6:b=y", "7:c=x", "8:d=y"]
    );
    let line = |text, label| format!("{{\"text\":\"{text}\",\"label\":{label}}}\r\n");
    let jsonl = format!(
        "\u{feff}{}\r\n \n{}{}{}",
        line("a", 0),
        line("b", 1),
        line("c", 0),
        line("d", 1)
    );
    assert_eq!(
        rows(&load_as("f.jsonl", jsonl).expect("jsonl")),
        ["1:a=0", "4:b=1", "5:c=0", "6:d=1"]
    );
}

#[test]
fn pairs_and_quoted_fields_are_read() {
    let csv = "idx,premise,hypothesis,label\n0,\"one, \"\"two\"\"\nlines\",b,1\n1,c,d,0\n2,e,f,1\n3,g,h,0\n";
    let data = load_as("f.csv", csv).expect("csv");
    assert_eq!(rows(&data)[0], "2:one, \"two\"\nlines|b=1");
    assert_eq!(rows(&data)[1], "4:c|d=0");
}

#[test]
fn raw_tsv_keeps_quotes_and_rows() {
    let raw = "sentence\tlabel\n\"quoted\" start\t1\n\"never closed\t0\nplain\t1\nend\"\t0\n";
    let data = load_as("f.tsv", raw).expect("tsv");
    assert_eq!(
        rows(&data),
        [
            "2:\"quoted\" start=1",
            "3:\"never closed=0",
            "4:plain=1",
            "5:end\"=0"
        ]
    );
    let quoted = "sentence\tlabel\n\"a\tb\"\t1\n\"say \"\"c\"\"\"\t0\nd\t1\ne\t0\n";
    let data = load_as("f.tsv", quoted).expect("tsv");
    assert_eq!(rows(&data)[..2], ["2:a\tb=1", "3:say \"c\"=0"]);
}

#[test]
fn integer_boolean_and_padded_labels_are_classes() {
    let data = load_as("f.csv", "text,label\na,10\nb,9\nc,10\nd, 9 \n").expect("csv");
    assert_eq!(data.labels.names(), ["9", "10"]);
    let line = |label| format!("{{\"text\":\"a\",\"label\":{label}}}\n");
    let data = load_as("f.jsonl", [line("true"), line("false")].concat().repeat(2)).expect("jsonl");
    assert_eq!(data.labels.names(), ["false", "true"]);
    assert_eq!(data.overlap, 2, "the same text on both sides is told");
}

#[test]
fn parquet_integers_get_the_class_names_of_the_file() {
    let metadata =
        r#"{"info":{"features":{"label":{"names":["neg","pos","mixed"],"_type":"ClassLabel"}}}}"#;
    let texts = ["a", "b", "c", "d"];
    let file = parquet_file(&texts, Column::Longs(&[1, 0, 1, 0]), Some(metadata));
    let data = load_as("f.parquet", &file).expect("parquet");
    assert_eq!(data.labels.names(), ["neg", "pos", "mixed"]);
    assert_eq!(rows(&data), ["1:a=pos", "2:b=neg", "3:c=pos", "4:d=neg"]);

    let file = parquet_file(&texts, Column::Longs(&[1, -1, 3, 0]), Some(metadata));
    let (message, _) = fault("f.parquet", &file);
    assert!(
        message.contains("f.parquet, row 2: label `label` is -1, which marks rows without"),
        "{message}"
    );
    assert!(
        message.contains("row 3: label `label` is 3, but the file names 3 classes"),
        "{message}"
    );

    let data = load_as(
        "f.parquet",
        parquet_file(&texts, Column::Longs(&[1, 0, 1, 0]), None),
    );
    assert_eq!(data.expect("parquet").labels.names(), ["0", "1"]);
}

#[test]
fn parquet_in_memory_is_read() {
    let bytes = parquet_file(&["a", "b", "c", "d"], Column::Longs(&[1, 0, 1, 0]), None);
    let source = Source::Memory {
        name: "m".into(),
        format: Format::Parquet,
        bytes: bytes.into(),
    };
    let loaded = load_unlabelled(&source, &ColumnNames::default(), false).expect("parquet");
    assert_eq!(loaded.rows.len(), 4);
    assert_eq!(loaded.columns.unused, ["label"]);
}

#[test]
fn broken_parquet_is_told() {
    let whole = parquet_file(&["a", "b"], Column::Longs(&[1, 0]), None);
    for (content, part) in [
        (
            &whole[..whole.len() - 9],
            "cannot read `f.parquet` as Parquet",
        ),
        (b"text,label\na,b\n", "cannot read `f.parquet` as Parquet"),
        (b"", "`f.parquet` is empty"),
    ] {
        let (message, hint) = fault("f.parquet", content);
        assert!(message.starts_with(part), "{message}");
        assert!(!hint.is_empty());
    }
    let file = parquet_file(&["a", "b"], Column::Doubles(&[0.5, 1.0]), None);
    let (message, _) = fault("f.parquet", file);
    assert!(
        message.contains("row 1: label `label` is the fraction 0.5"),
        "{message}"
    );
    let dates = "message m { required binary text (UTF8); required int32 label (DATE); }";
    let (message, _) = fault(
        "f.parquet",
        parquet_with(dates, &["a"], Column::Ints(&[1]), None),
    );
    assert_eq!(
        message,
        "column `label` of `f.parquet` holds DATE; text, integers or booleans are needed"
    );
}

#[test]
fn no_damaged_byte_of_a_parquet_file_ends_the_program() {
    let whole = parquet_file(&["a", "b"], Column::Texts(&["x", "y"]), None);
    let mut refused = 0;
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 0xff;
        let source = Source::Memory {
            name: "m".into(),
            format: Format::Parquet,
            bytes: bytes.into(),
        };
        match load_unlabelled(&source, &ColumnNames::default(), false) {
            Ok(_) => (),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > whole.len() / 4, "{refused} of {}", whole.len());
}

#[test]
fn a_missing_file_or_folder_is_named() {
    let files = Files::new();
    for path in [
        files.0.path().join("none.jsonl"),
        files.0.path().join("dir.csv"),
    ] {
        fs::create_dir_all(files.0.path().join("dir.csv")).expect("folder");
        let error = load(&DataSpec::new(path.clone())).expect_err("cannot read");
        assert!(matches!(error, DataError::Read { .. }), "{error}");
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    }
}

#[test]
fn files_without_rows_are_told() {
    for name in ["f.jsonl", "f.csv", "f.tsv", "f.txt"] {
        assert_eq!(fault(name, "").0, format!("`{name}` is empty"));
        assert_eq!(fault(name, "\u{feff}\n \n").0, format!("`{name}` is empty"));
    }
    let (message, _) = fault("f.csv", "text,label\n");
    assert_eq!(message, "`f.csv` has columns (`text`, `label`) but no rows");
    let (message, _) = fault("f.parquet", parquet_file(&[], Column::Longs(&[]), None));
    assert_eq!(
        message,
        "`f.parquet` has columns (`text`, `label`) but no rows"
    );
}

#[test]
fn bad_json_rows_are_told_with_line_and_reason() {
    let jsonl = "{\"text\":\"a\",\"label\":1}\n\n{\"text\":\"b\",\"label\":1\n[1]\n{\"text\":\"c\"}\n\
        {\"text\":\"d\",\"label\":null}\n{\"text\":\"e\",\"label\":0.5}\n{\"text\":\" \",\"label\":1}\n\
        {\"text\":7,\"label\":1}\n{\"text\":[\"x\"],\"label\":1}\n{\"text\":\"f\",\"label\":{}}\n";
    let (message, hint) = fault("f.jsonl", jsonl);
    assert_eq!(
        message,
        "9 of 10 rows of `f.jsonl` cannot be used\n  \
         f.jsonl, line 3: not JSON: EOF while parsing an object (column 21)\n  \
         f.jsonl, line 4: the row is an array, not an object\n  \
         f.jsonl, line 5: label `label` is missing or empty\n  \
         f.jsonl, line 6: label `label` is missing or empty\n  \
         f.jsonl, line 7: label `label` is the fraction 0.5; classes are integers or strings\n  \
         f.jsonl, line 8: `text` is empty\n  \
         f.jsonl, line 9: `text` is a number, not a text\n  \
         f.jsonl, line 10: `text` is an array, not a text\n  \
         f.jsonl, line 11: label `label` is an object, not an integer or string"
    );
    assert!(hint.contains("--skip-bad-rows"), "{hint}");
}

#[test]
fn bad_csv_rows_are_told_with_line_and_reason() {
    let mut csv = b"text,label\na,1\nb\nc,1,x\n,1\nd,\ne,3.8\n".to_vec();
    csv.extend_from_slice(b"\xff\xfe,1\n\"f,1\ng,0\n");
    let (message, _) = fault("f.csv", csv);
    assert_eq!(
        message,
        "7 of 8 rows of `f.csv` cannot be used\n  \
         f.csv, line 3: 1 fields, but the header has 2\n  \
         f.csv, line 4: 3 fields, but the header has 2\n  \
         f.csv, line 5: `text` is missing or empty\n  \
         f.csv, line 6: label `label` is missing or empty\n  \
         f.csv, line 7: label `label` is the fraction 3.8; classes are integers or strings\n  \
         f.csv, line 8: not UTF-8 text (byte 1 of it)\n  \
         f.csv, line 9: a quote opened in this row is never closed"
    );
}

#[test]
fn a_json_array_is_told_how_to_become_lines() {
    for array in [
        "[\n{\"text\":\"a\",\"label\":1}\n]\n",
        "[{\"text\":\"a\",\"label\":1}]",
    ] {
        let (message, hint) = fault("f.json", array);
        assert_eq!(message, "`f.json` is one JSON array, not JSON lines");
        assert!(hint.contains("jq -c"), "{hint}");
    }
}

#[test]
fn the_message_shows_ten_bad_rows_and_counts_the_rest() {
    let csv = format!("text,label\n{}", "x,\n".repeat(25));
    let (message, _) = fault("f.csv", csv);
    assert_eq!(message.lines().count(), 12);
    assert!(message.starts_with("25 of 25 rows"), "{message}");
    assert!(message.ends_with("and 15 more"), "{message}");
}

#[test]
fn skipped_rows_are_counted_and_the_others_kept() {
    let csv = "text,label\na,x\n,y\nb,y\nc,x\nd,y\ne,\n";
    let data = load_with("f.csv", csv, |spec| spec.skip_bad_rows = true).expect("usable rows");
    assert_eq!(rows(&data), ["2:a=x", "4:b=y", "5:c=x", "6:d=y"]);
    let [bad] = data.skipped.as_slice() else {
        panic!("one file with bad rows")
    };
    assert_eq!((bad.total, bad.rows), (2, 6));
    assert_eq!(
        bad.first.iter().map(|row| row.line).collect::<Vec<_>>(),
        [3, 7]
    );

    let error = load_with("f.csv", "text,label\n,x\n", |spec| {
        spec.skip_bad_rows = true
    });
    assert!(matches!(error, Err(DataError::AllRowsBad(_))));
}

#[test]
fn one_class_or_no_class_twice_cannot_be_trained_on() {
    let (message, _) = fault("f.csv", "text,label\na,x\nb,x\n");
    assert_eq!(
        message,
        "all 2 rows of `f.csv` have the label `x`; training needs at least two classes"
    );
    let (message, _) = fault("f.csv", "text,label\na,x\nb,y\n");
    assert!(
        message.contains("no class with two rows (2 rows, 2 classes)"),
        "{message}"
    );
}

#[test]
fn repeated_columns_unknown_extensions_and_missing_columns_are_told() {
    assert_eq!(
        fault("f.csv", "text,text,label\n").0,
        "the header of `f.csv` names column `text` twice"
    );
    let (message, _) = fault("f.xlsx", "");
    assert_eq!(
        message,
        "data file `f.xlsx` has the extension `xlsx`, which names no known format"
    );
    let (message, hint) = fault("f.csv", "body,label\na,x\n");
    assert_eq!(
        message,
        "no text column recognised in `f.csv`; its columns are `body`, `label`"
    );
    assert!(
        hint.contains("--text-column") && hint.contains("header"),
        "{hint}"
    );
    let (message, hint) = fault("f.txt", "only text\n");
    assert!(message.starts_with("no label column"), "{message}");
    assert!(hint.contains("--label-column"), "{hint}");
    assert!(fault("f.csv", b"\xff\xfet\0").0.contains("UTF-16"));
}

#[test]
fn given_validation_rows_are_used_as_they_are() {
    let files = Files::new();
    let mut spec = DataSpec::new(files.write("t.csv", FOUR));
    spec.validation = Some(
        files
            .write("v.jsonl", "{\"text\":\"a\",\"label\":\"y\"}\n")
            .into(),
    );
    let data = load(&spec).expect("data");
    assert_eq!(
        (data.train.len(), data.validation.len(), data.overlap),
        (4, 1, 1)
    );
    assert_eq!(
        (data.validation[0].class(), data.validation_from),
        (Some(1), Validation::Given)
    );
    assert_eq!(class_counts(&data.train, &data.labels), [2, 2]);

    spec.validation = Some(files.write("v.csv", "text,label\na,x\nb,zz\nc,ww\n").into());
    spec.skip_bad_rows = true;
    let error = load(&spec).expect_err("unseen");
    let message = error.to_string();
    assert!(message.starts_with("line 3 of `"), "{message}");
    assert!(
        message.ends_with(
            "v.csv` has the label `zz`, which is not one of the known labels (`x`, `y`); 2 rows have unknown labels"
        ),
        "{message}"
    );
}

#[test]
fn known_labels_decide_the_indices() {
    let known = Labels::try_from(vec!["y".to_string(), "x".to_string()]).expect("labels");
    let known = known.with_order(LabelOrder::Numbered);
    let data = load_with("f.csv", FOUR, |spec| spec.labels = Some(known.clone())).expect("data");
    assert_eq!(data.labels, known);
    assert_eq!(rows(&data)[0], "2:a=x");
    let source = Source::embedded("m", Format::Csv, b"text,label\na,1\nb,0\n");
    let loaded = load_labelled(&source, &ColumnNames::default(), &known, false).expect("rows");
    assert_eq!(
        loaded.rows.iter().map(Example::class).collect::<Vec<_>>(),
        [Some(1), Some(0)]
    );
    // An order that is not the file's own: 1 would be whatever comes second in the alphabet.
    let sorted = known.with_order(LabelOrder::Unnumbered);
    let error = load_labelled(&source, &ColumnNames::default(), &sorted, false).expect_err("names");
    assert!(
        matches!(&error, DataError::UnseenLabel { label, count: 2, .. } if label == "1"),
        "{error}"
    );
    assert!(
        error.hint().is_some_and(|hint| hint.contains("numbers")),
        "{error}"
    );
}

#[test]
fn labels_take_the_order_of_the_models_outputs_where_they_are_the_same() {
    let outputs = |names: [&str; 2]| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let labels = Labels::try_from(names).expect("labels");
        labels.with_order(LabelOrder::Numbered)
    };
    let load = |names| {
        let with = |spec: &mut DataSpec| spec.outputs = Some(outputs(names));
        load_with("f.csv", FOUR, with).expect("data")
    };
    let data = load(["Y", "X"]);
    assert_eq!(data.labels, outputs(["y", "x"]));
    assert_eq!(rows(&data), ["2:a=x", "3:b=y", "4:c=x", "5:d=y"]);
    let classes: Vec<_> = data.train.iter().map(Example::class).collect();
    assert!(classes.contains(&Some(0)) && classes.contains(&Some(1)));
    // Others keep the rows' own.
    assert_eq!(load(["z", "x"]).labels.names(), ["x", "y"]);
    assert_eq!(load(["z", "x"]).labels.order(), LabelOrder::Unnumbered);
}

#[test]
fn unlabelled_rows_need_no_label_and_ignore_one() {
    for content in ["text\na\nb\n", "text,label\na,\nb,3.5\n"] {
        let source = Source::Memory {
            name: "stdin".into(),
            format: Format::Csv,
            bytes: content.as_bytes().to_vec().into(),
        };
        let loaded = load_unlabelled(&source, &ColumnNames::default(), false).expect("rows");
        assert_eq!(
            loaded
                .rows
                .iter()
                .map(|row| row.text.as_str())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert!(loaded.rows.iter().all(|row| row.target.is_none()));
    }
    let source = Source::embedded("stdin", Format::Lines, b"first, one\r\nsecond\n");
    let loaded = load_unlabelled(&source, &ColumnNames::default(), false).expect("rows");
    assert_eq!(
        (loaded.rows[0].text.as_str(), loaded.rows.len()),
        ("first, one", 2)
    );
    let source = Source::embedded("stdin", Format::Lines, b"first\n\nthird\n");
    let error = load_unlabelled(&source, &ColumnNames::default(), false).expect_err("blank");
    assert!(
        error.to_string().contains("stdin, line 2: `text` is empty"),
        "{error}"
    );
}

#[test]
fn a_limit_keeps_a_stratified_subset_and_tells_the_rest() {
    let csv: String = (0..100)
        .map(|row| format!("t{row},{}\n", if row % 10 == 0 { "rare" } else { "common" }))
        .collect();
    let csv = format!("text,label\n{csv}");
    let limit = |max_rows, seed| {
        load_with("f.csv", &csv, |spec| {
            spec.max_rows = Some(max_rows);
            spec.seed = seed;
        })
    };
    let data = limit(20, 1).expect("data");
    assert_eq!(data.beyond_max_rows, 80);
    let counts = |rows: &[Example]| class_counts(rows, &data.labels);
    assert_eq!(
        (counts(&data.train), counts(&data.validation)),
        (vec![9, 1], vec![9, 1])
    );
    assert_eq!(limit(20, 1).expect("data"), data);
    assert_ne!(limit(20, 2).expect("data").train, data.train);
    assert_eq!(limit(1000, 1).expect("data").beyond_max_rows, 0);
    assert!(matches!(
        limit(1, 1),
        Err(DataError::MaxRows { classes: 2, .. })
    ));
}

#[test]
fn an_impossible_share_is_refused() {
    for share in [0.0, 1.0, -1.0, f64::NAN] {
        let error = load_with("f.csv", FOUR, |spec| spec.validation_share = share);
        assert!(
            matches!(error, Err(DataError::ValidationShare(_))),
            "{share}"
        );
    }
}

enum Column<'a> {
    Texts(&'a [&'a str]),
    Longs(&'a [i64]),
    Ints(&'a [i32]),
    Doubles(&'a [f64]),
}

/// A Parquet file with the columns `text` and `label`.
fn parquet_file(texts: &[&str], labels: Column<'_>, metadata: Option<&str>) -> Vec<u8> {
    let kind = match &labels {
        Column::Texts(_) => "binary label (UTF8)",
        Column::Longs(_) => "int64 label",
        Column::Ints(_) => "int32 label",
        Column::Doubles(_) => "double label",
    };
    let schema = format!("message m {{ required binary text (UTF8); required {kind}; }}");
    parquet_with(&schema, texts, labels, metadata)
}

fn parquet_with(
    schema: &str,
    texts: &[&str],
    labels: Column<'_>,
    metadata: Option<&str>,
) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).expect("schema"));
    let metadata =
        metadata.map(|value| vec![KeyValue::new("huggingface".into(), value.to_string())]);
    let properties = Arc::new(
        WriterProperties::builder()
            .set_key_value_metadata(metadata)
            .build(),
    );
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).expect("writer");
    let strings = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| ByteArray::from(*text))
            .collect::<Vec<_>>()
    };
    let mut group = writer.next_row_group().expect("group");
    let mut column = group.next_column().expect("column").expect("text");
    column
        .typed::<ByteArrayType>()
        .write_batch(&strings(texts), None, None)
        .expect("written");
    column.close().expect("closed");
    let mut column = group.next_column().expect("column").expect("label");
    match labels {
        Column::Texts(labels) => {
            column
                .typed::<ByteArrayType>()
                .write_batch(&strings(labels), None, None)
        }
        Column::Longs(labels) => column.typed::<Int64Type>().write_batch(labels, None, None),
        Column::Ints(labels) => column.typed::<Int32Type>().write_batch(labels, None, None),
        Column::Doubles(labels) => column.typed::<DoubleType>().write_batch(labels, None, None),
    }
    .expect("written");
    column.close().expect("closed");
    group.close().expect("closed");
    writer.close().expect("closed");
    bytes
}

#[test]
fn messages_of_a_parquet_file_are_lists_of_structures() {
    use super::language::{Content, PassageNames, read_passages};

    // Two chats: of two messages, and of one.
    let schema = "message m { optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); } } } }";
    let schema = Arc::new(parse_message_type(schema).expect("schema"));
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).expect("writer");
    let mut group = writer.next_row_group().expect("group");
    for texts in [["user", "assistant", "assistant"], ["a", "b", "c"]] {
        let texts = texts.map(ByteArray::from);
        let mut column = group.next_column().expect("column").expect("a column");
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts, Some(&[4, 4, 4]), Some(&[0, 1, 0]))
            .expect("written");
        column.close().expect("closed");
    }
    group.close().expect("closed");
    writer.close().expect("closed");

    let source = Source::Memory {
        name: "chats".into(),
        format: Format::Parquet,
        bytes: bytes.into(),
    };
    let (rows, _, bad) =
        read_passages(&source, &PassageNames::default(), true, false).expect("passages");
    assert_eq!((rows.len(), bad.rows), (2, 2));
    let turns: Vec<usize> = rows
        .iter()
        .map(|row| match &row.content {
            Content::Chat(chat) => chat.messages().len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(turns, [2, 1]);
}

#[test]
fn the_input_of_an_instruction_is_part_of_the_prompt() {
    use super::language::{Content, PassageNames, PassageSpec, load_passages, read_passages};

    let rows = b"{\"instruction\": \"Add.\", \"input\": \"1 and 2\", \"output\": \"3\"}\n\
                 {\"instruction\": \"Greet.\", \"input\": \"\", \"output\": \"Hi\"}\n\
                 {\"instruction\": \"Part.\", \"input\": null, \"output\": \"Bye\"}\n";
    let source = Source::embedded("m", Format::JsonLines, rows);
    let contents = |names: &PassageNames, with_completion| {
        let (passages, ..) =
            read_passages(&source, names, with_completion, false).expect("passages");
        let contents = passages.into_iter().map(|passage| passage.content);
        contents.collect::<Vec<Content>>()
    };
    let expected = [("Add.\n1 and 2", "3"), ("Greet.", "Hi"), ("Part.", "Bye")];
    let expected = expected.map(|(p, c)| Content::Completion(p.into(), Some(c.into())));
    assert_eq!(contents(&PassageNames::default(), true), expected);
    let named = PassageNames {
        prompt: Some("instruction".into()),
        ..PassageNames::default()
    };
    assert_eq!(
        contents(&named, true)[0],
        Content::Completion("Add.".into(), Some("3".into()))
    );
    // Validation rows are read as the training rows are; they need no such column.
    let other = b"{\"instruction\": \"Add.\", \"output\": \"3\"}\n";
    for validation in [
        source.clone(),
        Source::embedded("v", Format::JsonLines, other),
    ] {
        let has_input = validation == source;
        let spec = PassageSpec {
            train: source.clone(),
            validation: Some(validation),
            validation_share: 0.1,
            columns: PassageNames::default(),
            skip_bad_rows: false,
            max_rows: None,
            seed: 0,
        };
        let passages = load_passages(&spec).expect("passages");
        let expected = if has_input { "Add.\n1 and 2" } else { "Add." };
        assert_eq!(
            passages.validation[0].content,
            Content::Completion(expected.into(), Some("3".into()))
        );
    }
    // A prompt alone, to be answered.
    let source = Source::embedded(
        "m",
        Format::Csv,
        b"instruction,input\nAdd.,1 and 2\nGreet.,\n",
    );
    let (passages, columns, _) =
        read_passages(&source, &PassageNames::default(), false, false).expect("passages");
    assert_eq!(
        columns.to_string(),
        "prompt from `instruction` with `input`"
    );
    assert_eq!(
        passages[0].content,
        Content::Completion("Add.\n1 and 2".into(), None)
    );
    assert_eq!(
        passages[1].content,
        Content::Completion("Greet.".into(), None)
    );
}

#[test]
fn an_empty_field_of_a_text_file_is_a_row_without_labels() {
    let several = |spec: &mut DataSpec| spec.kind = LabelKind::AnyOfMany;
    let flags = |data: &Dataset| {
        let mut all: Vec<&Example> = data.train.iter().chain(&data.validation).collect();
        all.sort_by_key(|example| example.line);
        let flags = all.into_iter().map(|example| example.target.clone());
        flags.collect::<Vec<_>>()
    };
    let expected = [[true, true], [false, false], [false, true], [false, false]]
        .map(|flags| Some(Target::Flags(flags.to_vec())));
    for (name, content) in [
        ("f.csv", "text,labels\na,x|y\nb,\nc,y\nd,\" \"\n"),
        ("f.tsv", "text\tlabels\na\tx|y\nb\t\nc\ty\nd\t \n"),
    ] {
        let data = load_with(name, content, several).expect(name);
        assert_eq!(flags(&data), expected, "{name}");
    }
    // Formats with lists have an empty one; what is missing there is a fault.
    let content = "{\"text\": \"a\", \"labels\": [\"x\"]}\n{\"text\": \"b\"}\n";
    let error = load_with("f.jsonl", content, several).expect_err("no labels");
    assert!(error.to_string().contains("line 2"), "{error}");
    // So is an empty field where a row has one label.
    assert!(load_as("f.csv", "text,label\na,x\nb,\nc,y\n").is_err());
}
