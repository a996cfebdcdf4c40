"""Programs that import NVIDIA's package, in processes of their own without DGL."""

import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from equivariant_attention import nvidia
from equivariant_attention.nvidia.drop_in import TREE, install_as

ROOT = Path(__file__).parents[3]
BEGIN = "import sys; sys.modules['dgl'] = None\n"

RFDIFFUSION = """
from equivariant_attention import graphs as dgl
import torch, torch.nn as nn
from se3_transformer.model import SE3Transformer
from se3_transformer.model.fiber import Fiber

class Wrapper(nn.Module):
    def __init__(self, layers=1, channels=8, scalars_in=4, scalars_out=4, edges=5):
        super().__init__()
        self.edges = edges
        self.se3 = SE3Transformer(
            num_layers=layers, fiber_in=Fiber({0: scalars_in, 1: 3}), fiber_hidden=Fiber.create(2, channels),
            fiber_out=Fiber({0: scalars_out, 1: 2}), num_heads=2, channels_div=2, fiber_edge=Fiber({0: edges}),
            use_layer_norm=True)
        for name, parameter in self.se3.named_parameters():
            if "bias" in name: nn.init.zeros_(parameter)
            elif parameter.dim() > 1 and "radial_func" in name:
                nn.init.zeros_(parameter) if "net.6" in name else nn.init.kaiming_normal_(parameter)
        nn.init.zeros_(self.se3.graph_modules[-1].to_kernel_self["0"])
        nn.init.zeros_(self.se3.graph_modules[-1].to_kernel_self["1"])

    @torch.autocast("cpu", enabled=False)
    def forward(self, graph, scalars, vectors, edge_features):
        return self.se3(graph, {"0": scalars, "1": vectors}, {"0": edge_features})

def fully_connected(xyz, pair):
    L = len(xyz)
    i, j = torch.where(~torch.eye(L, dtype=torch.bool))
    G = dgl.graph((i, j), num_nodes=L)
    G.edata["rel_pos"] = (xyz[j] - xyz[i]).detach()
    return G, pair[i, j][..., None]

torch.manual_seed(0)
model, xyz = Wrapper(), 3 * torch.randn(7, 3)
G, edges = fully_connected(xyz, torch.randn(7, 7, 5))
inputs = torch.randn(7, 4, 1), torch.randn(7, 3, 3), edges
assert not model(G, *inputs)["0"].any() and not model(G, *inputs)["1"].any()
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
losses = []
for _ in range(6):
    output = model(G, *inputs)
    loss = (output["1"] - 1).square().mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step(); losses.append(loss.item())
assert losses[-1] < losses[0], losses
torch.save(model.state_dict(), PATH)
again = Wrapper()
print(again.load_state_dict(torch.load(PATH, weights_only=True), strict=True))
assert torch.equal(again(G, *inputs)["1"], model(G, *inputs)["1"])
Q, _ = torch.linalg.qr(torch.randn(3, 3)); Q = Q * torch.linalg.det(Q).sign()
turned, _ = fully_connected(xyz @ Q.T, torch.zeros(7, 7, 5))
found = model(turned, inputs[0], inputs[1] @ Q.T, edges)["1"]
assert torch.allclose(found, model(G, *inputs)["1"] @ Q.T, atol=1e-4)
torch.save(model.se3, PATH)
loaded = torch.load(PATH, weights_only=False)
assert type(loaded).__module__ == "se3_transformer.model.transformer"
print("done")
"""

ALL_ATOM = """
from equivariant_attention.nvidia import install_as
install_as("rf2aa.SE3Transformer.se3_transformer")
import inspect, torch
from equivariant_attention import graphs as dgl
from rf2aa.SE3Transformer.se3_transformer.model import SE3Transformer
from rf2aa.SE3Transformer.se3_transformer.model.fiber import Fiber
from rf2aa.SE3Transformer.se3_transformer.model.layers.attention import AttentionBlockSE3
import rf2aa.SE3Transformer.se3_transformer.model.transformer as module
assert "rf2aa" in inspect.getfile(SE3Transformer) and module.SE3Transformer is SE3Transformer
model = SE3Transformer(
    num_layers=2, fiber_in=Fiber({0: 8, 1: 3}), fiber_hidden=Fiber.create(2, 8), fiber_out=Fiber({0: 8, 1: 2}),
    num_heads=4, channels_div=2, fiber_edge=Fiber({0: 6}), final_layer="lin", populate_edge="arcsin",
    use_layer_norm=True, sum_over_edge=False)
assert isinstance(model.graph_modules[0], AttentionBlockSE3)
torch.nn.init.zeros_(model.graph_modules[-1].weights["0"])
torch.manual_seed(0)
near = torch.rand(2, 9, 9) < .5
b, i, j = torch.where(near)
G = dgl.graph((b * 9 + i, b * 9 + j), num_nodes=18).to("cpu")
xyz = (5 * torch.randn(18, 3)).requires_grad_()
src, dst = G.edges()
G.edata["rel_pos"] = xyz[dst] - xyz[src]
output = model(G, node_feats={"0": torch.randn(18, 8, 1), "1": torch.randn(18, 3, 3)},
               edge_feats={"0": torch.randn(len(src), 6, 1)})
assert not output["0"].any()
output["1"].sum().backward()
assert xyz.grad.isfinite().all() and xyz.grad.any() and "dgl" not in [m for m in sys.modules if sys.modules[m]]
print("done")
"""


