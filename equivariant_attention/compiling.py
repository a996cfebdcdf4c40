"""What ``torch.compile`` is not to trace."""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def constant_when_compiled(function: F) -> F:
    """Where ``function`` is called in code that is compiled, it is called once, by the compiler, and not traced.

    This is ``torch.compiler.assume_constant_result``, which imports the compiler: that takes as long as all of PyTorch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
