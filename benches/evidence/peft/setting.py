"""What is compared: the YAML file that the Rust half reads too, and the recipe that it changes.

PyYAML takes `3e-3` and `1e-8` for texts, so whoever uses a number of either says which type it has.
"""
import math
import pathlib

import yaml

RECIPES = pathlib.Path(__file__).resolve().parents[3] / "recipes"
UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}


def read(path):
    with open(path) as file:
        return yaml.safe_load(file)


def merged(tree, changes):
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(tree.get(name), dict)
        tree[name] = merged(tree[name], value) if both else value
    return tree


def recipe(setting, task):
    """The task's recipe with the changes of the setting and of the task, as nested dictionaries."""
    # The one that has every key, with its default.
    tree = read(RECIPES / "text-classification.yaml")
    tree = merged(tree, read(RECIPES / f"{task.get('recipe', 'text-classification')}.yaml"))
    for change in [*setting.get("set", []), *task.get("set", [])]:
        path, _, value = change.partition("=")
        *parents, last = path.split(".")
        node = tree
        for name in parents:
            node = node[name]
        if last not in node:
            raise KeyError(f"the recipe has no `{path}`")
        node[last] = yaml.safe_load(value)
    return tree


def refusal(tree, task):
    """Why this program cannot train the task, or `None`."""
    if task["model"].startswith("embedded:") or task["train"].startswith("embedded:"):
        return "its model or its rows are embedded in the Rust program"
    if tree["task"]["type"] != "text-classification":
        return "it is no text classification"
    if "test" not in task:
        return "it has no file of test rows"
    if tree["task"]["pooling"] != "default":
        return "transformers has no such head"
    if tree["train"]["accumulate"] != 1:
        return "a step here is one batch"
    return None


def capacity(budget, parameters):
    """Parameters within a budget, `0.1%`, `10k` or a count, of a model with so many."""
    text = str(budget).strip().lower()
    if text.endswith("%"):
        # As the Rust half: a product that falls short of a whole number by rounding counts as that number.
        return math.floor(parameters * float(text[:-1]) / 100 * (1 + 1e-12))
    return round(float(text.rstrip("kmbg")) * UNITS.get(text[-1], 1))


def scale(tree):
    """Factor of a LoRA's update, whatever part of its rank is kept: the superset's alpha over its whole rank."""
    lora = tree["superset"]["lora"]
    return float(lora["alpha"]) / sum(lora["rank_blocks"])
