"""A loss of forces and its gradient as one compiled function, for batches that are alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

# (model, tensors of a batch) -> (means over the batch; one of them is 'loss')
Loss = Callable[[nn.Module, tuple[Tensor, ...]], dict[str, Tensor]]


class CompiledLoss:
    """What a loss gives, with gradients that are computed together with it.

    A loss of forces is a function of a gradient, and its own gradient has thousands of small operations, which take
    longer to start than to do. They are recorded once, forces and gradient included, and compiled as one, in minutes.
    ``torch.compile`` of the model alone does not do: it does not differentiate twice.

    Args:
        loss: of a model and a batch of tensors; all else, such as a graph, must be the same for all batches.
        backend: of ``torch.compile``.
    """

    def __init__(self, loss: Loss, backend: str = "inductor") -> None:
        self.loss, self.backend = loss, backend
        self.functions: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self.names: list[str] = []

    def __call__(self, model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The means, of which only the loss can be differentiated, once.

        Args:
            model: with the same parameters in all calls.
            batch: each shape is compiled for itself.
        """
        model = getattr(model, "module", model)  # without Fabric's wrapper
        parameters = [p for p in model.parameters() if p.requires_grad]
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in batch)
        if key not in self.functions:
            self.functions[key] = self._compiled(model, parameters, batch)
        with torch.no_grad():
            values, gradients = self.functions[key]([p.detach() for p in parameters], batch)
        means = dict(zip(self.names, values, strict=True))
        return means | {"loss": _Known.apply(means["loss"], *gradients, *parameters)}

    def _compiled(self, model: nn.Module, parameters: list[nn.Parameter], batch: tuple[Tensor, ...]) -> Any:
        names = [f"model.{name}" for name, p in model.named_parameters() if p.requires_grad]
        with torch.no_grad():
            self.loss(model, batch)  # which may keep things for all batches of this shape, but none that are recorded

        def whole(weights: list[Tensor], batch: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
            weights = [weight.detach().requires_grad_() for weight in weights]
            named = dict(zip(names, weights, strict=True))
            means = torch.func.functional_call(_Evaluated(model, self.loss), named, (batch,))
            self.names = list(means)
            gradients = torch.autograd.grad(means["loss"], weights, materialize_grads=True)
            return [mean.detach() for mean in means.values()], list(gradients)

        weights = [p.detach() for p in parameters]
        with torch.enable_grad():
            graph = make_fx(whole)(weights, batch)
        for node in graph.graph.nodes:
            if node.target is torch.ops.aten.view.default:  # how numbers lie in memory may be another when compiled
                node.target = torch.ops.aten.reshape.default
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return torch.compile(graph, backend=self.backend, fullgraph=True, dynamic=False)


class _Evaluated(nn.Module):
    """The loss of a model, as a module."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return self.loss(self.model, batch)


class _Known(torch.autograd.Function):
    """A number whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *gradients_and_weights: Tensor) -> Tensor:
        half = len(gradients_and_weights) // 2
        ctx.gradients = gradients_and_weights[:half]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return None, *[None] * len(ctx.gradients), *(gradient * of_weight for of_weight in ctx.gradients)
