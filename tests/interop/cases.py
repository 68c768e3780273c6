"""The folder of cases: exports written by the Rust side, with the logits it computed.

<cases>/<case>/  base/                  model folder: config.json, model.safetensors
                 adapter/               PEFT export: adapter_config.json, adapter_model.safetensors
                 adapter/peft/          the same, where there is an AdapterHub export beside it
                 adapter/bottleneck/    AdapterHub export: adapter_config.json, adapter.safetensors
                 merged/                where there are no bottlenecks: the base with the adapter in its weights
                 inputs.safetensors     input_ids, attention_mask, perhaps token_type_ids; any integer type
                 logits.safetensors     logits
A case has the PEFT export, the AdapterHub export, or both; with the PEFT export alone it may have the merged model.
"""

import dataclasses
import json
import pathlib
import warnings

import pytest
import torch
import transformers
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

# f32 against f32: the summation orders of two libraries differ by far less, a wrong weight by far more.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    folder: pathlib.Path

    @property
    def base(self):
        return self.folder / "base"

    @property
    def adapter(self):
        return self.folder / "adapter"

    @property
    def peft(self):
        beside = self.adapter / "peft"
        return beside if beside.is_dir() else self.adapter

    @property
    def bottleneck(self):
        return self.adapter / "bottleneck"

    @property
    def merged(self):
        return self.folder / "merged"

    @property
    def has_peft(self):
        return (self.peft / "adapter_config.json").is_file()

    @property
    def has_bottleneck(self):
        return (self.bottleneck / "adapter_config.json").is_file()

    @property
    def has_merged(self):
        return self.merged.is_dir()

    def peft_tensors(self):
        return {k: torch.from_numpy(v) for k, v in load_file(self.peft / "adapter_model.safetensors").items()}

    def bottleneck_tensors(self):
        return {k: torch.from_numpy(v) for k, v in load_file(self.bottleneck / "adapter.safetensors").items()}

    def inputs(self):
        stored = load_file(self.folder / "inputs.safetensors")
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {k: torch.from_numpy(stored[k].astype("int64")) for k in names if k in stored}

    def expected(self):
        return torch.from_numpy(load_file(self.folder / "logits.safetensors")["logits"])

    @property
    def is_language_model(self):
        config = json.loads((self.base / "config.json").read_text())
        return config["architectures"][0].endswith(("CausalLM", "LMHeadModel"))

    @property
    def is_readable(self):
        """Releases before 5 do not read the rotary positions of a decoder's configuration as 5 writes them."""
        encoders = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
        is_encoder = json.loads((self.base / "config.json").read_text())["model_type"] in encoders
        return is_encoder or int(transformers.__version__.split(".")[0]) >= 5

    def load_base(self):
        """The model a user would load: the base with a head of as many labels as the export has."""
        if self.is_language_model:
            return AutoModelForCausalLM.from_pretrained(self.base, attn_implementation="eager").float().eval()
        config = AutoConfig.from_pretrained(self.base)
        config.num_labels = self.num_labels() or config.num_labels
        return (
            AutoModelForSequenceClassification.from_pretrained(
                self.base, config=config, attn_implementation="eager", ignore_mismatched_sizes=True
            )
            .float()
            .eval()
        )

    def num_labels(self):
        """Labels of the head in the export; `None` when it has none."""
        tensors = self.peft_tensors() if self.has_peft else {}
        if (head := self.bottleneck / "model_head.safetensors").is_file():
            tensors |= load_file(head)
        for name in ("classifier.out_proj.weight", "classifier.weight", "score.weight"):
            for key, value in tensors.items():
                if key == name or key.endswith(f".model.{name}"):
                    return value.shape[0]
        return None


def find(root, export):
    """The cases below a folder that have an export of this format, `PEFT`, `AdapterHub` or `merged`, by name.

    Finding none is an error, never a skip; so is a folder that is not a case.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise pytest.UsageError(f"the case folder {root} does not exist")
    cases = [Case(path) for path in sorted(root.iterdir()) if path.is_dir()]
    if not cases:
        raise pytest.UsageError(f"the case folder {root} is empty")
    for case in cases:
        if not (case.has_peft or case.has_bottleneck):
            raise pytest.UsageError(f"{case.folder} has neither a PEFT nor an AdapterHub export")
    left = [case.folder.name for case in cases if not case.is_readable]
    if left:
        warnings.warn(f"transformers {transformers.__version__} cannot read these cases; a later one does: {left}")
    cases = [case for case in cases if case.is_readable]
    has = {"PEFT": Case.has_peft, "AdapterHub": Case.has_bottleneck, "merged": Case.has_merged}[export]
    found = [case for case in cases if has.fget(case)]
    if not found:
        raise pytest.UsageError(f"no case in {root} has an export for {export}")
    return found


@torch.no_grad()
def logits(model, case):
    inputs = case.inputs()
    logits = model.eval()(**inputs).logits
    return logits * inputs["attention_mask"].unsqueeze(-1) if case.is_language_model else logits


def assert_same(actual, expected, what):
    assert actual.shape == expected.shape, f"{what}: logits of shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    error = (actual - expected).abs().max().item()
    # Written so that NaN fails.
    assert error <= TOLERANCE, f"{what}: logits differ by {error:.1e}, allowed is {TOLERANCE:.0e}"
