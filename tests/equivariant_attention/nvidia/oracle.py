"""NVIDIA's dialect as its equations are written: plain einsums over a state dict, with no class of the library."""

import math
import re

import numpy as np
import torch

from equivariant_attention.so3 import spherical_harmonics
from equivariant_attention.so3.couplings import real_clebsch_gordan


def kernels(rel_pos, k, l):
    """``[edges, 2l+1, 2k+1, F]``."""
    length = rel_pos.norm(dim=-1, keepdim=True)
    harmonics = spherical_harmonics(k + l, rel_pos / length)
    found = []
    for J in range(abs(k - l), k + l + 1):
        Q = torch.from_numpy(np.array(real_clebsch_gordan(J, k, l))).to(rel_pos)
        found.append(torch.einsum("em,mkl->elk", harmonics[:, J**2 : (J + 1) ** 2], Q))
    return torch.stack(found, dim=-1)


def radial(weights, prefix, scalars):
    """The output of a radial network: what stands between its Linears is told by their numbers."""
    places = sorted({int(name.split(".")[-2]) for name in weights if name.startswith(f"{prefix}.net.")})
    x, linears = scalars, [0, 3, 6] if 6 in places else [0, 2, 4]
    for i in linears:
        x = x @ weights[f"{prefix}.net.{i}.weight"].T
        if i != linears[-1]:
            x = x + weights[f"{prefix}.net.{i}.bias"]
            if len(places) > 3:
                x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                x = x * weights[f"{prefix}.net.{i + 1}.weight"] + weights[f"{prefix}.net.{i + 1}.bias"]
            x = x.clamp_min(0)
    return x


def messages(weights, sent, fiber_out, scalars, rel_pos):
    """Along every edge, ``{l: [edges, c_out, 2l+1]}``, in whatever layout the weights are.

    Args:
        weights: of a convolution.
        sent: ``{k: [edges, c_in, 2k+1]}``.
        fiber_out: ``{l: c_out}``.
        scalars: what the radial networks see.
        rel_pos: relative positions.
    """
    degrees_in, degrees_out = sorted(sent), sorted(fiber_out)
    output = dict.fromkeys(degrees_out, 0)
    for prefix in dict.fromkeys(re.sub(r"\.net\..*", "", name) for name in weights if ".net." in name):
        numbers = [int(n) for n in re.findall(r"\d+", prefix)]
        if prefix == "conv.radial_func":
            pairs = [(k, l) for l in degrees_out for k in degrees_in]
        elif prefix.startswith("conv_out"):
            pairs = [(k, numbers[0]) for k in degrees_in]
        elif prefix.startswith("conv_in"):
            pairs = [(numbers[0], l) for l in degrees_out]
        else:
            pairs = [tuple(numbers)]
        R, first = radial(weights, prefix, scalars), 0
        for k, l in pairs:
            F, c_in = 2 * min(k, l) + 1, sent[k].shape[1]
            of_pair = R.view(len(R), fiber_out[l], c_in, -1)[..., first : first + F]
            W = kernels(rel_pos, k, l)
            if k == l == 0 and "," in prefix:
                W = torch.ones_like(W)
            output[l] = output[l] + torch.einsum("eoif,elkf,eik->eol", of_pair, W, sent[k])
            first += F
        assert first * math.prod((fiber_out[pairs[0][1]], sent[pairs[0][0]].shape[1])) == R.shape[1]
    return output


def below(weights, prefix):
    return {name[len(prefix) + 1 :]: value for name, value in weights.items() if name.startswith(f"{prefix}.")}


def convolution(weights, node, edge, src, dst, rel_pos, fiber_out, pool=True, mean=False):
    """``{l: [nodes or edges, c, 2l+1]}`` from ``{k: [nodes, c, 2k+1]}`` and those of edges, distance included."""
    sent = {k: v[src] if k == 0 or k not in edge else torch.cat([v[src], edge[k]], dim=1) for k, v in node.items()}
    output = messages(weights, sent, fiber_out, edge[0].squeeze(-1), rel_pos)
    for l in output:
        if f"to_kernel_self.{l}" in weights:
            own = torch.einsum("oi,nim->nom", weights[f"to_kernel_self.{l}"], node[l])
            output[l] = output[l] + own[dst]
    if not pool:
        return output
    nodes = len(next(iter(node.values())))
    return {l: gathered(m, dst, nodes) / (count(dst, nodes) if mean else 1) for l, m in output.items()}


