# %% [markdown]
# # Make a network modular
#
# A network is trained on digits twice: as usual, and with a term in its loss that asks for four blocks of units which
# hardly read each other. Is the second one modular, beyond chance, and what does it cost?
#
# ## Two networks

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional

import consilience as cs
from consilience.modularity import specialisation

data = cs.load_data("digits")
of_unit = [j // 8 for j in range(32)]  # four blocks of eight units in each layer
blocks = {"hidden.0": of_unit, "hidden.1": of_unit}


def trained(weight: float) -> cs.MLP:
    torch.manual_seed(0)
    net = cs.MLP(64, [32, 32], 10)
    term = cs.CrossClusterLoss(blocks, net, data.train.x[:4])
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for rows in torch.randint(len(data.train), (300, 64)):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(data.train.x[rows]), data.train.y[rows])
        (loss + weight * term(net)).backward()
        optimizer.step()
    return net


nets = {"as usual": trained(0.0), "with the term": trained(20.0)}
for name, net in nets.items():
    print(f"{name}: accuracy {cs.evaluate(net, data.test).quality:.3f}")

# %% [markdown]
# The term is *enmeshment*: the share of the squared weights between hidden layers that lies outside of the blocks.
# `cs.EigenvalueLoss` needs no blocks and lets the network choose; both work in any training loop with any network that
# can be traced.

# %%
figure, axes = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
for ax, (name, net) in zip(axes, nets.items(), strict=True):
    weights = net.hidden[1].weight.detach().abs().numpy()
    ax.imshow(weights, cmap="Greys", vmax=np.quantile(weights, 0.99))
    ax.set(title=name, xlabel="unit read", ylabel="unit written")
    ax.grid(visible=False)

# %% [markdown]
# ## Is it modular?
#
# `Clusterability` does not know the blocks. It clusters all units, inputs and outputs included, by the weights between
# them, and compares the *n-cut*, the share of weight that is cut, with that of networks whose weights are shuffled so
# that every unit keeps the sum of its own. Negative z is more modular than chance.

# %%
for name, net in nets.items():
    measured = cs.Clusterability(n_clusters=4, null="degree-preserving", n_null=30).fit(
        net, data.train.x[:4]
    )
    print(f"{name}: n-cut {measured.n_cut_:.2f}, shuffled {measured.null_.mean():.2f},")
    print(f"    z {measured.z_:.1f}, p {measured.p_:.2f}")

# %% [markdown]
# The blocks are those of two layers, and the n-cut is of all units, inputs and outputs too; hence the moderate z.
#
# ## What does each block do?
#
# Which digits need which block? The accuracy that is lost on each with a block switched off:

# %%
traced = cs.Population.from_modules([*nets.values()], data.train.x[:4]).networks
figure, axes = plt.subplots(1, 2, figsize=(7, 2.4), layout="constrained", sharey=True)
for ax, name, network in zip(axes, nets, traced, strict=True):
    lost = specialisation(network, blocks, data.test.x, data.test.y).drop.T
    image = ax.imshow(100 * lost, cmap="Reds", vmin=0, vmax=100, aspect="auto")
    ax.set(title=name, xlabel="digit", xticks=range(10), yticks=range(4))
    ax.grid(visible=False)
axes[0].set_ylabel("block that is off")
figure.colorbar(image, ax=axes, label="accuracy lost (points)")

# %% [markdown]
# [Is it modular?](../modularity.md) has the report of the command line, hard masks, pruning, circuits, and what the
# p-values are worth; [results](../results/modularity.md) compare with published figures.
