"""Trajectories on disk, pairs of frames to learn from, and batches of fully connected graphs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from equivariant_attention.plan import Plan
from experiments.nbody.public_stream import public_trajectories
from experiments.nbody.simulation import (
    DT,
    PHYSICS_VERSION,
    SPLITS,
    Settings,
    Trajectories,
    check_array,
    check_count,
    seed_of,
    simulate,
)
from utils.arrays import as_floats, read_npz, read_pickle
from utils.caches import load_or_make
from utils.graphs import fully_connected

ARRAYS = ("loc", "vel", "charges", "edges")
MOST_PARTICLES = 4096  # their graphs have an edge from each to each
FEW, PER_NUMBER = 1 << 26, 2  # edges that a file without them may stand for, or so many times its positions
SYNONYMS = {"points": "loc", "E": "edges", "delta_T": "dt"}  # published name -> the name used here

Sample = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Stream = Literal["own", "egnn"]
Targets = Literal["both", "positions"]
Batch = tuple[Any, Plan, Tensor]  # graphs, what is known of them ahead, targets


# --------------------------------------------------------------------------------------------------------- files


def load_or_simulate(
    folder: str | os.PathLike[str],
    settings: Settings,
    num_simulations: int,
    seed: int,
    split: Literal["train", "valid", "test"],
    *,
    stream: Stream = "own",
    progress: bool = False,
) -> Trajectories:
    """Simulated trajectories, from a file where they were simulated before.

    The file's name and content carry the settings, the number, the seed, the split, the stream and the version of the
    physics. One that cannot be read, or holds something else, is reported by a warning and made anew.

    Args:
        folder: where the files are; made if missing.
        settings: what to simulate.
        num_simulations: how many trajectories.
        seed: non-negative integer.
        split: equal seeds give independent trajectories in different splits.
        stream: whose random numbers: ``'own'``, of :func:`simulate`; ``'egnn'``, of :func:`public_trajectories`.
        progress: show a progress bar while simulating.

    Raises:
        ValueError: an argument, named, is out of range.
        OSError: the folder cannot be written to.
        FloatingPointError: as in :func:`simulate`.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    check_count("num_simulations", num_simulations)
    check_count("seed", seed, least=0)
    what = {**asdict(settings), "box_size": float(settings.box_size), "physics": PHYSICS_VERSION, "stream": stream}
    key = json.dumps({**what, "num_simulations": num_simulations, "seed": seed, "split": split}, default=int)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = Path(folder) / f"{settings.simulation}{settings.n_balls}_{split}_{digest}.npz"

    def make() -> dict[str, np.ndarray]:
        if stream == "egnn":
            trajectories = public_trajectories(settings, split, num_simulations, seed=seed, progress=progress)
        else:
            trajectories = simulate(settings, num_simulations, seed_of(seed, split), progress=progress)
        return {name: getattr(trajectories, name) for name in ARRAYS}

    return _trajectories(load_or_make(path, key, make, "simulating"), settings.sample_freq)


