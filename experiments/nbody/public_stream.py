"""The n-body data that EGNN and its successors report on, made anew from the public generator's random numbers.

Every trajectory of that generator takes its numbers from one sequence, those of training before those of validation
and test, so that data are known by a seed and three sizes. It has no walls, and keeps the frames after
sample_freq, 2 sample_freq, ... steps: neither the initial state nor the last one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.nbody.simulation import SPEED, SPLITS, Array, Settings, Trajectories, advance, check_count

EGNN_SEED = 43  # of the data of EGNN (arXiv 2102.09844), SEGNN (2110.02905), CGENN (2305.11141) and others
EGNN_SIZES = {"train": 10_000, "valid": 2_000, "test": 2_000}  # trajectories in the sequence, of which 3,000 train


def public_trajectories(
    settings: Settings,
    split: str,
    count: int | None = None,
    *,
    seed: int = EGNN_SEED,
    sizes: Mapping[str, int] = EGNN_SIZES,
    progress: bool = False,
) -> Trajectories:
    """The first trajectories of a split of public data.

    Args:
        settings: charged particles in 3 dimensions without a box; its frames are those of the generator, and the
            sequence depends on how many they are.
        split: ``'train'``, ``'valid'`` or ``'test'``.
        count: how many; None, all of them.
        seed: of NumPy's ``RandomState``.
        sizes: of all splits, which follow each other in the sequence.
        progress: show a progress bar while simulating (needs tqdm).

    Returns:
        trajectories of ``settings.frames - 2`` frames; frame k is the state after ``(k + 1) sample_freq`` steps.

    Raises:
        ValueError: an argument, named, is out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    if (settings.simulation, settings.dim, settings.box_size) != ("charged", 3, 0):
        raise ValueError(f"stream: its data are of charged particles in 3 dimensions without walls, got {settings}")
    if settings.frames < 3:
        raise ValueError(f"stream: its data lack the first and last frame, expected at least 3, got {settings.frames}")
    count = sizes[split] if count is None else count
    check_count("count", count)
    if count > sizes[split]:
        raise ValueError(f"stream: its data have {sizes[split]} trajectories for {split!r}, got a wish for {count}")
    start = sum(sizes[earlier] for earlier in SPLITS[: SPLITS.index(split)])
    loc, vel, charges = _initial_states(settings, seed, start, count)
    edges = charges @ charges.swapaxes(1, 2)
    loc, vel = advance(loc, vel, edges, settings, settings.length, settings.sample_freq, progress=progress)
    return Trajectories(loc[:, 1:-1], vel[:, 1:-1], charges, edges, settings.sample_freq)


def _initial_states(settings: Settings, seed: int, start: int, count: int) -> tuple[Array, Array, Array]:
    """Positions, velocities and charges of ``count`` trajectories of the sequence from number ``start`` on."""
    n, rng = settings.n_balls, np.random.RandomState(seed)
    loc, vel, charges = np.empty((count, 3, n)), np.empty((count, 3, n)), np.empty((count, n, 1))
    for i in range(-start, count):  # those before are drawn, and overwritten: the sequence cannot be entered midway
        charges[max(i, 0)] = rng.choice((-1.0, 0.0, 1.0), size=(n, 1), p=(0.5, 0.0, 0.5))
        loc[max(i, 0)] = rng.standard_normal((3, n))
        vel[max(i, 0)] = rng.standard_normal((3, n))
        rng.standard_normal((2, settings.frames - 2, 3, n))  # noise of the observations, of which nothing is added
    vel *= SPEED / np.linalg.norm(vel, axis=1, keepdims=True)
    return loc, vel, charges
