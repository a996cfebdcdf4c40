"""NVIDIA's package under its own module names, or under those of the programs that embed it."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

from .. import nvidia
from ..nvidia.transformer import SE3Transformer, SE3TransformerPooled

_BASIS = ("get_basis", "update_basis_with_fused", "get_spherical_harmonics", "get_all_clebsch_gordon")
_UTILS = (
    *("degree_to_dim", "unfuse_features", "aggregate_residual", "str2bool", "to_cuda"),
    *("get_local_rank", "seed_everything", "using_tensor_cores"),
)
_CONVOLUTIONS = ("ConvSE3", "ConvSE3FuseLevel", "RadialProfile", "VersatileConvSE3")
# What can be imported from which module: whatever the programs that embed the package import.
TREE: dict[str, tuple[str, ...]] = {
    "model": ("SE3Transformer", "SE3TransformerPooled"),
    "model.fiber": ("Fiber", "FiberEl"),
    "model.transformer": ("SE3Transformer", "SE3TransformerPooled", "Sequential", "get_populated_edge_features"),
    "model.basis": _BASIS,
    "model.layers": ("LinearSE3", "NormSE3", "GPooling", "ConvSE3", "AttentionBlockSE3"),
    "model.layers.attention": ("AttentionBlockSE3", "AttentionSE3"),
    "model.layers.convolution": _CONVOLUTIONS,
    "model.layers.linear": ("LinearSE3",),
    "model.layers.norm": ("NormSE3",),
    "model.layers.pooling": ("GPooling",),
    "runtime": (),
    "runtime.utils": _UTILS,
}
_INSTEAD = {
    "data_loading": "the experiment experiments/qm9, which loads QM9",
    "runtime": "the experiment experiments/qm9/run.py, which trains, evaluates and logs",
}
MODELS = {kind.__name__: kind for kind in (SE3Transformer, SE3TransformerPooled)}


class DropIn(ModuleType):
    """A module of the tree; of names that it lacks it says what to use.

    Every one is a package: of packages alone Python asks the finders, and so :class:`_Finder`, for what a
    ``from ... import`` does not find in them.
    """

    def __init__(self, name: str, file: str, doc: str | None = None) -> None:
        super().__init__(name, doc)
        self.__file__, self.__path__ = file, []
        self.__spec__ = ModuleSpec(name, None, origin=file, is_package=True)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_missing(self.__name__, name))


class _Finder(MetaPathFinder):
    """Finds what is there already; it comes last, and says of what the trees lack what to use."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        parent, _, name = fullname.rpartition(".")
        if not isinstance(sys.modules.get(parent), DropIn):
            return None
        if isinstance(there := sys.modules.get(fullname), DropIn):
            return there.__spec__
        raise ModuleNotFoundError(_missing(parent, name))  # with its name, Python would go on, and say less


def install_as(prefix: str) -> ModuleType:
    """Have ``import prefix`` and what NVIDIA's package has below it find this library, in this process.

    A program that embeds the package is run unchanged after this line. The two models are classes of their own under
    each prefix, derived from those here, so that they say that they come from there; all else is what is here. The
    packages around it are imported, as far as the program has them.

    Args:
        prefix: 'se3_transformer', or where a program has it: 'rf2aa.SE3Transformer.se3_transformer'.

    Returns:
        the module; if it was installed already, the same.

    Raises:
        ValueError: ``prefix`` is no name of a module.
        ImportError: another package of that name, or a part of it, is imported already.
    """
    if not isinstance(prefix, str) or not all(part.isidentifier() for part in prefix.split(".")):
        raise ValueError(f"prefix must be the name of a module, such as 'se3_transformer', got {prefix!r}")
    root = sys.modules.get(prefix)
    if not isinstance(root, DropIn):
        if there := sorted(name for name in sys.modules if f"{name}.".startswith(f"{prefix}.")):
            raise ImportError(f"prefix must name no package that is imported already, and {there[0]} is: install first")
        file = f"<equivariant_attention.nvidia>/{prefix.replace('.', '/')}/__init__.py"
        sys.modules[prefix] = root = DropIn(prefix, file, __doc__)
        fill(root)
    _import_parents(prefix)  # which may import the module itself: it is there already
    _register(root)
    return root


def _import_parents(name: str) -> None:
    """Import the packages around a module, or make those that the program lacks."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        parent = ".".join(parts[:end])
        try:
            import_module(parent)
        except ModuleNotFoundError as error:
            if error.name != parent:
                raise
            _register(module_from_spec(ModuleSpec(parent, None, is_package=True)))


def _register(module: ModuleType) -> None:
    """Have a module be imported, and be an attribute of the package around it, where that is imported too."""
    sys.modules[module.__name__] = module
    parent, _, name = module.__name__.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], name, module)


def fill(root: ModuleType) -> None:
    """Make an imported, empty package ``root`` NVIDIA's package: all below it is imported from then on, too."""
    root.__class__ = DropIn
    prefix, folder = root.__name__, str(root.__file__).removesuffix("/__init__.py")
    of_models = f"{prefix}.model.transformer"
    models = {name: type(name, (kind,), _attributes(kind, of_models)) for name, kind in MODELS.items()}
    for path, names in TREE.items():
        is_package = any(other.startswith(f"{path}.") for other in TREE)
        module = DropIn(f"{prefix}.{path}", f"{folder}/{path.replace('.', '/')}{'/__init__' * is_package}.py")
        for name in names:
            setattr(module, name, models.get(name) or getattr(nvidia, name))
        module.__all__ = names  # type: ignore[attr-defined]
        _register(module)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _attributes(kind: type, module: str) -> dict[str, Any]:
    return {"__module__": module, "__doc__": kind.__doc__}


def _missing(module: str, name: str) -> str:
    """What is wrong with an import, and what to do."""
    path = next((path for path in sorted(TREE, key=len, reverse=True) if module.endswith(f".{path}")), "")
    prefix = module.removesuffix(f".{path}") if path else module
    elsewhere = [f"{prefix}.{other}" for other, names in TREE.items() if name in names]
    below = f"{path}.{name}".lstrip(".")
    instead = next((use for start, use in _INSTEAD.items() if below.split(".")[0] == start), None)
    if elsewhere:
        use = f"import it from {elsewhere[0]}"
    elif instead:
        use = f"use {instead}"
    else:
        here = sorted([*TREE.get(path, ()), *(p.rpartition(".")[2] for p in TREE if p.rpartition(".")[0] == path)])
        use = f"there are {', '.join(here)}; see equivariant_attention.nvidia, equivariant_attention.so3"
    return f"{module} of equivariant_attention has no {name!r}: {use}"
