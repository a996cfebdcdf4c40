"""Weights for a model from those of another, which sees less or predicts other targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import nn

from experiments.qm9.config import Config
from experiments.qm9.targets import TARGETS, names_of
from utils.checkpoints import Weights

HEADS = {  # what follows the pooling, or stands beside it
    "SE3Transformer": ("FCblock", "of_atoms"),
    "TFN": ("block2",),
    "SE3TransformerPooled": ("model.mlp",),
}
FIRST_LAYER = ".rp.net.0.weight"  # of a radial network, [hidden, features of an edge and its length]


def adapted(config: Config, model: nn.Module, weights: Weights, flags: Mapping[str, Any]) -> Weights:
    """Weights that a run may begin with, of those of another.

    Of weights that see less of edges, what is new counts for nothing at first. Of those of several targets with
    readouts of their own, some may be taken. Of those of other targets, the scale is left out, which stays as it is in
    the model, and where it is of several and they are of one, also the network after the pooling.

    Args:
        config: of the run that begins.
        model: untrained.
        weights: of the other run, or any.
        flags: of the other run, as far as they are known.

    Raises:
        ValueError: nothing is to be trained, so that weights of other targets would stay so.
    """
    own = model.state_dict()
    weights = widened(weights, own)
    task = flags.get("task")
    theirs = names_of(task) if isinstance(task, str) else ()
    if config.has_own_readouts and flags.get("readouts") == "own" and {*config.tasks} <= {*theirs} <= TARGETS.keys():
        return of_some_targets(weights, theirs, config.tasks, config.num_channels)
    is_of_one = own["std"].dim() and "std" in weights and not weights["std"].dim()
    if not is_of_one and task in (None, config.task):
        return weights
    if config.forward:
        raise ValueError(f"expected weights of --task {config.task} with --forward, got those of other targets")
    heads = tuple(f"net.{name}." for name in HEADS[config.model]) if is_of_one else ()
    scale = {name for name, _ in model.named_buffers(recurse=False)}
    kept = {name: value for name, value in own.items() if name in scale or name.startswith(heads)}
    return {**weights, **kept}


def widened(weights: Weights, like: Weights) -> Weights:
    """Weights for a model whose edges have more features, of which it as yet makes nothing.

    Args:
        weights: of a model whose edges have fewer, if any differ.
        like: those of the model, untrained.
    """
    wider = copy(weights)
    for name in like.keys() & weights.keys():
        weight = weights[name]
        if name.endswith(FIRST_LAYER) and weight.dim() == 2 and (missing := like[name].shape[1] - weight.shape[1]) > 0:
            # The distance is last.
            wider[name] = torch.cat([weight[:, :-1], weight.new_zeros(len(weight), missing), weight[:, -1:]], dim=1)
    return wider


def of_some_targets(weights: Weights, theirs: Sequence[str], ours: Sequence[str], num_channels: int) -> Weights:
    """Weights of targets with readouts of their own, for a model of some of them.

    Args:
        weights: of a :class:`~experiments.qm9.scaling.ScaledTogether` of a
            :class:`~experiments.qm9.models.SE3TransformerSeveral`.
        theirs: its targets.
        ours: some of them, in any order.
        num_channels: of each degree.

    Raises:
        ValueError: the weights are of other targets.
    """
    columns, size = [theirs.index(task) for task in ours], len(theirs)
    kept = {"mean": (0, size, columns), "std": (0, size, columns), "per_element": (1, size, columns)}
    found = copy(weights)
    # What the network of the atoms gives is a number for each sum, then one for each channel of each length.
    for head, numbers in (("net.FCblock.", {"pooled": 1}), ("net.of_atoms.", {"sum": 1, "length": num_channels})):
        outputs = _outputs(theirs, numbers)
        if rows := [i for task in dict.fromkeys(_outputs(ours, numbers)) for i in _places(task, outputs)]:
            kept |= {f"{head}2.{name}": (0, len(outputs), rows) for name in ("weight", "bias")}
        else:
            for name in [name for name in found if name.startswith(head)]:
                del found[name]
    for name, (axis, size, places) in kept.items():
        if name in found:
            if found[name].dim() <= axis or found[name].shape[axis] != size:
                raise ValueError(f"{name}: expected that of {', '.join(theirs)}, got shape {list(found[name].shape)}")
            found[name] = found[name].index_select(axis, torch.tensor(places))
    return found


def _outputs(tasks: Sequence[str], numbers: Mapping[str, int]) -> list[str]:
    """Of each output of a small network the target, of whose kind there are so many numbers."""
    each = [task for kind in numbers for task in tasks if TARGETS[task].readout == kind]
    return [task for task in each for _ in range(numbers[TARGETS[task].readout])]


def _places(task: str, outputs: Sequence[str]) -> list[int]:
    return [i for i, other in enumerate(outputs) if other == task]
