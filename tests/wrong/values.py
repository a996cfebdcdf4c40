"""Values that are not what a file should hold, put in place of each that it does hold."""

import copy
import random

import torch

DELETED = object()


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ODD = {
    "deleted": DELETED, "None": None, "text": "x", "true": True, "negative": -1, "huge": 2**70, "float": 0.5,
    "nan": float("nan"), "infinite": float("inf"), "list": [], "dict": {}, "nested": nested(500),
    "dict of numbers": {1: 2}, "list of None": [None],
}  # fmt: skip
ODD_TENSORS = {
    "empty": torch.zeros(0), "one": torch.zeros(1), "zero": torch.zeros(()), "long": torch.zeros(2, dtype=torch.int64),
    "nans": torch.full((2,), torch.nan), "large": torch.zeros(100, 100),
}  # fmt: skip


def places(content, most=3, path=()):
    """The ways to every value in dicts and lists, of long lists to the first ones."""
    yield path
    if isinstance(content, dict):
        for key in content:
            yield from places(content[key], most, (*path, key))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content[:most]):
            yield from places(value, most, (*path, number))


def changed(content, path, value):
    """The content with another value in one place."""
    if not path:
        return {} if value is DELETED else copy.copy(value)
    key, *rest = path
    parts = dict(content) if isinstance(content, dict) else list(content)
    if rest:
        parts[key] = changed(parts[key], rest, value)
    elif value is DELETED:
        del parts[key]
    else:
        parts[key] = value
    return tuple(parts) if isinstance(content, tuple) else parts


def oddities(content, odd, count=None):
    """``(path, value)`` for every place in a content and every odd value, or for so many of them drawn at random."""
    every = [(path, value) for path in places(content) for value in odd.values()]
    return every if count is None else random.Random(0).sample(every, count)
