"""Models fit on a screen when they are printed, and layers tell what they were made with."""

from equivariant_attention.fibers import Fiber
from equivariant_attention.models import ManyBodyPotential, Potential
from equivariant_attention.modules import GConvSE3, GSE3Res
from experiments.qm9.models import SE3Transformer


def test_a_model_fits_on_a_screen():
    model = SE3Transformer(7, 6, 32, num_degrees=4, edge_dim=5, div=2, n_heads=8)  # the paper's, for QM9
    assert len(repr(model).splitlines()) < 40
    assert len(repr(Potential(5.0)).splitlines()) < 40
    assert len(repr(ManyBodyPotential(5.0)).splitlines()) < 40


def test_a_layer_tells_its_arguments_and_size():
    fiber = Fiber({0: 4, 1: 2})
    layer = GSE3Res(fiber, fiber, edge_dim=3, div=2, x_ij="add")
    size = sum(parameter.numel() for parameter in layer.parameters())
    assert repr(layer) == (
        "GSE3Res(f_in=Fiber({0: 4, 1: 2}), f_out=Fiber({0: 4, 1: 2}), edge_dim=3, div=2, n_heads=1, x_ij='add', "
        f"skip='cat', selfint='1x1', parameters={size:,})"
    )
    assert "\n" not in repr(GConvSE3(fiber, fiber))
