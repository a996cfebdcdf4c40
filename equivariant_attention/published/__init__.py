"""Weights of the published code and of programs made with it: the signs of their basis, and what makes them ours.

The published code solves for the couplings Q_J numerically, and keeps them in files. Their signs are arbitrary and come
out differently from machine to machine, so weights belong to the ``cache/trans_Q`` that they were trained with.

    weights = torch.load("client.pt", weights_only=True)
    model.load_state_dict(converted(weights, read_signs("cache/trans_Q")))

``python -m equivariant_attention.published convert`` does the same for a file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .tables import NAMES, Signs, signs

if TYPE_CHECKING:
    from .cache import read_signs
    from .conversion import converted
    from .fit import fit_signs

__all__ = ["NAMES", "Signs", "converted", "fit_signs", "read_signs", "signs"]

_HOMES = {"read_signs": "cache", "converted": "conversion", "fit_signs": "fit"}


def __getattr__(name: str) -> Any:
    # These import PyTorch, which takes seconds, and the help of the command need not wait for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
