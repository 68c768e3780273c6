"""PyTorch's half of the side-by-side benchmark: `theirs.py MODEL JOB BATCH LENGTH THREADS REPEATS GROUPS DEVICE`.

The same jobs from the same numbers as `ours.rs`: transformers with its default attention (sdpa), peft's LoRA of rank 8 on all
linear layers below the head, all biases and norms trainable, fused AdamW. Dropout is off on both sides. An encoder is a
classifier; anything else is a language model that learns every token.
`measure` is the estimator of Xu et al. 2025 (arXiv 2501.06954): a parabola through the losses at -e, 0 and e
along each group, 2K + 1 forward passes.
"""
import json
import os
import sys
import time

model_dir, job = sys.argv[1:3]
batch, length, threads, repeats, groups = map(int, sys.argv[3:8])
device = sys.argv[8]
os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(threads)
torch.manual_seed(0)


def memory(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key))


start_memory = memory("VmRSS:")


def wave(like, size, rate):
    i = torch.arange(like.numel(), dtype=torch.float64)
    return (size * torch.sin(rate * i + 1.0)).to(torch.float32).reshape(like.shape).to(device)


is_causal = AutoConfig.from_pretrained(model_dir).model_type not in ("bert", "roberta", "xlm-roberta", "camembert")
if is_causal:
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    linear, task = "all-linear", "CAUSAL_LM"
else:
    base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2, dtype=torch.float32)
    linear = r".*\.(query|key|value|dense)" if hasattr(base, "bert") else r".*encoder.*\.(query|key|value|dense)"
    task = "SEQ_CLS"
model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=linear, task_type=task)).to(device)
model.eval()
parameters = []
with torch.no_grad():
    for name, p in model.named_parameters():
        head = "classifier" in name and "original_module" not in name
        # A bias of a linear layer lies in peft's wrapper; a norm has its own.
        is_norm = "norm" in name.lower()
        p.requires_grad_("lora_" in name or head or name.endswith("bias") and "original_module" not in name or is_norm)
        if "lora_A" in name:
            p.copy_(wave(p, 0.02, 0.37))
        elif "lora_B" in name:
            p.copy_(wave(p, 0.01, 0.29))
        elif head:
            p.copy_(wave(p, 0.05, 0.53))
        if p.requires_grad:
            parameters.append((name, p))

vocabulary = base.config.vocab_size - 10
ids = torch.tensor([[5 + (r * 7919 + a * 104_729) % vocabulary for a in range(length)] for r in range(batch)], device=device)
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
labels = torch.arange(batch, device=device) % 2
optimizer = torch.optim.AdamW([p for _, p in parameters], lr=1e-3, weight_decay=0.0, eps=1e-8, fused=True)


def loss():
    if is_causal:
        return model(**inputs, labels=ids).loss
    return torch.nn.functional.cross_entropy(model(**inputs).logits, labels)


def forward():
    with torch.inference_mode():
        return loss().item()


def step():
    optimizer.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    optimizer.step()
    return value.item()


@torch.no_grad()
def measure():
    epsilon = 0.05
    directions = [wave(p, 0.01, 0.31) for _, p in parameters]
    middle = loss().item()
    slopes = []
    for k in range(groups):
        members = [(p, g) for (_, p), g in list(zip(parameters, directions))[k::groups]]
        for p, g in members:
            p.add_(g, alpha=epsilon)
        above = loss().item()
        for p, g in members:
            p.add_(g, alpha=-2 * epsilon)
        below = loss().item()
        for p, g in members:
            p.add_(g, alpha=epsilon)
        slopes.append((above - below) / (2 * epsilon))
        _curvature = (above + below - 2 * middle) / epsilon**2
    return slopes


values, times = [], []
for repeat in range(repeats + 1):
    wall, cpu = time.perf_counter(), time.process_time()
    if job == "measure":
        values = measure()
    else:
        values.append({"forward": forward, "step": step}[job]())
    if device != "cpu":
        torch.cuda.synchronize()
    if repeat > 0:
        times.append([time.perf_counter() - wall, time.process_time() - cpu])
print(json.dumps({"values": values, "times": times, "peak_mib": memory("VmHWM:"), "start_mib": start_memory,
                  "trainable": sum(p.numel() for _, p in parameters)}))
