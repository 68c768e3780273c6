"""Cases written by hand from the model fixtures, in the form the Rust side exports, to try the checks on.

The logits come from a plain `transformers` model whose weights are edited directly (`W += alpha/r * B A`, new biases,
norms and head) and from the hooks of reference.py: neither `peft` nor `adapters` has a part in them.
"""

import dataclasses
import json
import pathlib
import shutil
import zlib

import reference
import torch
from cases import Case, logits
from safetensors.torch import load_file, save_file

MODELS = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "models"
PREFIX = "base_model.model."
ADAPTER = "autopeft"
BERT = dict(
    layer="{prefix}.encoder.layer.{index}", query="attention.self.query", value="attention.self.value",
    first="intermediate.dense", second="output.dense", norm="output.LayerNorm", other_norm="attention.output.LayerNorm",
)  # fmt: skip
NAMES = {
    "bert": BERT | dict(prefix="bert", head=["classifier"]),
    "roberta": BERT | dict(prefix="roberta", head=["classifier"]),
    "distilbert": dict(
        prefix="distilbert", layer="{prefix}.transformer.layer.{index}", query="attention.q_lin", value="attention.v_lin",
        first="ffn.lin1", second="ffn.lin2", norm="output_layer_norm", other_norm="sa_layer_norm",
        head=["classifier", "pre_classifier"],
    ),
}  # fmt: skip


@dataclasses.dataclass
class Choice:
    """What survived a selection, by module path."""

    lora: dict = dataclasses.field(default_factory=dict)  # path -> (rank, alpha)
    bias: tuple = ()
    norms: tuple = ()
    head: tuple = ()
    style: str = ""  # of the bottlenecks: pfeiffer, houlsby, parallel
    bottlenecks: dict = dataclasses.field(default_factory=dict)  # (place, layer) -> width


def choices(family):
    """Mixes of kinds that may survive, by name of the case: all of them on BERT, on the others what names decide."""
    names = NAMES[family]

    def path(index, part):
        return f"{names['layer'].format(prefix=names['prefix'], index=index)}.{names[part]}"

    lora = {path(0, "query"): (2, 2), path(1, "value"): (4, 12), path(1, "first"): (3, 4)}
    bias = (path(0, "query"), path(0, "second"))  # one under LoRA, one not
    norms = (path(0, "other_norm"), path(1, "norm"))
    head = tuple(names["head"])
    pair = {("mh_adapter", 0): 2, ("output_adapter", 1): 4}
    few = {
        "everything": Choice(lora, bias, norms, head, "houlsby", pair),
        "norms-head": Choice(norms=norms, head=head),
    }
    if family != "bert":
        return few
    return few | {
        "everything-but-bottlenecks": Choice(lora, bias, norms, head),
        "lora": Choice(lora),
        "lora-head": Choice(lora, head=head),
        "bias": Choice(bias=bias),
        "bias-norms-head": Choice(bias=bias, norms=norms, head=head),
        "head": Choice(head=head),
        "pfeiffer": Choice(style="pfeiffer", bottlenecks={("output_adapter", 1): 4}),
        "houlsby": Choice(style="houlsby", bottlenecks=pair),
        "parallel-head": Choice(head=head, style="parallel", bottlenecks={("output_adapter", 0): 2, ("output_adapter", 1): 4}),
    }


def write_all(root):
    """Writes every case below a folder; returns the cases."""
    cases = [write(root / f"{f}-{name}", f, NAMES[f], choice) for f in NAMES for name, choice in choices(f).items()]
    # A base without head and prefix: the head is all new.
    everything = choices("bert")["everything-but-bottlenecks"]
    cases.append(write(root / "bert-bare-everything-but-bottlenecks", "bert-bare", NAMES["bert"], everything))
    return cases


@torch.no_grad()
def write(folder, base, names, choice):
    shutil.copytree(MODELS / base, folder / "base")
    case = Case(folder)
    has_peft = choice.lora or choice.bias or choice.norms or choice.head
    case.adapter.mkdir()
    if has_peft and choice.bottlenecks:
        (case.adapter / "peft").mkdir()
    torch.manual_seed(0)
    model = case.load_base()
    stored = load_file(MODELS / base / "expected.safetensors")
    save_file(
        {k: stored[k].to(torch.uint32) for k in ("input_ids", "attention_mask", "token_type_ids") if k in stored},
        folder / "inputs.safetensors",
    )

    if has_peft:
        tensors, config = edit(model, names, choice)
        save_file({PREFIX + k: v.contiguous() for k, v in tensors.items()}, case.peft / "adapter_model.safetensors")
        (case.peft / "adapter_config.json").write_text(json.dumps(config, indent=2))
    if choice.bottlenecks:
        case.bottleneck.mkdir()
        tensors, config = bottleneck_export(model, choice)
        save_file(tensors, case.bottleneck / "adapter.safetensors")
        (case.bottleneck / "adapter_config.json").write_text(json.dumps(config, indent=2))
        reference.attach(model, case.bottleneck, tensors)
    else:
        model.save_pretrained(case.merged)
    save_file({"logits": logits(model, case).contiguous()}, folder / "logits.safetensors")
    return case


