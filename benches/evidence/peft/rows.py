"""Rows of a task as token numbers, and the order in which they are visited.

The rules are those of the Rust half (`src/data/split.rs`, `src/data/order.rs`), the draws are not: it shuffles by ChaCha8, this by
Python's `random`. So of a larger file another subset of as many rows of each class is trained on, and in another order.
"""
import json
import random

WINDOW = 50  # batches whose rows are sorted together by length


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file if line.strip()]


def label_names(rows):
    """The classes: in numeric order if all are integers, otherwise by code point."""
    names = sorted({str(row["label"]) for row in rows})
    return sorted(names, key=int) if all(name.lstrip("-").isdigit() for name in names) else names


def subset(labels, at_most, seed):
    """Numbers of at most so many rows, each class by its share (largest remainder) and with at least one row."""
    if at_most is None or at_most >= len(labels):
        return list(range(len(labels)))
    draw = random.Random(f"{seed} subset")
    classes = {}
    for number, label in enumerate(labels):
        classes.setdefault(label, []).append(number)
    members = [classes[label] for label in sorted(classes)]
    if at_most < len(members):
        raise ValueError(f"{at_most} rows cannot have all of {len(members)} classes")
    exact = [len(rows) * at_most / len(labels) for rows in members]
    wanted = [int(share) for share in exact]
    by_remainder = sorted(range(len(members)), key=lambda at: wanted[at] - exact[at])
    for at in by_remainder[: at_most - sum(wanted)]:
        wanted[at] += 1
    # A rare class may round to nothing: it takes a row of the class that got the most.
    while 0 in wanted:
        wanted[wanted.index(max(wanted))] -= 1
        wanted[wanted.index(0)] = 1
    for rows in members:
        draw.shuffle(rows)
    return sorted(number for rows, count in zip(members, wanted) for number in rows[:count])


def every_nth(rows, at_most):
    """At most so many rows, spread over the file, as `Bench::new` takes them."""
    if at_most is None or at_most >= len(rows):
        return rows
    every = len(rows) / at_most
    return [rows[int(number * every)] for number in range(at_most)]


def encode(tokenizer, rows, names, max_length):
    """Pairs of token numbers and class."""
    index = {name: number for number, name in enumerate(names)}
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length)["input_ids"]
    return [(tokens, index[str(row["label"])]) for tokens, row in zip(ids, rows)]


def batches(encoded, size, draw):
    """Endless batches, shuffled anew each epoch; rows of similar length share one."""
    while True:
        order = list(range(len(encoded)))
        draw.shuffle(order)
        for start in range(0, len(order), size * WINDOW):
            order[start : start + size * WINDOW] = sorted(
                order[start : start + size * WINDOW], key=lambda at: len(encoded[at][0]))
        cut = [order[start : start + size] for start in range(0, len(order), size)]
        draw.shuffle(cut)
        for numbers in cut:
            yield [encoded[at] for at in numbers]


def by_length(encoded, size):
    """Every row once, longest first."""
    ordered = sorted(encoded, key=lambda row: -len(row[0]))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
