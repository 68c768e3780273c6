"""One arm: Hugging Face peft on a classifier of transformers, trained and evaluated.

What the uniform arms of the Rust half do, the same here: batches, AdamW, schedule, clipping, no dropout, the head as transformers has
it (a fresh `classifier` over the pooler, which gets a LoRA like any linear layer) and trained from the first step, and a LoRA's
scale, which is that of the superset whatever the rank.
"""
import math
import random
import time

import torch
from peft import AdaLoraConfig, LoraConfig, TaskType, get_peft_model
from torch.nn.utils import clip_grad_norm_

import ranks
import rows
import setting

# Shares of an AdaLoRA's steps: before ranks are taken away, after all are taken, and from one time to the next between.
FIRST, LAST, EVERY = 0.1, 0.5, 0.01
# Of the head's own training: its batches, the root mean square change of the logits by a step, and the rate of the first trial.
HEAD_BATCHES, STEP, TRIAL = 32, 0.1, 1e-3


def linears(model):
    """Linear layers below the head, in the model's order."""
    prefix = model.base_model_prefix + "."
    return [ranks.Linear.of(name, module.in_features, module.out_features)
            for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name.startswith(prefix)]


def lora(model, pattern, scale):
    """LoRA of these ranks by name of the layer, each with this scale."""
    most = max(pattern.values())
    others = {name: rank for name, rank in pattern.items() if rank != most}
    return get_peft_model(model, LoraConfig(
        task_type=TaskType.SEQ_CLS, target_modules=list(pattern), r=most, lora_alpha=scale * most, lora_dropout=0.0,
        rank_pattern=others, alpha_pattern={name: scale * rank for name, rank in others.items()}))


