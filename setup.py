"""Wheels with C++ kernels in them, where EQUIVARIANT_ATTENTION_PREBUILD=1 asks for them; all else is in pyproject.toml.

EQUIVARIANT_ATTENTION_PREBUILD=1 python -m build --wheel      on Linux on x86-64 or ARM, with a C++ compiler
"""

import os
import platform
import runpy
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PACKAGE = Path("equivariant_attention")
COMPILER = PACKAGE / "native" / "compiler.py"
IS_ASKED = os.environ.get("EQUIVARIANT_ATTENTION_PREBUILD") == "1"


class BuildWithKernels(build_py):
    """Builds every kernel for every level of this machine, beside the files of the package."""

    def run(self) -> None:
        """What setuptools calls."""
        super().run()
        if IS_ASKED:
            compiler = runpy.run_path(str(COMPILER))  # the package itself needs PyTorch
            folder = Path(self.build_lib) / compiler["PREBUILT"]
            for source in sorted(PACKAGE.rglob("*.cpp")):
                for level in compiler["MACHINES"][platform.machine()]:
                    compiler["prebuild"](source, level, folder)


class WheelOfPlatform(bdist_wheel):
    """A wheel with kernels is of any Python, which loads them by their C interface."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform."""
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if IS_ASKED else (python, abi, platform)


class WithKernels(Distribution):
    """One whose files belong to a platform, if it has kernels."""

    def has_ext_modules(self) -> bool:
        """What setuptools asks."""
        return IS_ASKED


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelOfPlatform}, distclass=WithKernels)
