"""Several processes are one with a larger batch."""

import csv
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from tests.utils.test_experiment import LINE
from utils.distributed import from_leader, is_leader, leader_first, local_processes
from utils.loaders import EpochLoader

ROOT = Path(__file__).parents[2]


def rows(path):
    with open(path, newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def test_one_process_is_its_own_leader():
    assert is_leader()
    assert local_processes() == (1, 1)
    assert from_leader(lambda: 3) == 3
    with leader_first():
        pass


@pytest.mark.parametrize(("size", "processes"), [(16, 2), (17, 2), (18, 2), (19, 2), (23, 3)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_shares_side_by_side_are_the_batches_of_one_process(size, processes, shuffle):
    options = {"shuffle": shuffle, "seed": 5}
    data, each = list(range(size)), 4
    whole = list(EpochLoader(data, each * processes, sorted, **options))
    shares = [EpochLoader(data, each, sorted, rank=r, processes=processes, **options) for r in range(processes)]
    left_over = size % (each * processes)
    if shuffle and left_over and left_over < processes:
        whole = whole[:-1]
    assert {share.num_samples for share in shares} == {sum(map(len, whole))}
    batches = [list(share) for share in shares]
    if shuffle:
        assert len({len(of) for of in batches}) == 1
        assert [sorted(chain(*parts)) for parts in zip(*batches, strict=True)] == whole
    else:
        assert sorted(chain(*chain(*batches))) == data


def test_every_process_needs_a_sample():
    with pytest.raises(ValueError, match="processes: expected at most 2, a sample for each, got 3"):
        EpochLoader([1, 2], 1, list, processes=3)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_the_doubled_batch(tmp_path):
    """16 points in batches of 6 leave 4 over, which the two share as well."""
    common = ["--num_epochs", "4", "--device", "cpu", "--log_interval", "1", "--ema", "0.5", "--clip_norm", "0.1"]
    LINE.main([*common, "--batch_size", "6", "--output", str(tmp_path / "one")])
    two = [*common, "--batch_size", "3", "--output", str(tmp_path / "two")]
    torchrun(["-m", "tests.utils.line", *two])
    for name in ("metrics.csv", "steps.csv"):
        one, two = rows(tmp_path / "one" / name), rows(tmp_path / "two" / name)
        assert len(one) == len(two)
        for expected, found in zip(one, two, strict=True):
            assert found == pytest.approx(expected, rel=1e-5)
    # Resuming is of all processes as well.
    LINE.main([*common, "--resume", str(tmp_path / "one"), "--num_epochs", "5"])
    torchrun(["-m", "tests.utils.line", "--resume", str(tmp_path / "two"), "--num_epochs", "5"])
    assert rows(tmp_path / "two" / "metrics.csv")[-1] == pytest.approx(
        rows(tmp_path / "one" / "metrics.csv")[-1], rel=1e-5
    )


def torchrun(arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("everything is in") == 1
