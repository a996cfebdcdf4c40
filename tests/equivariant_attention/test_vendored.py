"""The package copied into another project, under another name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import equivariant_attention

CODE = """
import importlib, pkgutil, sys
import torch
import vendored
from vendored.fibers import Fiber
from vendored.graphs import Graph
from vendored.modules import GSE3Res, get_basis_and_r

for module in pkgutil.walk_packages(vendored.__path__, "vendored."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
G = Graph([0, 1, 2], [1, 2, 0])
G.edata["d"] = torch.randn(3, 3)
basis, r = get_basis_and_r(G, 1)
layer = GSE3Res(Fiber(1, 4), Fiber(2, 4))
print({degree: tuple(v.shape) for degree, v in layer({"0": torch.randn(3, 4, 1)}, G=G, r=r, basis=basis).items()})
assert "equivariant_attention" not in sys.modules
"""


def test_a_layer_runs_under_another_name(tmp_path):
    shutil.copytree(
        Path(equivariant_attention.__file__).parent, tmp_path / "vendored", ignore=shutil.ignore_patterns("__pycache__")
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'0': (3, 4, 1), '1': (3, 4, 3)}"
