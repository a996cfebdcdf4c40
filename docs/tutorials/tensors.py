"""
Vectors and symmetric 3x3 tensors as outputs
============================================

Dipole moments are vectors, polarisabilities and moments of inertia symmetric 3x3
tensors. A model gives all of them at once: a vector is a feature of degree 1, and a
symmetric tensor one of degree 0 (its trace) and one of degree 2 (the rest).

We make up molecules of five atoms, compute how they polarise in an electric field and
in that of their own charges, and learn both. A quarter of a minute on one core.
"""

import math

import matplotlib.pyplot as plt
import torch
from equivariant_attention.models import SE3Transformer
from equivariant_attention.neighbors import fully_connected_graph
from equivariant_attention.so3 import (
    features_to_symmetric_tensor,
    random_rotation,
    symmetric_tensor_to_features,
    wigner_d,
)
from equivariant_attention.testing import assert_equivariant

torch.manual_seed(0)

# %%
# A symmetric tensor is degree 0 and degree 2
# -------------------------------------------
# Of the six numbers of a symmetric tensor, the trace stays the same when the tensor is
# turned, :math:`R T R^T`, and the other five mix among themselves.
# ``symmetric_tensor_to_features`` splits it accordingly, in the library's convention:

T = torch.tensor([[3.0, 0.5, 0.0], [0.5, 2.0, -1.0], [0.0, -1.0, 1.0]])
features = symmetric_tensor_to_features(T)
for degree, numbers in features.items():
    print(degree, numbers)

# %%
# The degrees stand for orthonormal matrices, so norms are kept, and
# ``features_to_symmetric_tensor`` leads back exactly. By name, with x, y, z in this
# order and y the polar axis:

s2, s6 = math.sqrt(2), math.sqrt(6)
xx, yy, zz, xy, yz, xz = T[0, 0], T[1, 1], T[2, 2], T[0, 1], T[1, 2], T[0, 2]
by_name = torch.stack(
    [s2 * xz, s2 * xy, (2 * yy - xx - zz) / s6, s2 * yz, (zz - xx) / s2]
)
torch.testing.assert_close(features["2"], by_name)
torch.testing.assert_close(features["0"], T.trace().reshape(1) / math.sqrt(3))
torch.testing.assert_close(features_to_symmetric_tensor(features), T)

# %%
# Turning the tensor turns the five numbers with the Wigner matrix of degree 2:

R = random_rotation()
torch.testing.assert_close(
    symmetric_tensor_to_features(R @ T @ R.T)["2"], wigner_d(2, R) @ features["2"]
)

# %%
# Molecules that polarise
# -----------------------
# Atom i has a polarisability :math:`\alpha_i` and a charge :math:`q_i`. Its dipole is
# induced by the field there, which is that of the charges and of all other dipoles:
#
# .. math:: \mu_i / \alpha_i = E_i + \sum_{j \neq i} T_{ij} \mu_j, \qquad
#           T_{ij} = \frac{3 d d^T - |d|^2}{(|d|^2 + 1)^{5/2}}, \quad d = x_i - x_j
#
# (the 1 keeps close atoms from polarising each other without bound). Solved for the
# dipoles, their sum is the dipole moment of the molecule, and its derivative with
# respect to a field the same everywhere is the polarisability.

ATOMS = 5


def molecules(n):
    """Positions, alpha and q; dipole moments [n, 3], polarisabilities [n, 3, 3]."""
    x = torch.randn(n, ATOMS, 3)
    alpha = 0.15 + 0.35 * torch.rand(n, ATOMS)
    q = torch.randn(n, ATOMS)
    q = q - q.mean(1, keepdim=True)
    d = x[:, :, None] - x[:, None, :]
    r2 = d.square().sum(-1)
    field = (q[:, None, :, None] * d / (r2[..., None] + 1) ** 1.5).sum(2)
    eye = torch.eye(3)
    coupling = (3 * d[..., :, None] * d[..., None, :] - r2[..., None, None] * eye) / (
        r2[..., None, None] + 1
    ) ** 2.5
    blocks = (
        torch.diag_embed(1 / alpha)[..., None, None] * eye - coupling
    )  # [n, atoms, atoms, 3, 3]
    response = torch.linalg.inv(blocks.transpose(2, 3).flatten(1, 2).flatten(2, 3))
    response = response.unflatten(2, (ATOMS, 3)).sum(2)  # to one field everywhere
    polarisability = response.unflatten(1, (ATOMS, 3)).sum(1)
    dipole = torch.einsum("nrj,nr->nj", response, field.flatten(1))
    return (x, alpha, q), (dipole, polarisability)


