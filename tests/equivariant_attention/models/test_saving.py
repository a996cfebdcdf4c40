"""Models in files: back as they were, or an error that names the file, what was expected and what came."""

import os
import random
import subprocess
import sys

import pytest
import torch

from equivariant_attention import __version__
from equivariant_attention.models import TFN, SE3Transformer
from equivariant_attention.models.saving import FORMAT_VERSION
from tests.cases import random_graph
from tests.equivariant_attention.models.cases import EDGE_DIM, FIBERS, MODELS, tensors, tfn, transformer, with_inputs
from tests.wrong.values import ODD, changed, oddities


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "model.pt"


def change(path, **changes):
    """Write the file again with other content; a change of None leaves the name out."""
    content = {**torch.load(path, weights_only=True), **changes}
    torch.save({name: value for name, value in content.items() if value is not None}, path)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, path):
    dtype = torch.float32 if name.startswith("TFN") else torch.float64
    model = MODELS[name]().to(dtype)
    model.save_pretrained(path)
    drawn = torch.get_rng_state()
    loaded = type(model).from_pretrained(path)
    assert torch.equal(torch.get_rng_state(), drawn)  # no weights were drawn in vain
    assert loaded.config == model.config
    for (name, theirs), (same, ours) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == same
        assert torch.equal(theirs, ours)
        assert theirs.dtype == ours.dtype
        assert theirs.requires_grad == ours.requires_grad
        assert ours.device.type == "cpu"
    G, _, features = with_inputs(model, random_graph(dtype, EDGE_DIM))
    assert all(map(torch.equal, tensors(model(G, features)), tensors(loaded(G, features))))


def test_content(path):
    model = tfn(pooling="avg")
    model.save_pretrained(path)
    content = torch.load(path, weights_only=True)
    weights = content.pop("state_dict")
    assert weights.keys() == model.state_dict().keys()
    names = ("fiber_in", "fiber_hidden", "fiber_out")
    assert content == {
        "format": "equivariant_attention model",
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "class": "TFN",
        "config": {
            **dict(zip(names, FIBERS, strict=True)),
            "num_layers": 2, "edge_dim": EDGE_DIM, "fiber_edge": None, "pooling": "avg", "return_type": None,
            "flavor": "skip", "nonlinearity": "norm",
        },
    }  # fmt: skip


def test_a_loaded_model_trains(path):
    tfn().save_pretrained(path)
    model = TFN.from_pretrained(path)
    optimizer = torch.optim.Adam(model.parameters())
    G, _, features = with_inputs(model, random_graph(torch.float32, EDGE_DIM))
    sum(value.square().sum() for value in model(G, features).values()).backward()
    optimizer.step()
    model.save_pretrained(path)
    assert torch.equal(TFN.from_pretrained(path).layers[0].kernel_self["0"], model.layers[0].kernel_self["0"])


# -------------------------------------------------------------------------- subclasses with a constructor of their own


class OfWidth(SE3Transformer):
    """Its argument is kept nowhere."""

    def __init__(self, width):
        super().__init__({0: 6}, {0: width, 1: width}, {0: 2}, num_layers=1)


class OfKeptWidth(OfWidth):
    def __init__(self, width):
        super().__init__(width)
        self.width = width


class OfModules(OfWidth):
    """Its argument is the name of something else."""

    def __init__(self, layers=4):
        super().__init__(layers)


