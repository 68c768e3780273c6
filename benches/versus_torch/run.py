"""Side by side with PyTorch + peft: runs both programs in turn, on the same job, and compares losses, times and memory.

    cargo build --release --example versus_torch
    python benches/versus_torch/run.py [--model FOLDER] [--jobs forward,step,measure] [--threads 1,2] [--rounds 3] [--device cuda]

`--model` is a checkpoint folder of a BERT, a RoBERTa or a decoder; the names in `shapes.py` stand for random weights in those shapes, which
are made in a temporary folder. An encoder classifies, a decoder learns every token. `--check` compares what was computed and reports no times: what CI runs.
With `--device cuda` (build with `--features cuda`) both compute on the first NVIDIA GPU, and memory is what the GPU's driver says is in use, above
what was before, looked at every 2 ms; that needs `nvidia-ml-py`. Python needs torch, transformers and peft. Times are medians over all repeats of all rounds; the spread is (max - min) / median.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading

import shapes

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent


def run(command, threads):
    env = os.environ | {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_on_gpu(command, threads):
    """As `run`, with the peak of the GPU's memory in place of the process's."""
    import pynvml

    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    used = lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu).used / 2**20
    before, peak, done = used(), 0.0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, used() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return run(command, threads) | {"peak_mib": peak}
    finally:
        done.set()
        watcher.join()


def agree(job, ours, theirs):
    """Losses are held to each other; of a measurement the sum of the slopes, since each side deals its parameters
    into groups in its own order."""
    a, b = ours["values"], theirs["values"]
    if job == "measure":
        a, b = [sum(a)], [sum(b)]
    # f32 sums in another order; a difference of losses keeps fewer digits.
    tolerance = 1e-4 if job != "measure" else max(5e-5, 0.1 * abs(a[0]))
    worst = max(abs(x - y) for x, y in zip(a, b, strict=True))
    if not worst < tolerance:
        sys.exit(f"{job}: the two sides computed different things: {a} and {b}")
    return worst


def summary(results, at):
    times = [t[at] for r in results for t in r["times"]]
    middle = statistics.median(times)
    return middle, (max(times) - min(times)) / middle


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="roberta-base-shape")
    parser.add_argument("--jobs", default="forward,step,measure")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--groups", default="6")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--program", default=str(root / "target/release/examples/versus_torch"))
    args = parser.parse_args()
    if args.check:
        args.batch, args.length, args.rounds, args.repeats = 4, 8, 1, 2
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model in shapes.ENCODERS or model in shapes.DECODERS:
            model = folder
            shapes.random_checkpoint(args.model, folder)
        print("| job | threads | CPU s, ours | theirs | ratio | wall s, ours | theirs | ratio | spread | peak MiB, ours | theirs | ratio |")
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        for job in args.jobs.split(","):
            for threads in map(int, args.threads.split(",")):
                for groups in map(int, args.groups.split(",") if job == "measure" else ["1"]):
                    one(args, job, threads, groups, model)


def one(args, job, threads, groups, model):
    sides = {"ours": [args.program], "theirs": [sys.executable, str(here / "theirs.py")]}
    results = {"ours": [], "theirs": []}
    for number in range(args.rounds):
        order = list(sides)[:: 1 if number % 2 == 0 else -1]
        for side in order:
            # Their measurement repeats one forward pass 2K + 1 times by itself.
            repeats = 1 if job == "measure" and side == "theirs" else args.repeats
            numbers = map(str, (args.batch, args.length, threads, repeats, groups))
            one_run = run if args.device == "cpu" else run_on_gpu
            results[side].append(one_run([*sides[side], model, job, *numbers, args.device], threads))
        agree(job, cut(results["ours"][-1]), cut(results["theirs"][-1]))
    name = f"{job}, K = {groups}" if job == "measure" else job
    if args.check:
        print(f"| {name} | {threads} | agrees |")
        return
    row = [name, str(threads)]
    spreads = []
    for at in (1, 0):
        (ours, spread), (theirs, other) = (summary(results[side], at) for side in ("ours", "theirs"))
        row += [f"{ours:.3f}", f"{theirs:.3f}", f"{ours / theirs:.3f}"]
        spreads += [f"{spread:.0%}/{other:.0%}"]
    row.append(" ".join(spreads))
    peaks = [max(r["peak_mib"] for r in results[side]) for side in ("ours", "theirs")]
    row += [f"{peaks[0]:.0f}", f"{peaks[1]:.0f}", f"{peaks[0] / peaks[1]:.2f}"]
    print("| " + " | ".join(row) + " |", flush=True)


def cut(result):
    """A few values, where the sides took different numbers of repeats."""
    return {"values": result["values"]}


main()
