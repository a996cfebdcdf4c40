"""Ready-made models, which are saved and loaded with their configuration."""

from ..models.adapters import OnData, OnEdges, OnPadded
from ..models.atomic_energies import AtomicEnergies, reference_energies
from ..models.many_body import ManyBodyPotential
from ..models.nonlinearity import NONLINEARITIES, nonlinearity
from ..models.potential import Potential
from ..models.radial_basis import RADIAL_BASES, RadialBasis
from ..models.se3_transformer import SE3Transformer
from ..models.tfn import TFN

__all__ = [
    "NONLINEARITIES",
    "RADIAL_BASES",
    "TFN",
    "AtomicEnergies",
    "ManyBodyPotential",
    "OnData",
    "OnEdges",
    "OnPadded",
    "Potential",
    "RadialBasis",
    "SE3Transformer",
    "nonlinearity",
    "reference_energies",
]
