import copy
import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from equivariant_attention.contraction import use_backend
from equivariant_attention.contraction.radial import changed, packed, packed_shapes, parameters, unpacked
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import BN, GConvSE3Partial, get_basis_and_r
from tests.cases import BACKENDS_HERE, awkward_graph, random_features, random_graph

FIBER = Fiber(2, 2)


def is_up_to_date(layer):
    for kernel in layer.kernel_unary.values():
        net = kernel.rp.net
        expected = [v for m in (net[0], net[1].bn, net[3], net[4].bn, net[6]) for v in (m.weight, m.bias)]
        assert all(torch.equal(a, b) for a, b in zip(parameters(kernel), expected, strict=True))
    return True


def as_loaded(layer):
    other = GConvSE3Partial(FIBER, FIBER)
    layer.load_state_dict(other.state_dict(), assign=True)
    assert parameters(layer.kernel_unary["(0,0)"])[0].data_ptr() == next(other.parameters()).data_ptr()
    return layer


def with_parameters_replaced(layer):
    last = layer.kernel_unary["(1,1)"].rp.net[6]
    last.bias = torch.nn.Parameter(torch.ones_like(last.bias))
    assert parameters(layer.kernel_unary["(1,1)"])[-1] is last.bias
    return layer


def parametrised(layer):
    for kernel in layer.kernel_unary.values():
        parametrizations.weight_norm(kernel.rp.net[0])
        parametrizations.spectral_norm(kernel.rp.net[6])
    return layer.eval()


@pytest.mark.parametrize(
    "change",
    [
        as_loaded,
        with_parameters_replaced,
        lambda layer: layer.double().float(),
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        parametrised,
    ],
)
def test_parameters_are_those_that_the_model_has_now(change):
    layer, G = GConvSE3Partial(FIBER, FIBER), random_graph(torch.float32)
    features = random_features(FIBER, G.num_nodes(), torch.float32)
    basis, r = get_basis_and_r(G, 1)
    layer(features, G=G, r=r, basis=basis)
    layer = change(layer)
    assert is_up_to_date(layer)
    found = []
    for backend in ("oracle", None):
        with use_backend(backend):
            output = layer(features, G=G, r=r, basis=basis)
        gradients = torch.autograd.grad(sum(v.square().sum() for v in output.values()), [*layer.parameters()])
        found.append([*output.values(), *gradients])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(
            value, expected, rtol=1e-3, atol=1e-4 * max(1.0, float(expected.detach().abs().max()))
        )


@pytest.mark.parametrize("absent", [(), (2, 3, 6, 7), (9,), (2, 3, 6, 7, 9)])
def test_packed_parameters_are_few_and_unpacked_again(absent):
    """Without LayerNorms, and without biases of last layers, too."""
    layer = GConvSE3Partial(FIBER, Fiber(3, 2))
    kernels = [layer.kernel_unary[f"({k},{l})"] for l in range(3) for k in range(2)]
    values = [v for kernel in kernels for v in parameters(kernel)]
    values = [None if i % 10 in absent else v for i, v in enumerate(values)]
    few = packed(values)
    assert len(few) == 9 + len(kernels)
    assert all(a is b for a, b in zip(few[9:], values[8::10], strict=True))
    for value, again in zip(values, unpacked(few), strict=True):
        assert (value is None and again is None) or torch.equal(value, again)
    if not absent:
        assert [tuple(v.shape) for v in few] == packed_shapes(layer.convolution, 1)


class LoRA(nn.Module):
    """As adapters are made: weight and bias are those of the layer inside."""

    def __init__(self, base):
        super().__init__()
        self.base, self.a = base, nn.Parameter(torch.randn(2, base.in_features))
        self.b = nn.Parameter(torch.randn(base.out_features, 2))

    weight, bias = property(lambda self: self.base.weight), property(lambda self: self.base.bias)

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


