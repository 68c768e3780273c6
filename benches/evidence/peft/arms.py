"""Hugging Face peft's own LoRA and AdaLoRA as arms of the comparison: a check of our uniform arms.

    PYTHONPATH=$V/current $V/bin/python benches/evidence/peft/arms.py SETTING --models DIR --data DIR --out DIR

V is the environment that `tests/interop/venv.sh` makes. It reads the settings of the Rust half, trains on the same files, and adds
rows to the same `runs.csv`; a finished arm is not run again. Run the Rust half first: an arm here trains for as many steps as our
uniform arm of the same task, budget, seed and rate did (where there is none, for the setting's), and last: its tables then
have these rows too.

- `peft-lora`, `peft-lora-qv`: LoRA on all linear layers, and on query and value, of the largest rank that fits on all of
  them. Where not even rank 1 fits, rank 1 from the last layer down. `--filled` fills the rest of the budget as our uniform arms do.
- `peft-adalora`: AdaLoRA (Zhang et al. 2023, <https://arxiv.org/abs/2303.10512>) on all linear layers, from 1.5 times the ranks that
  it would end with if it kept layers of all sizes alike. It takes ranks away from 10 % of its steps on to the half of them,
  every 1 %; orthogonality weighs 0.5. It aims at a number of ranks; here at as many as have the budget's parameters when they are as
  large as those kept so far, so that it ends within a few percent of the budget.

Not as in the Rust half: the numbers drawn by a seed, and so the initial values, the order of the rows, and of a file with more than
`data.max_rows` rows the rows themselves (`rows.py`).
"""
import argparse
import itertools
import math
import os
import pathlib

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

import rows
import setting
import training
from ledger import Ledger, key

ARMS = ("peft-lora", "peft-lora-qv", "peft-adalora")
# As the families of encoders name them; a classifier without one of its own has the hidden layers'.
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "classifier_dropout",
            "seq_classif_dropout")


def listed(kind=str):
    return lambda text: [kind(item) for item in text.split(",")]


def arguments(line=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", type=pathlib.Path)
    parser.add_argument("--models", type=pathlib.Path, default=".")
    parser.add_argument("--data", type=pathlib.Path, default=".")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", type=listed(), help="only these tasks of the setting")
    parser.add_argument("--seeds", type=listed(int), help="only these seeds of the setting")
    parser.add_argument("--rates", type=listed(float), help="only these rates of the setting")
    parser.add_argument("--budgets", type=listed(), help="only these budgets of the setting")
    parser.add_argument("--arms", type=listed(), default=ARMS, help="only these arms")
    parser.add_argument("--filled", action="store_true",
                        help="LoRA alone, of the same ranks as our uniform arms, as an arm `…/filled`")
    parsed = parser.parse_args(line)
    unknown = set(parsed.arms) - set(ARMS)
    if unknown:
        parser.error(f"no arm `{min(unknown)}`: there are {', '.join(ARMS)}")
    if parsed.filled:
        parsed.arms = [arm for arm in parsed.arms if arm != "peft-adalora"]
    return parsed


def num_parameters(folder):
    """Values in the checkpoint, of which a budget is a share."""
    count = 0
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    if count == 0:
        raise FileNotFoundError(f"no model.safetensors in {folder}: give the folder that the model is in with `--models`")
    return count


def classifier(folder, num_labels, seed):
    """The checkpoint without dropout, and with a fresh head where it has none."""
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(folder, num_labels=num_labels)
    for name in DROPOUTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, 0.0)
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True)
    absent = [name for name in loading["missing_keys"] if name.startswith(model.base_model_prefix + ".")]
    if absent:
        raise ValueError(f"{folder} lacks `{min(absent)}`, which the Rust half would train with the head")
    return model


def run_task(options, compared, task, ledger):
    tree = setting.recipe(compared, task)
    refusal = setting.refusal(tree, task)
    if refusal:
        print(f"{task['name']}: left out, {refusal}")
        return
    folder = options.models / task["model"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    all_rows, test_rows = rows.read(options.data / task["train"]), rows.read(options.data / task["test"])
    names = rows.label_names(all_rows)
    max_length = int(tree["task"]["max_length"])
    encoded = rows.encode(tokenizer, all_rows, names, max_length)
    test = rows.encode(tokenizer, rows.every_nth(test_rows, task.get("test_rows")), names, max_length)
    suffix = "/filled" if options.filled else ""
    places = [chosen(compared["rates"], options.rates, float),
              chosen(compared["budgets"], options.budgets, str), options.arms]
    parameters = num_parameters(folder)
    for seed in chosen(compared["seeds"], options.seeds, int):
        numbers = rows.subset([label for _, label in encoded], tree["data"]["max_rows"], seed)
        data = [encoded[number] for number in numbers], test
        for rate, budget, arm in itertools.product(*places):
            at = key(task["name"], arm + suffix, budget, seed, rate)
            if ledger.has(at):
                continue
            steps = ledger.equal_steps(key(task["name"], arm, budget, seed, rate))
            if steps is None:
                steps = int(compared["steps"])
                print(f"{' '.join(map(str, at))}: no uniform arm of ours to be equal to, so {steps} steps", flush=True)
            place = {"capacity": setting.capacity(budget, parameters), "steps": steps, "rate": rate, "seed": seed}
            model = classifier(folder, len(names), seed)
            result = training.run(arm, model, tokenizer, tree, place, data, options.filled)
            row = {"task": task["name"], "arm": arm + suffix, "budget": budget, "seed": seed, "rate": rate, **result}
            ledger.add(row)
            print("{task:12} {arm:24} {budget:>6} seed {seed} rate {rate:.0e}: {metric} {value:.4f} loss {loss:.4f}, "
                  "{parameters} parameters, {steps} steps, {seconds:.1f} s".format(**row), flush=True)


def chosen(all_of, only, kind):
    """What the setting has, in its order, and of it only what was asked for."""
    values = [kind(value) for value in all_of]
    return values if only is None else [value for value in values if value in only]


def main(line=None):
    options = arguments(line)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    compared, ledger = setting.read(options.setting), Ledger(options.out)
    for task in compared["tasks"]:
        if options.only is None or task["name"] in options.only:
            run_task(options, compared, task, ledger)


if __name__ == "__main__":
    main()
