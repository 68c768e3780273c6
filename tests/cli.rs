//! The program as a shell sees it: exit status, stdout and stderr together.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;

fn program() -> Command {
    let mut command = Command::new(cargo_bin!("autopeft"));
    command
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .env("COLUMNS", "100");
    command
}

/// Exit status, stdout and stderr as one text.
fn run(arguments: &[&str]) -> String {
    let output = program().args(arguments).output().unwrap();
    format!(
        "exit: {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap()
    )
}

fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn recipe_help_shows_its_verbs() {
    let text = run(&["recipe", "-h"]);
    assert_eq!(
        text,
        "\
exit: 0
--- stdout
List, show and check recipes

Usage: autopeft recipe [OPTIONS] <COMMAND>

Commands:
  ls     List the embedded recipes
  show   Print a recipe, or the meaning of every key
  check  Find everything that is wrong with recipes; exits with 1 if there is anything
  help   Print this message or the help of the given subcommand(s)

Options:
  -h, --help  Print help (see more with '--help')

Terminal:
  -q, --quiet         Show the result, warnings and errors only
  -v, --verbose       Show details too
      --json          Write JSON lines to stdout
      --color <WHEN>  When to use colour; `auto` respects NO_COLOR [default: auto] [possible values:
                      auto, always, never]
--- stderr
"
    );
}

#[test]
fn the_first_help_names_verbs_and_exit_statuses() {
    let text = run(&["--help"]);
    assert!(
        text.starts_with("exit: 0\n--- stdout\nMeasures which parameter-efficient"),
        "{text}"
    );
    assert!(
        text.contains("Exit status: 0 done, 1 the answer is no, 2 error, 130 interrupted."),
        "{text}"
    );
    assert!(run(&["--version"]).contains("autopeft 0."));
}

#[test]
fn without_a_verb_help_goes_to_stderr() {
    let text = run(&[]);
    assert!(
        text.starts_with("exit: 2\n--- stdout\n--- stderr\nMeasures which"),
        "{text}"
    );
}

#[test]
fn a_wrong_verb_is_an_error_with_the_nearest() {
    let text = run(&["recipes"]);
    assert!(
        text.starts_with(
            "exit: 2\n--- stdout\n--- stderr\nerror: unrecognized subcommand 'recipes'"
        ),
        "{text}"
    );
    assert!(text.contains("'recipe'"), "{text}");
}

#[test]
fn recipe_ls_lists_names_and_purposes() {
    assert_eq!(
        run(&["recipe", "ls"]),
        "\
exit: 0
--- stdout
quickstart           the embedded tiny model and data set, offline, in under a minute
text-classification  one label for a text or a pair of texts; every key with its default and meaning
causal-lm            the next token of a text, or of what follows a prompt
instruction          what the assistant says in a chat, in the model's own chat template
--- stderr
"
    );
}

#[test]
fn recipe_show_prints_the_file_as_it_is() {
    let text = run(&["recipe", "show", "quickstart"]);
    let expected = include_str!("../recipes/quickstart.yaml");
    assert_eq!(text, format!("exit: 0\n--- stdout\n{expected}--- stderr\n"));
}

