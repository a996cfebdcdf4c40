"""Every program answers --help before it imports what takes seconds, and by the names that other modules have."""

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from benchmarks import selection
from equivariant_attention.contraction import BACKENDS
from equivariant_attention.models import NONLINEARITIES, RADIAL_BASES
from experiments.forces import config as forces
from experiments.nbody import config as nbody
from experiments.nbody import models as nbody_models
from experiments.qm9 import config as qm9
from experiments.qm9 import eval
from experiments.qm9.models import MODELS
from experiments.qm9.molecules import SPLITS
from experiments.toy_optimisation import config as toy

ROOT = Path(__file__).parents[1]
PROGRAMS = [
    "experiments.chirality.run", "experiments.forces.dynamics", "experiments.forces.metals", "experiments.forces.run",
    "experiments.forces.run --data FILE", "experiments.nbody.generate_dataset", "experiments.nbody.run",
    "experiments.qm9.embedded.generate", "experiments.qm9.eval", "experiments.qm9.learning_curves",
    "experiments.qm9.predict", "experiments.qm9.run", "experiments.scanobjectnn.run",
    "experiments.toy_optimisation.collect", "experiments.toy_optimisation.run",
    "benchmarks", "benchmarks.against", "benchmarks.report",
    "equivariant_attention", "equivariant_attention.published",
]  # fmt: skip
SLOW = {"torch", "matplotlib", "rdkit", "lightning_fabric", "ase", "tblite", "dgl"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_waits_for_nothing(program):
    command = [sys.executable, "-X", "importtime", "-m", *program.split(), "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: ")
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "argparse" in imported
    assert not SLOW & imported


def test_what_the_help_names_is_what_there_is():
    assert set(selection.BACKENDS) == set(BACKENDS)
    assert choices(qm9.Model, "model") == tuple(MODELS)
    assert choices(qm9.Model, "nonlinearity") == choices(forces.FrameModel, "nonlinearity") == NONLINEARITIES
    assert (None, *choices(forces.FrameModel, "radial_basis")) == RADIAL_BASES
    assert f"--split {{{','.join((*SPLITS, 'all'))}}}" in eval.build_parser().format_help()
    assert all(hasattr(nbody_models, name) for name in ("SE3Transformer", "TFN"))


def choices(kind, name):
    return get_args(get_type_hints(kind)[name])


def test_a_flag_has_one_name():
    for kind in (nbody.Config, qm9.Config, toy.Config):
        assert not hasattr(kind, "epoch_length")
    assert qm9.PAPER.epoch_size is None
    assert toy.QUICK.epoch_size == 2000