def adalora(model, layers, capacity, scale, steps):
    """AdaLoRA on all linear layers, which ends about within the capacity."""
    first, left = ranks.adaptive(layers, capacity)
    wrapped = get_peft_model(model, AdaLoraConfig(
        task_type=TaskType.SEQ_CLS, target_modules=[linear.name for linear in layers], init_r=first,
        target_r=max(1, left // len(layers)), lora_alpha=scale * first, lora_dropout=0.0, orth_reg_weight=0.5,
        tinit=round(FIRST * steps), tfinal=round(LAST * steps), deltaT=max(1, round(EVERY * steps)), total_step=steps))
    # `target_r` is a whole rank for each layer, and within a small budget there is less than one.
    wrapped.base_model.rankallocator.target_bgt = left
    return wrapped


class Attached:
    """A model with an arm's modules."""

    def __init__(self, arm, model, capacity, tree, steps, is_filled=False):
        scale, layers = setting.scale(tree), linears(model)
        self.layers, self.capacity = {linear.name: linear for linear in layers}, capacity
        self.is_adaptive, self.pattern = arm == "peft-adalora", {}
        if self.is_adaptive:
            self.model = adalora(model, layers, capacity, scale, steps)
            return
        chosen = ranks.query_and_value(layers) if arm == "peft-lora-qv" else layers
        if not chosen:
            raise ValueError("the model has no query and value layers by the names that are known here")
        blocks = tree["superset"]["lora"]["rank_blocks"]
        self.pattern = ranks.filled(chosen, capacity, blocks) if is_filled else ranks.uniform(chosen, capacity, sum(blocks))
        if not self.pattern:
            raise ValueError(f"the budget of {capacity} parameters is below the smallest LoRA of rank 1")
        self.model = lora(model, self.pattern, scale)

    def parameters(self):
        """Numbers in the present ranks; AdaLoRA has a singular value for each rank besides its two vectors."""
        return sum(self.layers[name].size(rank) + (rank if self.is_adaptive else 0) for name, rank in self.pattern.items())

    def groups(self):
        return " ".join(f"{self.layers[name].group()}:{rank}" for name, rank in self.pattern.items())

    def after_step(self, step):
        """Lets AdaLoRA measure and take ranks away: after a step, and before gradients are cleared."""
        if not self.is_adaptive:
            return
        self.model.base_model.update_and_allocate(step)
        kept = self.model.peft_config["default"].rank_pattern
        if kept:
            self.pattern = {name.split(".lora_E")[0]: sum(flags) for name, flags in kept.items() if any(flags)}
            # It aims at a number of ranks, and prefers large layers: as many as fit when they are as large as those it keeps now.
            allocator = self.model.base_model.rankallocator
            mean = self.parameters() / sum(self.pattern.values())
            allocator.target_bgt = max(1, min(int(self.capacity / mean), allocator.init_bgt - 1))


def factor(step, steps, warmup, is_constant=False):
    """Factor of the learning rate at a step, counted from 0; as `Schedule::factor`."""
    rising = math.floor(warmup * steps + 0.5)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 1.0 if is_constant else (steps - step) / max(steps - rising, 1)


class Trainer:
    def __init__(self, model, tokenizer, tree, rate, seed):
        self.model, self.tokenizer, self.train, self.probe = model, tokenizer, tree["train"], tree["probe"]
        self.rate, self.seed = rate, seed

    def batch(self, encoded):
        padded = self.tokenizer.pad({"input_ids": [ids for ids, _ in encoded]}, return_tensors="pt")
        return {**padded, "labels": torch.tensor([label for _, label in encoded])}

    def optimizer(self, is_trained=lambda name: True):
        """AdamW that decays matrices alone, at the rates of the recipe."""
        sorts = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and is_trained(name):
                # Norms are not among what peft trains here.
                sorts.setdefault((is_head(name), parameter.ndim > 1), []).append(parameter)
        head_rate = self.train["head_learning_rate"] or self.rate
        groups = [{"params": members, "lr": float(head_rate if head else self.rate),
                   "weight_decay": float(self.train["weight_decay"]) if matrix else 0.0}
                  for (head, matrix), members in sorts.items()]
        betas = (float(self.train["beta1"]), float(self.train["beta2"]))
        return torch.optim.AdamW(groups, betas=betas, eps=float(self.train["epsilon"]))

    def run(self, encoded, steps, stream, optimizer, after_step=lambda step: None, is_constant=False):
        members = [p for group in optimizer.param_groups for p in group["params"]]
        warmup, clip = float(self.train["warmup"]), float(self.train["clip"])
        is_constant = is_constant or self.train["schedule"] == "constant"
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps, warmup, is_constant))
        order = rows.batches(encoded, int(self.train["batch_size"]), random.Random(f"{self.seed} {stream}"))
        for step in range(steps):
            loss = self.model(**self.batch(next(order))).loss
            if not torch.isfinite(loss):
                raise ValueError(f"the loss is {loss.item()} at step {step}: the rate of {self.rate} is too high")
            loss.backward()
            if clip > 0:
                clip_grad_norm_(members, clip)
            optimizer.step()
            after_step(step)
            self.model.zero_grad(set_to_none=True)
            schedule.step()

    def warm_up_head(self, encoded):
        """Trains the head alone, as a selection does before its probe: on a few batches over and over, at the rate with which a
        step moves the logits by `STEP`."""
        steps, clip = int(self.probe["head_warmup"]), float(self.train["clip"])
        order = rows.batches(encoded, int(self.train["batch_size"]), random.Random(f"{self.seed} head"))
        batches = [self.batch(next(order)) for _ in range(min(HEAD_BATCHES, steps))]
        optimizer, rate = self.optimizer(is_head), None
        members = [p for group in optimizer.param_groups for p in group["params"]]
        for step in range(steps):
            batch = batches[step % len(batches)]
            output = self.model(**batch)
            output.loss.backward()
            if clip > 0:
                clip_grad_norm_(members, clip)
            before = [p.detach().clone() for p in members] if rate is None else []
            for group in optimizer.param_groups:
                group["lr"] = rate or TRIAL
            optimizer.step()
            if rate is None:
                with torch.inference_mode():
                    moved = self.model(**batch).logits - output.logits
                rate = STEP * TRIAL / moved.square().mean().sqrt().item()
                with torch.no_grad():
                    for p, start in zip(members, before):
                        p.copy_(start + (p - start) * (rate / TRIAL))
            self.model.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def evaluate(self, encoded):
        """Accuracy and mean cross-entropy, without AdaLoRA's regularization."""
        correct, loss = 0, 0.0
        for part in rows.by_length(encoded, max(32, 4 * int(self.train["batch_size"]))):
            batch = self.batch(part)
            labels = batch.pop("labels")
            logits = self.model(**batch).logits.double()
            correct += (logits.argmax(-1) == labels).sum().item()
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        return correct / len(encoded), loss / len(encoded)


def is_head(name):
    return ".modules_to_save." in name


def run(arm, model, tokenizer, tree, place, data, is_filled=False):
    """Trains and evaluates; returns the columns of a row that follow from it. `place` has capacity, steps, rate and seed."""
    train, test = data
    torch.manual_seed(place["seed"])
    attached = Attached(arm, model, place["capacity"], tree, place["steps"], is_filled)
    attached.model.train()
    trainer = Trainer(attached.model, tokenizer, tree, place["rate"], place["seed"])
    begin = time.process_time()
    trainer.warm_up_head(train)
    trainer.run(train, place["steps"], "train", trainer.optimizer(), attached.after_step)
    attached.model.eval()
    accuracy, loss = trainer.evaluate(test)
    seconds = time.process_time() - begin
    parameters = attached.parameters()
    return {"parameters": parameters, "steps": place["steps"], "metric": "accuracy", "value": accuracy, "loss": loss,
            "examples": len(test), "seconds": seconds, "kinds": f"lora:{parameters}", "groups": attached.groups()}