def gathered(values, dst, nodes):
    return torch.stack([values[dst == node].sum(0) for node in range(nodes)])


def count(dst, nodes):
    return torch.bincount(dst, minlength=nodes).clamp_min(1)[:, None, None]


def linear(weights, features):
    return {int(l): torch.einsum("oi,nim->nom", W, features[int(l)]) for l, W in below(weights, "weights").items()}


def attention(weights, node, edge, src, dst, rel_pos, fiber_out, num_heads, divisors):
    """An attention block; ``divisors`` of the channels of each degree."""
    value = {l: m // divisors[l] for l, m in fiber_out.items()}
    both = {l: m * (2 if l in node else 1) for l, m in value.items()}
    made = convolution(below(weights, "to_key_value"), node, edge, src, dst, rel_pos, both, pool=False)
    v = {l: m[:, : value[l]] for l, m in made.items()}
    k = {l: m[:, value[l] :] for l, m in made.items() if l in node}
    q = linear(below(weights, "to_query"), node)
    n = sum(value[l] * (2 * l + 1) for l in k)
    nodes, heads = len(next(iter(node.values()))), {}
    logits = sum(
        torch.einsum("ehcm,ehcm->eh", q[l][dst].unflatten(1, (num_heads, -1)), k[l].unflatten(1, (num_heads, -1)))
        for l in k
    )
    exponentials = (logits / n**0.5).exp()
    alpha = exponentials / gathered(exponentials, dst, nodes)[dst]
    for l, m in v.items():
        weighted = alpha[:, :, None, None] * m.unflatten(1, (num_heads, -1))
        heads[l] = gathered(weighted.flatten(1, 2), dst, nodes)
    together = {l: torch.cat([m, node[l]], dim=1) if l in node else m for l, m in heads.items()}
    return linear(below(weights, "project"), together)


def norm(weights, features):
    output, degrees = {}, sorted(features)
    first, largest = 0, torch.cat([v.norm(dim=-1) for v in features.values()], dim=1).amax(1)[:, None, None]
    for l in degrees:
        v = features[l]
        n = v.norm(dim=-1, keepdim=True)
        # What this library takes for rounding noise counts as zero, unlike in the package.
        noise = n < (2**-13 if l else 8 * torch.finfo(n.dtype).eps) * largest
        v, n = v.masked_fill(noise, 0), n.masked_fill(noise, 0).clamp_min(2**-24)
        x, part = n.squeeze(-1), slice(first, first + v.shape[1])
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        if "group_norm.weight" in weights:
            x = x * weights["group_norm.weight"][part] + weights["group_norm.bias"][part]
        else:
            x = x * weights[f"layer_norms.{l}.weight"] + weights[f"layer_norms.{l}.bias"]
        output[l] = v / n * x.clamp_min(0).unsqueeze(-1)
        first += v.shape[1]
    return output


LENGTHS = {
    "lin": lambda r: r,
    "arcsin": lambda r: torch.asinh(torch.clamp(r, min=4) - 4) / 3,
    "log": lambda r: torch.log(1 + r),
    "zero": lambda r: 0 * r,
}


def transformer(
    weights, fiber_hidden, fiber_out, num_layers, num_heads, channels_div, node, edge, src, dst, rel_pos, **options
):
    """A whole SE3Transformer on ``{k: [nodes, c, 2k+1]}`` and ``{k: [edges, c, 2k+1]}``."""
    length = LENGTHS[options.get("populate_edge", "lin")](rel_pos.norm(dim=-1))[:, None, None]
    edge = {**edge, 0: torch.cat([edge[0], length], dim=1) if 0 in edge else length}
    place = 0
    for _ in range(num_layers):
        divisors = dict.fromkeys(fiber_hidden, channels_div)
        layer = below(weights, f"graph_modules.{place}")
        node = attention(layer, node, edge, src, dst, rel_pos, fiber_hidden, num_heads, divisors)
        place += 1
        if options.get("norm", True):
            node = norm(below(weights, f"graph_modules.{place}"), node)
            place += 1
    last = below(weights, f"graph_modules.{place}")
    if options.get("final_layer", "conv") == "lin":
        return linear(last, node)
    if options.get("final_layer") == "att":
        divisors = {l: 1 if l else channels_div for l in fiber_out}
        return attention(last, node, edge, src, dst, rel_pos, fiber_out, 1, divisors)
    return convolution(last, node, edge, src, dst, rel_pos, fiber_out, mean=not options.get("sum_over_edge", True))