def edit(model, names, choice):
    """Changes the model's weights as chosen; returns the adapter's tensors and configuration."""
    tensors = {}
    weights = model.state_dict()
    lora = dict(choice.lora)
    without_lora = not lora and (choice.bias or not choice.norms)
    if without_lora:  # peft wants a LoRA module: one of rank 1 that is zero
        lora[f"{names['layer'].format(prefix=names['prefix'], index=0)}.{names['query']}"] = (1, 1)
    for path, (rank, alpha) in lora.items():
        out_features, in_features = weights[f"{path}.weight"].shape
        a = 0.4 * noise(path + ".a", rank, in_features)
        b = 0.4 * noise(path + ".b", out_features, rank) * (not without_lora)
        tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
        weights[f"{path}.weight"] += alpha / rank * b @ a
    for path in choice.bias:
        weights[f"{path}.bias"] += 0.5 * noise(path + ".bias", *weights[f"{path}.bias"].shape)
        tensors[f"{path}.base_layer.bias" if path in lora else f"{path}.bias"] = weights[f"{path}.bias"].clone()
    norm_infix = "" if lora else ".ln_tuning_layers"
    for path in (*choice.norms, *choice.head):
        infix = norm_infix if path in choice.norms else ""
        for key, value in weights.items():
            if key.startswith(f"{path}."):
                value += 0.3 * noise(key, *value.shape)
                tensors[f"{path}{infix}.{key.removeprefix(path + '.')}"] = value.clone()
    common = dict(task_type="SEQ_CLS" if choice.head else None, base_model_name_or_path="tiny", inference_mode=True)
    if not lora:
        return tensors, common | dict(
            peft_type="LN_TUNING", target_modules=list(choice.norms), modules_to_save=list(choice.head)
        )
    rank, alpha = max(lora.values())
    return tensors, common | dict(
        peft_type="LORA",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="all" if choice.bias else "none",
        fan_in_fan_out=False,
        use_rslora=False,
        use_dora=False,
        target_modules=list(lora),
        rank_pattern={path: r for path, (r, _) in lora.items() if r != rank},
        alpha_pattern={path: a for path, (_, a) in lora.items() if a != alpha},
        modules_to_save=[*choice.norms, *choice.head] or None,
    )


def bottleneck_export(model, choice):
    """Tensors and configuration of the bottleneck folder; several places of different widths make a union."""
    hidden = model.config.hidden_size
    depth = model.config.num_hidden_layers
    layers = "transformer.layer" if model.config.model_type == "distilbert" else "encoder.layer"
    tensors = {}
    configs = []
    for place in sorted({place for place, _ in choice.bottlenecks}):
        widths = {layer: width for (p, layer), width in choice.bottlenecks.items() if p == place}
        configs.append(
            dict(
                mh_adapter=place == "mh_adapter",
                output_adapter=place == "output_adapter",
                reduction_factor={str(layer): hidden / width for layer, width in widths.items()} | {"default": hidden / 2},
                leave_out=[layer for layer in range(depth) if layer not in widths],
                non_linearity="swish" if choice.style == "houlsby" else "relu",
                original_ln_before=choice.style == "pfeiffer",
                is_parallel=choice.style == "parallel",
                scaling=4.0 if choice.style == "parallel" else 1.0,
            )
        )
        adapter = reference.PLACES[model.config.model_type][place][0]
        for layer, width in widths.items():
            prefix = f"{model.base_model_prefix}.{layers}.{layer}.{adapter}.adapters.{ADAPTER}"
            shapes = {
                "down.0.weight": (width, hidden),
                "down.0.bias": (width,),
                "up.weight": (hidden, width),
                "up.bias": (hidden,),
            }
            tensors |= {f"{prefix}.adapter_{k}": 0.4 * noise(f"{prefix}.{k}", *shape) for k, shape in shapes.items()}
    return tensors, dict(
        config=configs[0] if len(configs) == 1 else dict(architecture="union", configs=configs),
        hidden_size=hidden,
        model_class=type(model).__name__,
        model_name="tiny",
        model_type=model.config.model_type,
        name=ADAPTER,
        version="adapters.1.2.0",
    )


def noise(name, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
