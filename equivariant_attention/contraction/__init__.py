r"""The hot loop: the messages of equation (8) of arXiv 2006.10503, along every edge, by one of several backends.

.. math:: m_{ij}^l = \sum_k W^{lk}(x_{ij}) \, f_j^k, \qquad
          W^{lk} = \sum_J R_J^{lk}(|x_{ij}|, w_{ij}) \, W_J^{lk}(x_{ij})

The sums over channels, orders m and J may be done in any sequence. A backend is one of these; all of them give the same
function of the same parameters. ``oracle`` is the equation as it is written, and what the others are tested against.
``docs/engine.md`` follows a feature through all of this.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..basis import Basis
from ..checks import check_whole_number, first_parameter
from ..compiling import constant_when_compiled
from ..contraction import blockwise, cost, cpp, edge, node, oracle, pair_by_pair, triton_attention, triton_messages
from ..contraction.convolution import Convolution
from ..contraction.inputs import Inputs
from ..contraction.memory import limited_memory
from ..contraction.radial import changed
from ..kernels import launch
from ..native import on_gpu
from ..native.calls import missing
from ..native.operation import Tensors
from ..native.private import holds_numbers, is_looked_into, is_recorded, is_transformed
from ..plain_modules import has_hooks_of_all
from ..plan import Plan
from ..precision import full_precision, without_autocast

__all__ = ["BACKENDS", "Inputs", "contract", "runs_in_cpp", "use_backend"]

Backend = Callable[[Convolution, Sequence[Any], Inputs], list[Tensor]]


BACKENDS: dict[str, Backend] = {
    "oracle": partial(pair_by_pair.messages, oracle.message),
    "edge": partial(pair_by_pair.messages, edge.message),
    "frame": blockwise.messages,
    "cpp": partial(cpp.messages, "cpp"),
    "cpp-node": partial(cpp.messages, "cpp-node"),
    "node": node.messages,
    "triton": triton_messages.messages,
}
NEEDS = {
    "frame": "frames",
    "cpp": "frames",
    "cpp-node": "frames",
    "node": "plan",
    "triton": "frames",
}  # what only the basis of get_basis_and_r has
LATER = ""  # whichever in C++ is faster for the graph at hand, when what PyTorch has recorded runs
_chosen: ContextVar[str | None] = ContextVar("backend", default=None)


@contextmanager
def use_backend(name: str | None, memory: int | None = None) -> Iterator[None]:
    """Within this context every convolution runs by the backend ``name``; None lets the library choose.

    Args:
        name: 'oracle', 'edge', 'frame', 'cpp' ('frame' in C++, on a CPU; built when first used, see
            :func:`~equivariant_attention.native.compiler.library`), 'node', 'cpp-node' ('node' in C++, and in frames,
            on a CPU; built likewise), 'triton' ('frame' in a few kernels for a GPU) or None.
            With None, 'cpp' and 'cpp-node', attention, norms and linear maps run in C++ as well, where they can; with
            None and 'triton', in kernels on a GPU. ``EQUIVARIANT_ATTENTION_TRITON=0`` in the environment forbids these.
        memory: bytes that the blocks of edges evaluated at a time may take, about; None for what was measured to be
            fastest (tens of megabytes on a CPU). More never helps; less, and it is slower.

    Raises:
        ValueError: there is no such backend, or ``memory`` is not a whole number of at least 1.
    """
    name = _checked_name(name)
    if memory is not None:
        check_whole_number(memory, 1, "memory")
    token = _chosen.set(name)
    try:
        with limited_memory(memory):
            yield
    finally:
        _chosen.reset(token)


def _checked_name(name: str | None) -> str | None:
    if name == "compiled":
        warnings.warn("backend 'compiled' is called 'cpp' now", DeprecationWarning, stacklevel=3)
        return "cpp"
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend must be None or one of {sorted(BACKENDS)}, got {name!r}")
    return name


@constant_when_compiled
def _named() -> str | None:
    return _chosen.get()


def runs_in_cpp(source: str, tensors: Sequence[Tensor], others: Sequence[Tensor] = ()) -> bool:
    """Whether layers are to compute in C++: where it can run, unless a backend in PyTorch was chosen by name.

    Args:
        source: the C++ file.
        tensors: what it would compute with, at least one. It cannot run if they have several dtypes.
        others: what else it would read, of any dtype.

    Returns:
        whether it is to.
    """
    if _named() not in (None, *cpp.SOURCES) or is_transformed():
        return False
    dtype = tensors[0].dtype
    return all(v.dtype == dtype for v in tensors) and not missing(source, [*tensors, *others], dtype)


def operators_for(module: Any, tensors: Sequence[Tensor], others: Sequence[Tensor] = ()) -> Any:
    """What has the operations of a layer: a module in C++, or ``on_gpu``; None where PyTorch is to compute.

    Args:
        module: in C++, such as :mod:`equivariant_attention.native.linear`.
        tensors, others: as of :func:`runs_in_cpp`.

    Returns:
        the module, or None.
    """
    if runs_in_cpp(module.SOURCE, tensors, others):
        return module
    device, dtype = tensors[0].device, tensors[0].dtype
    wanted = _named() == "triton" or (_named() is None and launch.is_gpu(device) and _may_be_registered())
    if not wanted or is_transformed() or not all(v.dtype == dtype for v in tensors):
        return None
    return None if launch.missing(device, dtype) else on_gpu


def contract(
    convolution: Convolution, networks: Sequence[Any], inputs: Inputs, backend: str | None = None
) -> list[Tensor]:
    """Messages along every edge.

    Args:
        convolution: what is sent and made, and which radial weights lead from one to the other.
        networks: its radial networks, modules such as :class:`~equivariant_attention.modules.PairwiseConv`.
        inputs: what the messages are made from.
        backend: name of the backend; None for that of :func:`use_backend`, or the library's choice.

    Returns:
        ``[edges, channels, 2 degree + 1]`` for each message of the convolution.

    Raises:
        ValueError: there is no such backend; or the basis lacks a pair of degrees, is of another graph, or is a plain
            dict where the backend chosen by name needs frames or a plan; or that backend cannot run here.
    """
    name, dtype = _backend(convolution, networks, inputs, backend)
    precision = without_autocast if name == "triton" else full_precision
    with precision(inputs.src.device):
        messages = partial(cpp.messages, LATER) if name == LATER else BACKENDS[name]
        return messages(convolution, networks, inputs.to(dtype))


def may_attend(device: torch.device) -> bool:
    """Whether :func:`attend` has a chance on a device: it is asked before anything is made for it."""
    wanted = _named() in (None, "triton") and not torch.compiler.is_compiling()
    return wanted and launch.is_gpu_or_interpreted(device)


def attend(
    convolution: Convolution,
    networks: Sequence[Any],
    inputs: Inputs,
    n_heads: int,
    scale: float,
    queries: Sequence[Tensor],
    envelope: Tensor | None,
    plain: Callable[[Tensors], Sequence[Tensor]],
) -> list[Tensor] | None:
    """Attention on values and keys that a convolution makes, where both are done together, as on a GPU.

    It is for those whom :func:`may_attend` told so.

    Args:
        convolution, networks, inputs: of the values and then the keys, as of :func:`contract`.
        n_heads: number of heads.
        scale: factor of the products of queries and keys.
        queries: ``[nodes, channels, 2 degree + 1]`` of every degree of the keys.
        envelope: ``[edges, 1]``, or None.
        plain: the same of values, keys, queries, the envelope and the nodes that edges lead to, in PyTorch.

    Returns:
        ``[nodes, channels, 2 degree + 1]`` of every degree of the values; None where messages come first.

    Raises:
        ValueError: as of :func:`contract`.
    """
    if not isinstance(inputs.basis, Basis):
        return None
    name, dtype = _backend(convolution, networks, inputs, None)
    alike = all(v.dtype == dtype for v in queries)
    if name != "triton" or not alike or not triton_attention.suits(inputs):
        return None
    nodes, values = queries[0].shape[0], len(convolution.messages) - len(queries)
    attention = triton_attention.Attention(convolution, nodes, n_heads, scale, values)
    envelope = None if envelope is None else envelope.to(dtype)
    with without_autocast(inputs.src.device):
        made = triton_attention.attended
        return made(convolution, networks, inputs.to(dtype), attention, queries, envelope, plain)


def _backend(
    convolution: Convolution, networks: Sequence[Any], inputs: Inputs, backend: str | None
) -> tuple[str, torch.dtype]:
    """The backend that makes messages, and in which dtype; or an error where the one that was named cannot."""
    backend = _checked_name(backend)
    inputs.check_basis(convolution)
    is_dict = not isinstance(inputs.basis, Basis)
    parameter = first_parameter(networks[0])
    dtype = inputs.scalars.dtype if parameter is None else parameter.dtype
    called = _must_be_called(convolution, networks)
    name = backend or _named() or (called[0] if called else _choice(convolution, inputs, dtype))
    if called and name not in ("oracle", called[0]):
        raise ValueError(
            f"backend {name!r} reads parameters and does not call the modules of kernels, but one was changed: "
            f"{called[1]} has hooks, or another class, epsilon or set of parameters than it was made with. Backend "
            f"{called[0]!r} calls it, and runs where none is named"
        )
    if is_dict and name in NEEDS:
        raise ValueError(
            f"backend {name!r} needs the basis of get_basis_and_r, got a plain dict, which has no {NEEDS[name]}"
        )
    needs_values = name == "node" and (is_looked_into() or not holds_numbers(inputs.src))
    if (name in (*cpp.SOURCES, "triton") and is_transformed()) or needs_values:
        name = "frame"  # the same, in operations that PyTorch can look into
    if name in cpp.SOURCES and (reason := cpp.missing(name, inputs, dtype)):
        raise ValueError(f"backend {name!r} cannot run here: {reason}")
    if name == "triton" and (reason := triton_messages.missing(inputs, convolution, dtype)):
        raise ValueError(f"backend 'triton' cannot run here: {reason}")
    return name, dtype


def _must_be_called(convolution: Convolution, networks: Sequence[Any]) -> tuple[str, str] | None:
    """The backend that calls a module that was changed, and the name of the module; None where none was."""
    found = [("", "every module, by a hook of them all")] if has_hooks_of_all() else []
    for number, network in enumerate(networks):
        name = changed(network)
        if name is not None:
            ends = convolution.ends[convolution.by_network[number][0]]
            found.append((name, f"({ends.degree_in},{ends.degree_out}){name}"))
    if not found:
        return None
    name, which = min(found)
    return "edge" if name else "oracle", which


def _choice(convolution: Convolution, inputs: Inputs, dtype: torch.dtype) -> str:
    if not isinstance(inputs.basis, Basis):
        return "edge"
    if is_transformed():
        return "frame"  # which PyTorch can look into
    if launch.is_gpu(inputs.src.device):
        return _choice_on_gpu(convolution, inputs, inputs.basis.plan, dtype)
    has_cpp = not cpp.missing("cpp", inputs, dtype)
    if is_recorded():
        return LATER if has_cpp else "frame"
    names = ["cpp", "cpp-node"] if has_cpp else ["frame", "node"]
    name = cost.fastest(names, convolution, inputs.basis.plan, inputs.pairs_share)
    return "cpp" if name == "cpp-node" and cpp.missing(name, inputs, dtype) else name


def _choice_on_gpu(convolution: Convolution, inputs: Inputs, plan: Plan, dtype: torch.dtype) -> str:
    suits = triton_messages.suits(convolution, inputs, dtype)
    if is_recorded():  # and sizes may be symbols, of which no cost is known
        return "triton" if suits and _may_be_registered() else "frame"
    names = ["frame", "triton"] if suits else ["frame"]
    if not (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()):
        names.append("node")  # in blocks of this very graph, which must not be replayed for others
    itemsize = 8 if dtype == torch.float64 else 4
    return cost.fastest(names, convolution, plan, inputs.pairs_share, itemsize)


def _may_be_registered() -> bool:
    """Whether kernels in Triton may be chosen for operators: these have no second derivatives.

    PyTorch's compiler takes none, but a dispatch mode (``make_fx``, ``FlopCounterMode``) may be asked for some.
    """
    return torch.compiler.is_compiling() or not is_recorded()
