"""Hugging Face `peft` reads the exports: same logits, every tensor in its place, nothing to warn about.

A case that also has bottleneck adapters, which peft has no format for, gets them by hooks (reference.py).
"""

import logging
import warnings

import reference
import torch
from cases import TOLERANCE, assert_same, logits
from peft import PeftConfig, PeftModel


def test_loaded_adapter_gives_our_logits(peft_case):
    model = PeftModel.from_pretrained(peft_case.load_base(), peft_case.peft)
    add_bottleneck(model.get_base_model(), peft_case)
    assert_same(logits(model, peft_case), peft_case.expected(), "PeftModel")


def test_merged_model_gives_our_logits(peft_case):
    base = peft_case.load_base()
    names = set(base.state_dict())
    model = PeftModel.from_pretrained(base, peft_case.peft).merge_and_unload()
    if peft_type(peft_case) == "LORA":  # peft leaves the wrapper of `modules_to_save` when it merges LN_TUNING
        assert set(model.state_dict()) == names, "the merged model has other tensors than the base"
    add_bottleneck(model, peft_case)
    assert_same(logits(model, peft_case), peft_case.expected(), "merge_and_unload")


def test_adapter_saved_again_gives_our_logits(peft_case, tmp_path):
    PeftModel.from_pretrained(peft_case.load_base(), peft_case.peft).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(peft_case.load_base(), tmp_path)
    add_bottleneck(model.get_base_model(), peft_case)
    assert_same(logits(model, peft_case), peft_case.expected(), "saved by peft and loaded again")


def test_transformers_load_adapter_gives_our_logits(peft_case):
    model = peft_case.load_base()
    model.load_adapter(str(peft_case.peft))
    add_bottleneck(model, peft_case)
    assert_same(logits(model, peft_case), peft_case.expected(), "transformers load_adapter")


def test_every_tensor_of_the_file_and_of_the_adapter_is_loaded(peft_case):
    stored = peft_case.peft_tensors()
    model = PeftModel.from_pretrained(peft_case.load_base(), peft_case.peft)
    loaded = {file_key(name): value for name, value in model.state_dict().items()}
    assert not (unused := sorted(stored.keys() - loaded.keys())), f"peft has no place for {unused}"
    changed = sorted(key for key, value in stored.items() if not torch.equal(value.float(), loaded[key]))
    assert not changed, f"peft did not load {changed}"
    adapter = {file_key(name) for name in model.state_dict() if ".default." in name}
    assert not (missing := sorted(adapter - stored.keys())), f"the export lacks {missing}"


def test_loading_warns_of_nothing(peft_case, caplog, monkeypatch):
    results = []
    original = PeftModel.load_adapter

    def load_adapter(self, *arguments, **named):
        results.append(original(self, *arguments, **named))
        return results[-1]

    monkeypatch.setattr(PeftModel, "load_adapter", load_adapter)
    base = peft_case.load_base()
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        PeftModel.from_pretrained(base, peft_case.peft)
    # Deprecations inside the libraries say nothing about the files.
    about_files = [str(w.message) for w in caught if not issubclass(w.category, (DeprecationWarning, FutureWarning))]
    if peft_type(peft_case) == "LN_TUNING":  # peft's base class does not know the layers that LN_TUNING is made for
        about_files = [message for message in about_files if not message.startswith("Unsupported layer type")]
    assert not about_files, about_files
    assert not caplog.messages, caplog.messages
    (result,) = results
    assert not result.unexpected_keys, result.unexpected_keys


def test_adapter_can_be_trained_further(peft_case):
    model = PeftModel.from_pretrained(peft_case.load_base(), peft_case.peft, is_trainable=True).train()
    loaded = {name: value for name, value in model.named_parameters() if ".default." in name}
    assert loaded and all(value.requires_grad for value in loaded.values())
    model(**peft_case.inputs()).logits.logsumexp(-1).sum().backward()
    moved = [name for name, value in loaded.items() if value.grad is not None and value.grad.abs().max() > 0]
    assert moved, "no part of the adapter gets a gradient"


def test_adapter_changes_the_logits_of_the_base(peft_case):
    """Guards the other tests: a case whose adapter does nothing would prove nothing."""
    base = logits(peft_case.load_base(), peft_case)
    assert (base - peft_case.expected()).abs().max() > 10 * TOLERANCE


def add_bottleneck(model, case):
    if case.has_bottleneck:
        reference.attach(model, case.bottleneck, case.bottleneck_tensors())


def peft_type(case):
    return PeftConfig.from_pretrained(case.peft).peft_type.value


def file_key(name):
    """Name in adapter_model.safetensors of a parameter of a `PeftModel`."""
    return name.replace(".modules_to_save.default.", ".").replace(".default.", ".")