def load_trajectories(path: str | os.PathLike[str], sample_freq: int | None = None) -> Trajectories:
    """Read trajectories from a published .pkl or from an .npz.

    The file holds ``'loc'`` (or ``'points'``) and ``'vel'`` ``[simulations, frames, dim, n]``, and at least one of
    ``'charges'`` ``[simulations, n, 1]`` and ``'edges'`` (or ``'E'``) ``[simulations, n, n]``: without edges they are
    the products of the charges, without charges these are ones. ``'sample_freq'`` and ``'delta_T'`` (default 0.001) may
    be there as well, as numbers or as arrays of one. Of two names for one thing, the first counts. A pickle, of any
    protocol, is read as data only: anything in it but NumPy arrays, numbers, strings and plain containers is refused,
    never run.

    Args:
        path: the file; its ending says how it is read.
        sample_freq: steps from one frame to the next, needed where the file does not say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file, named, is not what it should be.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path}: expected a file ending in {' or '.join(READERS)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        content = READERS[path.suffix](path)
        published = {SYNONYMS[name]: content[name] for name in SYNONYMS.keys() & content.keys()}
        return _trajectories({**published, **content}, sample_freq)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _trajectories(content: Mapping[str, Any], sample_freq: int | None) -> Trajectories:
    missing = [name for name in ("loc", "vel") if name not in content]
    if missing or not {"charges", "edges"} & content.keys():
        raise ValueError(f"expected 'loc', 'vel' and 'charges' or 'edges', got {sorted(content)}")
    arrays = {name: as_floats(name, content[name]) for name in ARRAYS if name in content}
    _check_sizes(arrays)  # before arrays of these sizes are made
    if "charges" not in arrays:
        arrays["charges"] = np.ones((*arrays["edges"].shape[:2], 1))
    if "edges" not in arrays:
        arrays["edges"] = arrays["charges"] * arrays["charges"].swapaxes(1, 2)
    stored = _number(content, "sample_freq") if "sample_freq" in content else sample_freq
    if stored is None:
        raise ValueError("sample_freq: the file does not hold it, so it must be given")
    if sample_freq not in (None, stored):
        raise ValueError(f"sample_freq: expected the file's {stored}, got {sample_freq}")
    of_time = [name for name in ("delta_T", "dt") if name in content and content[name] is content["dt"]]
    return Trajectories(**arrays, sample_freq=stored, dt=float(_number(content, of_time[0])) if of_time else DT)


def _check_sizes(arrays: Mapping[str, np.ndarray]) -> None:
    if arrays["loc"].ndim != 4:
        raise ValueError(f"loc: expected shape [simulations, frames, 2 or 3, n], got {[*arrays['loc'].shape]}")
    simulations, _, _, n = arrays["loc"].shape
    if n > MOST_PARTICLES:
        raise ValueError(f"loc: expected at most {MOST_PARTICLES} particles, got {n}")
    if "edges" not in arrays and simulations * n**2 > (most := max(FEW, PER_NUMBER * arrays["loc"].size)):
        raise ValueError(f"loc: expected at most {most:,} edges between its particles, got {simulations * n**2:,}")
    for name, columns in (("charges", 1), ("edges", n)):
        if name in arrays:
            check_array(name, arrays[name], (simulations, n, columns))


def _number(content: Mapping[str, Any], name: str) -> int | float:
    """One number, as itself or as an array of one."""
    number = as_floats(name, np.asarray(content[name]))
    if number.size != 1:
        raise ValueError(f"{name}: expected one number, got an array of shape {[*number.shape]}")
    return int(number.item()) if number.item().is_integer() else number.item()


READERS = {".pkl": read_pickle, ".npz": read_npz}


# ------------------------------------------------------------------------------------------------------- samples


class NBodyDataset(torch.utils.data.Dataset):
    """Pairs of frames of each trajectory: an initial state and the state ``delta_t`` frames later.

    An item is (x0, v0, charges, edges, target), float32 ``[n, 3]``, ``[n, 3]``, ``[n, 1]``, ``[n, n]``, ``[n, 2, 3]``.
    The target is displacements and changes of velocity or, where only positions are asked for, displacements alone,
    ``[n, 1, 3]``.

    Args:
        trajectories: simulated or loaded; in 2 dimensions z is 0.
        delta_t: frames from the initial to the final state.
        burn_in: frames at the beginning never to start from.
        start_at: ``'zero'`` starts from frame ``burn_in``; ``'all'`` from a random one that leaves ``delta_t`` frames,
            drawn from (seed, epoch, index) alone, so that a resumed training sees what an uninterrupted one would.
        seed: of the random starts.
        targets: ``'both'`` or ``'positions'``.
        mirror: turn half of the samples into their mirror images, drawn as the starts are: charges and springs know no
            left and right, but models of SO(3) have to be shown.

    Raises:
        ValueError: an argument, named, is out of range, or no frame leaves ``delta_t`` frames.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        delta_t: int = 10,
        burn_in: int = 0,
        start_at: Literal["all", "zero"] = "all",
        seed: int = 0,
        targets: Targets = "both",
        mirror: bool = False,
    ) -> None:
        check_count("delta_t", delta_t)
        check_count("burn_in", burn_in, least=0)
        check_count("seed", seed, least=0)
        if start_at not in ("all", "zero"):
            raise ValueError(f"start_at: expected 'all' or 'zero', got {start_at!r}")
        if targets not in ("both", "positions"):
            raise ValueError(f"targets: expected 'both' or 'positions', got {targets!r}")
        simulations, frames, dim, n = trajectories.loc.shape
        if burn_in + delta_t >= frames:
            raise ValueError(f"delta_t: expected at most {frames - 1 - burn_in} frames, got {delta_t}")
        self.delta_t, self.burn_in, self.start_at, self.seed = delta_t, burn_in, start_at, seed
        self.targets, self.mirror = targets, mirror
        self.sample_freq, self.dt = trajectories.sample_freq, trajectories.dt
        self._states = np.zeros((2, simulations, frames, n, 3), dtype=np.float32)
        self._states[0, ..., :dim] = trajectories.loc.swapaxes(2, 3)
        self._states[1, ..., :dim] = trajectories.vel.swapaxes(2, 3)
        self._charges = trajectories.charges.astype(np.float32)
        self._edges = trajectories.edges.astype(np.float32)
        self.set_epoch(0)

    @property
    def horizon(self) -> int:
        """Steps of the simulation from the initial to the final state."""
        return self.delta_t * self.sample_freq

    @property
    def horizon_time(self) -> float:
        """Time from the initial to the final state, in the simulation's units."""
        return self.horizon * self.dt

    def set_epoch(self, epoch: int) -> None:
        """Draw the start frames and the mirror images of an epoch.

        Call it before the data loader is iterated; persistent workers keep their copy of the dataset and do not see it.

        Args:
            epoch: number of the epoch, from 0.

        Raises:
            ValueError: it is no such number.
        """
        check_count("epoch", epoch, least=0)
        rng = np.random.default_rng((self.seed, epoch, 1))
        self._signs = rng.choice((-1, 1), len(self)) if self.mirror else np.ones(len(self))
        if self.start_at == "zero":
            self._starts = np.full(len(self), self.burn_in)
            return
        stop = self._states.shape[2] - self.delta_t
        self._starts = np.random.default_rng((self.seed, epoch)).integers(self.burn_in, stop, size=len(self))

    def __len__(self) -> int:
        return self._states.shape[1]

    def __getitem__(self, index: int) -> Sample:
        start, sign = self._starts[index], np.float32(self._signs[index])
        first, last = sign * self._states[:, index, start], sign * self._states[:, index, start + self.delta_t]
        (x0, v0), changes = first, last - first
        target = changes[:1] if self.targets == "positions" else changes
        return x0, v0, self._charges[index], self._edges[index], target.swapaxes(0, 1)


