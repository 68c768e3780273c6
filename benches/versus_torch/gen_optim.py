"""One measurement of one group by the authors' own code, `gen-optim` on PyPI: three losses along the whole step.

    pip install --no-deps --target DIR gen-optim scipy scikit-learn joblib threadpoolctl narwhals cloudpickle
    PYTHONPATH=DIR:… python benches/versus_torch/gen_optim.py MODEL [BATCH LENGTH THREADS REPEATS]

The same superset and batch as `theirs.py` has. `lr_parabola` also takes the optimizer's step, so the time of one plain step of
the optimizer is shown beside it. Ours, for any number of groups: `run.py --jobs measure`. Nothing else needs this package.
"""
import json
import os
import statistics
import sys
import time

model_dir = sys.argv[1]
batch, length, threads, repeats = map(int, sys.argv[2:6]) if len(sys.argv) > 5 else (32, 64, 1, 5)
os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import torch
from GeN import lr_parabola
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BatchEncoding

torch.set_num_threads(threads)
torch.manual_seed(0)
base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2, dtype=torch.float32)
linear = r".*\.(query|key|value|dense)" if hasattr(base, "bert") else r".*encoder.*\.(query|key|value|dense)"
model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=linear, task_type="SEQ_CLS"))
model.eval()
for name, p in model.named_parameters():
    trained = "lora_" in name or "classifier" in name or name.endswith("bias") or "LayerNorm" in name
    p.requires_grad_(trained and "original_module" not in name)
vocabulary = base.config.vocab_size - 10
ids = torch.tensor([[5 + (r * 7919 + a * 104_729) % vocabulary for a in range(length)] for r in range(batch)])
rows = BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(batch) % 2})
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)


def endless():
    while True:
        yield rows


def used(work):
    model(**rows).loss.backward()
    start = time.process_time()
    work()
    seconds = time.process_time() - start
    optimizer.zero_grad(set_to_none=True)
    return seconds


def measure():
    lr_parabola(model, optimizer, tr_iter=endless(), device="cpu", task="NLU", lr_factor=[-1, 0, 1])


times = {"measurement": [], "step": []}
for repeat in range(repeats + 1):
    both = used(measure), used(optimizer.step)
    if repeat:
        times["measurement"].append(both[0])
        times["step"].append(both[1])
print(json.dumps({name: round(statistics.median(seconds), 3) for name, seconds in times.items()} | {"cpu_seconds": True}))
