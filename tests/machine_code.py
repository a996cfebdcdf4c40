"""Compiles Triton kernels for GPUs that are not there, and reads the machine code: registers, spills, instructions."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

CAPABILITIES = (80, 90, 100)  # of A100, H100 and B200


@dataclass(frozen=True)
class MachineCode:
    """A compiled kernel.

    Attributes:
        registers: of each thread.
        spilled: bytes of each thread that do not fit its registers.
        shared: bytes of shared memory of a program.
        loops: how often each instruction occurs in each innermost loop.
    """

    registers: int
    spilled: int
    shared: int
    instructions: Counter
    loops: list[Counter]


def of_launch(launch, capability):
    """The machine code of what a recorded launch would have run on a GPU of this capability, 90 for sm_90."""
    import triton

    kernel, options = launch.kernel, dict(launch.arguments)
    given = [options.pop(name) for name in kernel.arg_names]
    constant = {i for i, parameter in enumerate(kernel.params) if parameter.is_constexpr}
    signature, fixed, attributes = {}, {}, {}
    for i, (name, value) in enumerate(zip(kernel.arg_names, given, strict=True)):
        if i in constant:
            signature[name], fixed[i,] = "constexpr", value
        else:
            # Numbers of nodes and edges are whatever they are, see launch.for_all_sizes.
            number = isinstance(value, int)
            signature[name] = "i32" if number else _specialised(value, (i,), fixed, attributes)
    return compiled(triton, kernel, signature, fixed, attributes, capability, **options)


def _specialised(value, path, fixed, attributes):
    """The type of an argument, in Triton's words; what it is specialised for goes to ``fixed`` and ``attributes``."""
    if isinstance(value, tuple):
        return tuple(_specialised(v, (*path, i), fixed, attributes) for i, v in enumerate(value))
    if isinstance(value, torch.Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        return "*" + {"float32": "fp32", "float64": "fp64", "int32": "i32", "int64": "i64"}[str(value.dtype)[6:]]
    if value == 1:
        fixed[path] = 1
        return "constexpr"
    if value % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32"


def compiled(triton, kernel, signature, constants, attributes, capability, **options):
    """The machine code of a kernel for these types of arguments."""
    options.setdefault("enable_fp_fusion", True)
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    code = triton.compile(source, target=target, options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(code.asm["cubin"])
        usage, text = _output("cuobjdump", "-res-usage", path), _output("nvdisasm", "-c", path)
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))
    lines, labels = _read(text)
    return MachineCode(registers, max(stack, local), code.metadata.shared, _count(lines), _loops(lines, labels))


def _output(tool, *arguments):
    import triton

    own = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    return subprocess.run([own, *arguments], capture_output=True, text=True, check=True).stdout


def _read(text):
    """The instructions, and before which of them every label is."""
    lines, labels = [], {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(instruction[1])
    return lines, labels


def _count(lines):
    names = (re.match(r"(?:@!?U?P[T0-9]+\s+)?([A-Z0-9_]+)", line.lstrip("{ ")) for line in lines)
    return Counter(name[1] for name in names if name)


def _loops(lines, labels):
    """The instructions of each loop, from a label to a branch back to it, that has no other loop in it."""
    ranges = []
    for i, line in enumerate(lines):
        branch = re.search(r"BRA.*`\((\.L_x_\d+)\)", line)
        if branch and labels[branch[1]] < i:
            ranges.append((labels[branch[1]], i))
    inner = [(a, b) for a, b in ranges if not any((a, b) != (c, d) and a <= c and d <= b for c, d in ranges)]
    return [_count(lines[a : b + 1]) for a, b in inner]