def run(program, path="unused", **environment):
    here = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'drop_in'}", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "error", "-c", BEGIN + program.replace("PATH", repr(str(path)))]
    done = subprocess.run(command, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_drop_in = pytest.mark.skipif(not (ROOT / "drop_in").is_dir(), reason="the drop-in is not here")


@needs_drop_in
def test_a_program_in_the_manner_of_rfdiffusion(tmp_path):
    assert run(RFDIFFUSION, tmp_path / "model.pt").split() == ["<All", "keys", "matched", "successfully>", "done"]


def test_a_program_in_the_manner_of_all_atom():
    assert run(ALL_ATOM) == "done\n"


@needs_drop_in
def test_every_name_is_where_the_package_has_it():
    lines = [f"from se3_transformer.{path} import {', '.join(names)}" for path, names in TREE.items() if names]
    assert run("\n".join([*lines, "import se3_transformer.runtime.utils", "print(se3_transformer.__file__)"])).strip()


def test_names_are_what_is_here():
    root = install_as("some_program.se3_transformer")
    assert install_as("some_program.se3_transformer") is root
    assert root.model.layers.attention.AttentionBlockSE3 is nvidia.AttentionBlockSE3
    assert issubclass(root.model.SE3Transformer, nvidia.SE3Transformer)
    assert root.model.SE3Transformer is root.model.transformer.SE3Transformer
    assert {name for names in TREE.values() for name in names} <= {*nvidia.__all__}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from {}.model.layers import AttentionSE3", "import it from {}.model.layers.attention"),
        ("from {}.model.fiber import Irreps", "no 'Irreps': there are Fiber, FiberEl"),
        ("from {}.data_loading import QM9DataModule", "experiments/qm9"),
        ("import {}.runtime.training", "experiments/qm9/run.py"),
        ("from {} import unknown", "no 'unknown': there are model, runtime"),
    ],
)
def test_names_that_are_not_here_say_what_to_use(line, message):
    prefix = install_as("another_program.se3").__name__
    with pytest.raises(ImportError) as raised:
        exec(line.format(prefix))
    assert message.format(prefix) in str(raised.value)


@pytest.mark.parametrize("middle", ["package", "folder", None])
def test_the_packages_around_it_may_be_those_of_the_program(tmp_path, middle):
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__init__.py").write_text("own = True")
    (tmp_path / "program" / "user.py").write_text("from program.inner.se3_transformer.model.fiber import Fiber")
    if middle is not None:
        copy = tmp_path / "program" / "inner" / "se3_transformer"
        copy.mkdir(parents=True)
        (copy / "__init__.py").write_text("raise ImportError('the copy was to be left alone')")
    if middle == "package":
        (tmp_path / "program" / "inner" / "__init__.py").write_text("from program.inner import se3_transformer")
    lines = [
        "from equivariant_attention.nvidia import Fiber, install_as",
        "install_as('program.inner.se3_transformer')",
        "import program.user, program.inner.se3_transformer.model.fiber",
        "from program.inner import se3_transformer",
        "assert program.own and program.user.Fiber is Fiber",
        "assert program.inner.se3_transformer.model.fiber.Fiber is se3_transformer.model.fiber.Fiber is Fiber",
        "install_as('nowhere.one.se3'); install_as('nowhere.two.se3')",
        "import nowhere.two.se3.model.fiber, nowhere.one.se3",
        "assert nowhere.two.se3.model.fiber.Fiber is Fiber and nowhere.one.se3 is not nowhere.two.se3",
        "print('done')",
    ]
    assert run("\n".join(lines), PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}") == "done\n"


def test_an_error_in_a_package_around_it_is_not_taken_for_its_absence(tmp_path, monkeypatch):
    (tmp_path / "broken_program").mkdir()
    (tmp_path / "broken_program" / "__init__.py").write_text("import something_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="something_that_is_not_there"):
        install_as("broken_program.se3")


def test_modules_can_be_looked_into_as_any():
    root = install_as("third_program.se3")
    assert not hasattr(root, "unknown")
    assert getattr(root.model.fiber, "unknown", 3) == 3
    with pytest.raises(AttributeError, match="no 'unknown': there are Fiber, FiberEl"):
        root.model.fiber.unknown  # noqa: B018
    for name in ("third_program", root.__name__, root.model.fiber.__name__):
        assert importlib.util.find_spec(name).name == name
    assert importlib.reload(root.model.fiber) is root.model.fiber
    assert inspect.getmodule(root.model.SE3Transformer) is root.model.transformer


@pytest.mark.parametrize("prefix", ["torch", "torch.nn", "equivariant_attention"])
def test_what_is_imported_already_is_not_shadowed(prefix):
    with pytest.raises(ImportError, match="is: install first"):
        install_as(prefix)


@pytest.mark.parametrize("prefix", ["", "a..b", "a-b", 3])
def test_what_names_no_module_is_refused(prefix):
    with pytest.raises(ValueError, match="prefix must be the name of a module"):
        install_as(prefix)
