import os
import subprocess
import sys
import warnings

import pytest
import torch

from equivariant_attention.published import converted, signs
from equivariant_attention.published.__main__ import main
from tests.equivariant_attention.published.cases import Client, write_cache


@pytest.fixture
def checkpoint(tmp_path):
    """As clients write them: a state dict among other things."""
    weights = dict(Client().state_dict())
    content = {"epoch": 3, "model_state_dict": weights, "history": [{"loss": torch.ones(2)}, (1, weights)]}
    torch.save(content, tmp_path / "in.pt")
    return tmp_path / "in.pt", content


def loaded(path):
    return torch.load(path, weights_only=True)


def assert_same_weights(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("by_cache", [True, False])
def test_what_lies_inside_is_converted_and_the_rest_is_kept(tmp_path, checkpoint, by_cache, capsys):
    source, content = checkpoint
    cache = write_cache(tmp_path / "trans_Q", signs("danligand"))
    options = ["--cache", str(cache)] if by_cache else ["--signs", "danligand"]
    assert main(["convert", str(source), str(tmp_path / "out.pt"), *options]) == 0
    assert "converted" in capsys.readouterr().out
    found, weights = loaded(tmp_path / "out.pt"), content["model_state_dict"]
    assert list(found) == list(content)
    assert found["epoch"] == 3
    assert torch.equal(found["history"][0]["loss"], torch.ones(2))
    for part in (found["model_state_dict"], found["history"][1][1]):
        assert_same_weights(part, converted(weights, signs("danligand")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client().load_state_dict(found["model_state_dict"])
    assert_same_weights(loaded(source)["model_state_dict"], weights)


def test_it_is_its_own_inverse_and_may_write_where_it_read(checkpoint):
    source, content = checkpoint
    for _ in range(2):
        assert main(["convert", str(source), str(source), "--signs", "danligand"]) == 0
    assert_same_weights(loaded(source)["model_state_dict"], content["model_state_dict"])


def wrong_degrees(folder):
    torch.save(Client().double().state_dict(), folder / "in.pt")
    write_cache(folder / "trans_Q", {(0, 0, 0): 1})


def not_weights(folder):
    torch.save({"x": torch.ones(2)}, folder / "in.pt")


def code(folder):
    torch.save({"x": subprocess.run}, folder / "in.pt")


def damaged(folder):
    (folder / "in.pt").write_bytes((folder / "in.pt").read_bytes()[:-100])


def damaged_cache(folder):
    (folder / "trans_Q" / "0.pkl.gz").write_bytes(b"no gzip")


def no_cache(folder):
    (folder / "trans_Q" / "index.pkl").unlink()


def missing(folder):
    (folder / "in.pt").unlink()


@pytest.mark.parametrize("wrong", [wrong_degrees, not_weights, code, damaged, damaged_cache, no_cache, missing])
def test_errors_are_one_line_and_nothing_is_written(tmp_path, checkpoint, wrong, capsys):
    write_cache(tmp_path / "trans_Q", signs("danligand"))
    wrong(tmp_path)
    (tmp_path / "out.pt").write_text("before")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    arguments = ["convert", str(tmp_path / "in.pt"), str(tmp_path / "out.pt"), "--cache", str(tmp_path / "trans_Q")]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_as_a_command(tmp_path, checkpoint):
    command = [sys.executable, "-m", "equivariant_attention.published", "convert", "in.pt", "out.pt"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "--signs", "nobody"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "rosettafold" in done.stderr
    done = subprocess.run([*command, "--signs", "fast3"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out.pt").exists()
