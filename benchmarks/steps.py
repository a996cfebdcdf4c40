"""One step of a workload: which device and seed it is built with, and what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.selection import DEFAULT, LIMIT
from benchmarks.workloads import BASIS, FORCES, FORCES_TRAINED, FORWARD, WORKLOADS
from equivariant_attention.contraction import use_backend
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import get_basis_and_r

Step = Callable[[], None]


@dataclass(frozen=True)
class Setup:
    """What all measurements of a session have in common.

    Attributes:
        device: as PyTorch names it.
        threads: of a CPU.
        seed: of everything random.
        tiny: whether workloads are of tiny size.
        limit: seconds that a step may take with all that it needs, in the process that measures its memory; one that
            takes longer is reported as not done.
    """

    device: str = "cpu"
    threads: int = 2
    seed: int = 0
    tiny: bool = False
    limit: float = LIMIT


def build(setup: Setup, workload: str, case: str) -> tuple[nn.Module, Graph]:
    """The model and the graph of a case, on the device.

    Args:
        setup: of the session.
        workload: its name.
        case: the case's name.
    """
    torch.manual_seed(setup.seed)
    model, graph = WORKLOADS[workload].cases[case](setup.tiny)
    return model.to(setup.device), graph.to(setup.device)


def make_step(model: nn.Module, graph: Graph, backend: str, mode: str) -> Step:
    """What is measured, ready to be called again and again.

    Args:
        model: of :func:`build`.
        graph: of :func:`build`.
        backend: of ``equivariant_attention.contraction.BACKENDS``, or 'default'.
        mode: 'forward', without a gradient; 'forward+backward', with that of all parameters for the mean of the squares
            of the output; 'basis', the equivariant basis with what the library's default backend reads of it;
            'forces evaluated', the output's gradient by the nodes' positions; or 'forces trained', with the gradient of
            all parameters for the mean of the squares of the output and of these forces.
    """
    parameters = list(model.parameters())  # once, as an optimizer does: to walk all modules takes milliseconds

    def step() -> None:
        with use_backend(None if backend == DEFAULT else backend):
            if mode == BASIS:
                _ = get_basis_and_r(graph, model.num_degrees - 1)[0].frames
            elif mode == FORWARD:
                with torch.no_grad():
                    model(graph)
            elif mode == FORCES:
                _energies_and_gradient(model, graph, create_graph=False)
            elif mode == FORCES_TRAINED:
                _forget(parameters)
                _train(_energies_and_gradient(model, graph, create_graph=True))
            else:
                _forget(parameters)
                output = model(graph)
                _train(output.values() if isinstance(output, dict) else [output])

    return step


def warm_up(setup: Setup, workload: str, case: str, backend: str, mode: str) -> None:
    """Load libraries, start threads and compute constants, by a step of tiny size.

    Args:
        setup: of the session.
        workload: its name.
        case: the case's name.
        backend: as for :func:`make_step`.
        mode: as for :func:`make_step`.
    """
    make_step(*build(replace(setup, tiny=True), workload, case), backend, mode)()


def _energies_and_gradient(model: nn.Module, graph: Graph, create_graph: bool) -> tuple[Tensor, Tensor]:
    """What a model makes of a graph, and the gradient of its sum by the positions."""
    G, (src, dst) = graph.local_var(), graph.edges()
    x = G.ndata["x"] = graph.ndata["x"].detach().requires_grad_()
    G.edata["d"] = (x[dst] - x[src]).squeeze(1)
    energies = model(G)
    (gradient,) = torch.autograd.grad(energies.sum(), x, create_graph=create_graph)
    return energies, gradient


def _forget(parameters: Sequence[nn.Parameter]) -> None:
    """Let go of the gradients of the step before, so that they are not there beside what this one keeps."""
    for parameter in parameters:
        parameter.grad = None


def _train(outputs: Iterable[Tensor]) -> None:
    sum(output.square().mean() for output in outputs).backward()
