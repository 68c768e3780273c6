#!/usr/bin/env python3
"""Make the embedded quickstart: a tiny BERT encoder, its tokenizer, and a slice of a sentiment task.

usage: make_quickstart.py TEACHER DATA OUT [STAGE ...]      STAGE: data tokenizer distil check wide (default: the first four, in this order)

  TEACHER  folder of all-MiniLM-L6-v2 (config.json, tokenizer.json, model.safetensors), Apache-2.0
  DATA     folder with the VADER corpora as vader-{movie,product,news,tweet}-sentiment3/{train,test}.jsonl
           and vader-movie-polarity/{train,test}.jsonl (fields: text, label), MIT
  OUT      folder to fill, e.g. assets/quickstart

Needs torch, transformers, tokenizers, safetensors, numpy. One thread. Every random choice comes from SEED.

  data       draws train.jsonl and validation.jsonl from the two splits of vader-movie-polarity.
  tokenizer  keeps the word pieces of the teacher that the distillation text uses most, and none that it does not use.
  distil     trains the encoder to predict the teacher's word states (layers 3 and 6) and sentence embeddings.
             No label is read. No text of the validation split, nor of the split it comes from, is read.
  check      trains PEFT modules and a head on train.jsonl, and prints accuracies on validation.jsonl over three seeds.
  wide       does that on every row of the split that validation.jsonl is drawn from, for less noise, and with more training rows.
"""
import collections
import json
import math
import os
import random
import re
import sys
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel
from transformers.utils import logging

