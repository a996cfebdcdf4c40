import pytest
import torch
from torch import nn

from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GConvSE3
from equivariant_attention.published import Signs, converted, fit_signs
from equivariant_attention.published.tables import triples
from tests.equivariant_attention.published.cases import Client, inputs, random_signs


def recorded(hidden, max_degree):
    """A client's model as it is loaded, its input, the output that it had, and its signs."""
    model, given, table = Client(hidden), inputs(max_degree), random_signs(max_degree)
    with torch.no_grad():
        output = model(**given)
    model.load_state_dict(converted(dict(model.state_dict()), table))
    return model, given, output, table


@pytest.mark.parametrize("as_keywords", [True, False])
def test_signs_of_degrees_0_and_1(as_keywords):
    model, given, output, table = recorded(Fiber(2, 4), 1)
    found = fit_signs(model, (given if as_keywords else tuple(given.values()), output))
    assert isinstance(found, Signs)
    assert found == table


def test_signs_of_higher_degrees_give_the_output_of_other_inputs_too():
    model, given, output, table = recorded(Fiber(3, 4), 2)
    other, expected = inputs(2), Client(Fiber(3, 4))
    found = fit_signs(model, (given, output))
    weights = dict(model.state_dict())
    expected.load_state_dict(converted(weights, table))
    model.load_state_dict(converted(weights, found))
    with torch.no_grad():
        for degree, value in expected(**other).items():
            torch.testing.assert_close(model(**other)[degree], value, rtol=1e-4, atol=1e-5)


def test_an_output_that_is_zero_in_part_and_a_single_argument():
    model, given, output, table = recorded(Fiber(2, 4), 1)
    layer = AnotherForm(model, given)
    assert fit_signs(layer, ((given["features"],), [output, torch.zeros(2)])) == table


class AnotherForm(nn.Module):
    """A model of one argument that returns something else as well."""

    def __init__(self, model, given):
        super().__init__()
        self.model, self.given = model, {name: value for name, value in given.items() if name != "features"}

    def forward(self, features):
        return [self.model(features, **self.given), torch.full((2,), 1e-30)]


def test_the_model_is_left_as_it_was():
    model, given, output, _ = recorded(Fiber(2, 4), 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_signs(model, (given, output))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_no_fit_is_said():
    model, given, output, _ = recorded(Fiber(2, 4), 1)
    wrong = {degree: value + 0.1 * value.abs().max() for degree, value in output.items()}
    with pytest.raises(ValueError, match=r"no signs that were tried give the output .* relative error of [.\d]+e-\d\d"):
        fit_signs(model, (given, wrong))


def test_what_an_example_does_not_determine_is_said():
    layer, given = GConvSE3(Fiber(2, 2), Fiber(2, 2)), inputs()
    given["h"] = given.pop("features") | {"1": torch.zeros(15, 2, 3)}
    with torch.no_grad():
        output = layer(**given)
    with pytest.raises(ValueError, match=r"does not determine .*\(1, 0, 1\), \(1, 1, 0\), \(1, 1, 1\), \(1, 1, 2\)"):
        fit_signs(layer, (given, output))


def test_examples_of_other_models_are_refused():
    model, given, output, _ = recorded(Fiber(2, 4), 1)
    with pytest.raises(ValueError, match=r"example must have the output of the model, of shapes .*, got"):
        fit_signs(model, (given, output["0"]))
    with pytest.raises(TypeError, match=r"example must have tensors.*got str"):
        fit_signs(model, (given, "output.pt"))
    with pytest.raises(ValueError, match="tolerance must be larger than 0"):
        fit_signs(model, (given, output), tolerance=0)


def test_every_pair_of_degrees_of_the_model_is_found():
    model, given, output, _ = recorded(Fiber(2, 4), 1)
    assert list(fit_signs(model, (given, output))) == [t for k in (0, 1) for l in (0, 1) for t in triples(k, l)]