class OfAny(SE3Transformer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


OF_ANY = ({0: 6}, {0: 4}, {0: 2}, 1)


@pytest.mark.parametrize(
    ("model", "name", "got"),
    [(OfWidth(4), "width", "none"), (OfModules(), "layers", "ModuleList"), (OfAny(*OF_ANY), "args", "none")],
)
def test_a_subclass_that_forgets_its_arguments_is_printed_and_not_saved(model, name, got, path):
    assert repr(model).startswith(f"{type(model).__name__}(")
    assert "num_layers" not in model.extra_repr()
    with pytest.raises(TypeError, match=f"{type(model).__name__} must keep its argument '{name}' as an .*, got {got};"):
        model.save_pretrained(path)
    assert not path.exists()


def test_a_subclass_that_keeps_its_arguments_is_saved(path):
    model = OfKeptWidth(4)
    assert model.extra_repr() == "width=4"
    model.save_pretrained(path)
    loaded = OfKeptWidth.from_pretrained(path)
    assert loaded.config == {"width": 4}
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


# ------------------------------------------------------------------------------------------------- wrong files


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="someone/some-model: there is no such file, and nothing is downloaded"):
        TFN.from_pretrained("someone/some-model")
    with pytest.raises(IsADirectoryError, match="expected a file, got a folder"):
        TFN.from_pretrained(tmp_path)
    with pytest.raises(IsADirectoryError, match="expected a file, got a folder"):
        tfn().save_pretrained(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_truncated(path, kept):
    tfn().save_pretrained(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.pt: expected a whole checkpoint of tensors and plain values: ."):
        TFN.from_pretrained(path)


def test_damaged(path):
    model = tfn()
    model.save_pretrained(path)
    content = bytearray(path.read_bytes())
    weight = model.layers[0].kernel_self["0"].detach().numpy().tobytes()
    content[content.index(weight)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt: expected a whole checkpoint.*is damaged"):
        TFN.from_pretrained(path)


def test_no_checkpoint(path):
    path.parent.mkdir()
    path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"model\.pt: expected a whole checkpoint of tensors and plain values"):
        TFN.from_pretrained(path)
    torch.save(random.Random(0), path)  # would run code on loading
    with pytest.raises(ValueError, match=r"model\.pt: expected a whole checkpoint.*Unsupported global") as caught:
        TFN.from_pretrained(path)
    assert "weights_only=False" not in str(caught.value)  # which would let it
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"model\.pt: expected a file of save_pretrained.* got list"):
        TFN.from_pretrained(path)


def test_weights_alone(path):
    path.parent.mkdir()
    torch.save(tfn().state_dict(), path)
    with pytest.raises(ValueError, match=r"model\.pt: expected a file of save_pretrained.* got weights alone"):
        TFN.from_pretrained(path)


def test_another_class(path):
    tfn().save_pretrained(path)
    with pytest.raises(ValueError, match=r"model\.pt: expected a SE3Transformer, got a TFN"):
        SE3Transformer.from_pretrained(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, f"expected format_version {FORMAT_VERSION} or older, got"),
        ({"library_version": "99.0"}, f"expected library_version {__version__} or older, got 99.0: it was saved by a"),
        ({"library_version": "new"}, "expected a version, got 'new'"),
        ({"format_version": "1"}, "got one without a valid 'format_version'"),
        ({"config": None}, "got one without a valid 'config'"),
        ({"config": {"fiber_in": {0: 1}}}, "expected the arguments of a TFN, got others: .*fiber_hidden"),
        ({"config": {"fiber_in": {0: 1}, "fiber_hidden": {0: 4}, "fiber_out": {0: 1}, "depth": 3}}, "TFN.*'depth'"),
        ({"config": {"fiber_in": {0: 1}, "fiber_hidden": {0: 4}, "fiber_out": {}}}, "TFN.* fiber_out must be a Fiber"),
        ({"state_dict": {"layers": 3}}, "expected weights"),
    ],
)
def test_content_of_another_kind(path, changes, message):
    tfn().save_pretrained(path)
    change(path, **changes)
    with pytest.raises(ValueError, match=rf"model\.pt: .*{message}"):
        TFN.from_pretrained(path)


def test_older_versions_are_read(path):
    tfn().save_pretrained(path)
    change(path, library_version="0.0.1")
    TFN.from_pretrained(path)


@pytest.mark.parametrize("how", ["missing", "unexpected", "mis-shaped"])
def test_weights_that_do_not_fit(path, how):
    tfn().save_pretrained(path)
    weights = torch.load(path, weights_only=True)["state_dict"]
    name = "layers.0.kernel_self.0"
    value = weights.pop(name)
    if how == "unexpected":
        weights |= {name: value, "another": torch.zeros(1)}
    elif how == "mis-shaped":
        weights[name] = value[:, :3]
    change(path, state_dict=weights)
    expected = {
        "missing": rf'Missing key.*"{name}"',
        "unexpected": 'Unexpected key.*"another"',
        "mis-shaped": rf"size mismatch for {name}: .*\[1, 3, 4\].*\[1, 4, 4\]",
    }
    with pytest.raises(ValueError, match=rf"(?s)model\.pt: the weights do not fit the model: .*{expected[how]}"):
        TFN.from_pretrained(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex64, torch.int32])
