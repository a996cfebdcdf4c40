"""Builds a C++ file with the machine's own compiler when it is first asked for, and keeps what was built."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

# Sums may be reordered, as by any library for matrix products; NaN and infinity stay what they are.
MATH = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
FLAGS = ["-std=c++17", "-O3", "-march=native", *MATH, "-fPIC", "-shared", "-pthread"]
SWITCH = "EQUIVARIANT_ATTENTION_COMPILE"
HEADERS = sorted(Path(__file__).parent.glob("*.hpp"))
SECONDS = 300  # that a compiler is given


class BuildError(RuntimeError):
    """There is no compiler, or it does not build the file; the message says what is missing."""


@cache
def library(source: Path) -> ctypes.CDLL:
    """The library built from a C++ file, which includes the headers beside this module and no others.

    It is built by ``$CXX`` or ``c++``, for the processor of this machine, and kept in
    ``$XDG_CACHE_HOME/equivariant_attention`` or ``~/.cache/equivariant_attention``, under a name made from the file,
    these headers, the compiler, its flags and the processor: another of any of these builds anew. So does a library
    that is not as it was built, which its name tells, or that others may write to. Processes that build at once do not
    disturb each other.

    Args:
        source: the file.

    Raises:
        BuildError: it cannot be built, ``EQUIVARIANT_ATTENTION_COMPILE=0`` forbids it, or others may write to the
            folder where it is kept: what they put there would run.
    """
    if os.environ.get(SWITCH) == "0":
        raise BuildError(f"{SWITCH}=0 forbids to build {source.name}")
    name = os.environ.get("CXX", "c++")
    compiler = shutil.which(name)
    if compiler is None:
        raise BuildError(f"there is no C++ compiler {name!r} (the environment variable CXX names another)")
    try:
        kept = _folder() / f"{source.stem}-{_key(compiler, source)}"
        for built in kept.parent.glob(f"{kept.name}-*.so"):
            if _is_own(built) and built == _named(kept, built):
                try:
                    return ctypes.CDLL(str(built))
                except OSError:  # from a machine with other libraries, say
                    pass
        return ctypes.CDLL(str(_build(compiler, source, kept)))
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{compiler} does not build {source.name}: {_reason(error)}") from error


def _folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equivariant_attention"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_own(folder):
        raise BuildError(
            f"{folder} must belong to this user, and nobody else may write to it: libraries are run from there"
        )
    return folder


def _is_own(path: Path) -> bool:
    """Whether only this user may write to it; true where files have no such owners."""
    status = path.stat()
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _key(compiler: str, source: Path) -> str:
    # What -march=native stands for is in the command that the compiler would run.
    command = [compiler, *FLAGS, "-###", "-S", "-o", os.devnull, "-x", "c++", os.devnull]
    told = [_run([compiler, "--version"]), _run(command)]
    texts = [path.read_text() for path in (source, *HEADERS)]
    return hashlib.sha256("\n".join([*texts, *FLAGS, *told]).encode()).hexdigest()[:16]


def _build(compiler: str, source: Path, name: Path) -> Path:
    logging.getLogger(__name__).info("building %s with %s, once: some seconds", source.name, compiler)
    with tempfile.TemporaryDirectory(dir=name.parent) as folder:
        unfinished = Path(folder) / f"{name.name}.so"
        _run([compiler, *FLAGS, "-o", str(unfinished), str(source)])
        unfinished.chmod(0o700)
        return unfinished.replace(_named(name, unfinished))


def _named(name: Path, content: Path) -> Path:
    """What a library is called: its name, then a hash of its content, which tells where it was cut short or changed."""
    return name.with_name(f"{name.name}-{hashlib.sha256(content.read_bytes()).hexdigest()[:16]}.so")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    return done.stdout + done.stderr


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    return f"{error}" + (f"\n{said}" if said else "")
