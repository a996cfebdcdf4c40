"""A potential is invariant, smooth at its cutoff, and forces and stress are its derivatives."""

import pytest
import torch

from equivariant_attention.graphs import Graph
from equivariant_attention.models import Potential, reference_energies
from equivariant_attention.neighbors import radius_graph
from equivariant_attention.plan import Plan
from equivariant_attention.testing import assert_equivariant
from tests.equivariant_attention.test_envelope import jump

CUTOFF, STEP = 2.0, 1e-7  # so small that it crosses no kink of a ReLU
OPTIONS = {
    "densities": {"num_layers": 0},
    "densities, gaussian, no degree 1, no envelope": {
        "num_layers": 0,
        "radial_basis": "gaussian",
        "fiber_hidden": {0: 3, 2: 2},
        "envelope": None,
    },
    "attention": {},
    "silu": {"activation": "silu"},
    "gaussian, cat, heads": {"radial_basis": "gaussian", "x_ij": "cat", "n_heads": 2},
    "att, two layers, no envelope": {"selfint": "att", "num_layers": 2, "envelope": None},
    "norm, scalars": {"nonlinearity": "norm", "fiber_hidden": {0: 4}},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def build(**options):
    torch.manual_seed(0)
    small = {"num_layers": 1, "num_embedding": 4, "num_radial": 4, "num_neighbors": 6.0, "num_hidden": 8, "div": 2}
    small["fiber_hidden"] = {0: 4, 1: 4, 2: 4}
    return Potential(CUTOFF, **{**small, **options}).double()


def systems():
    generator = torch.Generator().manual_seed(1)
    x = 1.2 * torch.randn(9, 3, dtype=torch.float64, generator=generator)
    cell = 2.6 * torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(
        2, 3, 3, dtype=torch.float64, generator=generator
    )
    return torch.tensor([13, 29, 13, 29, 29, 13, 13, 29, 13]), x, torch.tensor([0] * 5 + [1] * 4), cell


def graph(options):
    z, x, batch, cell = systems()
    G = radius_graph(x, CUTOFF, batch, cell, envelope=options.get("envelope", 6))
    G.ndata["z"] = z
    return G


@every_option
def test_energies_are_invariant(options):
    assert_equivariant(build(**options), graph(options), output_on="graphs", tolerance=1e-9)


def assert_forces_and_stress_are_derivatives(model):
    z, x, batch, cell = systems()

    def energies(x, cell):
        with torch.no_grad():
            return model.predict(z, x, batch, cell).energy

    found = model.predict(z, x, batch, cell)
    assert found.forces.abs().max() > 1e-5
    assert found.stress.abs().max() > 1e-6
    unit, strain = torch.zeros_like(x), torch.zeros(3, 3, dtype=torch.float64)
    unit[6, 1], strain[0, 2], strain[2, 0] = 1, 0.5, 0.5
    if model.envelope is not None:
        force = -(energies(x + STEP * unit, cell) - energies(x - STEP * unit, cell)) / (2 * STEP)
        torch.testing.assert_close(found.forces[6, 1], force[1], rtol=1e-4, atol=1e-7)
    more, less = (energies(x + s * STEP * x @ strain, cell + s * STEP * cell @ strain) for s in (1, -1))
    stress = (more - less) / (2 * STEP) / cell.det().abs()
    torch.testing.assert_close(found.stress[:, 0, 2], stress, rtol=1e-4, atol=1e-7)


@every_option
def test_forces_and_stress_are_derivatives_of_the_energy(options):
    assert_forces_and_stress_are_derivatives(build(**options))


@pytest.mark.parametrize("num_layers", [0, 1])
def test_a_loss_of_all_three_reaches_every_weight(num_layers):
    model, (z, x, batch, cell) = build(num_layers=num_layers), systems()
    found = model.predict(z, x, batch, cell)
    sum(v.square().sum() for v in found).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_energies_are_those_of_the_atoms_repeated_and_add_up():
    model, (z, x, batch, cell) = build(), systems()
    first = batch == 0
    with torch.no_grad():
        both = model.predict(z, x, batch, cell)
        alone = model.predict(z[first], x[first], cell=cell[0])
        twice = torch.cat([x[first], x[first] + cell[0, 0]])
        larger = torch.stack([2 * cell[0, 0], cell[0, 1], cell[0, 2]])
        repeated = model.predict(z[first].repeat(2), twice, cell=larger)
    torch.testing.assert_close(both.energy[:1], alone.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(both.forces[first], alone.forces, rtol=0, atol=1e-10)
    torch.testing.assert_close(repeated.energy, 2 * alone.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(repeated.stress, alone.stress, rtol=0, atol=1e-9)
    torch.testing.assert_close(repeated.forces, alone.forces.repeat(2, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_layers", [0, 1])
def test_energy_and_forces_are_continuous_at_the_cutoff(num_layers):
    model = build(radial_basis="gaussian", activation="silu", num_layers=num_layers)

    def energy(x, envelope):
        model.envelope = envelope
        G = radius_graph(x * CUTOFF, CUTOFF, envelope=envelope)
        G.ndata["z"] = torch.full((len(x),), 18)
        return model(G).sum()

    inside = torch.tensor([[0, 0, 0], [0.6, 0.1, 0], [0.2, 0.5, 0.3]], dtype=torch.float64)
    for step in (1e-3, 1e-4):
        bare, smooth = (jump(energy, inside, step, envelope) for envelope in (None, 6))
        assert min(bare) > 1e-4
        assert smooth[0] < 1e4 * step**3
        assert smooth[1] < 1e4 * step**2


@pytest.mark.parametrize("options", [{"activation": "silu"}, {"num_layers": 0}], ids=str)
def test_second_derivatives_exist(options):
    """Of densities, and with SiLU in the radial networks of attention."""
    model, (z, x, batch, cell) = build(**options), systems()

    def energies(x):
        G = radius_graph(x, CUTOFF, batch, cell, envelope=6)
        G.ndata["z"] = z
        return model(G)

    x.requires_grad_()
    assert torch.autograd.gradcheck(energies, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(energies, x, fast_mode=True)


def test_lone_atoms_have_an_energy_and_no_forces():
    z, x = torch.tensor([13, 29, 13]), 9.0 * torch.eye(3, dtype=torch.float64)
    found = build().predict(z, x, torch.arange(3))
    assert found.energy[0] == found.energy[2] != found.energy[1]
    assert not found.forces.any()
    assert build().predict(z[:0], x[:0]).energy.tolist() == [0]


def test_references_are_those_of_the_elements():
    model, z = build(), torch.tensor([1, 1, 8, 1, 6, 6, 8, 8])
    batch, own = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), {1: -13.6, 6: -1000.0, 8: -2000.0}
    energy = torch.zeros(3, dtype=torch.float64).index_add(0, batch, torch.tensor([own[int(i)] for i in z]).double())
    model.set_references(z, batch, energy, scale=0.5)
    assert {i: pytest.approx(float(model.reference[i])) for i in own} == own
    assert model.scale == 0.5
    assert model.known.nonzero().flatten().tolist() == [1, 6, 8]
    with pytest.raises(
        ValueError, match=r"z must be of the elements .* on, H \(1\), C \(6\), O \(8\); got also N \(7\)"
    ):
        model.predict(torch.tensor([1, 7]), torch.randn(2, 3, dtype=torch.float64))


def test_a_graph_whose_numbers_are_not_finite_is_refused():
    G = graph({})
    G.edata["d"] = torch.full_like(G.edata["d"], float("nan"))
    with pytest.raises(ValueError, match=r"edata\['d'\] must be finite"):
        build(num_layers=0)(G)


class Energies(torch.nn.Module):
    """As a function of tensors, which programs take."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, z, d, envelope, src, dst):
        G = Graph(src, dst, z.shape[0])
        G.ndata["z"], G.edata["d"], G.edata["envelope"] = z, d, envelope
        return self.model(G)


def assert_is_exported_for_structures_of_all_sizes(model, strict):
    def inputs(atoms):
        z, x, *_ = systems()
        G = radius_graph(x[:atoms], CUTOFF, envelope=6)
        return z[:atoms], G.edata["d"], G.edata["envelope"], *G.edges()

    atoms, edges = torch.export.Dim("atoms", min=2), torch.export.Dim("edges", min=2)
    shapes = ({0: atoms}, *[{0: edges}] * 4)
    module = Energies(model)
    program = torch.export.export(module, inputs(9), dynamic_shapes=shapes, strict=strict).module()
    for size in (9, 6):
        torch.testing.assert_close(program(*inputs(size)), module(*inputs(size)))


@pytest.mark.parametrize("strict", [False, True])
def test_energies_are_exported(strict):
    assert_is_exported_for_structures_of_all_sizes(build(num_layers=0), strict)


def test_references_that_do_not_go_together_are_refused():
    z, batch = torch.tensor([1, 8]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"z must be atomic numbers, int64 \[1\], got torch.int64 \[2\]"):
        reference_energies(z, batch[:1], torch.zeros(2))
    for energy in (torch.tensor([0.0, float("nan")]), torch.zeros(1)):
        with pytest.raises(ValueError, match="energy must be finite and of every structure of batch"):
            reference_energies(z, batch, energy)
    for scale, message in ((0.0, "scale must be larger than 0"), (float("inf"), "scale must be finite, got inf")):
        with pytest.raises(ValueError, match=message):
            build().set_references(z, batch, torch.zeros(2), scale)


def test_large_energies_keep_their_digits_in_single_precision():
    torch.manual_seed(0)
    model, (z, x, batch, cell) = Potential(CUTOFF, {0: 4}, div=2), systems()
    small = model.predict(z, x.float(), batch, cell.float()).energy
    model.reference[13], model.reference[29] = -6.6e6, -4.5e7
    large = model.predict(z, x.float(), batch, cell.float()).energy
    of_elements = torch.zeros_like(large).index_add(0, batch, model.reference[z])
    torch.testing.assert_close(large - of_elements, small, rtol=0, atol=1e-6)


def test_it_is_saved_with_its_cutoff_and_references(tmp_path):
    model, (z, x, batch, cell) = build(envelope=4, x_ij="cat"), systems()
    model.set_references(z, batch, torch.tensor([-3.0, 5.0]), 2.0)
    model.save_pretrained(tmp_path / "model.pt")
    loaded = Potential.from_pretrained(tmp_path / "model.pt")
    assert (loaded.cutoff, loaded.envelope, loaded.config) == (CUTOFF, 4, model.config)
    for ours, theirs in zip(loaded.predict(z, x, batch, cell), model.predict(z, x, batch, cell), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_layers", [0, 1])
def test_with_a_plan_it_is_the_same_and_no_value_is_looked_at(num_layers):
    model = build(num_layers=num_layers)
    z, x = torch.tensor([1, 8, 1, 6]), torch.rand(4, 3, dtype=torch.float64)
    model.set_references(z, torch.zeros_like(z), torch.zeros(1, dtype=torch.float64))
    G = radius_graph(x, CUTOFF, envelope=6)
    G.ndata["z"] = z
    assert torch.equal(model(G, plan=Plan(G)), model(G))
    for wrong, message in (([1, 8, 1, 7], "elements that it was trained on"), ([1, 8, 1, 0], "z must be 1 to 118")):
        G.ndata["z"] = torch.tensor(wrong)
        with pytest.raises(RuntimeError, match=message):
            model(G, plan=Plan(G))
