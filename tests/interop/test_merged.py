"""`transformers` reads the merged models as models of their own: nothing missing, nothing left over, the same logits."""

import json

import torch
from cases import assert_same, logits
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


def load(case):
    auto = AutoModelForCausalLM if case.is_language_model else AutoModelForSequenceClassification
    return auto.from_pretrained(case.merged, attn_implementation="eager", output_loading_info=True)


def test_merged_folder_gives_our_logits(merged_case):
    model, _ = load(merged_case)
    assert_same(logits(model, merged_case), merged_case.expected(), "merged")


def test_every_tensor_is_loaded_and_none_is_missing(merged_case):
    _, info = load(merged_case)
    left = {what: sorted(keys) for what, keys in info.items() if keys}
    assert not left, left


def test_configuration_is_that_of_the_model(merged_case):
    model, _ = load(merged_case)
    stored = json.loads((merged_case.merged / "config.json").read_text())
    assert stored["architectures"] == [type(model).__name__]
    assert model.dtype == torch.float32
    if not merged_case.is_language_model:
        assert model.config.num_labels == merged_case.expected().shape[-1]
