"""What modules of the published code's names say of the names that they do not have."""

from __future__ import annotations

from collections.abc import Callable


def told_of_missing(module: str, has: str) -> Callable[[str], None]:
    """A ``__getattr__`` for a module, which raises an ImportError that says what the module has.

    Args:
        module: what it is called.
        has: its own names, and where others are.
    """

    def get(name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        # Of an AttributeError, "from ... import" would not show the message.
        raise ImportError(f"{module} has no {name!r}: it has {has}")

    return get
