"""The checks themselves: they accept right exports written by hand, and refuse wrong ones."""

import importlib.util
import inspect
import json
import shutil

import cases
import handmade
import pytest
import test_merged
import test_peft
from safetensors.torch import load_file, save_file

CHECKS = {"PEFT": test_peft, "merged": test_merged}
if importlib.util.find_spec("adapters"):  # in the stack `adapterhub` only
    import test_adapterhub

    CHECKS["AdapterHub"] = test_adapterhub


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("cases")
    handmade.write_all(root)
    return root


def checks(export):
    return {
        name: check for name, check in vars(CHECKS[export]).items() if name.startswith("test_") and inspect.isfunction(check)
    }


def apply(check, case, request):
    """Calls a check as pytest would: its first argument is the case, the others are fixtures."""
    _, *fixtures = inspect.signature(check).parameters
    check(case, *[request.getfixturevalue(name) for name in fixtures])


@pytest.mark.parametrize(("export", "check"), [(export, check) for export in CHECKS for check in checks(export)])
def test_right_exports_pass(written, export, check, request):
    for case in cases.find(written, export):
        try:
            apply(checks(export)[check], case, request)
        except AssertionError as error:
            raise AssertionError(f"{case.folder.name}: {error}") from error


def tensors(change):
    """A wrong export made by changing the tensors of a file."""

    def spoil(case, file):
        stored = load_file(case.folder / file)
        change(stored)
        save_file(stored, case.folder / file)

    return spoil


def config(change):
    """A wrong export made by changing a configuration."""

    def spoil(case, file):
        stored = json.loads((case.folder / file).read_text())
        change(stored)
        (case.folder / file).write_text(json.dumps(stored))

    return spoil