#[test]
fn recipe_show_with_set_prints_every_key_and_checks_again() {
    let output = program()
        .args(["recipe", "show", "quickstart", "--set", "seed=9"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\nseed: 9 "), "{text}");
    let (_dir, path) = file("resolved.yaml", &text);
    assert!(run(&["recipe", "check", &path]).starts_with("exit: 0\n"));
}

#[test]
fn recipe_show_docs_is_a_markdown_table_of_every_key() {
    let text = run(&["recipe", "show", "--docs"]);
    assert!(
        text.contains("| `train.learning_rate` | a number | `0.003` |"),
        "{text}"
    );
    assert_eq!(
        text.lines().filter(|line| line.starts_with("| `")).count(),
        autopeft::recipe::KEYS.len()
    );
}

#[test]
fn recipe_check_reports_every_fault_and_answers_no() {
    let (_dir, path) = file("mine.yaml", "modle: bert\ntrain:\n  batch_size: 0\n");
    assert_eq!(
        run(&["recipe", "check", &path, "quickstart", "--set", "probe.estimator=hpv"]).replace(&path, "mine.yaml"),
        "\
exit: 1
--- stdout
mine.yaml: line 1, `modle`: unknown key; did you mean `model`?
mine.yaml: line 3, `train.batch_size`: must be at least 1
mine.yaml: `--set probe.estimator=hpv`, `probe.estimator`: expected one of `gauss-newton`, `hvp`, `full`, `fit`, found `hpv`; did you mean `hvp`?
quickstart: `--set probe.estimator=hpv`, `probe.estimator`: expected one of `gauss-newton`, `hvp`, `full`, `fit`, found `hpv`; did you mean `hvp`?
--- stderr
hint: `autopeft recipe show --docs` lists every key
"
    );
}

#[test]
fn recipe_check_of_a_good_recipe_says_so() {
    assert_eq!(
        run(&["-q", "recipe", "check", "quickstart"]),
        "exit: 0\n--- stdout\nquickstart: valid\n--- stderr\n"
    );
}

#[test]
fn quiet_keeps_the_result_and_drops_the_hint() {
    let (_dir, path) = file("mine.yaml", "seed: x\n");
    let text = run(&["recipe", "check", &path, "--quiet"]);
    assert!(
        text.starts_with("exit: 1\n") && text.ends_with("--- stderr\n"),
        "{text}"
    );
    assert!(text.contains("line 1, `seed`"), "{text}");
}

#[test]
fn a_missing_recipe_is_an_error_with_a_hint() {
    assert_eq!(
        run(&["recipe", "check", "quickstrat"]),
        "\
exit: 2
--- stdout
--- stderr
error: there is no recipe `quickstrat`
hint: did you mean `quickstart`? `autopeft recipe ls` lists the embedded ones
"
    );
}

#[test]
fn a_recipe_that_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let text = run(&["recipe", "show", path]).replace(path, "DIR");
    assert!(
        text.starts_with(
            "exit: 2\n--- stdout\n--- stderr\nerror: cannot read the recipe `DIR`\n  cause: "
        ),
        "{text}"
    );
}

#[test]
fn json_gives_one_object_a_line_and_the_schema_first() {
    let (_dir, path) = file("mine.yaml", "modle: bert\n");
    let output = program()
        .args(["recipe", "check", &path, "quickstart", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty());
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (&lines[0]["event"], &lines[0]["schema"]),
        (&"result".into(), &1.into())
    );
    assert_eq!(
        (&lines[0]["valid"], &lines[0]["faults"][0]["line"]),
        (&false.into(), &1.into())
    );
    assert_eq!(
        (&lines[1]["valid"], lines[1].get("schema")),
        (&true.into(), None)
    );
}

#[test]
fn errors_are_events_too_with_json() {
    let text = run(&["recipe", "check", "quickstrat", "--json"]);
    assert!(
        text.starts_with("exit: 2\n--- stdout\n{\"event\":\"error\",\"schema\":1,\"message\":"),
        "{text}"
    );
    assert!(
        text.contains("--- stderr\nerror: there is no recipe `quickstrat`\n"),
        "{text}"
    );
}

#[test]
fn colour_is_used_when_asked_for_and_never_by_itself_in_a_pipe() {
    let arguments = ["recipe", "check", "quickstrat"];
    let stderr =
        |command: &mut Command| String::from_utf8(command.output().unwrap().stderr).unwrap();
    let plain = stderr(program().args(arguments));
    assert!(!plain.contains('\u{1b}'));
    let painted = stderr(program().args(arguments).args(["--color", "always"]));
    assert!(painted.contains("\u{1b}[31m"), "{painted}");
    assert_eq!(console::strip_ansi_codes(&painted), plain);
    assert!(!stderr(program().args(arguments).args(["--color", "never"])).contains('\u{1b}'));
    // A flag is a stronger wish than the environment.
    assert!(
        stderr(
            program()
                .args(arguments)
                .args(["--color", "always"])
                .env("NO_COLOR", "1")
        )
        .contains('\u{1b}')
    );
}

/// A terminal is needed to see what `auto` does; `script` makes one.
#[test]
#[cfg(target_os = "linux")]
fn no_color_is_respected_on_a_terminal() {
    let shell = format!(
        "{} recipe check quickstrat",
        cargo_bin!("autopeft").display()
    );
    let on_terminal = |no_color: &str| {
        let output = Command::new("script")
            .args(["-qec", &shell, "/dev/null"])
            .env("NO_COLOR", no_color)
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output();
        String::from_utf8(output.expect("`script` of util-linux is installed").stdout).unwrap()
    };
    assert!(on_terminal("").contains('\u{1b}'), "colour on a terminal");
    let plain = on_terminal("1");
    assert!(
        plain.contains("error: there is no recipe") && !plain.contains('\u{1b}'),
        "{plain}"
    );
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = run(&["completions", shell]);
        assert!(
            text.starts_with("exit: 0\n") && text.contains("autopeft") && text.contains("recipe"),
            "{shell}"
        );
    }
    assert!(run(&["completions", "csh"]).starts_with("exit: 2\n"));
}

