"""Everything that writes files outside a run, over and over, in a process that is killed while it does.

python -m tests.writers FOLDER TIMES       looks at the files each time, and fails if one is not whole
"""

import os
import random
import signal
import sys
import time
import warnings
from itertools import count
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from experiments.nbody.generate_dataset import write_published
from experiments.nbody.simulation import Settings, simulate
from experiments.qm9.evaluation import Predictions
from experiments.qm9.evaluation import write_csv as write_predictions
from experiments.qm9.molecules import Molecules
from experiments.qm9.sources import EMBEDDED
from tests.experiments.runs import files, rows
from utils import caches, checkpoints, hashes
from utils.arrays import read_pickle
from utils.files import read_json, write_json
from utils.history import write_csv
from utils.plots import save_figure

SIZE = 100_000
SIMULATED = simulate(Settings(n_balls=3, length=2000, sample_freq=10), 20, seed=0)


def figure(number):
    figure = Figure()
    figure.add_subplot().plot(np.random.default_rng(number).normal(size=1000))
    return figure


def predictions(number):
    values = np.full((2000, 1), float(number))
    return Predictions("homo", np.arange(2000).astype(str), values, values, values[0])


def all_equal(values, size):
    assert len(values) == size
    assert len({*values}) == 1


def image(path):
    with Image.open(path) as picture:
        picture.load()


# How each file is written for the n-th time, and how it is read; no half of one is read without an error.
WRITERS = {
    "state.pt": (
        lambda path, n: checkpoints.save(path, checkpoints.STATE, {"model": torch.full((SIZE,), n)}),
        lambda path: all_equal(checkpoints.load(path, checkpoints.STATE)["model"].tolist(), SIZE),
    ),
    "metrics.csv": (
        lambda path, n: write_csv(path, [{"loss": n, "other": n}] * 5000),
        lambda path: all_equal([row["loss"] + row["other"] for row in rows(path)], 5000),
    ),
    "metrics.json": (lambda path, n: write_json(path, [n] * 5000), lambda path: all_equal(read_json(path), 5000)),
    "plot.png": (lambda path, n: save_figure(figure(n), path), image),
    "cache.npz": (
        lambda path, n: caches.load_or_make(path, str(n), lambda: {"x": np.full(SIZE, n)}, "making"),
        lambda path: caches._read(path, str(int(np.load(path)["key"]))),
    ),
    "molecules.npz": (lambda path, n: Molecules.load(EMBEDDED).save(path), Molecules.load),
    "ds.pkl": (lambda path, n: write_published(path, SIMULATED), read_pickle),
    "predictions.csv": (
        lambda path, n: write_predictions(path, predictions(n)),
        lambda path: all_equal([row["true homo (eV)"] for row in rows(path)], 2000),
    ),
    "SHA256SUMS": (lambda path, n: hashes.record(path.parent, ["given"]), lambda path: hashes.verify(path.parent)),
}


def write_until_killed(folder):
    warnings.simplefilter("ignore")  # each cache is of something else than the one before
    folder.mkdir(exist_ok=True)
    (folder / "given").touch()
    for n in count():
        for name, (write, _) in WRITERS.items():
            write(folder / name, n)
        (folder / "begun").touch()


def main(folder, times):
    """Kill a copy of this process at any moment: what takes seconds to import is imported once."""
    leftovers = 0
    for _ in range(times):
        (folder / "begun").unlink(missing_ok=True)
        process = os.fork()
        if not process:
            try:
                write_until_killed(folder)
            finally:
                os._exit(1)
        while not (folder / "begun").exists():
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "it ended by itself"
            time.sleep(0.01)
        time.sleep(random.SystemRandom().uniform(0, 1))
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "it ended by itself"
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        for name, (_, check) in WRITERS.items():
            check(folder / name)
        now = sum(name.endswith(".tmp") for name in files(folder))
        assert now <= leftovers + 1  # what was being written, under another name
        leftovers = now


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
