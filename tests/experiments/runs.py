"""What the tests of every experiment's run.py ask of a run."""

import csv
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

TWO_EPOCHS = ["--num_layers", "1", "--num_degrees", "2", "--num_channels", "4", "--head", "1", "--batch_size", "4",
              "--log_interval", "1", "--num_epochs", "2", "--device", "cpu", "--graph", "auto"]  # fmt: skip
# Flags with which each experiment trains in a second; how much data there are, and of what size.
TINY = {
    "nbody": [*TWO_EPOCHS, "--num_train", "8", "--num_valid", "4", "--num_test", "4", "--n_balls", "3"],
    "toy_optimisation": [*TWO_EPOCHS, "--num_iter", "1", "--n_points", "4", "--epoch_size", "8", "--num_valid", "4",
                         "--num_test", "4"],
    "forces": [*TWO_EPOCHS[:-2], "--num_train", "8", "--num_valid", "4", "--num_test", "4", "--atoms", "3",
               "--md_steps", "2"],
    "qm9": [*TWO_EPOCHS, "--num_train", "8", "--num_valid", "4"],
    "chirality": [*TWO_EPOCHS, "--num_molecules", "30", "--conformers", "1"],
    "scanobjectnn": [*TWO_EPOCHS, "--num_train", "8", "--num_valid", "4", "--num_test", "4", "--num_points", "16",
                     "--neighbors", "4"],
}  # fmt: skip


HOLD = """
import sys
from utils.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def lock_held(folder):
    """Inside, another process has the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        yield


def rows(path):
    """Of a CSV file, without what depends on the machine's speed."""
    with open(path, newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def files(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}