SEED = 20140
TRAIN_ROWS, VALIDATION_ROWS = 2000, 700
WORDS = (6, 32)  # a row has this many words: shorter ones say too little, longer ones cost time in a one-minute demonstration
PIECES = 6000
MAX_TOKENS = 128  # longest input, also the size of the position table
STUDENT = dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512)
PAIRS = {2: 3, 4: 6}  # student layer -> teacher layer whose word states it must predict
EPOCHS, BATCH, PEAK_RATE = 8, 64, 2e-3
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def key(text):
    """What counts as the same text: letters and digits only."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


# ---- data -----------------------------------------------------------------------------------------------------------


def usable_rows(data):
    """Rows of fitting length of both splits; a text that both splits have stays out of the second."""
    seen, splits = set(), {}
    for split in ["train", "test"]:
        splits[split] = []
        for row in read_jsonl(f"{data}/vader-movie-polarity/{split}.jsonl"):
            k = key(row["text"])
            if k not in seen and WORDS[0] <= len(k.split()) <= WORDS[1]:
                seen.add(k)
                splits[split].append({"text": row["text"], "label": row["label"]})
    return splits


def make_data(data, out):
    rng, splits = random.Random(SEED), usable_rows(data)
    for name, source, size in [("train", "train", TRAIN_ROWS), ("validation", "test", VALIDATION_ROWS)]:
        rows = rng.sample(splits[source], size)
        with open(f"{out}/{name}.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        counts = collections.Counter(r["label"] for r in rows)
        print(f"{name}: {len(rows)} rows, {dict(counts)}, majority {max(counts.values()) / len(rows):.1%}")


def distillation_text(data):
    """Texts of the four VADER corpora, labels dropped, without the split that validation.jsonl is drawn from."""
    held_out = {key(r["text"]) for r in read_jsonl(f"{data}/vader-movie-sentiment3/test.jsonl")}
    held_out |= {key(r["text"]) for r in read_jsonl(f"{data}/vader-movie-polarity/test.jsonl")}
    texts = {}
    for domain in ["movie", "product", "news", "tweet"]:
        for split in ["train", "test"]:
            for row in read_jsonl(f"{data}/vader-{domain}-sentiment3/{split}.jsonl"):
                k = key(row["text"])
                if k and k not in held_out and len(k.split()) <= 64:
                    texts.setdefault(k, row["text"])
    return list(texts.values())


def with_crops(texts):
    """Add one random run of words (a third to two thirds) of each longer text: composition seen in smaller pieces."""
    rng, crops = random.Random(SEED + 1), []
    for text in texts:
        words = text.split()
        if len(words) >= 9:
            size = rng.randint(len(words) // 3, 2 * len(words) // 3)
            start = rng.randint(0, len(words) - size)
            crops.append(" ".join(words[start : start + size]))
    return texts + crops


# ---- tokenizer ------------------------------------------------------------------------------------------------------


def word_pieces(word, vocabulary):
    """Greedy longest match, as WordPiece does it; None where a piece is missing (the word becomes [UNK])."""
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return None
        pieces.append(piece)
        start = end
    return pieces


def make_tokenizer(teacher, data, out):
    spec = json.load(open(f"{teacher}/tokenizer.json", encoding="utf-8"))
    spec["truncation"] = spec["padding"] = None
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    words = collections.Counter()
    for text in distillation_text(data):
        normal = tokenizer.normalizer.normalize_str(text)
        words.update(w for w, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    full = set(spec["model"]["vocab"])
    count = collections.Counter()
    for word, n in words.items():
        for piece in word_pieces(word, full) or []:
            count[piece] += n
    # Single characters let every word of known characters be spelled, so that a dropped piece does not become [UNK].
    characters = {c for w, n in words.items() if n > 1 for c in w}
    keep = {p for c in characters for p in (c, "##" + c) if p in full}
    for piece, _ in sorted(count.items(), key=lambda item: (-item[1], item[0])):
        if len(keep) >= PIECES:
            break
        keep.add(piece)
    # Greedy matching never chose the pieces that remain unused, so dropping them changes nothing.
    used = collections.Counter()
    for word, n in words.items():
        for piece in word_pieces(word, keep) or ["[UNK]"]:
            used[piece] += n
    old = spec["model"]["vocab"]
    pieces = SPECIAL + sorted((p for p in used if p not in SPECIAL), key=lambda p: old[p])
    ids = {p: i for i, p in enumerate(pieces)}
    spec["model"]["vocab"] = ids
    spec["added_tokens"] = [dict(t, id=ids[t["content"]]) for t in spec["added_tokens"] if t["content"] in SPECIAL]
    spec["added_tokens"].sort(key=lambda t: t["id"])
    post = spec["post_processor"]
    if post["type"] == "TemplateProcessing":
        for name, token in post["special_tokens"].items():
            token["ids"] = [ids[name]]
    else:  # BertProcessing
        post["sep"], post["cls"] = ["[SEP]", ids["[SEP]"]], ["[CLS]", ids["[CLS]"]]
    with open(f"{out}/tokenizer.json", "w", encoding="utf-8") as f:
        json.dump(spec, f, ensure_ascii=False, separators=(",", ":"))
    settings = {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True, "model_max_length": MAX_TOKENS}
    settings.update(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    json.dump(settings, open(f"{out}/tokenizer_config.json", "w"), indent=1)
    total = sum(used.values())
    print(f"tokenizer: {len(pieces)} of {len(old)} pieces, {total / sum(words.values()):.3f} pieces a word, {used['[UNK]'] / total:.3%} [UNK]")


def load_tokenizer(folder):
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


# ---- distillation ---------------------------------------------------------------------------------------------------


def encode(tokenizer, texts):
    """Per text: token ids, and per token the slot of its word (0 for [CLS], word w in slot w + 1, -1 for [SEP]).
    Both tokenizers cut the same words, so slots are how states of different pieces are compared."""
    out = []
    for e in tokenizer.encode_batch(texts):
        slots = [w + 1 if w is not None else -1 for w in e.word_ids]
        slots[0] = 0
        out.append((e.ids, slots))
    return out


def collate(rows, pad=0):
    """Token ids, mask, and for each token the row of the flat (all slots of all texts) table it is averaged into."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    sizes = [max(slots) + 1 for _, slots in rows]
    trash = sum(sizes)
    slot = torch.full((len(rows), longest), trash)
    start = 0
    for i, (tokens, slots) in enumerate(rows):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = 1
        slot[i, : len(tokens)] = torch.tensor([start + s if s >= 0 else trash for s in slots])
        start += sizes[i]
    return ids, mask, slot.flatten(), sizes


def to_words(states, slot, total):
    """Average token states (batch, tokens, hidden) into word slots (total, hidden)."""
    table = torch.zeros(total + 1, states.shape[-1]).index_add_(0, slot, states.flatten(0, 1))
    count = torch.zeros(total + 1).index_add_(0, slot, torch.ones(len(slot)))
    return (table / count.clamp(min=1)[:, None])[:total]