class Rounded(nn.Module):
    """As quantised layers are made: the first parameter of the whole layer is of integers."""

    def __init__(self, base):
        super().__init__()
        scale = 2 * base.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((base.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.scale, self.bias = nn.Parameter(4 * scale), base.bias

    def forward(self, x):
        return x @ (self.scale * self.weight).T + self.bias


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(place, make):
    """A change that puts another layer in a place of the radial network."""

    def change(kernel):
        kernel.rp.net[place] = make(kernel.rp.net[place])

    return change


def hooked(kernel):
    kernel.rp.net[6].register_forward_hook(lambda module, args, output: 2 * output)


def hooked_kernel(kernel):
    kernel.register_forward_hook(lambda module, args, output: 2 * output)


def hooked_before(kernel):
    kernel.rp.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def with_own_forward(kernel):
    kernel.rp.net[3].forward = lambda x: x.square()


def pruned(kernel):
    """And the mask is made again for weights that an optimiser has changed."""
    prune.l1_unstructured(kernel.rp.net[6], "weight", 0.5)
    with torch.no_grad():
        kernel.rp.net[6].weight_orig.mul_(3)


def normed_by_hook(kernel):
    weight_norm(kernel.rp.net[6])
    with torch.no_grad():
        kernel.rp.net[6].weight_g.mul_(3)


def of_other_epsilon(kernel):
    kernel.rp.net[1].bn.eps = 0.5


def without_shift(kernel):
    kernel.rp.net[4].bn.bias = None


def wider(kernel):
    net = kernel.rp.net
    net[0], net[1], net[3] = nn.Linear(1, 48), BN(48), nn.Linear(48, 32)


def wider_throughout(kernel):
    net = kernel.rp.net
    net[0], net[1], net[3], net[4] = nn.Linear(1, 48), BN(48), nn.Linear(48, 48), BN(48)
    net[6] = nn.Linear(48, net[6].out_features)


def shorter(kernel):
    kernel.rp.net = nn.Sequential(*kernel.rp.net[:3], kernel.rp.net[6])


def longer(kernel):
    kernel.rp.net.append(nn.Tanh())


CHANGES = {
    "activation": (replaced(2, lambda _: nn.SiLU()), ".rp.net.2", "edge"),
    "dropout": (replaced(5, lambda _: nn.Sequential(nn.ReLU(), nn.Dropout(0.5))), ".rp.net.5", "edge"),
    "adapter": (replaced(6, LoRA), ".rp.net.6", "edge"),
    "integers": (replaced(0, Rounded), ".rp.net.0", "edge"),
    "without bias": (replaced(6, lambda old: nn.Linear(32, old.out_features, bias=False)), ".rp.net.6", "edge"),
    "without hidden bias": (replaced(0, lambda _: nn.Linear(1, 32, bias=False)), ".rp.net.0", "edge"),
    "subclass": (replaced(6, lambda old: Scaled(32, old.out_features)), ".rp.net.6", "edge"),
    "other norm": (replaced(1, lambda _: nn.RMSNorm(32)), ".rp.net.1", "edge"),
    "hook": (hooked, ".rp.net.6", "edge"),
    "hook before": (hooked_before, ".rp", "edge"),
    "hook of a kernel": (hooked_kernel, "", "oracle"),
    "own forward": (with_own_forward, ".rp.net.3", "edge"),
    "mask": (pruned, ".rp.net.6", "edge"),
    "norm by a hook": (normed_by_hook, ".rp.net.6", "edge"),
    "epsilon": (of_other_epsilon, ".rp.net.1.bn", "edge"),
    "no shift": (without_shift, ".rp.net.4.bn", "edge"),
    "wider": (wider, ".rp.net.1.bn", "edge"),
    "wider throughout": (wider_throughout, ".rp.net.1.bn", "edge"),
    "shorter": (shorter, ".rp.net.4", "edge"),
    "longer": (longer, ".rp.net", "edge"),
}


@pytest.fixture
def problem():
    """A layer as a function of nothing, and the layer."""
    layer, G = GConvSE3Partial(FIBER, FIBER), random_graph(torch.float32)
    features = random_features(FIBER, G.num_nodes(), torch.float32)
    basis, r = get_basis_and_r(G, 1)
    with torch.no_grad():
        for parameter in layer.parameters():  # LayerNorms begin without a shift
            parameter += 0.1 * torch.randn_like(parameter)
    return layer, lambda: layer(features, G=G, r=r, basis=basis)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_changed_modules_are_called_or_refused_by_name(name, problem):
    (change, which, caller), (layer, compute) = CHANGES[name], problem
    before = compute()
    for kernel in layer.kernel_unary.values():
        assert changed(kernel) is None
        change(kernel)
        assert changed(kernel) == which

    def computed(backend):
        torch.manual_seed(1)  # of dropout
        with use_backend(backend):
            output = compute()
        trained = [v for v in layer.parameters() if v.requires_grad]
        loss = sum(v.square().sum() for v in output.values())
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)  # as where a forward was replaced
        return [*output.values(), *(d for d in gradients if d is not None)]

    expected = computed("oracle")
    assert not torch.allclose(expected[0], before["0"], rtol=1e-2)
    for backend in (None, caller):
        for a, b in zip(computed(backend), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(b.detach().abs().max())))
    for backend in {*BACKENDS_HERE} - {"oracle", caller}:
        with use_backend(backend), pytest.raises(ValueError, match=re.escape(f"one was changed: (0,0){which} ")):
            compute()


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:.*torch.ao:DeprecationWarning")
def test_a_quantised_layer_is_called(problem):
    layer, compute = problem
    expected = compute()
    for kernel in layer.kernel_unary.values():
        last = kernel.rp.net[6]
        kernel.rp.net[6] = torch.ao.nn.quantized.dynamic.Linear(32, last.out_features)
        scale = float(last.weight.detach().abs().max()) / 127
        weight = torch.quantize_per_tensor(last.weight.detach(), scale, 0, torch.qint8)
        kernel.rp.net[6].set_weight_bias(weight, last.bias.detach())
    for d, v in compute().items():
        torch.testing.assert_close(v, expected[d], rtol=0.1, atol=0.1 * float(expected[d].detach().abs().max()))


