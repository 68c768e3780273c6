"""Which linear layers get a LoRA, and of which rank, within a number of parameters.

A LoRA of rank r on a layer of n inputs and m outputs has r (n + m) numbers. Layers are those below the head, in the order of
the model: of a BERT query, key, value, the attention's output, the feed-forward layer's two, and the pooler.
"""
import re
from typing import NamedTuple

QUERY_AND_VALUE = ("query", "value", "q_lin", "v_lin")


class Linear(NamedTuple):
    name: str
    layer: int | None  # number of its layer, where it lies within one
    inputs: int
    outputs: int

    def size(self, rank):
        return rank * (self.inputs + self.outputs)

    def group(self):
        """Kind, layer and path, as the Rust half names its groups."""
        role = self.name if self.layer is None else self.name.partition(f".{self.layer}.")[2]
        return f"lora/{role}" if self.layer is None else f"lora/{self.layer}/{role}"

    @classmethod
    def of(cls, name, inputs, outputs):
        number = re.search(r"\.(\d+)\.", name)
        return cls(name, int(number[1]) if number else None, inputs, outputs)


def query_and_value(linears):
    return [linear for linear in linears if linear.name.endswith(QUERY_AND_VALUE)]


def uniform(linears, capacity, most):
    """Rank of each layer by name: the largest rank for all that fits, at most `most`; where not even 1 does, rank 1 as far as
    the capacity goes."""
    rank = min(most, capacity // sum(linear.size(1) for linear in linears))
    return {linear.name: rank for linear in linears} if rank else filled(linears, capacity, [1])


def filled(linears, capacity, blocks):
    """Rank of each layer by name, block by block and within a block from the last layer down: `groups::uniform`."""
    ranks, room = {}, capacity
    # What lies outside of the layers comes first, as there.
    downward = sorted(linears, key=lambda linear: (linear.layer is not None, -(linear.layer or 0)))
    for block in blocks:
        for linear in downward:
            if linear.size(block) <= room:
                room -= linear.size(block)
                ranks[linear.name] = ranks.get(linear.name, 0) + block
    return ranks


def adaptive(linears, capacity):
    """For AdaLoRA: rank of every layer at the start, and how many ranks of any layer are left at the end.

    AdaLoRA counts ranks, not parameters, so that this is for ranks of the layers' mean size. At the start there are half as many
    more, rounded up to a whole rank for each layer.
    """
    mean = sum(linear.size(1) + 1 for linear in linears) / len(linears)  # a singular value for each rank
    left = max(1, int(capacity / mean))
    return -(-3 * left // (2 * len(linears))), left
