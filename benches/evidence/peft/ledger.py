"""Finished arms as lines of `runs.csv`, whose columns are those of the Rust half's `ledger::Row`."""
import csv

COLUMNS = ("task", "arm", "budget", "seed", "rate", "parameters", "steps", "metric", "value", "loss", "examples", "seconds",
           "kinds", "groups")
# Arms of the Rust half with the same compute, by whose steps an arm here trains.
EQUALS = {True: ("lora-qv", "lora"), False: ("lora", "lora-qv")}


def key(task, arm, budget, seed, rate):
    return (task, arm, str(budget), int(seed), float(rate))


class Ledger:
    """The file of a folder, which the Rust half may have begun."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "runs.csv"
        self.steps = {}
        if self.path.exists():
            with open(self.path, newline="") as file:
                for row in csv.DictReader(file):
                    at = key(row["task"], row["arm"], row["budget"], row["seed"], row["rate"])
                    self.steps[at] = int(row["steps"])

    def has(self, at):
        return at in self.steps

    def equal_steps(self, at):
        """Steps of our uniform arm of the same place, or `None` where it was not run."""
        task, arm, *place = at
        found = (self.steps.get((task, other, *place)) for other in EQUALS["-qv" in arm])
        return next((steps for steps in found if steps is not None), None)

    def add(self, row):
        is_new = not self.path.exists() or self.path.stat().st_size == 0
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        at = key(row["task"], row["arm"], row["budget"], row["seed"], row["rate"])
        self.steps[at] = row["steps"]
