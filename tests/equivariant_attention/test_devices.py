"""Nothing assumes a CPU: layers run on another device, and never look at values.

PyTorch's 'meta' tensors have a device and a shape but no values. Mixing them with a CPU's is an error, as on a GPU, and
so is asking for a value, which on a GPU would make the host wait.
"""

import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.plan import Plan
from tests.cases import BACKENDS_HERE, random_features, random_graph
from tests.equivariant_attention.modules.test_every_layer import EDGE_DIM, LAYERS


@pytest.mark.parametrize("backend", sorted(set(BACKENDS_HERE) - {"cpp", "cpp-node", "triton"}))
@pytest.mark.parametrize("name", LAYERS)
def test_layers_stay_on_their_device_and_do_not_wait(name, backend):
    make, fiber, _ = LAYERS[name]
    layer, G = make().to("meta"), random_graph(torch.float32, EDGE_DIM)
    plan = Plan(G)
    if backend == "node":
        _ = plan.out_edges  # made ahead, they go with it
    plan, G = plan.to("meta"), G.to("meta")
    features = random_features(fiber, G.num_nodes(), torch.float32)
    features = {d: v.to("meta").requires_grad_() for d, v in features.items()}
    with use_backend(backend):
        basis, r = get_basis_and_r(G, 3, plan=plan)
        output = layer(features, G=G, r=r, basis=basis)
    values = [output] if torch.is_tensor(output) else list(output.values())
    sum(v.square().sum() for v in values).backward()
    assert {v.device.type for v in values} == {"meta"}
    assert {v.grad.device.type for v in features.values() if v.grad is not None} == {"meta"}