LAYER = "bert.encoder.layer"
PEFT_KEY = f"{handmade.PREFIX}{LAYER}.0.output.dense.bias"
DOWN = f"{LAYER}.1.output.adapters.{handmade.ADAPTER}.adapter_down.0.weight"
WRONG = {
    "logits off by more than the tolerance": (
        "PEFT", "test_loaded_adapter_gives_our_logits", "logits.safetensors",
        tensors(lambda t: t["logits"].add_(2 * cases.TOLERANCE)),
    ),
    "logits that are not numbers": (
        "PEFT", "test_merged_model_gives_our_logits", "logits.safetensors", tensors(lambda t: t["logits"].fill_(float("nan"))),
    ),
    "a bias left out": (
        "PEFT", "test_loaded_adapter_gives_our_logits", "adapter/peft/adapter_model.safetensors",
        tensors(lambda t: t.pop(PEFT_KEY)),
    ),
    "half of a LoRA module left out": (
        "PEFT", "test_every_tensor_of_the_file_and_of_the_adapter_is_loaded", "adapter/peft/adapter_model.safetensors",
        tensors(lambda t: t.pop(f"{handmade.PREFIX}{LAYER}.1.intermediate.dense.lora_B.weight")),
    ),
    "half of a LoRA module left out, by its warning": (
        "PEFT", "test_loading_warns_of_nothing", "adapter/peft/adapter_model.safetensors",
        tensors(lambda t: t.pop(f"{handmade.PREFIX}{LAYER}.1.intermediate.dense.lora_B.weight")),
    ),
    "a tensor under an unknown name": (
        "PEFT", "test_every_tensor_of_the_file_and_of_the_adapter_is_loaded", "adapter/peft/adapter_model.safetensors",
        tensors(lambda t: t.update({PEFT_KEY.replace("dense", "danse"): t[PEFT_KEY].clone()})),
    ),
    "alphas forgotten": (
        "PEFT", "test_loaded_adapter_gives_our_logits", "adapter/peft/adapter_config.json",
        config(lambda c: c["alpha_pattern"].clear()),
    ),
    "a module both under LoRA and saved whole": (
        "PEFT", "test_every_tensor_of_the_file_and_of_the_adapter_is_loaded", "adapter/peft/adapter_config.json",
        config(lambda c: c["modules_to_save"].append(f"{LAYER}.0.output")),
    ),
    "biases that peft would drop when it saves": (
        "PEFT", "test_adapter_saved_again_gives_our_logits", "adapter/peft/adapter_config.json",
        config(lambda c: c.update(bias="none")),
    ),
    "a tensor of a merged model left out": (
        "merged", "test_every_tensor_is_loaded_and_none_is_missing", "merged/model.safetensors",
        tensors(lambda t: t.pop(f"{LAYER}.0.output.dense.bias")),
    ),
    "a tensor too many in a merged model": (
        "merged", "test_every_tensor_is_loaded_and_none_is_missing", "merged/model.safetensors",
        tensors(lambda t: t.update({"cls.bias": t["classifier.bias"].clone()})),
    ),
    "a weight that was not merged": (
        "merged", "test_merged_folder_gives_our_logits", "merged/model.safetensors",
        tensors(lambda t: t[f"{LAYER}.1.attention.self.value.weight"].mul_(1.01)),
    ),
    "labels of another model": (
        "merged", "test_configuration_is_that_of_the_model", "merged/config.json",
        config(lambda c: c["id2label"].pop("2")),
    ),
    "a bottleneck tensor left out": (
        "AdapterHub", "test_loaded_adapter_gives_our_logits", "adapter/bottleneck/adapter.safetensors",
        tensors(lambda t: t.pop(DOWN)),
    ),
    "a layer not left out": (
        "AdapterHub", "test_loaded_adapter_gives_our_logits", "adapter/bottleneck/adapter_config.json",
        config(lambda c: c["config"]["configs"][0]["leave_out"].clear()),
    ),
    "another activation": (
        "AdapterHub", "test_loaded_adapter_gives_our_logits", "adapter/bottleneck/adapter_config.json",
        config(lambda c: c["config"]["configs"][1].update(non_linearity="relu")),
    ),
    "another activation, by hooks": (
        "PEFT", "test_loaded_adapter_gives_our_logits", "adapter/bottleneck/adapter_config.json",
        config(lambda c: c["config"]["configs"][1].update(non_linearity="relu")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", [what for what, (export, *_) in WRONG.items() if export in CHECKS])
def test_wrong_export_fails(written, tmp_path, what, request):
    export, check, file, spoil = WRONG[what]
    case = cases.Case(tmp_path / "case")
    name = "bert-everything-but-bottlenecks" if export == "merged" else "bert-everything"
    shutil.copytree(written / name, case.folder)
    spoil(case, file)
    # A refusal by the library is as good as one by the check.
    with pytest.raises((AssertionError, KeyError, RuntimeError)):
        apply(checks(export)[check], case, request)


def test_adapter_without_effect_fails(written, tmp_path, request):
    case = cases.Case(tmp_path / "case")
    shutil.copytree(written / "bert-everything", case.folder)
    save_file({"logits": cases.logits(case.load_base(), case)}, case.folder / "logits.safetensors")
    with pytest.raises(AssertionError):
        apply(test_peft.test_adapter_changes_the_logits_of_the_base, case, request)


@pytest.mark.parametrize("export", ["PEFT", "AdapterHub", "merged"])
def test_no_case_is_a_failure(written, tmp_path, export):
    with pytest.raises(pytest.UsageError, match="is empty"):
        cases.find(tmp_path, export)
    with pytest.raises(pytest.UsageError, match="does not exist"):
        cases.find(tmp_path / "none", export)
    other = "bert-lora" if export == "AdapterHub" else "bert-pfeiffer"
    shutil.copytree(written / other, tmp_path / other)
    with pytest.raises(pytest.UsageError, match="no case"):
        cases.find(tmp_path, export)
    (tmp_path / "stray").mkdir()
    with pytest.raises(pytest.UsageError, match="neither"):
        cases.find(tmp_path, export)
