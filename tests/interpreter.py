"""Triton's interpreter, in half its time."""

from triton.runtime import interpreter

_patched = set()


def _called(function, *args, **kwargs):
    """A function of the language calls another: what its module calls the language is replaced the first time alone."""
    if (module := function.fn.__module__) not in _patched:
        _patched.add(module)
        interpreter._patch_lang(function.fn)
    return function.rewrite()(*args, **kwargs)


def quicken():
    """By default, each call within a kernel looks through the whole language for what a call before it has replaced."""
    interpreter.InterpretedFunction.__call__ = _called
