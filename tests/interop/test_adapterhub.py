"""AdapterHub's `adapters` reads the bottleneck folders: same logits, every tensor in its place.

AdapterHub has no bias and no LayerNorm tuning. Where a case has those (or LoRA) beside bottlenecks, they come from the
PEFT export: merged into the base first, or kept as a live `PeftModel` around the model with the bottlenecks.
"""

import adapters
import torch
from cases import TOLERANCE, assert_same, logits
from peft import PeftModel


def load(case, model):
    """Adds the bottleneck folder to a plain model and makes it active."""
    adapters.init(model)
    info = {}
    name = model.load_adapter(str(case.bottleneck), use_safetensors=True, set_active=True, loading_info=info)
    assert not info["missing_keys"], f"the export lacks {info['missing_keys']}"
    assert not info["unexpected_keys"], f"adapters has no place for {info['unexpected_keys']}"
    return name


def merged_base(case):
    model = case.load_base()
    return PeftModel.from_pretrained(model, case.peft).merge_and_unload() if case.has_peft else model


def test_loaded_adapter_gives_our_logits(bottleneck_case):
    model = merged_base(bottleneck_case)
    load(bottleneck_case, model)
    assert_same(logits(model, bottleneck_case), bottleneck_case.expected(), "adapters")


def test_unmerged_peft_around_adapters_gives_our_logits(bottleneck_case):
    model = bottleneck_case.load_base()
    load(bottleneck_case, model)
    if bottleneck_case.has_peft:
        model = PeftModel.from_pretrained(model, bottleneck_case.peft)
    assert_same(logits(model, bottleneck_case), bottleneck_case.expected(), "PeftModel around adapters")


def test_adapter_saved_again_gives_our_logits(bottleneck_case, tmp_path):
    model = merged_base(bottleneck_case)
    name = load(bottleneck_case, model)
    model.save_adapter(tmp_path, name, use_safetensors=True)
    again = merged_base(bottleneck_case)
    adapters.init(again)
    again.load_adapter(str(tmp_path), use_safetensors=True, set_active=True)
    assert_same(logits(again, bottleneck_case), bottleneck_case.expected(), "saved by adapters and loaded again")


def test_every_tensor_of_the_file_and_of_the_adapter_is_loaded(bottleneck_case):
    model = merged_base(bottleneck_case)
    name = load(bottleneck_case, model)
    loaded = {key: value for key, value in model.state_dict().items() if f".adapters.{name}." in key}
    stored = bottleneck_case.bottleneck_tensors()
    assert loaded.keys() == stored.keys()
    assert not [key for key, value in stored.items() if not torch.equal(value.float(), loaded[key])]


def test_bottlenecks_change_the_logits(bottleneck_case):
    """Guards the other tests: a case whose bottlenecks do nothing would prove nothing."""
    without = logits(merged_base(bottleneck_case), bottleneck_case)
    assert (without - bottleneck_case.expected()).abs().max() > 10 * TOLERANCE
