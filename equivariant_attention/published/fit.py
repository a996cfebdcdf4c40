"""The signs of a client whose cache is lost, found from one recorded input and output of its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..checks import check_positive, check_whole_number
from ..modules.pairwise import PairwiseConv
from .conversion import converted
from .tables import NAMES, Signs, Triple, signs, triples

FEW = 8  # unknown signs, up to which all tables are tried
NEGLIGIBLE = 1e-6  # norm of a tensor of the output beside that of the largest
ALIKE = 4.0  # errors that differ by less than this factor are the same rounding noise

Example = tuple[Any, Any]


def fit_signs(model: nn.Module, example: Example, tolerance: float = 1e-3, attempts: int = 20) -> Signs:
    r"""The signs with which a model gives a recorded output, where the ``cache/trans_Q`` of its weights is lost.

    The error :math:`|f_s(x) - y| / |y|` of the converted model is looked at for all tables s if there are few signs to
    find, up to degree 1. Otherwise single signs are negated as long as that lowers it, from the named tables and then
    from random ones. Where features of a degree are neither input nor output, some signs can be negated together
    without any effect on any input; any such table is right.

    Args:
        model: of layers of this library, with the client's weights as they are in its file.
        example: the input, which is the argument of the model, positional ones in a tuple or keywords in a dict; and
            the output that the client had, a tensor, or tensors in a dict, a list or a tuple, as the model returns
            them. A few small graphs are enough, if all degrees take part. The model is called many times.
        tolerance: the largest error of a fit, per tensor.
        attempts: from how many tables at most to start.

    Returns:
        the signs of all pairs of degrees of the model, for :func:`converted`.

    Raises:
        TypeError, ValueError: an argument is of another kind, the model has no kernels, or gives other tensors than
            the example; no table fits; or the example does not determine a sign, which the message names.
    """
    check_positive(tolerance, "tolerance")
    check_whole_number(attempts, 1, "attempts")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    kernels = [module for module in model.modules() if isinstance(module, PairwiseConv)]
    known = {triple: 1 for kernel in kernels for triple in triples(kernel.degree_in, kernel.degree_out)}
    unknown = sorted(known.keys() - {(0, 0, 0)})  # Q_0 of degrees 0 is the number 1
    if not unknown:
        raise ValueError("model must have convolutions of a degree above 0, whose signs are to be found, got none")
    error = _error_of(model, example)
    best, found = float("inf"), known
    for start in _starts(unknown, attempts):
        reached, table = _descended({**known, **start}, unknown, error, steps=len(unknown) > FEW)
        if reached < best:
            best, found = reached, table
        if best <= tolerance:
            break
    else:
        raise ValueError(
            f"no signs that were tried give the output of the example: the nearest have a relative error of {best:.1e}"
            f", more than the tolerance of {tolerance:.1e}. Are weights, input and options those of the output?"
        )
    alike = [t for t in unknown if error({**found, t: -found[t]}) <= ALIKE * best]
    if alike:
        raise ValueError(
            f"the example does not determine the signs of (k, l, J) = {', '.join(map(str, alike))}: the output is the "
            "same with either. Take one whose features and weights of these degrees are not zero"
        )
    return Signs(sorted(found.items()))


def _starts(unknown: list[Triple], attempts: int) -> Iterator[dict[Triple, int]]:
    """All tables if signs are few; else this library's, the named ones, and random ones."""
    if len(unknown) <= FEW:
        yield from (dict(zip(unknown, values, strict=True)) for values in product((1, -1), repeat=len(unknown)))
        return
    tables = [{}, *({t: s for t, s in signs(name).items() if t in unknown} for name in NAMES)]
    generator = torch.Generator().manual_seed(0)
    for attempt in range(attempts):
        if attempt < len(tables):
            yield tables[attempt]
        else:
            random = torch.randint(2, (len(unknown),), generator=generator).mul(2).sub(1).tolist()
            yield dict(zip(unknown, random, strict=True))


def _descended(
    table: dict[Triple, int], unknown: list[Triple], error: Callable[[Mapping[Triple, int]], float], steps: bool
) -> tuple[float, dict[Triple, int]]:
    """The table that is reached by negating one sign at a time, as long as the error falls, and its error."""
    best, improved = error(table), steps
    while improved:
        improved = False
        for triple in unknown:
            other = {**table, triple: -table[triple]}
            if (reached := error(other)) < best:
                best, table, improved = reached, other, True
    return best, table


def _error_of(model: nn.Module, example: Example) -> Callable[[Mapping[Triple, int]], float]:
    """How far the output of the model is from that of the example, as a function of the signs."""
    inputs, output = example
    options = dict(inputs) if isinstance(inputs, Mapping) else {}
    arguments = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
    expected = [value.detach().double() for value in _tensors(output)]
    scales = torch.stack([value.norm() for value in expected])
    scales = scales.clamp_min(NEGLIGIBLE * float(scales.max()))
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def error(table: Mapping[Triple, int]) -> float:
        with torch.no_grad():
            found = _tensors(functional_call(model, converted(weights, table), arguments, options))
        shapes, wanted = ([list(value.shape) for value in values] for values in (found, expected))
        if shapes != wanted:
            raise ValueError(f"example must have the output of the model, of shapes {shapes}, got {wanted}")
        errors = torch.stack([(f.double() - e).norm() for f, e in zip(found, expected, strict=True)])
        largest = float((errors / scales).max())
        return largest if largest < float("inf") else float("inf")  # not a number is no fit

    return error


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested dicts, by sorted keys, lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    raise TypeError(f"example must have tensors in its output, in dicts, lists or tuples, got {type(value).__name__}")
