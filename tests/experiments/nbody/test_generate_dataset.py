import pickle

import numpy as np
import pytest

from experiments.nbody import generate_dataset
from experiments.nbody.data import load_trajectories
from experiments.nbody.generate_dataset import main
from utils.cli import UsageError

SMALL = ["--num-train", "4", "--num-valid", "3", "--num-test", "2", "--length", "20", "--sample-freq", "10"]


def run(tmp_path, *flags):
    return main([*SMALL, "--output", str(tmp_path), *flags])


def test_writes_the_published_layout(tmp_path, capsys):
    paths = run(tmp_path, "--n-balls", "4", "--length-test", "40")
    assert [path.name for path in paths] == ["ds_train_charged4.pkl", "ds_valid_charged4.pkl", "ds_test_charged4.pkl"]
    assert set(tmp_path.iterdir()) == set(paths)
    for path, simulations, frames in zip(paths, (4, 3, 2), (3, 3, 5), strict=True):
        content = pickle.loads(path.read_bytes())
        assert set(content) == {"points", "vel", "E", "edges", "charges", "sample_freq", "delta_T"}
        assert content["points"].shape == content["vel"].shape == (simulations, frames, 3, 4)
        assert content["charges"].shape == (simulations, 4, 1)
        np.testing.assert_array_equal(content["E"], content["charges"] * content["charges"].swapaxes(1, 2))
        assert content["E"] is content["edges"]
        assert (content["sample_freq"], content["delta_T"]) == (10, 0.001)
        np.testing.assert_array_equal(load_trajectories(path).loc, content["points"])
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert all(str(path) in last_line for path in paths)


def test_splits_are_independent_and_reproducible(tmp_path):
    first = [load_trajectories(path) for path in run(tmp_path / "a")]
    again = [load_trajectories(path) for path in run(tmp_path / "b")]
    other = [load_trajectories(path) for path in run(tmp_path / "c", "--seed", "43")]
    starts = np.concatenate([split.loc[:, 0] for split in first + other])
    assert len(np.unique(starts)) == starts.size
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.loc, b.loc)


def test_springs_in_two_dimensions_without_a_box(tmp_path):
    paths = run(tmp_path, "--simulation", "springs", "--dim", "2", "--boxsize", "0", "--name", "mine")
    train = load_trajectories(tmp_path / "ds_train_mine.pkl")
    assert train.loc.shape == (4, 3, 2, 5)
    assert (np.diagonal(train.edges, axis1=1, axis2=2) == 0).all()
    assert len(paths) == 3


def test_unwritable_output_is_found_out_before_simulating(tmp_path, monkeypatch):
    monkeypatch.setattr(generate_dataset, "simulate", None)
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "ds_test_charged5.pkl").mkdir(parents=True)
    for output in ("file", "file/below", "folder"):
        with pytest.raises(UsageError, match=r"^--output: "):
            run(tmp_path / output)
