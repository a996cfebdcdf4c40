"""
Training with Lightning
=======================

A model of this library is a ``torch.nn.Module`` and a graph moves to a device by its
own ``to``. That is all that Lightning asks: steps, devices, validation, checkpoints and
early stopping are as with any other model. Ten seconds on one core.

It needs ``pip install pytorch-lightning``. Where ``lightning`` is installed, it is
``import lightning`` instead; all else stays.
"""

import logging
import tempfile
import warnings

import matplotlib.pyplot as plt
import pytorch_lightning as lightning
import torch
from equivariant_attention.graphs import batch
from equivariant_attention.models import SE3Transformer
from equivariant_attention.neighbors import knn_graph
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

# Lightning tells what hardware there is, and warns that loaders have one process.
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="pytorch_lightning")
lightning.seed_everything(0, verbose=False)

# %%
# Data
# ----
# Graphs of ten random points, each with its four nearest neighbours. Wanted is an arrow
# from every point to the middle of these. ``edata['d']`` leads from a neighbour to the
# point. ``batch`` joins graphs, and is what a loader needs.


def sample():
    """A graph with its target."""
    G = knn_graph(torch.randn(10, 3), k=4)
    G.ndata["arrow"] = -G.edata["d"].view(10, 4, 3).mean(dim=1, keepdim=True)
    return G


def loader(number, shuffle):
    """Batches of 16 graphs."""
    graphs = [sample() for _ in range(number)]
    return DataLoader(graphs, batch_size=16, shuffle=shuffle, collate_fn=batch)


train, valid = loader(256, shuffle=True), loader(64, shuffle=False)

# %%
# The module
# ----------
# ``batch_size`` tells Lightning how many graphs a mean is over: it cannot count them.
# ``log`` keeps what validation chooses weights by.


class Arrows(lightning.LightningModule):
    """Learns to point to the middle of a point's neighbours."""

    def __init__(self):
        super().__init__()
        self.model = SE3Transformer(
            {0: 1}, {0: 8, 1: 8}, {1: 1}, num_layers=1, return_type=1
        )
        self.errors = []

    def error(self, G):
        """Mean squared error of the arrows."""
        predicted = self.model(G, {0: torch.ones(G.num_nodes(), 1, 1, device=G.device)})
        return (predicted - G.ndata["arrow"]).square().mean()

    def training_step(self, G, _):
        """The loss of a batch."""
        loss = self.error(G)
        self.log("train", loss, batch_size=G.batch_size)
        return loss

    def validation_step(self, G, _):
        """The error of a batch."""
        self.log("valid", self.error(G), batch_size=G.batch_size)

    def on_validation_epoch_end(self):
        """Remembers the error, to draw it."""
        self.errors.append(float(self.trainer.callback_metrics["valid"]))

    def configure_optimizers(self):
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-2)


# %%
# Training
# --------
# On this machine's CPU; ``accelerator="gpu"`` and ``devices=2`` are Lightning's affair.
# A checkpoint keeps the weights with the smallest error.

folder = tempfile.mkdtemp()
best = ModelCheckpoint(folder, filename="best", monitor="valid")
trainer = lightning.Trainer(
    accelerator="cpu",
    max_epochs=10,
    callbacks=[best],
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
arrows = Arrows()
trainer.fit(arrows, train, valid)

# %%
# The first value is from before the training, of two batches, which Lightning tries.

print(f"error {arrows.errors[0]:.3f} before, {min(arrows.errors[1:]):.4f} at best")
assert min(arrows.errors[1:]) < 0.1 * arrows.errors[0]

plt.figure(figsize=(6, 3.5), layout="constrained")
plt.plot(arrows.errors)
plt.gca().set(xlabel="epoch", ylabel="mean squared error", yscale="log")
plt.show()

# %%
# What remains
# ------------
# Lightning's checkpoint has the module with its optimizer. The model alone goes into a
# file of its own, which needs no Lightning.

again = Arrows.load_from_checkpoint(best.best_model_path)
again.model.save_pretrained(f"{folder}/model.pt")
model = SE3Transformer.from_pretrained(f"{folder}/model.pt")
G = next(iter(valid))
with torch.no_grad():
    expected = again.model(G, {0: torch.ones(G.num_nodes(), 1, 1)})
    assert torch.equal(model(G, {0: torch.ones(G.num_nodes(), 1, 1)}), expected)
