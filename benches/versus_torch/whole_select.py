"""The whole of `select` side by side with PyTorch + peft: one program after the other on the same job.

    cargo build --release
    python benches/versus_torch/whole_select.py --model FOLDER --data train.jsonl --validation dev.jsonl [--steps 60] [--device cuda]

`--model` is the folder of a BERT, a RoBERTa or a decoder, which gets a head of its own; a name in `shapes.py` stands for random weights in
that shape, with the tokenizer of the folder `--tokenizer`.
Ours runs first; how many steps of which batch, measurements and groups it took is read from its result, and theirs takes as
many. Theirs measures as Xu et al. 2025 (arXiv 2501.06954) do: at -e, 0 and e along each group's own part of AdamW's update,
2K + 1 forward passes over as many examples. It keeps what is worth most per parameter within the budget, trains on, evaluates when ours
does, and saves for peft. LoRA of rank 8 on all linear layers, biases and norms; one label for a text. Rows are JSONL with `text` and `label`.
Times are of the whole process, starting and reading included. One run of each.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import shapes

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(command, env):
    wall, cpu = time.perf_counter(), children()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return children() - cpu, time.perf_counter() - wall, done.stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--probe-steps", type=int, default=40)
    parser.add_argument("--probe-every", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--budget", default="0.3%")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--program", default=str(root / "target/release/autopeft"))
    args = parser.parse_args()
    has_shape = args.model in shapes.ENCODERS or args.model in shapes.DECODERS
    if has_shape and not args.tokenizer:
        parser.error(f"{args.model} has random weights and no tokenizer: add --tokenizer FOLDER")
    threads = str(args.threads)
    env = os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        model = args.model
        if has_shape:
            model = folder
            shapes.random_checkpoint(args.model, folder)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(pathlib.Path(args.tokenizer) / file, folder)
        settings = {
            "train.steps": args.steps, "train.epochs": "null", "train.batch_size": args.batch, "probe.steps": args.probe_steps, "probe.every": args.probe_every,
            "probe.examples": args.examples, "superset.lora.rank_blocks": "[8]", "probe.early_freeze": "false",
            "probe.head_warmup": 20, "probe.learning_rates": "hi-dlr", "select.solver": "coupled", "select.refit": 0,
            "select.after": "continue", "train.average": 0,
        }
        command = [
            args.program, "select", "--model", model, "--data", args.data, "--validation", args.validation,
            "--budget", args.budget, "--target", "peft", "--threads", threads, "--device", args.device, "--out", str(out), "--json",
        ]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        ours_cpu, ours_wall, _ = timed(command, env)
        report = json.loads((out / "selection.json").read_text())
        events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = {}
        for event in events:
            if event["event"] == "step":
                steps[event["stage"]] = steps.get(event["stage"], 0) + 1
        measured = [event["step"] for event in events if event["event"] == "influence"]
        evaluations = [event for event in events if event["event"] == "evaluation"]
        job = {
            "model": model, "data": args.data, "validation": args.validation, "batch": args.batch, "examples": args.examples,
            "stages": steps, "measured": measured, "budget": report["budget"], "threads": args.threads, "device": args.device, "out": str(pathlib.Path(folder) / "theirs"),
        }
        theirs_cpu, theirs_wall, text = timed([sys.executable, str(here / "theirs_select.py"), json.dumps(job)], env)
        theirs = json.loads(text.splitlines()[-1])
    groups = len(report["groups"])
    print(f"steps {steps}, {len(measured)} measurements; groups {groups} and {theirs['groups']}, trainable {report['superset_parameters']} and {theirs['trainable']}")
    print("| | CPU s | wall s | kept beside the head | held-out accuracy |")
    print("|---|---|---|---|---|")
    print(f"| ours | {ours_cpu:.1f} | {ours_wall:.1f} | {report['kept_parameters']} | {evaluations[-1]['accuracy']:.3f} |")
    print(f"| theirs | {theirs_cpu:.1f} | {theirs_wall:.1f} | {theirs['kept']} | {theirs['accuracy'][-1]:.3f} |")
    print(f"| ratio | {ours_cpu / theirs_cpu:.3f} | {ours_wall / theirs_wall:.3f} | | |")


main()
