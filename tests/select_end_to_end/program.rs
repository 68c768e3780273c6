//! The same through the program: exit status and streams.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

use crate::bench::{Bench, fixture, rows, tree};

fn program() -> Command {
    let mut command = Command::new(cargo_bin!("autopeft"));
    command.env_remove("CLICOLOR_FORCE").env("COLUMNS", "100");
    command
}

/// `select` with the recipe of the bench.
fn arguments(bench: &Bench, extra: &[&str]) -> Vec<String> {
    let recipe = bench.file("recipe.yaml", &bench.recipe_text());
    let mut arguments = vec![
        "select".to_string(),
        "--recipe".to_string(),
        recipe.display().to_string(),
        "--out".to_string(),
        bench.out().display().to_string(),
    ];
    arguments.extend(extra.iter().map(ToString::to_string));
    arguments
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_run_that_succeeds_exits_with_0() {
    let bench = Bench::new();
    let arguments = arguments(&bench, &[]);
    let output = program().args(&arguments).output().unwrap();
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let report: Value =
        serde_json::from_slice(&fs::read(bench.out().join("selection.json")).unwrap()).unwrap();
    assert_eq!(report["complete"], true);
}

#[test]
fn a_sentence_encoder_is_said_to_be_one_where_its_pooling_is_not_used() {
    let bench = Bench::new();
    let model = bench.copy_of("bert");
    let folder = model.join("1_Pooling");
    fs::create_dir(&folder).unwrap();
    let told = |pooling: &str, extra: &[&str]| {
        fs::write(folder.join("config.json"), pooling).unwrap();
        let model = model.display().to_string();
        let extra = [&["--model", &model, "--force"], extra].concat();
        let output = program().args(arguments(&bench, &extra)).output().unwrap();
        (
            status(&output),
            stderr(&output).contains("--set task.pooling=mean"),
        )
    };
    let mean = r#"{"pooling_mode_mean_tokens": true}"#;
    assert_eq!(told(mean, &[]), (0, true));
    assert_eq!(told(mean, &["--set", "task.pooling=mean"]), (0, false));
    assert_eq!(told(mean, &["--target", "peft"]), (0, false));
    assert_eq!(
        told(r#"{"pooling_mode_mean_tokens": false}"#, &[]),
        (0, false)
    );
    assert_eq!(told("{", &[]).0, 2);
}

#[test]
fn an_unreachable_budget_exits_with_1_and_a_wrong_input_with_2() {
    let bench = Bench::new();
    for (extra, expected, parts) in [
        (
            ["--budget", "1"],
            1,
            ["error:", "smallest reachable budget is"],
        ),
        (["--data", "nowhere.jsonl"], 2, ["error:", "nowhere.jsonl"]),
        (["--model", "./nowhere"], 2, ["error:", "nowhere"]),
    ] {
        let arguments = arguments(&bench, &extra);
        let before = tree(bench.root());
        let output = program().args(&arguments).output().unwrap();
        let text = stderr(&output);
        assert_eq!(status(&output), expected, "{text}");
        for part in parts {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
        assert_eq!(tree(bench.root()), before, "{extra:?}");
    }
}

#[test]
fn a_choice_is_carried_to_a_deeper_model() {
    let bench = Bench::new();
    let selected = program().args(arguments(&bench, &[])).output().unwrap();
    assert_eq!(status(&selected), 0, "{}", stderr(&selected));
    let model = bench.deeper(&fixture("bert"), 3);
    let large = bench.path("large");
    let transfer = |extra: &[&str]| {
        let mut command = program();
        command.arg("transfer").arg(bench.out());
        command.arg("--model").arg(&model).arg("--out").arg(&large);
        command.args(extra).output().unwrap()
    };
    let told = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(status(output), 0, "{text}{}", stderr(output));
        text
    };
    let text = told(&transfer(&[]));
    for part in [
        "2 layers, carried to 3 layers; not trained",
        "\nwritten to ",
        "is_trainable=True",
    ] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    let again = transfer(&[]);
    assert_eq!(status(&again), 2);
    assert!(
        stderr(&again).contains("already holds a result"),
        "{}",
        stderr(&again)
    );

    let rows = bench.path("train.jsonl");
    let text = told(&transfer(&["--data", rows.to_str().unwrap(), "--force"]));
    assert!(text.contains("held-out accuracy untrained head "), "{text}");
    let evaluated = program()
        .arg("eval")
        .arg(&large)
        .arg("--data")
        .arg(bench.path("validation.jsonl"))
        .output()
        .unwrap();
    assert!(told(&evaluated).contains("accuracy"));

    let output = program()
        .args(["transfer", "nowhere", "--model", "bert"])
        .output()
        .unwrap();
    assert_eq!(status(&output), 2);
    assert_eq!(
        stderr(&output),
        "error: `nowhere` is no result of `autopeft select`: there is no such folder\n\
         hint: name the folder that `autopeft select` wrote\n"
    );
}

#[test]
fn what_a_result_cannot_do_is_refused_and_a_fault_of_the_rows_has_its_hint() {
    let bench = Bench::new();
    bench.report(&[]);
    let rows = bench.path("validation.jsonl");
    let empty = bench.file("empty.jsonl", "");
    let run = |verb: &str, data: &Path, extra: &[&str]| {
        let mut command = program();
        command.arg(verb).arg(bench.out()).arg("--data").arg(data);
        let output = command.args(extra).output().unwrap();
        (status(&output), stderr(&output))
    };
    let (code, text) = run("eval", &rows, &["--generate", "5"]);
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("error: `--generate` is for language models"),
        "{text}"
    );
    for verb in ["eval", "predict"] {
        let (code, text) = run(verb, &empty, &[]);
        assert_eq!(code, 2, "{verb}: {text}");
        assert!(
            text.contains("empty.jsonl") && text.contains("hint: "),
            "{verb}: {text}"
        );
    }
}

/// Runs the program in a folder, without the network.
fn offline(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = program();
    command.env("HF_HUB_OFFLINE", "1").current_dir(folder);
    let output = command.args(arguments).output().unwrap();
    (status(&output), stderr(&output))
}

#[test]
fn a_base_model_named_by_a_relative_folder_is_found_from_elsewhere() {
    let bench = Bench::new();
    let model = bench.copy_of("bert");
    let text = |path: &Path| path.display().to_string();
    let recipe = text(&bench.file("recipe.yaml", &bench.recipe_text()));
    let (out, rows) = (text(&bench.out()), text(&bench.path("validation.jsonl")));
    let selected = [
        "select", "--recipe", &recipe, "--model", "model", "--out", &out,
    ];
    let selected = offline(bench.root(), &selected);
    assert_eq!(selected.0, 0, "{}", selected.1);
    let config = fs::read_to_string(bench.out().join("adapter_config.json")).unwrap();
    assert!(
        config.contains("\"base_model_name_or_path\": \"model\""),
        "{config}"
    );

    let elsewhere = tempfile::tempdir().unwrap();
    let evaluate = |folder: &Path, extra: &[&str]| {
        let arguments = ["eval", &out, "--data", &rows];
        offline(folder, &[&arguments, extra].concat())
    };
    let (code, told) = evaluate(elsewhere.path(), &[]);
    assert_eq!(code, 0, "{told}");
    let (code, told) = offline(elsewhere.path(), &["merge", &out, "--out", "merged"]);
    assert_eq!(code, 0, "{told}");

    let moved = bench.path("moved");
    fs::rename(&model, &moved).unwrap();
    let (code, told) = evaluate(elsewhere.path(), &[]);
    assert_eq!(code, 2, "{told}");
    for part in ["the base model `model` is not there", "`--model`"] {
        assert!(told.contains(part), "no `{part}` in: {told}");
    }
    let (code, told) = evaluate(elsewhere.path(), &["--model", &text(&moved)]);
    assert_eq!(code, 0, "{told}");

    // A result that was written before it said where its model is.
    fs::rename(&moved, &model).unwrap();
    let file = bench.out().join("autopeft.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let path = manifest
        .as_object_mut()
        .unwrap()
        .remove("base_path")
        .unwrap();
    assert!(Path::new(path.as_str().unwrap()).is_absolute(), "{path}");
    fs::write(&file, manifest.to_string()).unwrap();
    let (code, told) = evaluate(bench.root(), &[]);
    assert_eq!(code, 0, "{told}");
}

#[test]
fn a_model_of_the_hub_is_used_at_the_commit_of_the_selection() {
    let bench = Bench::new();
    let (commit, later) = ("1".repeat(40), "2".repeat(40));
    let repository = bench.path("cache/models--org--tiny");
    let snapshots = repository.join("snapshots");
    fs::create_dir_all(&snapshots).unwrap();
    fs::create_dir(repository.join("refs")).unwrap();
    fs::rename(bench.copy_of("bert"), snapshots.join(&commit)).unwrap();
    fs::write(repository.join("refs/main"), &commit).unwrap();
    let run = |arguments: &[String]| {
        let mut command = program();
        command.env("HF_HUB_CACHE", bench.path("cache"));
        command.env("HF_HUB_OFFLINE", "1");
        let output = command.args(arguments).output().unwrap();
        (status(&output), stderr(&output))
    };
    let (code, told) = run(&arguments(&bench, &["--model", "org/tiny"]));
    assert_eq!(code, 0, "{told}");

    fs::write(repository.join("refs/main"), &later).unwrap();
    let rows = bench.path("validation.jsonl").display().to_string();
    let out = bench.out().display().to_string();
    let evaluate = ["eval", &out, "--data", &rows, "--revision", "main"].map(String::from);
    let (code, told) = run(&evaluate[..4]);
    assert_eq!(code, 0, "{told}");
    let (code, told) = run(&evaluate);
    assert_eq!(code, 2, "{told}");
}

/// A full disk, as a limit on the size of files: the metrics fit, the weights do not. The signal of the limit is
/// ignored, so that the write fails as one on a full disk does, with a part of the file already written.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_during_the_export_leaves_the_old_result() {
    let bench = Bench::new();
    bench.report(&[]);
    let blocks_of_512 = 32;
    let limit = blocks_of_512 * 512;
    let arguments = arguments(&bench, &["--budget", "6000", "--target", "peft", "--force"]);
    let before = tree(bench.root());
    let script = format!("trap '' XFSZ; ulimit -f {blocks_of_512} && exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(cargo_bin!("autopeft"))
        .args(&arguments)
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(status(&output), 2, "{text}");
    // The place is the one that the user knows, not the temporary one.
    let file = bench.out().join("adapter_model.safetensors");
    assert!(
        text.contains(&format!("writing `{}`", file.display())),
        "{text}"
    );
    assert_eq!(tree(bench.root()), before, "{text}");

    // Without the limit the same run succeeds, with a file that is larger.
    let output = program().args(&arguments).output().unwrap();
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let size = |name: &str| fs::metadata(bench.out().join(name)).unwrap().len();
    assert!(size("metrics.jsonl") < limit && size("adapter_model.safetensors") > limit);
}

/// `--force` replaces results, and nothing that the run reads or stands in.
#[test]
fn what_a_run_reads_is_never_replaced() {
    let bench = Bench::new();
    bench.report(&[]);
    let model = bench.copy_of("bert");
    // As if a result had been written here before.
    bench.file("autopeft.json", "{}");
    fs::write(model.join("autopeft.json"), "{}").unwrap();
    let recipe = bench.file("recipe.yaml", &bench.recipe_text());
    let text = |path: &Path| path.display().to_string();
    let (root, out, model) = (text(bench.root()), text(&bench.out()), text(&model));
    let (rows, recipe) = (text(&bench.path("train.jsonl")), text(&recipe));
    let before = tree(bench.root());
    let select = ["select", "--out"];
    for (arguments, told) in [
        (
            [&select[..], &[&root, "--data", &rows]].concat(),
            "contains the training rows",
        ),
        (
            [&select[..], &[&root, "--recipe", &recipe]].concat(),
            "contains the recipe",
        ),
        (
            [&select[..], &[&model, "--model", &model]].concat(),
            "is the base model",
        ),
        (
            [&select[..], &[&root, "--model", &model]].concat(),
            "contains the base model",
        ),
        ([&select[..], &["."]].concat(), "is the current folder"),
        (
            vec!["merge", &out, "--out", &root],
            "contains the result that is merged",
        ),
        (
            vec!["merge", &out, "--out", &out],
            "is the result that is merged",
        ),
        (
            vec!["transfer", &out, "--out", &out, "--model", &model],
            "is the result whose choice is carried over",
        ),
    ] {
        let output = program()
            .args(&arguments)
            .arg("--force")
            .current_dir(bench.out())
            .output()
            .unwrap();
        let text = stderr(&output);
        assert_eq!(status(&output), 2, "{arguments:?}: {text}");
        for part in [told, "hint: name another folder"] {
            assert!(text.contains(part), "{arguments:?}: no `{part}` in: {text}");
        }
        assert_eq!(tree(bench.root()), before, "{arguments:?}");
    }
}

#[test]
fn an_empty_current_folder_is_filled_and_stays_the_current_folder() {
    let bench = Bench::new();
    let recipe = bench.file("recipe.yaml", &bench.recipe_text());
    let folder = bench.path("empty");
    fs::create_dir(&folder).unwrap();
    let handle = fs::File::open(&folder).unwrap();
    let output = program()
        .arg("select")
        .arg("--recipe")
        .arg(recipe)
        .args(["--out", "."])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(folder.join("selection.json").is_file());
    let names = crate::bench::names(&folder);
    assert!(!names.iter().any(|name| name.starts_with('.')), "{names:?}");
    assert_eq!(bench.names().len(), 4, "{:?}", bench.names());
    // A folder that had been replaced would have no links to it.
    #[cfg(unix)]
    assert!(std::os::unix::fs::MetadataExt::nlink(&handle.metadata().unwrap()) > 0);
    drop(handle);
}

/// Exit status, stdout and stderr of a verb on a result, with a file or with a text from standard input.
fn used(bench: &Bench, verb: &str, data: Result<&str, &str>) -> (i32, String, String) {
    let mut command = program();
    command.arg(verb).arg(bench.out());
    // A tiny model may not stop by itself.
    command.args(["--max-new-tokens", "8"]);
    let line = match data {
        Ok(file) => {
            command.arg("--data").arg(bench.path(file));
            String::new()
        }
        Err(line) => format!("{line}\n"),
    };
    let mut child = (command.stdin(Stdio::piped()).stdout(Stdio::piped()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(line.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    (status(&output), stdout, stderr(&output))
}

#[test]
fn rows_are_single_texts_or_pairs_as_in_training() {
    let bench = Bench::new();
    let second = r#""text_pair": "it was not bad", "text":"#;
    let paired = rows(12).replace(r#""text":"#, second);
    bench.file("pairs.jsonl", &paired);
    bench.report(&[]);
    for verb in ["eval", "predict"] {
        let (code, alone, text) = used(&bench, verb, Ok("validation.jsonl"));
        assert_eq!(code, 0, "{text}");
        let (code, beside, text) = used(&bench, verb, Ok("pairs.jsonl"));
        assert_eq!((code, beside), (0, alone), "{text}");
    }

    let bench = Bench::new();
    bench.file("singles.jsonl", &rows(12));
    for name in ["train.jsonl", "validation.jsonl"] {
        bench.file(name, &paired.repeat(2));
    }
    bench.report(&[]);
    assert_eq!(used(&bench, "eval", Ok("validation.jsonl")).0, 0);
    for (verb, data) in [
        ("eval", Ok("singles.jsonl")),
        ("predict", Ok("singles.jsonl")),
        ("predict", Err("it was good")),
    ] {
        let (code, _, text) = used(&bench, verb, data);
        assert_eq!(code, 2, "{text}");
        for part in ["single texts where pairs", "hint:", "--pair-column"] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
    }
}

#[test]
fn a_line_to_be_answered_is_the_same_prompt_wherever_it_stands() {
    let bench = Bench::new();
    let llama = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language/llama");
    let model = format!("model={}", llama.display());
    for (name, count) in [("train.jsonl", 12), ("validation.jsonl", 6)] {
        bench.file(name, &crate::language::rows(count, false));
    }
    bench.report(&[
        &model,
        "task.type=causal-lm",
        "train.steps=20",
        "train.learning_rate=0.03",
        "select.budget=600",
    ]);
    bench.file("p.txt", "name: Blue Spice\n");
    bench.file("text.jsonl", "{\"text\": \"name: Blue Spice\"}\n");
    bench.file("prompt.jsonl", "{\"prompt\": \"name: Blue Spice\"}\n");
    let (code, answer, text) = used(&bench, "predict", Err("name: Blue Spice"));
    assert_eq!(code, 0, "{text}");
    let answer = answer.strip_suffix('\n').unwrap();
    assert!(!answer.is_empty());
    for file in ["p.txt", "text.jsonl", "prompt.jsonl"] {
        let (code, line, text) = used(&bench, "predict", Ok(file));
        assert_eq!(code, 0, "{text}");
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["completion"], answer, "{file}");
    }

    // A prompt that fills the limit leaves nothing to measure, and that is told.
    let long = "name: Blue Spice, ".repeat(12);
    let row = format!("{{\"prompt\": \"{long}\", \"completion\": \"It is a pub.\"}}\n");
    bench.file("some.jsonl", &(crate::language::rows(3, false) + &row));
    let (code, values, text) = used(&bench, "eval", Ok("some.jsonl"));
    assert_eq!(code, 0, "{text}");
    assert!(values.contains("rows             3"), "{values}");
    assert!(text.contains("left out 1 rows"), "{text}");
}
