"""Compiles Triton kernels for GPUs that are not there, and reads the machine code: registers, spills, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from equivariant_attention.kernels.launch import Launch
from utils.files import atomic_write

CAPABILITIES = (80, 90, 100)  # of A100, H100 and B200


@dataclass(frozen=True)
class MachineCode:
    """A compiled kernel.

    Attributes:
        registers: of each thread.
        spilled: bytes of each thread that do not fit its registers.
        shared: bytes of shared memory of a program.
        lines: its instructions.
        labels: before which of them every label is.
    """

    registers: int
    spilled: int
    shared: int
    lines: list[str]
    labels: dict[str, int]

    @cached_property
    def loops(self) -> list[range]:
        """The instructions of each loop, from a label to a branch back to it, in the order in which they begin."""
        branches = [(i, self._target(line)) for i, line in enumerate(self.lines)]
        found = [range(to, i + 1) for i, to in branches if to is not None and to < i]
        return sorted(found, key=lambda loop: (loop.start, -loop.stop))

    @property
    def innermost(self) -> list[Counter[str]]:
        """How often each instruction occurs in each loop that has no other loop in it."""
        inside = [
            a for a in self.loops if not any(a != b and a.start <= b.start and b.stop <= a.stop for b in self.loops)
        ]
        return [Counter(map(name_of, self.lines[loop.start : loop.stop])) for loop in inside]

    def through(self, line: int) -> set[int]:
        """The instructions that some way through this one may run."""
        after = [self._next(i) for i in range(len(self.lines))]
        before: list[list[int]] = [[] for _ in after]
        for i, following in enumerate(after):
            for j in following:
                before[j].append(i)
        return _reached(line, before) | _reached(line, after)

    def _target(self, line: str) -> int | None:
        branch = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
        return self.labels[branch[1]] if branch else None

    def _next(self, i: int) -> list[int]:
        """The instructions that may follow this one; a call comes back."""
        line, following = self.lines[i], [i + 1] if i + 1 < len(self.lines) else []
        target, is_conditional = self._target(line), line.startswith("@") or re.search(r"BRA\.\w+|BRA U?P", line)
        if target is not None:
            return [target, *following] if is_conditional else [target]
        return following if is_conditional or name_of(line) not in ("EXIT", "RET") else []


def _reached(start: int, edges: list[list[int]]) -> set[int]:
    found, left = {start}, [start]
    while left:
        for i in edges[left.pop()]:
            if i not in found:
                found.add(i)
                left.append(i)
    return found


def name_of(line: str) -> str:
    """The name of an instruction, without its predicate and options."""
    match = re.match(r"(?:@!?U?P[T0-9]+\s+)?([A-Z0-9_]+)", line.lstrip("{ "))
    return match[1] if match else ""


def of_launch(launch: Launch, capability: int) -> MachineCode:
    """The machine code of what a recorded launch would have run on a GPU of this capability, 90 for sm_90."""
    import triton

    kernel, options = launch.kernel, dict(launch.arguments)
    given = [options.pop(name) for name in kernel.arg_names]
    constant = {i for i, parameter in enumerate(kernel.params) if parameter.is_constexpr}
    signature: dict[str, Any] = {}
    fixed: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, (name, value) in enumerate(zip(kernel.arg_names, given, strict=True)):
        if i in constant:
            signature[name], fixed[i,] = "constexpr", value
        else:
            # Numbers of nodes and edges are whatever they are, see launch.for_all_sizes.
            number = isinstance(value, int)
            signature[name] = "i32" if number else _specialised(value, (i,), fixed, attributes)
    source = triton.compiler.ASTSource(kernel, signature, fixed, attributes)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return _read(triton.compile(source, target=target, options={"enable_fp_fusion": True, **options}))


def _specialised(value: Any, path: tuple[int, ...], fixed: dict[Any, Any], attributes: dict[Any, Any]) -> Any:
    """The type of an argument, in Triton's words; what it is specialised for goes to ``fixed`` and ``attributes``."""
    if isinstance(value, tuple):
        return tuple(_specialised(v, (*path, i), fixed, attributes) for i, v in enumerate(value))
    if isinstance(value, torch.Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        return "*" + {"float32": "fp32", "float64": "fp64", "int32": "i32", "int64": "i64"}[str(value.dtype)[6:]]
    if isinstance(value, float):
        return "fp32"
    if value == 1:
        fixed[path] = 1
        return "constexpr"
    if value % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32"


def _read(code: Any) -> MachineCode:
    """What Triton compiled, by the tools that come with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        with atomic_write(path) as file:
            file.write(code.asm["cubin"])
        usage, text = _output("cuobjdump", "-res-usage", path), _output("nvdisasm", "-c", path)
    registers, stack, local = (
        int(found[1]) if (found := re.search(rf"{name}:(\d+)", usage)) else 0 for name in ("REG", "STACK", "LOCAL")
    )
    lines: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            lines.append(instruction[1])
    return MachineCode(registers, max(stack, local), code.metadata.shared, lines, labels)


def _output(tool: str, *arguments: str | Path) -> str:
    import triton

    own = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    return subprocess.run([own, *arguments], capture_output=True, text=True, check=True).stdout
