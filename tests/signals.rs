//! Signals to the real program: the first Ctrl-C keeps what was measured, and the exit status says so.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

/// The quickstart in the midst of its probe, with the signals' dispositions as `env` is told to make them.
fn probing(disposition: &str, out: &Path) -> Child {
    let mut child = Command::new("env")
        .arg(disposition)
        .arg(cargo_bin!("autopeft"))
        .args("select --json --steps 900 --set probe.steps=800 --set probe.every=2".split(' '))
        .args("--set probe.burn_in=0.01 --out".split(' '))
        .arg(out)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_measurements(&mut child, 1);
    child
}

fn wait_for_measurements(child: &mut Child, count: usize) {
    // Without read-ahead, so that a later call finds what comes next.
    let events = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
    let seen = events
        .lines()
        .filter(|line| {
            let event: Value = serde_json::from_str(line.as_ref().unwrap()).unwrap();
            event["event"] == "influence"
        })
        .take(count)
        .count();
    assert_eq!(seen, count, "the run ended before it measured");
}

fn send(signal: &str, child: &Child) {
    let status = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Reads on, so that the program never waits for a full pipe.
fn exit_code(mut child: Child) -> i32 {
    std::io::copy(&mut child.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
    child.wait().unwrap().code().unwrap()
}

fn assert_partial(out: &Path) {
    let selection = std::fs::read_to_string(out.join("selection.json")).unwrap();
    let selection: Value = serde_json::from_str(&selection).unwrap();
    assert_eq!(selection["complete"], false);
    let groups = selection["groups"].as_array().unwrap();
    assert!(
        groups
            .iter()
            .any(|group| group["influence"].as_f64().unwrap() > 0.0)
    );
    assert!(!out.join("adapter_model.safetensors").exists());
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    (dir, out)
}

#[test]
fn ctrl_c_exits_with_130_and_keeps_what_was_measured() {
    let (_dir, out) = folder();
    let child = probing("--default-signal=INT", &out);
    send("INT", &child);
    assert_eq!(exit_code(child), 130);
    assert_partial(&out);
}

#[test]
fn a_termination_signal_does_the_same() {
    let (_dir, out) = folder();
    let child = probing("--default-signal=TERM", &out);
    send("TERM", &child);
    assert_eq!(exit_code(child), 130);
    assert_partial(&out);
}

#[test]
fn a_run_that_shall_ignore_ctrl_c_and_hang_up_goes_on() {
    let (_dir, out) = folder();
    // As `nohup` and a script's `&` do; the termination signal then ends the test.
    let mut child = probing("--ignore-signal=INT,HUP", &out);
    for signal in ["INT", "INT", "HUP"] {
        send(signal, &child);
    }
    wait_for_measurements(&mut child, 3);
    send("TERM", &child);
    assert_eq!(exit_code(child), 130);
    assert_partial(&out);
}
