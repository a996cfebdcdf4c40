"""Compiles Triton kernels for GPUs that are not there, and reads the machine code: registers, spills, instructions."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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


def compiled(kernel, types, constants, capability, **options):
    """The machine code of a kernel.

    Args:
        kernel: what ``triton.jit`` returned.
        types: of every argument that is not a constant, in Triton's words: ``'*fp32'``, ``'i32'``; or (type, number),
            where numbers that are one, or divisible by 16, are compiled for that. Pointers are aligned to 16 bytes.
        constants: values of the ``tl.constexpr``.
        capability: of the GPU, 90 for sm_90.
        options: of the compiler, such as ``num_warps``.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, fixed, attributes = {}, dict(constants), {}
    for i, name in enumerate(kernel.arg_names):
        kind, number = ("constexpr", None) if name in constants else _pair(types[name])
        if number == 1:
            kind, fixed[name] = "constexpr", 1
        signature[name] = kind
        if kind.startswith("*") or (number is not None and number > 1 and number % 16 == 0):
            attributes[i,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(code.asm["cubin"])
        usage, text = _output("cuobjdump", "-res-usage", path), _output("nvdisasm", "-c", path)
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))
    lines, labels = _read(text)
    return MachineCode(registers, max(stack, local), code.metadata.shared, _count(lines), _loops(lines, labels))


def _pair(kind):
    return kind if isinstance(kind, tuple) else (kind, None)


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