#[test]
#[cfg(unix)]
fn a_closed_pipe_is_a_success() {
    for arguments in [
        &["recipe", "show", "--docs"][..],
        &["recipe", "show", "--docs", "--json"],
        &["completions", "zsh"],
    ] {
        let mut child = program()
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_library_for_products_that_cannot_be_had_is_refused_before_any_work() {
    let output = program()
        .env("AUTOPEFT_BLAS", "atlas")
        .args(["select", "--out", "no-such-folder/out"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: AUTOPEFT_BLAS is `atlas`, which is neither a library's name nor the path of a file\n\
         hint: use `auto`, `none`, a path, or one of: accelerate, onednn, blis, openblas, mkl\n"
    );
}

#[test]
fn doctor_says_what_is_wrong_with_a_library_and_measures_without_it() {
    let output = program()
        .env("AUTOPEFT_BLAS", "no-such-folder/libblas.so")
        .arg("doctor")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("gemm 0.19 (pure Rust): "), "{text}");
    assert!(text.contains("AUTOPEFT_BLAS"), "{text}");
}

/// What stands on standard input is what the rows were: a prompt, or the start of a text.
#[test]
fn a_line_is_a_prompt_to_a_model_that_learned_from_prompts() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/language/llama");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let rows = |row: fn(usize) -> String| (0..24).map(row).collect::<String>();
    let learned = [
        (
            "prompts",
            rows(|n| {
                format!(
                    "{{\"prompt\": \"name: {}\", \"completion\": \"It is a pub.\"}}\n",
                    n % 3
                )
            }),
            "{\"prompt\": \"name: 1\"}",
        ),
        (
            "texts",
            rows(|n| format!("{{\"text\": \"name: {}, it is a pub.\"}}\n", n % 3)),
            "{\"text\": \"name: 1\"}",
        ),
    ];
    let mut answers = Vec::new();
    for (name, rows, row) in learned {
        let (data, out, asked) = (
            path(&format!("{name}.jsonl")),
            path(&format!("{name}.out")),
            path("asked.jsonl"),
        );
        std::fs::write(&data, rows).unwrap();
        std::fs::write(&asked, row).unwrap();
        let selected = program()
            .args([
                "select",
                "--recipe",
                "causal-lm",
                "--model",
                model,
                "--data",
                &data,
            ])
            .args(["--steps", "30", "--budget", "600", "--out", &out])
            .args([
                "--set",
                "probe.steps=20",
                "--set",
                "train.learning_rate=0.03",
            ])
            .output()
            .unwrap();
        assert!(
            selected.status.success(),
            "{}",
            String::from_utf8_lossy(&selected.stderr)
        );
        let predict = |more: &[&str], input: &str| {
            let mut command = assert_cmd::Command::from_std(program());
            let output = command
                .args(["predict", &out, "--max-new-tokens", "6"])
                .args(more)
                .write_stdin(input)
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let line = predict(&["--json"], "name: 1\n");
        assert!(line.contains("completion"), "{name}: {line}");
        assert_eq!(line, predict(&["--data", &asked], ""), "{name}");
        answers.push(line);
    }
    assert_ne!(answers[0], answers[1]);
}