def mean_pool(states, mask):
    weight = mask[:, :, None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1)


@torch.no_grad()
def teacher_targets(teacher, texts):
    """Word states of the paired layers in half precision, one table a layer, and unit sentence embeddings."""
    model = BertModel.from_pretrained(teacher, add_pooling_layer=False, dtype=torch.bfloat16).eval()
    rows = encode(load_tokenizer(teacher), texts)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    words, sentences = [None] * len(rows), torch.zeros(len(rows), model.config.hidden_size)
    for at in range(0, len(order), BATCH):
        batch = order[at : at + BATCH]
        ids, mask, slot, sizes = collate([rows[i] for i in batch])
        hidden = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        sentences[batch] = F.normalize(mean_pool(hidden[-1].float(), mask), dim=-1)
        tables = torch.stack([to_words(hidden[t].float(), slot, sum(sizes)) for t in PAIRS.values()], 1).half()
        for i, table in zip(batch, tables.split(sizes)):
            words[i] = table.clone()  # (slots, paired layers, hidden)
    return words, sentences


def start_from_teacher(student, teacher, tokenizer):
    """Principal components of the teacher's input rows (word + position + type, normalised) start the embedding tables."""
    weights = {k: v.float() for k, v in load_file(f"{teacher}/model.safetensors").items()}
    old = Tokenizer.from_file(f"{teacher}/tokenizer.json").get_vocab()
    vocabulary = tokenizer.get_vocab()
    kept = [old[p] for p in sorted(vocabulary, key=vocabulary.get)]
    part = lambda name: weights[next(k for k in weights if k.endswith(f"embeddings.{name}.weight"))]
    word, position, kind = part("word_embeddings")[kept], part("position_embeddings"), part("token_type_embeddings")[0]
    raw = word + position[:32].mean(0) + kind
    scale = part("LayerNorm") / raw.std(1).mean()
    rows = word * scale
    centre = rows.mean(0)
    _, values, axes = torch.linalg.svd(rows - centre, full_matrices=False)
    axes = axes[: student.config.hidden_size]
    print(f"embedding: {(values[: len(axes)] ** 2).sum() / (values**2).sum():.1%} of the variance of the teacher's kept rows")
    tables = student.embeddings
    with torch.no_grad():
        coordinates = (rows - centre) @ axes.T
        unit = coordinates.std()
        tables.word_embeddings.weight.copy_(coordinates / unit)
        tables.position_embeddings.weight.copy_((position[:MAX_TOKENS] - position[:32].mean(0)) * scale @ axes.T / unit)
        tables.token_type_embeddings.weight.zero_()


