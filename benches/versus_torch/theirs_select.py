"""PyTorch's half of `whole_select.py`: `theirs_select.py JOB`, where JOB is the JSON that `whole_select.py` makes."""
import json
import os
import random
import sys

job = json.loads(sys.argv[1])
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(job["threads"])
torch.manual_seed(0)
random.seed(0)
RATE = 1e-3
DEVICE = job["device"]


def rows(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


train, held_out = rows(job["data"]), rows(job["validation"])
labels = sorted({row["label"] for row in train})
tokenizer = AutoTokenizer.from_pretrained(job["model"])


def encode(rows):
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=128)["input_ids"]
    return [(i, labels.index(row["label"])) for i, row in zip(ids, rows)]


train, held_out = encode(train), encode(held_out)
base = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=len(labels), dtype=torch.float32)
is_encoder = hasattr(base, "bert") or hasattr(base, "roberta")
if is_encoder:
    linear = r".*\.(query|key|value|dense)" if hasattr(base, "bert") else r".*encoder.*\.(query|key|value|dense)"
else:
    linear = "all-linear"
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base.config.pad_token_id = tokenizer.pad_token_id
model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=linear, task_type="SEQ_CLS")).to(DEVICE)
model.eval()  # no dropout, as in ours

groups = {}  # name to parameters
for name, p in model.named_parameters():
    original = "original_module" in name
    module = name.rsplit(".lora_" if ".lora_" in name else ".", 1)[0].replace(".base_layer", "")
    inert = name.endswith("key.base_layer.bias")
    if ("classifier" in name or ".score." in name) and not original:
        group = "head"
    elif "lora_" in name:
        group = "lora " + module
    elif "norm" in name.lower():
        group = "norm " + module
    elif name.endswith("bias") and not original and not inert:
        group = "bias " + module
    else:
        p.requires_grad_(False)
        continue
    p.requires_grad_(True)
    groups.setdefault(group, []).append(p)
initial = {p: p.detach().clone() for members in groups.values() for p in members}


def shuffled(count):
    while True:
        order = list(range(len(train)))
        random.shuffle(order)
        for start in range(0, len(order) - count + 1, count):
            yield [train[i] for i in order[start : start + count]]


def batch(rows):
    padded = tokenizer.pad({"input_ids": [ids for ids, _ in rows]}, return_tensors="pt").to(DEVICE)
    return padded, torch.tensor([label for _, label in rows], device=DEVICE)


def loss(rows):
    inputs, targets = batch(rows)
    return torch.nn.functional.cross_entropy(model(**inputs).logits, targets)


def evaluate():
    correct = 0
    # By length, as ours.
    ordered = sorted(held_out, key=lambda row: len(row[0]))
    with torch.inference_mode():
        for start in range(0, len(ordered), 64):
            inputs, targets = batch(ordered[start : start + 64])
            correct += (model(**inputs).logits.argmax(-1) == targets).sum().item()
    return correct / len(held_out)


def optimizer(names):
    parameters = [p for name in names for p in groups[name]]
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01, fused=True)


def step(optimizer, rows):
    optimizer.zero_grad(set_to_none=True)
    loss(rows).backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


@torch.no_grad()
def measure(directions, rows):
    """Value b²/2A of each group, from losses at -e, 0 and e."""
    middle, values = loss(rows).item(), {}
    for name, members in groups.items():
        around = []
        for factor in (-1.0, 2.0, -1.0):
            for p in members:
                p.add_(directions[p], alpha=factor)
            if factor != -1.0 or not around:
                around.append(loss(rows).item())
        above, below = around  # one step against the direction, and one along it
        slope, curvature = (above - below) / 2, above + below - 2 * middle
        values[name] = slope**2 / (2 * curvature) if slope > 0 and curvature > 0 else 0.0
    return values


batches, others = shuffled(job["batch"]), shuffled(job["examples"])
accuracy = [evaluate()]
stages = job["stages"]
head = optimizer(["head"])
for name, members in groups.items():
    for p in members:
        p.requires_grad_(name == "head")
for _ in range(stages.get("head", 0)):
    step(head, next(batches))
for members in groups.values():
    for p in members:
        p.requires_grad_(True)
everything, totals = optimizer(groups), dict.fromkeys(groups, 0.0)
measured = set(job["measured"])
for number in range(stages.get("probe", 0)):
    members = [p for members in groups.values() for p in members]
    before = {p: p.detach().clone() for p in members} if number in measured else None
    step(everything, next(batches))
    if before is not None:
        after = {p: p.detach().clone() for p in members}
        directions = {p: after[p] - before[p] for p in members}
        with torch.no_grad():
            for p in members:
                p.copy_(before[p])
            for name, value in measure(directions, next(others)).items():
                totals[name] += value
            for p in members:
                p.copy_(after[p])
accuracy.append(evaluate())
size = {name: sum(p.numel() for p in members) for name, members in groups.items()}
kept, room = {"head"}, job["budget"]
for name in sorted(groups, key=lambda name: totals[name] / size[name], reverse=True):
    if name not in kept and size[name] <= room and totals[name] > 0:
        kept.add(name)
        room -= size[name]
for name, members in groups.items():
    for p in members:
        p.requires_grad_(name in kept)
        if name not in kept:
            p.data.copy_(initial[p])  # changes nothing there
accuracy.append(evaluate())
rest = optimizer(kept)
for _ in range(sum(count for stage, count in stages.items() if stage not in ("head", "probe"))):
    step(rest, next(batches))
accuracy.append(evaluate())
model.save_pretrained(job["out"])
print(json.dumps({"groups": len(groups), "trainable": sum(size.values()) - size["head"],
                  "kept": sum(size[name] for name in kept) - size["head"], "accuracy": accuracy}))