# %%
# The model
# ---------
# In: the two scalars of an atom. Out, per molecule: a scalar, a vector and a feature of
# degree 2. Dicts from degree to number of channels say so. As features of the edges,
# the scalars of both ends let what an edge does depend on the pair. Pooling takes the
# mean over the atoms; we want the sum, and each molecule has five of them.
#
# Atoms that do not feel each other would have a polarisability of :math:`\sum_i
# \alpha_i` times 1. That is known, so the model adds to it.

model = SE3Transformer(
    {0: 2},
    {0: 8, 1: 8, 2: 8},
    {0: 1, 1: 1, 2: 1},
    num_layers=1,
    n_heads=2,
    edge_dim=4,
    pooling="avg",
)


def trivial(x, alpha, q):
    """Dipole moments of zero; polarisabilities of atoms that feel no other."""
    return torch.zeros(len(x), 3), alpha.sum(1)[:, None, None] * torch.eye(3)


def graphs(x, alpha, q):
    """One batch of fully connected graphs."""
    G = fully_connected_graph(
        x.flatten(0, 1), batch=torch.arange(len(x)).repeat_interleave(ATOMS)
    )
    atom = torch.stack([10 * (alpha - 0.325), q], dim=-1).flatten(0, 1)
    src, dst = G.edges()
    G.ndata["atom"] = atom[:, :, None]
    G.edata["w"] = torch.cat([atom[src], atom[dst]], dim=-1)
    return G


def outputs(G):
    """By degree, [molecules, 2 degree + 1]."""
    return {
        degree: ATOMS * value.squeeze(1)
        for degree, value in model(G, {"0": G.ndata["atom"]}).items()
    }


def predict(x, alpha, q):
    """Dipole moments [n, 3] and polarisabilities [n, 3, 3]."""
    output = outputs(graphs(x, alpha, q))
    zero, alone = trivial(x, alpha, q)
    return zero + output["1"], alone + features_to_symmetric_tensor(output)


# %%
# Untrained, it is equivariant already, in each of its outputs:

inputs, _ = molecules(2)
errors = assert_equivariant(outputs, graphs(*inputs), tolerance=1e-4)
for name, error in errors.items():
    print(f"{name:12} {error:.0e}")

# %%
# Training
# --------
# Tensors are compared with tensors. (Comparing features with
# ``symmetric_tensor_to_features`` of the target would be the same, as norms are kept.)
# Both errors count relative to what no model leaves. Molecules are new in every step.


def errors(prediction, truth):
    """Mean squared norms of what differs, of dipole moments and of polarisabilities."""
    return [
        (p - t).flatten(1).square().sum(1).mean()
        for p, t in zip(prediction, truth, strict=True)
    ]


test, truth = molecules(512)
left = errors(trivial(*test), truth)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
STEPS = 250
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
for _ in range(STEPS):
    inputs, targets = molecules(32)
    loss = sum(
        error / scale
        for error, scale in zip(errors(predict(*inputs), targets), left, strict=True)
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# %%
# What was learnt
# ---------------
# On molecules that were not trained on, the dipole moment is off by 0.127 (root mean
# square), where it is 0.427 itself, and the polarisability by 0.135, where atoms that
# do not feel each other are off by 0.199.

with torch.no_grad():
    prediction = predict(*test)
for name, error, scale in zip(
    ("dipole moment", "polarisability"), errors(prediction, truth), left, strict=True
):
    print(f"{name:14}  error {error.sqrt():.3f}, without a model {scale.sqrt():.3f}")

# %%
# The predicted matrices are symmetric, and turn with the molecule:

(dipole, polarisability), (x, alpha, q) = prediction, test
R = random_rotation()
with torch.no_grad():
    turned_dipole, turned_polarisability = predict(x @ R.T, alpha, q)
torch.testing.assert_close(polarisability, polarisability.mT)
torch.testing.assert_close(turned_dipole, dipole @ R.T, rtol=0, atol=1e-4)
torch.testing.assert_close(
    turned_polarisability, R @ polarisability @ R.T, rtol=0, atol=1e-4
)

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for i in range(3):
    j = (i + 1) % 3
    axes[0].scatter(truth[0][:, i], dipole[:, i], s=4, label="xyz"[i])
    axes[1].scatter(
        truth[1][:, i, j], polarisability[:, i, j], s=4, label="xyz"[i] + "xyz"[j]
    )
for ax, name in zip(axes, ("dipole moment", "polarisability"), strict=True):
    ax.axline((0, 0), slope=1, color="black", linewidth=0.5)
    ax.set(xlabel=name, ylabel="predicted")
    ax.legend()
plt.show()