def distil(teacher, data, out):
    torch.manual_seed(SEED)
    random.seed(SEED)
    tokenizer = load_tokenizer(out)
    texts = with_crops(distillation_text(data))
    rows = encode(tokenizer, texts)
    texts, rows = zip(*[(t, r) for t, r in zip(texts, rows) if len(r[0]) <= MAX_TOKENS])
    clock = time.time()
    words, sentences = teacher_targets(teacher, list(texts))
    print(f"teacher: {len(texts)} texts in {time.time() - clock:.0f} s", flush=True)
    sample = torch.cat(words[:: max(1, len(words) // 4000)]).float()
    centre, spread = sample.mean(0), sample.std(0)  # (paired layers, hidden)
    spread = spread.clamp(min=0.1 * float(spread.mean()))  # a few dimensions of the teacher are constant

    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=MAX_TOKENS, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0, pad_token_id=0, **STUDENT)
    config._attn_implementation = "eager"
    student = BertModel(config, add_pooling_layer=True).train()
    start_from_teacher(student, teacher, tokenizer)
    width = sentences.shape[1]
    # The maps to the teacher's space are thrown away afterwards.
    maps = nn.ModuleDict({"words": nn.ModuleList(nn.Linear(config.hidden_size, width) for _ in PAIRS),
                          "mean": nn.Linear(config.hidden_size, width), "pooler": nn.Linear(config.hidden_size, width)})
    decay = [p for m in (student, maps) for p in m.parameters() if p.dim() > 1]
    plain = [p for m in (student, maps) for p in m.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=PEAK_RATE, betas=(0.9, 0.98))
    per_epoch = math.ceil(len(rows) / BATCH)
    steps, step, clock = EPOCHS * per_epoch, 0, time.time()
    for epoch in range(EPOCHS):
        shuffled = random.sample(range(len(rows)), len(rows))
        # Batches of like length out of a shuffled order: little padding, still random.
        pools = [sorted(shuffled[i : i + 50 * BATCH], key=lambda j: len(rows[j][0])) for i in range(0, len(rows), 50 * BATCH)]
        batches = [pool[i : i + BATCH] for pool in pools for i in range(0, len(pool), BATCH)]
        random.shuffle(batches)
        sums = np.zeros(4)
        for batch in batches:
            rate = PEAK_RATE * min(1.0, (step + 1) / (0.05 * steps)) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            ids, mask, slot, sizes = collate([rows[i] for i in batch])
            target = (torch.cat([words[i] for i in batch]).float() - centre) / spread
            goal = sentences[batch]
            with torch.autocast("cpu", torch.bfloat16):  # weights, averages and losses stay in f32
                result = student(ids, attention_mask=mask, output_hidden_states=True)
                states = [to_words(result.hidden_states[layer].float(), slot, sum(sizes)) for layer in PAIRS]
                losses = [F.mse_loss(f(x).float(), target[:, n]) for n, (f, x) in enumerate(zip(maps["words"], states))]
                mean, pooled = mean_pool(result.last_hidden_state.float(), mask), result.pooler_output
                losses.append(1 - F.cosine_similarity(maps["mean"](mean).float(), goal).mean())
                losses.append(1 - F.cosine_similarity(maps["pooler"](pooled).float(), goal).mean())
            loss = losses[0] + losses[1] + 2 * losses[2] + losses[3]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
            sums += [float(x.detach()) for x in losses]
        middle, last, mean, pooler = sums / len(batches)
        print(f"epoch {epoch + 1}: unexplained variance {middle:.3f} (layer 3) {last:.3f} (layer 6), cosine {1 - mean:.3f} (mean) "
              f"{1 - pooler:.3f} (pooler), {time.time() - clock:.0f} s", flush=True)
    save(student, out)


def save(student, out):
    tensors = {k: v.detach().half().contiguous() for k, v in student.state_dict().items() if not k.endswith("position_ids")}
    save_file(tensors, f"{out}/model.safetensors", metadata={"format": "pt"})
    os.chmod(f"{out}/model.safetensors", 0o644)
    c = student.config
    fields = dict(architectures=["BertModel"], model_type="bert", hidden_act="gelu", hidden_size=c.hidden_size, num_hidden_layers=c.num_hidden_layers,
                  num_attention_heads=c.num_attention_heads, intermediate_size=c.intermediate_size, vocab_size=c.vocab_size,
                  max_position_embeddings=c.max_position_embeddings, type_vocab_size=c.type_vocab_size, layer_norm_eps=c.layer_norm_eps,
                  hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=c.initializer_range, pad_token_id=0,
                  position_embedding_type="absolute", torch_dtype="float16")
    json.dump(fields, open(f"{out}/config.json", "w"), indent=1)
    size = sum(os.path.getsize(f"{out}/{f}") for f in os.listdir(out))
    print(f"saved {sum(t.numel() for t in tensors.values())} parameters; the folder has {size} bytes")


# ---- check ----------------------------------------------------------------------------------------------------------


class Lora(nn.Module):
    """y = base(x) + 2 x A^T B^T with rank 8 (alpha 16); the base's bias may train, its weight not."""

    def __init__(self, base, rank=8):
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + 2 * F.linear(F.linear(x, self.a), self.b)


def classifier(out, head, seed):
    """The exported folder as `transformers` loads it. Heads: `pooler` keeps the distilled pooler, `fresh` starts a new one
    that trains as part of the head, `mean` averages the tokens instead."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(out, num_labels=2, dtype=torch.float32)
    if head == "fresh":
        nn.init.normal_(model.bert.pooler.dense.weight, std=0.02)
        nn.init.zeros_(model.bert.pooler.dense.bias)
    nn.init.normal_(model.classifier.weight, std=0.02)
    nn.init.zeros_(model.classifier.bias)
    return model


def logits(model, head, ids, mask):
    if head != "mean":
        return model(ids, attention_mask=mask).logits
    return model.classifier(mean_pool(model.bert(ids, attention_mask=mask).last_hidden_state, mask))


def fit(out, sets, head, modules, rate, seed, steps=150, batch=32):
    """Held-out accuracy after `steps` of AdamW. `modules`: `peft` = LoRA on all linears + biases + norms + head, or `head`."""
    model = classifier(out, head, seed)
    trained = [p for n, p in model.named_parameters() if n.startswith("classifier") or (head == "fresh" and "pooler" in n)]
    for p in model.parameters():
        p.requires_grad_(False)
    if modules == "peft":
        for layer in model.bert.encoder.layer:
            for parent in (layer.attention.self, layer.attention.output, layer.intermediate, layer.output):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, Lora(child))
        trained += [p for n, p in model.bert.encoder.named_parameters() if n.endswith((".a", ".b", "bias")) or "LayerNorm" in n]
    trained = list({id(p): p for p in trained}.values())
    for p in trained:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    rows, labels = sets["train"]
    rng = random.Random(seed)
    order = [i for _ in range(1 + steps * batch // len(rows)) for i in rng.sample(range(len(rows)), len(rows))]
    for step in range(steps):
        pick = order[step * batch : (step + 1) * batch]
        ids, mask, _, _ = collate([rows[i] for i in pick])
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps))
        loss = F.cross_entropy(logits(model, head, ids, mask), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    rows, labels = sets["validation"]
    right = 0
    with torch.no_grad():
        for at in range(0, len(rows), 100):
            ids, mask, _, _ = collate(rows[at : at + 100])
            right += int((logits(model, head, ids, mask).argmax(-1) == labels[at : at + 100]).sum())
    return right / len(rows), sum(p.numel() for p in trained)


def encoded(tokenizer, rows):
    return encode(tokenizer, [r["text"] for r in rows]), torch.tensor([int(r["label"] == "positive") for r in rows])


def compare(out, sets, heads, trials, steps=150):
    share = sets["validation"][1].float().mean()
    print(f"{len(sets['train'][0])} training rows, {steps} steps, {len(sets['validation'][0])} held-out rows, majority class {max(share, 1 - share):.1%}")
    for head in heads:
        for modules, rate in trials:
            clock = time.time()
            runs = [fit(out, sets, head, modules, rate, seed, steps) for seed in range(3)]
            accuracy = [100 * a for a, _ in runs]
            print(f"head={head:6} train={modules:4} rate={rate:g} parameters={runs[0][1]:6} accuracy={np.mean(accuracy):.1f} % "
                  f"({', '.join(f'{a:.1f}' for a in accuracy)}) {(time.time() - clock) / 3:.0f} s a run", flush=True)


def check(out):
    tokenizer = load_tokenizer(out)
    sets = {name: encoded(tokenizer, read_jsonl(f"{out}/{name}.jsonl")) for name in ["train", "validation"]}
    # Both sides get three rates: a head that is tuned less than the modules would look worse than it is.
    trials = [("peft", 1e-3), ("peft", 2e-3), ("peft", 4e-3), ("head", 2e-3), ("head", 1e-2), ("head", 3e-2)]
    compare(out, sets, ["pooler", "fresh", "mean"], trials)


def wide(data, out):
    tokenizer, splits = load_tokenizer(out), usable_rows(data)
    random.Random(1).shuffle(splits["train"])
    held_out, trials = encoded(tokenizer, splits["test"]), [("peft", 2e-3), ("head", 1e-2)]
    for rows, steps in [(read_jsonl(f"{out}/train.jsonl"), 150), (splits["train"][:3500], 300)]:
        compare(out, {"train": encoded(tokenizer, rows), "validation": held_out}, ["pooler"], trials, steps)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    teacher, data, out, *stages = sys.argv[1:]
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.makedirs(out, exist_ok=True)
    for stage in stages or ["data", "tokenizer", "distil", "check"]:
        {"data": lambda: make_data(data, out), "tokenizer": lambda: make_tokenizer(teacher, data, out),
         "distil": lambda: distil(teacher, data, out), "check": lambda: check(out), "wide": lambda: wide(data, out)}[stage]()


if __name__ == "__main__":
    main()
