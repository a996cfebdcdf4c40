"""Damages files of every kind that the project reads, at random, and reads them.

python -m tests.fuzz COUNT SEED

Each must be refused by a ValueError or an OSError of one line, or give what it gave before. Where a file has no
checksums it may hold other values then, and has to be read without a crash. This is to be a process of its own.
"""

import argparse
import json
import pickle
import random
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem

from equivariant_attention.checkpoints import read_tensors
from equivariant_attention.models import TFN
from equivariant_attention.published import read_signs
from experiments.nbody import run as nbody
from experiments.nbody.data import load_trajectories
from experiments.qm9 import bonds
from experiments.qm9.published import from_published
from experiments.qm9.sources import from_arrays
from experiments.qm9.structures import read
from tests.equivariant_attention.published.cases import write_cache
from tests.experiments.qm9.cases import rdkit_molecule, table
from tests.experiments.qm9.test_published import content_of
from utils import runs

RNG = np.random.default_rng(0)
TRAJECTORIES = {
    "loc": RNG.normal(size=(2, 3, 3, 2)), "vel": RNG.normal(size=(2, 3, 3, 2)), "charges": np.ones((2, 2, 1)),
    "sample_freq": 10, "delta_T": np.float64(0.01), "note": ["ä", None, {"a": (1, 2.5)}, {3}],
}  # fmt: skip


def damaged(content, rng):
    """The bytes with some of them cut, flipped, swapped, repeated or overwritten."""
    content, size = bytearray(content), len(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        start, length = rng.randrange(max(size, 1)), rng.choice([1, 1, 2, 8, 64, size // 2])
        other = rng.randrange(max(size, 1))
        how = rng.choice(["cut", "flip", "flip", "flip", "swap", "repeat", "overwrite", "delete"])
        part, there = content[start : start + length], content[other : other + length]
        if how == "cut":
            del content[start:]
        elif how == "flip" and part:
            content[start] ^= 1 << rng.randrange(8)
        elif how == "swap" and start + length <= other and other + length <= len(content):
            content[start : start + length], content[other : other + length] = there, part
        elif how == "repeat":
            content[start:start] = part
        elif how == "overwrite":
            content[start : start + length] = bytes(rng.choice([0, 0x2E, 0x41, 0xFF]) for _ in part)
        elif how == "delete":
            del content[start : start + length]
    return bytes(content)


def same(found, expected):
    if isinstance(expected, torch.Tensor | np.ndarray):
        return type(found) is type(expected) and np.array_equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected


def open_run(path):
    run, config = nbody.EXPERIMENT._open_run(*nbody.COMMAND_LINE.parse(["--resume", str(path.parent)]))
    run.close()
    return asdict(config)


def kinds(folder):
    """A whole file of each kind: ``{name: (path, reader, whether its bytes have checksums)}``."""
    molecules = table()
    TFN({0: 2}, {0: 2, 1: 2}, {0: 1}, num_layers=2).save_pretrained(folder / "model.pt")
    state = {"kind": "state", "rows": [{"a": 1.0}], "weights": {"w": torch.randn(5, 3), "n": torch.arange(4)}}
    torch.save(state, folder / "last.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(content_of(molecules), folder / "published.pt")
    for protocol in (0, 2, 5):
        (folder / f"{protocol}.pkl").write_bytes(pickle.dumps(TRAJECTORIES, protocol=protocol))
    arrays = {name: value for name, value in TRAJECTORIES.items() if name != "note"}
    np.savez(folder / "trajectories.npz", **arrays)
    arrays = {"N": molecules.num_atoms, "Z": molecules.numbers, "R": molecules.positions}
    np.savez_compressed(folder / "molecules.npz", **arrays, homo=molecules.targets["homo"] / 27.2)
    blocks = [Chem.MolToMolBlock(rdkit_molecule(smiles)) for smiles in ("O", "CC=O")]
    (folder / "some.sdf").write_text("$$$$\n".join(blocks))
    comment = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 charge=0'
    water = "O 0 0 0\nH 0.96 0 0\nH -.24 .93 0\n"
    (folder / "some.xyz").write_text(f"3\n{comment}\n{water}3\ngdb 3 1.5\n{water}1 2\nO\nO\n")
    write_cache(folder / "trans_Q", {(1, 1, 2): -1})
    (folder / "run").mkdir()
    config, _ = nbody.COMMAND_LINE.parse(["--save_dir", str(folder)])
    runs.create(asdict(config), str(folder / "run"), str(folder), "run").close()

    def numbers(molecules):
        return {**vars(molecules), "targets": dict(molecules.targets)}

    return {
        "model.pt": (lambda path: TFN.from_pretrained(path).state_dict(), True),
        "last.pt": (read_tensors, True),
        "old.pt": (read_tensors, False),
        "published.pt": (lambda path: numbers(from_published(path)), True),
        **{f"{protocol}.pkl": (lambda path: vars(load_trajectories(path)), False) for protocol in (0, 2, 5)},
        "trans_Q/index.pkl": (lambda path: dict(read_signs(path.parent)), False),
        "trans_Q/0.pkl.gz": (lambda path: dict(read_signs(path.parent)), True),
        "trajectories.npz": (lambda path: vars(load_trajectories(path)), True),
        "molecules.npz": (lambda path: numbers(from_arrays(path, None)), True),
        "some.sdf": (lambda path: read([str(path)]), False),
        "some.xyz": (lambda path: read([str(path)]), False),
        "run/config.json": (open_run, False),
    }


def outcome(reader, path):
    """What is read, and an empty text; or None, and why it is refused."""
    try:
        return reader(path), ""
    except (ValueError, OSError) as error:
        return None, str(error) or "no reason"


def main(count, seed):
    rng, results = random.Random(seed), Counter()
    bonds._in_workers = lambda molecules, *_: map(bonds.perceive_one, *zip(*molecules, strict=True))
    with tempfile.TemporaryDirectory() as name:
        for file, (reader, has_checksums) in kinds(Path(name)).items():
            path = Path(name) / file
            whole, expected = path.read_bytes(), reader(path)
            for number in range(count):
                path.write_bytes(damaged(whole, rng))
                found, message = outcome(reader, path)
                right = "\n" not in message if message else not has_checksums or same(found, expected)
                assert right, f"{file}, number {number}: {message or 'read, and other values'}"
                results[f"{file} {'refused' if message else 'read'}"] += 1
            path.write_bytes(whole)  # others may be read with it
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", type=int, help="of every kind of file")
    parser.add_argument("seed", type=int)
    main(**vars(parser.parse_args()))