def test_weights_of_several_dtypes_are_refused(path, dtype):
    """They would be the model's own as they are."""
    tfn().save_pretrained(path)
    weights = torch.load(path, weights_only=True)["state_dict"]
    name = "layers.0.kernel_self.0"
    change(path, state_dict={**weights, name: weights[name].to(dtype)})
    with pytest.raises(
        ValueError, match=r"model\.pt: expected weights of one dtype, got '[^']+' in [^']+, '[^']+' in \S+$"
    ):
        TFN.from_pretrained(path)


@pytest.mark.parametrize(
    "change_all",
    [lambda v: v.to(torch.complex64), lambda v: v.int()],
    ids=["complex", "integers"],
)
def test_weights_that_are_no_dense_floating_point_numbers_are_refused(path, change_all):
    tfn().save_pretrained(path)
    weights = torch.load(path, weights_only=True)["state_dict"]
    change(path, state_dict={name: change_all(v) for name, v in weights.items()})
    with pytest.raises(
        ValueError, match=r"model\.pt: expected weights that are dense tensors of floating-point numbers, got '"
    ):
        TFN.from_pretrained(path)


@pytest.mark.parametrize("change_all", [lambda v: v.to("meta"), lambda v: v.to_sparse()], ids=["meta", "sparse"])
def test_weights_that_are_not_in_the_file_number_by_number_are_refused(path, change_all):
    tfn().save_pretrained(path)
    weights = torch.load(path, weights_only=True)["state_dict"]
    change(path, state_dict={name: change_all(v) for name, v in weights.items()})
    with pytest.raises(
        ValueError, match=r"model\.pt: expected a whole checkpoint of tensors and plain values: .* refused"
    ):
        TFN.from_pretrained(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 10**8),
        ("fiber_hidden", {0: 10**6}),
        ("fiber_hidden", dict.fromkeys(range(3000), 16)),
        ("fiber_hidden", {0: 16, 10**5: 16}),
        ("fiber_in", {0: 10**15}),
        ("edge_dim", 10**12),
    ],
)
def test_a_model_larger_than_its_weights_is_not_built(path, name, value):
    transformer().save_pretrained(path)
    change(path, config={**torch.load(path, weights_only=True)["config"], name: value})
    with pytest.raises(ValueError, match=r"model\.pt: expected the arguments of a SE3Transformer, .* much larger than"):
        SE3Transformer.from_pretrained(path)


def test_odd_contents_are_refused_or_are_models(path):
    tfn().save_pretrained(path)
    content = torch.load(path, weights_only=True)
    described = {name: value for name, value in content.items() if name != "state_dict"}
    refused = 0
    for place, value in oddities(described, {name: odd for name, odd in ODD.items() if name != "nested"}, 40):
        torch.save({"state_dict": content["state_dict"], **changed(described, place, value)} if place else value, path)
        try:
            TFN.from_pretrained(path)
        except ValueError as error:
            refused += str(error).startswith(str(path))
    assert refused > 25


def test_what_does_not_fit_is_told_in_a_few_lines(path):
    transformer().save_pretrained(path)
    content = torch.load(path, weights_only=True)
    change(path, config={**content["config"], "fiber_hidden": {0: 8, 1: 8, 2: 8}})
    with pytest.raises(ValueError, match="lines more") as caught:
        SE3Transformer.from_pretrained(path)
    assert len(str(caught.value)) < 4000


# ------------------------------------------------------------------------------------------------- interrupted


def test_an_interrupted_save_leaves_the_old_file(path, monkeypatch):
    model = tfn()
    model.save_pretrained(path)

    def stop(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        tfn().save_pretrained(path)
    monkeypatch.undo()
    assert torch.equal(TFN.from_pretrained(path).layers[0].kernel_self["0"], model.layers[0].kernel_self["0"])
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_killed_save_leaves_the_old_file(path):
    model = tfn()
    model.save_pretrained(path)
    script = """
import os, signal, sys
from equivariant_attention.models import TFN
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
TFN({0: 64}, {0: 64}, {0: 64}).save_pretrained(sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)])
    assert done.returncode == -9
    assert len([*path.parent.iterdir()]) == 2  # with the one that was being written, under another name
    assert TFN.from_pretrained(path).config == model.config
