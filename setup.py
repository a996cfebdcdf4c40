"""Packaging. The wheel ships ``equivariant_attention`` alone; an editable install exposes experiments and utils too."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "equivariant_attention" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

# DGL's last release on PyPI has no wheel for Python 3.12 or newer, nor outside x86_64.
DGL = 'dgl==1.1.3; python_version < "3.12" and platform_machine == "x86_64" and sys_platform == "linux"'

setup(
    name="equivariant-attention",
    version=VERSION,
    description="SE(3)-Transformers: graph layers that are exactly equivariant to rotations and translations in 3D",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["equivariant_attention", "equivariant_attention.*"]),
    package_dir={"": "."},
    package_data={"equivariant_attention": ["py.typed", "*/*.cpp", "*/*.hpp"]},
    install_requires=["torch>=2.5", "numpy>=1.24", "scipy>=1.10", "packaging>=23", DGL],
    extras_require={
        "experiments": [
            "lightning-fabric>=2.4",
            "tqdm>=4.65",
            "matplotlib>=3.7",
            "pillow>=9.1",
            "rdkit>=2023.9",
            "pebble>=5",
            "ase>=3.23",
            "vesin>=0.6",
        ],
        "periodic": ["vesin>=0.6"],  # neighbours across periodic boundaries; slower with ase, which serves as well
        "ase": ["ase>=3.23", "vesin>=0.6"],
        "xtb": ["tblite>=0.8", "ase>=3.23"],
        "trackers": ["tensorboard", "wandb"],
        "triton": ['triton>=3.3; platform_system == "Linux"'],
        "pyg": ["torch_geometric>=2.5"],
        "drop_in": ["se3-transformer==0.1.0+equivariant.attention"],  # that of drop_in/, which is on no index
        "docs": ["sphinx>=8.1", "myst-parser>=4", "furo>=2024.8"],
        "tests": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "pytest-cov>=5",
            "hypothesis>=6.100",
            "ruff>=0.12",
            "mypy>=2",
            "e3nn>=0.5.6",
            "torch_geometric>=2.5",
            "markdown-it-py>=3",
            "vesin>=0.6",
        ],
    },
)
