"""The peft arms on a tiny random BERT: ranks, scale and file are those of the Rust half, and a finished arm is left alone."""
import csv
import json
import pathlib
import re

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import arms
import ledger
import ranks
import rows
import setting
import training

EVIDENCE = pathlib.Path(__file__).resolve().parent.parent
WORDS = ["red", "green", "sun", "rain", "sea", "hill"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, rows of two classes that words tell apart, and a setting."""
    folder = tmp_path_factory.mktemp("evidence")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder / "tiny")
    torch.manual_seed(0)
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16,
                 initializer_range=0.3)  # with the usual 0.02 and no pre-training, all texts come out alike
    BertModel(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder / "tiny")
    (folder / "words").mkdir()
    for name, count in [("train", 60), ("test", 30)]:
        lines = [{"text": f"{WORDS[n % 2]} {WORDS[2 + n % 4]} {WORDS[2 + n % 3]}", "label": ["warm", "cold"][n % 2]}
                 for n in range(count)]
        (folder / "words" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"name": "words", "model": "tiny", "train": "words/train.jsonl", "test": "words/test.jsonl", "test_rows": 20}
    embedded = {"name": "quickstart", "recipe": "quickstart", "model": "embedded:quickstart", "train": "embedded:quickstart"}
    compared = {"steps": 100, "seeds": [0], "rates": [3e-2], "budgets": ["3%"], "set": ["task.max_length=8", "data.max_rows=50"],
                "tasks": [task, embedded]}
    (folder / "setting.yaml").write_text(yaml.safe_dump(compared))
    return folder


def run(folder, out, *more):
    arms.main([str(folder / "setting.yaml"), "--models", str(folder), "--data", str(folder), "--out", str(out), *more])
    with open(out / "runs.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(folder):
    out = folder / "out"
    return out, run(folder, out)


def minilm():
    """The linear layers of all-MiniLM-L6-v2."""
    roles = [("attention.self.query", 384, 384), ("attention.self.key", 384, 384), ("attention.self.value", 384, 384),
             ("attention.output.dense", 384, 384), ("intermediate.dense", 384, 1536), ("output.dense", 1536, 384)]
    layers = [ranks.Linear.of(f"bert.encoder.layer.{layer}.{role}", *shape) for layer in range(6) for role, *shape in roles]
    return [*layers, ranks.Linear.of("bert.pooler.dense", 384, 384)]


def parameters(layers, pattern):
    return sum(linear.size(pattern.get(linear.name, 0)) for linear in layers)


def test_filled_ranks_have_the_parameters_of_our_uniform_arms():
    # The columns of `lora` and `lora-qv` within 0.03 % and 0.1 %, docs/evidence.md.
    layers, blocks = minilm(), [1, 1, 2, 4]
    for budget, all_linear, query_and_value in [("0.03%", 6528, 6144), ("0.1%", 22272, 21504)]:
        capacity = setting.capacity(budget, 22_713_728)
        assert parameters(layers, ranks.filled(layers, capacity, blocks)) == all_linear
        some = ranks.query_and_value(layers)
        assert parameters(some, ranks.filled(some, capacity, blocks)) == query_and_value


def test_uniform_ranks_are_the_largest_that_fit_and_small_budgets_fill_from_the_last_layer_down():
    layers = ranks.query_and_value(minilm())
    whole = sum(linear.size(1) for linear in layers)
    for capacity in range(768, 12 * whole, 1000):
        pattern = ranks.uniform(layers, capacity, 8)
        assert parameters(layers, pattern) <= capacity
        if capacity >= whole:
            assert set(pattern.values()) == {min(8, capacity // whole)} and len(pattern) == len(layers)
    small = ranks.uniform(layers, 3 * 768, 8)
    assert [ranks.Linear.of(name, 0, 0).layer for name in small] == [5, 5, 4]
    assert ranks.uniform(layers, 767, 8) == {}


def test_columns_are_those_of_the_rust_half():
    source = (EVIDENCE / "ledger.rs").read_text()
    row = re.search(r"pub struct Row \{(.*?)\n\}", source, re.S)[1]
    assert tuple(re.findall(r"pub (\w+):", row)) == ledger.COLUMNS


def test_every_arm_is_a_row_within_the_budget(folder, finished):
    _, lines = finished
    capacity = setting.capacity("3%", arms.num_parameters(folder / "tiny"))
    assert [line["arm"] for line in lines] == ["peft-lora", "peft-lora-qv", "peft-adalora"]
    for line in lines:
        assert (line["task"], line["budget"], line["seed"], float(line["rate"])) == ("words", "3%", "0", 3e-2)
        assert (line["steps"], line["metric"], line["examples"]) == ("100", "accuracy", "20")
        # AdaLoRA counts ranks of layers of several sizes, here of at most 49 numbers.
        limit = capacity + 49 if line["arm"] == "peft-adalora" else capacity
        assert 0 < int(line["parameters"]) <= limit
        assert line["kinds"] == f"lora:{line['parameters']}" and line["groups"].startswith("lora/")
        assert float(line["value"]) == 1.0, "a word tells the classes apart"
        assert float(line["loss"]) < 0.5


def test_a_finished_arm_is_not_run_again_and_one_seed_gives_one_result(folder, finished, monkeypatch):
    out, lines = finished
    again = run(folder, folder / "again", "--arms", "peft-adalora")
    for column in ledger.COLUMNS:
        assert column == "seconds" or again[0][column] == lines[2][column]
    monkeypatch.setattr(training, "run", lambda *_: pytest.fail("a finished arm was run again"))
    assert run(folder, out) == lines


def test_steps_are_those_of_our_uniform_arm_at_the_same_rate(folder):
    out = folder / "ours"
    book = ledger.Ledger(out)
    ours = dict.fromkeys(ledger.COLUMNS, 0) | {"task": "words", "budget": "3%", "seed": 0}
    book.add(ours | {"arm": "lora-qv", "rate": 3e-2, "steps": 7})
    book.add(ours | {"arm": "lora", "rate": 3e-3, "steps": 9})
    lines = run(folder, out, "--arms", "peft-lora")
    assert [(line["arm"], line["steps"]) for line in lines[2:]] == [("peft-lora", "7")]


def test_scale_is_that_of_the_superset_for_every_rank(folder):
    tree = setting.recipe({}, {})
    assert setting.scale(tree) == 2.0  # alpha 16 over a superset of rank 8
    layers = training.linears(arms.classifier(folder / "tiny", 2, 0))
    capacity = sum(linear.size(2) for linear in ranks.query_and_value(layers)) + layers[0].size(2)
    for arm in arms.ARMS:
        model = training.Attached(arm, arms.classifier(folder / "tiny", 2, 0), capacity, tree, 100, is_filled=True).model
        seen = set()
        for module in model.modules():
            if hasattr(module, "lora_A") and "default" in module.lora_A:
                a, b = (getattr(part["default"], "weight", part["default"]) for part in (module.lora_A, module.lora_B))
                with torch.no_grad():
                    torch.nn.init.normal_(b)
                    if arm == "peft-adalora":
                        torch.nn.init.ones_(module.lora_E["default"])
                    # AdaLoRA divides by the rank plus 1e-5.
                    assert torch.allclose(module.get_delta_weight("default"), 2.0 * b @ a, rtol=1e-4, atol=1e-6)
                seen.add(a.shape[0])
        assert seen == {"peft-lora": {1}, "peft-lora-qv": {2, 4}, "peft-adalora": {1}}[arm]


def test_adalora_ends_about_within_the_budget_with_the_ranks_that_the_row_names(folder):
    tree = setting.recipe({}, {})
    base = arms.classifier(folder / "tiny", 2, 0)
    whole = sum(linear.size(1) for linear in training.linears(base))
    attached = training.Attached("peft-adalora", base, whole, tree, 40)
    encoded = [([2, 4 + number % 6, 4 + number % 5, 3], number % 2) for number in range(32)]
    tokenizer = arms.AutoTokenizer.from_pretrained(folder / "tiny")
    trainer = training.Trainer(attached.model, tokenizer, tree, 1e-2, 0)
    trainer.run(encoded, 40, "train", trainer.optimizer(), attached.after_step)
    ends = {name.split("base_model.model.")[1].split(".lora_E")[0]: int((parameter != 0).sum())
            for name, parameter in attached.model.named_parameters() if "lora_E" in name}
    assert attached.pattern == {name: rank for name, rank in ends.items() if rank}
    assert max(ends.values()) == 2 and 0.8 * whole <= attached.parameters() <= whole + 49


def test_only_the_head_and_what_was_attached_are_trained_and_matrices_alone_decay(folder):
    tree = setting.recipe({}, {})
    model = training.Attached("peft-lora-qv", arms.classifier(folder / "tiny", 2, 0), 1000, tree, 100).model
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name or ".classifier.modules_to_save." in name for name in names)
    groups = training.Trainer(model, None, tree, 1e-3, 0).optimizer().param_groups
    assert {(group["weight_decay"], p.ndim > 1) for group in groups for p in group["params"]} == {(0.01, True), (0.0, False)}
    assert not any(isinstance(module, torch.nn.Dropout) and module.p for module in model.modules())


def test_schedule_is_that_of_the_rust_half():
    # The claims of src/train/schedule.rs.
    factors = [training.factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[9] == 10 / 11 and factors[10] == 1.0 and factors[99] == pytest.approx(1 / 90)
    assert training.factor(50, 100, 0.1, is_constant=True) == 1.0


def test_a_subset_keeps_every_class_by_its_share_and_test_rows_are_spread():
    labels = [0] * 60 + [1] * 38 + [2] * 2
    for seed in range(5):
        kept = rows.subset(labels, 20, seed)
        assert [sum(labels[at] == label for at in kept) for label in range(3)] in ([12, 7, 1], [11, 8, 1])
    assert rows.subset(labels, 20, 0) == rows.subset(labels, 20, 0) != rows.subset(labels, 20, 1)
    assert rows.every_nth(list(range(10)), 4) == [0, 2, 5, 7]
    assert rows.label_names([{"label": 10}, {"label": 9}]) == ["9", "10"]
