# mypy: ignore-errors
# ruff: noqa: ANN
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Pair:
    feature: int
    message: int
    network: int
    first: int
    step_out: int
    step_in: int
    scales: tuple


@dataclass(frozen=True)
class Convolution:
    features: tuple
    messages: tuple
    pairs: tuple
    rows: tuple
    has_norm: bool = True
    has_bias: bool = True


@dataclass
class Inputs:
    features: dict
    src: object
    scalars: object
    basis: object
    pairs_share: bool = False
    on_edges: dict = None
    first: dict = None


def contract(conv, networks, inputs, backend=None):
    Rs = [n.radial_weights(inputs.scalars) for n in networks]
    out = [0] * len(conv.messages)
    for p in conv.pairs:
        (k, m_in), (l, m_out) = conv.features[p.feature], conv.messages[p.message]
        F = 2 * min(k, l) + 1
        sent = inputs.features[str(k)][inputs.src]
        if str(k) in inputs.on_edges:
            sent = torch.cat([sent, inputs.on_edges[str(k)]], 1)
        o, i, J = (torch.arange(n) for n in (m_out, m_in, F))
        rows = p.first + o[:, None, None] * p.step_out + i[:, None] * p.step_in + J
        R = Rs[p.network][:, rows]
        W = inputs.basis[f"{k},{l}"][:, 0, :, 0]
        if p.scales:
            W = W * torch.tensor(p.scales, dtype=W.dtype)
        out[p.message] = out[p.message] + torch.einsum("eoif,eabf,eib->eoa", R, W, sent)
    return out