def test_modules_that_remember_are_called_once_on_all_edges(problem):
    """Blocks of edges, and making them again in the backward pass, would do it more often."""
    layer, compute = problem
    counts = []
    for kernel in layer.kernel_unary.values():
        kernel.rp.net[6].register_forward_hook(lambda module, args, output: counts.append(len(output)))
    with use_backend(None, memory=1):
        output = compute()
        sum(v.sum() for v in output.values()).backward()
    assert counts == [len(output["0"])] * len(layer.kernel_unary)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_a_parametrisation_that_remembers_is_evaluated_once(backend, problem):
    """Spectral norm takes a step of its own every time, in training; edges of length zero among the others."""
    layer = GConvSE3Partial(FIBER, FIBER)
    for kernel in layer.kernel_unary.values():
        parametrizations.spectral_norm(kernel.rp.net[6])
    G = awkward_graph(torch.float32)
    features = random_features(FIBER, G.num_nodes(), torch.float32)
    found, state = [], copy.deepcopy(layer.state_dict())
    for name in ("oracle", backend):
        layer.load_state_dict(state)
        basis, r = get_basis_and_r(G, 1)
        with use_backend(name, memory=1):
            output = layer(features, G=G, r=r, basis=basis)
            gradients = torch.autograd.grad(sum(v.square().sum() for v in output.values()), [*layer.parameters()])
        found.append([*output.values(), *gradients, *layer.buffers()])
        found[-1] = [v.detach().clone() for v in found[-1]]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(b.abs().max())))


WRONG = {
    "float64": (lambda kernel: kernel.double(), TypeError, "must be a tensor of torch.float32"),
    "float16": (lambda kernel: kernel.half(), TypeError, "must be a tensor of torch.float32"),
    "complex64": (lambda kernel: kernel.to(torch.complex64), TypeError, "must be a tensor of torch.float32"),
    "meta": (lambda kernel: kernel.to("meta"), ValueError, "must be on cpu"),
    "smaller": (replaced(6, lambda _: nn.Linear(32, 4)), ValueError, r"must have shape \[12, 32\], got \[4, 32\]"),
    "transposed": (
        replaced(6, lambda old: nn.Linear(old.out_features, 32)),
        ValueError,
        r"must have shape \[12, 32\], got \[32, 12\]",
    ),
    "other inputs": (replaced(0, lambda _: nn.Linear(3, 32)), ValueError, r"must have shape \[32, 1\], got \[32, 3\]"),
}


@pytest.mark.filterwarnings("ignore:Complex modules:UserWarning")
@pytest.mark.parametrize("backend", [None, "frame", "node"])
@pytest.mark.parametrize("name", WRONG)
def test_parameters_that_do_not_go_together_are_refused(name, backend, problem):
    (change, error, message), (layer, compute) = WRONG[name], problem
    change(layer.kernel_unary["(1,1)"])
    with use_backend(backend), pytest.raises(error, match=r"\(1,1\)\.rp\.net\.\d\.weight .*" + message):
        compute()


@pytest.mark.parametrize("other", [torch.float64, torch.float16, "smaller"])
def test_parameters_that_are_exchanged_before_the_backward_pass_are_refused(other, problem):
    layer, compute = problem
    output = compute()
    last = layer.kernel_unary["(1,1)"].rp.net[6].weight
    last.data = last.data[:1] if other == "smaller" else last.data.to(other)
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        sum(v.sum() for v in output.values()).backward()


def test_negated_parameters(problem):
    layer, compute = problem
    last = layer.kernel_unary["(0,0)"].rp.net[6]
    last.weight = nn.Parameter(torch._neg_view(last.weight.detach().clone()))
    with use_backend("oracle"):
        expected = compute()
    for d, v in compute().items():
        torch.testing.assert_close(v, expected[d])