# ------------------------------------------------------------------------------------------------------- batches


def collate(samples: Sequence[Sample], graph: Literal["own", "dgl"] = "own") -> Batch:
    """Join samples of n particles each into one batched, fully connected graph.

    Args:
        samples: items of an :class:`NBodyDataset`, S of them.
        graph: ``'own'`` for :class:`~equivariant_attention.graphs.Graph`, ``'dgl'`` for a ``dgl.DGLGraph``.

    Returns:
        G, its plan, which says all that models need to know of it ahead, and the target, all float32. With N = S n and
        E = S n (n - 1), ``G.ndata`` has positions ``'x'`` ``[N, 1, 3]``, velocities ``'v'`` ``[N, 1, 3]`` and charges
        ``'c'`` ``[N, 1, 1]``; ``G.edata`` has ``'d'``, x_dst - x_src, ``[E, 3]`` and strengths of the interactions
        ``'w'`` ``[E, 1]``, edges in the order of their destinations, then sources. The target ``[N, 2, 3]`` is
        displacements and changes of velocity, or ``[N, 1, 3]`` displacements alone.

    Raises:
        ValueError: another ``graph``, or samples of different numbers of particles.
    """
    sizes = {len(x0) for x0, *_ in samples}
    if len(sizes) != 1:
        raise ValueError(f"samples: expected one number of particles in all of at least one, got {sorted(sizes)}")
    x0, v0, charges, edges, target = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
    num_graphs, n, _ = x0.shape
    G, src, dst = fully_connected(graph, num_graphs, n)
    G.ndata["x"] = x0.reshape(-1, 1, 3)
    G.ndata["v"] = v0.reshape(-1, 1, 3)
    G.ndata["c"] = charges.reshape(-1, 1, 1)
    G.edata["d"] = (x0[:, dst] - x0[:, src]).reshape(-1, 3)
    G.edata["w"] = edges[:, dst, src].reshape(-1, 1)
    return G, Plan(G), target.flatten(0, 1)


# ----------------------------------------------------------------------------------------------------- baselines


def linear_motion(v0: Tensor, horizon_time: float) -> Tensor:
    """Predict that every particle keeps its velocity: displacement v0 T, velocity change 0.

    Args:
        v0: velocities, ``[N, 3]`` or ``[N, 1, 3]``.
        horizon_time: T.

    Returns:
        ``[N, 2, 3]``, as the target of :func:`collate`.
    """
    velocities = v0.reshape(-1, 3)
    return torch.stack([velocities * horizon_time, torch.zeros_like(velocities)], dim=1)


def constant(v0: Tensor) -> Tensor:
    """Predict that nothing changes.

    Args:
        v0: velocities, ``[N, 3]`` or ``[N, 1, 3]``.

    Returns:
        zeros ``[N, 2, 3]``.
    """
    return linear_motion(v0, 0.0)
