"""What all potentials have in common."""

import pytest
import torch

from equivariant_attention.models import ManyBodyPotential, Potential, reference_energies
from equivariant_attention.neighbors import radius_graph

CUTOFF = 3.0
KINDS = {
    "densities": lambda **options: Potential(CUTOFF, ((4, 0), (4, 1), (4, 2)), **options),
    "attention": lambda **options: Potential(CUTOFF, ((4, 0), (4, 1), (4, 2)), 1, **options),
    "correlations": lambda **options: ManyBodyPotential(CUTOFF, 4, **options),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def build(make, **options):
    torch.manual_seed(0)
    return make(**options)


def structure(dtype=torch.float32):
    x = 1.5 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    return torch.tensor([8, 1, 1, 6, 1, 1]), x


def graph(envelope, dtype=torch.float32):
    z, x = structure(dtype)
    G = radius_graph(x, CUTOFF, envelope=envelope)
    G.ndata["z"] = z
    return G


@every_kind
@pytest.mark.parametrize("periodic", [False, True])
def test_autocast_rounds_nothing(make, periodic):
    model, (z, x) = build(make), structure()
    cell = 20.1 * torch.eye(3) if periodic else None
    expected = model.predict(z, x, cell=cell)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.predict(z, x, cell=cell)
    for name in ("energy", "forces", "stress") if periodic else ("energy", "forces"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6)


@every_kind
def test_energies_of_many_atoms_are_those_of_each(make):
    model = build(make).double()
    z, x = torch.full((3000,), 6), 2.5 * torch.arange(3000.0)[:, None] * torch.tensor([1.0, 0, 0])
    expected = model.predict(z, x.double()).energy
    torch.testing.assert_close(model.float().predict(z, x).energy, expected, rtol=1e-6, atol=0)


@every_kind
def test_references_stay_in_float64(make):
    z, x = structure()
    model, total = build(make), torch.tensor([-1071029.98898], dtype=torch.float64)
    model.set_references(z, torch.zeros_like(z), total)
    expected = model.predict(z, x).energy
    assert expected.dtype == torch.float64
    for cast in (lambda m: m.float(), lambda m: m.to(torch.float32), lambda m: m.double().float()):
        assert cast(model).reference.dtype == torch.float64
        torch.testing.assert_close(model.predict(z, x).energy, expected, rtol=0, atol=1e-6)
    assert model.to("meta").reference.device.type == "meta"


@every_kind
def test_an_envelope_is_there_where_it_should_be(make):
    with pytest.raises(KeyError, match=r"must have edata\['envelope'\]: radius_graph\(..., envelope=6\) makes"):
        build(make)(graph(None))
    with pytest.raises(ValueError, match=r"edata\['envelope'\] must not be there"):
        build(make, envelope=None)(graph(6))


@every_kind
def test_another_dtype_is_refused(make):
    z, x = structure()
    with pytest.raises(TypeError, match=r"edata\['d'\] must be torch.float32, as the layer is, got torch.float64"):
        build(make).predict(z, x.double())
    with pytest.raises(TypeError, match=r"edata\['d'\]"):
        build(make).half().predict(z, x)


@pytest.mark.parametrize("kind", [Potential, ManyBodyPotential])
def test_wrong_arguments_are_refused(kind):
    with pytest.raises(ValueError, match="num_neighbors must be finite, got inf"):
        kind(CUTOFF, num_neighbors=float("inf"))
    with pytest.raises(ValueError, match="x must be a float32 or float64 tensor"):
        kind(CUTOFF).predict(torch.tensor([1]), [[0.0, 0.0, 0.0]])


def test_wrong_energies_of_structures_are_refused():
    z, batch = torch.tensor([1, 8]), torch.tensor([0, 1])
    for energy in ([1.0, 2.0], torch.ones(2, 1)):
        with pytest.raises(ValueError, match=r"energy must be a tensor \[structures\], got (list|\[2, 1\])"):
            reference_energies(z, batch, energy)
    with pytest.raises(ValueError, match=r"batch must be the structures of atoms, int64 \[atoms\], got torch.float32"):
        reference_energies(z, batch.float(), torch.ones(2))
