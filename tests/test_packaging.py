"""What is declared: dependencies per Python version and platform, and what is imported when."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def requirements(path="requirements.txt"):
    lines = (ROOT / path).read_text().splitlines()
    return {r.name: r for r in map(Requirement, (line for line in lines if line and not line.startswith("#")))}


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_dgl_is_required_only_where_it_works(version, machine):
    environment = {"python_version": version, "platform_machine": machine, "sys_platform": "linux"}
    marker = requirements()["dgl"].marker
    assert marker.evaluate(environment) == (version in ("3.10", "3.11") and machine == "x86_64")
    # Triton, which only tests ask for, has wheels for Linux alone; all else is needed everywhere.
    others = [r for name, r in requirements().items() if name not in ("dgl", "triton")]
    assert all(r.marker is None for r in others)


def test_setup_and_requirements_agree_on_dgl():
    assert str(requirements()["dgl"].marker).replace('"', "'") in (ROOT / "setup.py").read_text().replace('"', "'")
    assert not {"wandb", "lie_learn"} & {name.lower() for name in requirements()}


def test_importing_the_library_imports_no_optional_package_and_sets_no_flag():
    script = """
import sys, torch
before = torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
import equivariant_attention.models, equivariant_attention.neighbors, equivariant_attention.testing
assert before == (torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32)
optional = {"dgl", "torch_geometric", "e3nn", "wandb", "lie_learn", "matplotlib", "ase", "experiments", "utils"}
assert not optional & set(sys.modules), optional & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
