"""Bottleneck adapters on a plain `transformers` model, by hooks: a second reading of AdapterHub's format.

With `h` the output of a sub-layer's last linear, `x` the input of the sub-layer and `LN` the LayerNorm after it, the
three styles of AdapterHub only change what the LayerNorm is given:
    sequential, original_ln_before          LN(h + x + up(act(down(LN(h + x)))))      Pfeiffer
    sequential, not original_ln_before      LN(h + x + up(act(down(h))))              Houlsby
    parallel                                LN(h + x + scaling * up(act(down(x))))
"""

import json
import re

import torch
from transformers.activations import ACT2FN

# Sub-layer of each family -> (path of AdapterHub's adapters, last linear, LayerNorm), relative to the layer.
PLACES = {
    "bert": {
        "mh_adapter": ("attention.output", "attention.output.dense", "attention.output.LayerNorm"),
        "output_adapter": ("output", "output.dense", "output.LayerNorm"),
    },
    "distilbert": {
        "mh_adapter": ("attention_adapters", "attention.out_lin", "sa_layer_norm"),
        "output_adapter": ("output_adapters", "ffn.lin2", "output_layer_norm"),
    },
}
PLACES["roberta"] = PLACES["xlm-roberta"] = PLACES["camembert"] = PLACES["bert"]


def attach(model, folder, tensors):
    """Adds the adapters of an AdapterHub folder to the model; every tensor must find its place."""
    exported = json.loads((folder / "adapter_config.json").read_text())
    config = exported["config"]
    configs = config["configs"] if config.get("architecture") == "union" else [config]
    left = dict(tensors)
    layers = "transformer.layer" if model.config.model_type == "distilbert" else "encoder.layer"
    for index in range(model.config.num_hidden_layers):
        for place, (adapter, linear, norm) in PLACES[model.config.model_type].items():
            layer = f"{model.base_model_prefix}.{layers}.{index}"
            prefix = f"{layer}.{adapter}.adapters.{exported['name']}"
            found = [c for c in configs if c[place] and index not in c.get("leave_out", [])]
            if not found:
                continue
            (settings,) = found
            parts = ("adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias")
            weights = [left.pop(f"{prefix}.{part}") for part in parts]
            assert len(weights[1]) == width(settings, index, exported["hidden_size"]), f"{prefix}: reduction_factor is wrong"
            hook(model.get_submodule(f"{layer}.{linear}"), model.get_submodule(f"{layer}.{norm}"), settings, weights)
    assert not left, f"tensors without a place: {sorted(left)}"


def width(settings, index, hidden_size):
    factor = settings["reduction_factor"]
    if isinstance(factor, dict):
        factor = factor.get(str(index), factor.get("default"))
    return max(1, int(hidden_size // factor))


def hook(linear, norm, settings, weights):
    down_weight, down_bias, up_weight, up_bias = weights
    activation = ACT2FN[re.sub("^swish$", "silu", settings["non_linearity"])]
    scaling = float(settings.get("scaling", 1.0))
    seen = {}

    def remember(_module, _inputs, output):
        seen["h"] = output

    def change(module, inputs):
        (total,) = inputs  # h + x
        if settings.get("is_parallel"):
            source = total - seen["h"]
        elif settings["original_ln_before"]:
            source = torch.nn.functional.layer_norm(total, module.normalized_shape, module.weight, module.bias, module.eps)
        else:
            source = seen["h"]
        inner = activation(torch.nn.functional.linear(source, down_weight, down_bias))
        return (total + scaling * torch.nn.functional.linear(inner, up_weight, up_bias),)

    linear.register_forward_hook(remember)
    norm.register_forward_pre_hook(change)
