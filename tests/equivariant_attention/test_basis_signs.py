import copy
import io

import pytest
import torch

from equivariant_attention import basis_signs
from equivariant_attention.basis_signs import with_our_signs
from equivariant_attention.fibers import Fiber
from equivariant_attention.models import SE3Transformer
from equivariant_attention.modules import GConvSE3
from equivariant_attention.published import converted, signs
from tests.cases import SCALARS


@pytest.fixture(autouse=True)
def _not_warned_yet(monkeypatch):
    monkeypatch.setattr(basis_signs, "_has_warned", False)


def layer(fiber=None):
    return GConvSE3(fiber or Fiber(2, 3), fiber or Fiber(2, 3))


def of_published_code(weights):
    """As its modules leave them: the metadata have version 1 of everything."""
    theirs = copy.deepcopy(weights)
    for of_module in theirs._metadata.values():
        of_module["version"] = 1
    return theirs


@pytest.mark.parametrize("foreign", [dict, of_published_code])
def test_weights_of_unknown_origin_warn_once(foreign):
    weights = foreign(layer().state_dict())
    with pytest.warns(UserWarning, match=r"cache/trans_Q.*published\.converted\(weights, signs\)"):
        layer().load_state_dict(weights)
    layer().load_state_dict(weights)


def saved_and_loaded(weights):
    buffer = io.BytesIO()
    torch.save({"model": weights}, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)["model"]


@pytest.mark.parametrize(
    "way", [saved_and_loaded, copy.deepcopy, with_our_signs, lambda weights: converted(weights, {})]
)
def test_weights_of_this_library_do_not_warn(way):
    layer().load_state_dict(way(layer().state_dict()))


def test_scalars_alone_have_no_signs():
    layer(SCALARS).load_state_dict(dict(layer(SCALARS).state_dict()))


def test_nothing_is_said_of_what_is_not_loaded():
    layer().load_state_dict({}, strict=False)


def test_a_file_of_save_pretrained_from_before_the_versions(tmp_path):
    model = SE3Transformer(Fiber(1, 4), Fiber(2, 4), Fiber(1, 2), num_layers=1)
    model.save_pretrained(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["state_dict"] = of_published_code(content["state_dict"])
    torch.save(content, tmp_path / "model.pt")
    SE3Transformer.from_pretrained(tmp_path / "model.pt")


def test_a_file_of_save_pretrained_that_was_converted_for_a_client_warns(tmp_path):
    model = SE3Transformer(Fiber(1, 4), Fiber(2, 4), Fiber(1, 2), num_layers=1)
    model.save_pretrained(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.save(
        content | {"state_dict": converted(content["state_dict"], signs("danligand_func"))}, tmp_path / "model.pt"
    )
    with pytest.warns(UserWarning, match="whose basis"):
        SE3Transformer.from_pretrained(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "odd", [3, ["kernel_unary"], {"kernel_unary.(1,1)": 2}, {"kernel_unary.(1,1)": {"version": "2"}}]
)
def test_odd_metadata_of_a_file_say_nothing(odd):
    weights = layer().state_dict()
    weights._metadata = odd
    layer().load_state_dict(with_our_signs(weights))
    assert converted(weights, {})._metadata["kernel_unary.(1,1)"] == {"version": 2}


def test_as_an_error_it_comes_once_too():
    with pytest.raises(UserWarning, match="whose basis"):
        layer().load_state_dict(dict(layer().state_dict()))
    layer().load_state_dict(dict(layer().state_dict()))
