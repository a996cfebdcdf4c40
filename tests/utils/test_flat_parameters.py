import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from utils.flat_parameters import ALIGNMENT, FlatParameters


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 7, bias=False), nn.LayerNorm(7), nn.Linear(7, 1))
    model[3].bias.requires_grad_(False)
    return model.to(dtype)


def loss(model, number):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(number), dtype=model[0].weight.dtype)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def test_names_values_and_memory():
    model, before = make_model(), make_model().state_dict()
    flat = FlatParameters(model)
    (whole,) = flat.whole
    assert model.state_dict().keys() == before.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for parameter in model.parameters():
        inside = 0 <= parameter.data_ptr() - whole.data_ptr() < whole.nbytes
        assert inside == parameter.requires_grad
        assert not inside or (parameter.data_ptr() - whole.data_ptr()) % (4 * ALIGNMENT) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_is_that_of_the_parameters_themselves(dtype):
    """Steps, clipping and the average: what PyTorch does with parameters one by one."""
    models = [make_model(dtype) for _ in range(2)]
    flat = FlatParameters(models[0])
    parts = [flat.whole, nn.ParameterList([p for p in models[1].parameters() if p.requires_grad])]
    adams = [torch.optim.AdamW(part, lr=0.1, weight_decay=0.1) for part in parts]
    averages = [AveragedModel(part, multi_avg_fn=get_ema_multi_avg_fn(0.9)) for part in parts]
    for number in range(5):
        flat.zero_grad()
        adams[1].zero_grad()
        norms = []
        for model, part, adam, average in zip(models, parts, adams, averages, strict=True):
            loss(model, number).backward()
            if model is models[0]:
                flat.join_gradients()
            norms.append(nn.utils.clip_grad_norm_(part, 0.5))
            adam.step()
            average.update_parameters(part)
        torch.testing.assert_close(*norms)
        torch.testing.assert_close(*(dict(model.named_parameters()) for model in models))
    FlatParameters(copy.deepcopy(models[0]))  # a copy has memory of its own
    torch.testing.assert_close(*(dict(model.named_parameters()) for model in models))
    own = FlatParameters(models[1]).whole
    torch.testing.assert_close(flat.whole[0], own[0])


def test_joined_gradients_are_those_of_the_model_and_missing_ones_are_zero():
    model = make_model()
    flat = FlatParameters(model)
    (whole,) = flat.whole
    model(torch.ones(1, 3)).sum().backward()
    flat.zero_grad()
    model[:3](torch.ones(1, 3)).sum().backward()  # which leaves the last layers out
    alone = {name: p.grad.clone() for name, p in model[:3].named_parameters()}
    flat.join_gradients()
    torch.testing.assert_close({name: p.grad for name, p in model[:3].named_parameters()}, alone, rtol=0, atol=0)
    assert not model[4].weight.grad.any()
    whole.grad.mul_(2)  # as clipping does
    torch.testing.assert_close(model[0].weight.grad, 2 * alone["0.weight"], rtol=0, atol=0)
    assert whole.grad.norm() == pytest.approx(torch.stack([2 * g.norm() for g in alone.values()]).norm().item())


def test_weights_that_are_loaded_are_those_of_the_whole():
    model, other = make_model(), make_model()
    with torch.no_grad():
        other[0].weight.fill_(7.0)
    flat = FlatParameters(model)
    model.load_state_dict(other.state_dict())
    assert (flat.whole[0] == 7.0).sum() == 15


def test_parameters_of_several_dtypes():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double(), nn.Linear(2, 20))
    flat = FlatParameters(model)
    assert [whole.dtype for whole in flat.whole] == [torch.float32, torch.float64]
    for number, parameter in enumerate(model.parameters(), 1):
        parameter.grad = torch.full_like(parameter, number)
    flat.join_gradients()
    for number, parameter in enumerate(model.parameters(), 1):
        assert torch.equal(parameter.grad, torch.full_like(parameter, number))
    assert [whole.grad.sum().item() for whole in flat.whole] == [1 * 6 + 2 * 2 + 5 * 40 + 6 * 20, 3 * 4 + 4 * 2]


def test_gradients_of_other_strides():
    model = nn.Linear(3, 5)
    flat = FlatParameters(model)
    gradient = torch.arange(15.0).view(3, 5).t()
    model.weight.grad = gradient
    flat.join_gradients()
    assert torch.equal(model.weight.grad, gradient)
    assert model.weight.grad.is_contiguous()
    assert torch.equal(flat.whole[0].grad[:16], torch.cat([gradient.flatten(), torch.zeros(1)]))


def test_gradients_are_joined_where_those_before_were():
    """CUDA graphs write to the same memory in every step."""
    model = make_model()
    flat = FlatParameters(model)
    (whole,) = flat.whole
    places = []
    for number in range(2):
        flat.zero_grad()
        loss(model, number).backward()
        flat.join_gradients()
        places.append([whole.grad.data_ptr(), *(p.grad.data_ptr() for p in model.parameters() if p.requires_grad)])
    assert places[0] == places[1]
    with pytest.raises(RuntimeError, match="memory location"):
        flat.join_gradients()


def test_writing_to_the_whole_is_counted():
    """A loss from before is not differentiated with the weights of after."""
    model = make_model()
    flat = FlatParameters(model)
    before = loss(model, 0)
    with torch.no_grad():
        flat.whole[0].mul_(2)
    flat.written()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        before.backward()
