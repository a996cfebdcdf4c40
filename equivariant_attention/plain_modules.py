"""Whether modules are plain: as their classes make them, without hooks and without another forward.

Whatever reads the parameters of a module in place of calling it asks here first.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as hooks
from torch.nn.utils.parametrize import type_before_parametrizations


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a module runs the forward of its class, with the module's parameters, and nothing else.

    Args:
        module: is not plain if it has hooks, or a forward of its own. Parametrisations are allowed: whoever reads a
            parameter gets what they make of it.
        kind: the class it must be of; one derived from it is another.

    Returns:
        whether it is plain.
    """
    if type(module) is not kind and type_before_parametrizations(module) is not kind:
        return False
    # A model has thousands of modules, so nothing is called here. By these names torch.compile looks for hooks once, as
    # for calls of its own; through __dict__ it would look before every call.
    return not (
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or "forward" in module.__dict__
    )


def has_hooks_of_all() -> bool:
    """Whether there are hooks of all modules at once, apart from those by which PyTorch notes which module runs."""
    if not hooks._has_any_global_hook():
        return False
    from torch.utils.module_tracker import ModuleTracker

    every = (
        hooks._global_forward_pre_hooks,
        hooks._global_forward_hooks,
        hooks._global_backward_pre_hooks,
        hooks._global_backward_hooks,
    )
    return any(not isinstance(getattr(f, "__self__", None), ModuleTracker) for d in every for f in d.values())


def check_hooks(layer: nn.Module, *containers: str) -> None:
    """Refuse hooks that would not fire, since the masks and norms that they apply would silently be left out.

    These are backward hooks of a layer that returns a dict, since PyTorch looks for no tensors in one; and all hooks
    of containers, since these are never called.

    Args:
        layer: the layer, which returns a dict.
        containers: the names of its ModuleDicts and ParameterDicts.

    Raises:
        ValueError: there are some, those of ``torch.nn.utils.prune``, say.
    """
    if layer._backward_hooks or layer._backward_pre_hooks:
        name = type(layer).__name__
        raise ValueError(f"{name} must have no backward hooks, as it returns a dict: hook the tensors in there")
    for name in containers:
        check_never_called(getattr(layer, name), name)


def check_never_called(container: nn.Module, name: str) -> None:
    """Refuse hooks of a container, which is never called, with a ValueError that gives its name in the layer."""
    before, after = container._forward_pre_hooks, container._forward_hooks
    if before or after or container._backward_pre_hooks or container._backward_hooks:
        raise ValueError(
            f"{name} must have no hooks, as it is never called: hook its layer, or what it holds; "
            "torch.nn.utils.parametrize changes parameters without hooks"
        )
