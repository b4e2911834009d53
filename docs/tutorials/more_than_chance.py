# %% [markdown]
# # Is what they share more than chance?
#
# A census of networks that were trained apart says, say, that a cluster is owned by seven of eight. Is that much?
# Clusters of anything have owners. Here every such number stands beside chance: members whose units are turned at
# random, and networks that were never trained.
#
# ## Eight networks

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import consilience as cs

data = cs.load_data("digits")
training = cs.Training(epochs=20, batch_size=64, learning_rate=3e-3)
trained = cs.train_population(
    cs.MLP(64, [32, 32], 10), data.train, n_members=8, training=training
)

torch.manual_seed(0)
untrained = cs.Population.from_modules(
    [cs.MLP(64, [32, 32], 10) for _ in range(8)], data.train.x[:16]
)

# %% [markdown]
# ## Frequency says little
#
# *By chance* is what the same clustering finds where each member's units are turned at random: the member computes the
# same, by other units.

# %%
censuses = {
    name: cs.Census(n_resamples=0).fit(population, data.calibration.x)
    for name, population in (("trained", trained), ("untrained", untrained))
}
for name, census in censuses.items():
    for layer, chance in census.significance_.items():
        frequency = census.layers_[layer].frequency_
        print(f"{name}, {layer}: share of the members that own a cluster")
        print(f"    the first {frequency[0]:.0%}, mean {frequency.mean():.0%}", end=", ")
        print(f"mean by chance {chance.turned.frequency.mean():.0%}")

# %% [markdown]
# With a fixed number of clusters, frequency is nearly a matter of their sizes.
#
# ## Nearness does
#
# The question to ask of a unit: is there one in the *other* members that responds alike, at a cosine above 0.9, more
# often than among turned units? Each cluster gets a p-value, and q, the rate of false discoveries among the clusters
# that are called significant. The interval is that of the difference from chance, in points.

# %%
for name, census in censuses.items():
    for layer, chance in census.significance_.items():
        share, (low, high) = chance.excess, chance.excess.interval
        significant = f"{chance.n_significant} of {len(chance.q)} clusters"
        print(f"{name}, {layer}: q <= 0.05 for {significant};")
        print(f"    {share.share:.0%} of the other members have a unit's like", end=", ")
        print(f"by chance {share.chance:.0%} ({100 * low:+.0f} to {100 * high:+.0f})")

# %%
figure, axes = plt.subplots(
    1, 2, figsize=(7, 3.4), layout="constrained", sharex=True, sharey=True
)
for ax, (name, census) in zip(axes, censuses.items(), strict=True):
    ax.axline((0, 0), slope=1, color="lightgray")
    for layer, chance in census.significance_.items():
        ax.plot(
            chance.chance, chance.recurrence, "." if layer == "hidden.0" else "+", label=layer
        )
    ax.set(title=name, xlabel="recurrence by chance", aspect="equal")
axes[0].set_ylabel("recurrence of each cluster")
axes[0].legend()

# %% [markdown]
# The trained networks share units beyond chance, the untrained ones do not. Here are the weights of some that are
# shared, as images of 8 × 8: each row is a cluster of the first layer, each image a unit of another member.

# %%
layer = censuses["trained"].layers_["hidden.0"]
chance = censuses["trained"].significance_["hidden.0"]
recurrent = np.argsort(
    -layer.frequency_ * (chance.q <= 0.05) * chance.recurrence, kind="stable"
)
figure, axes = plt.subplots(3, 6, figsize=(7, 3.6), layout="constrained")
for ax in axes.flat:
    ax.axis("off")
for row, cluster in zip(axes, recurrent, strict=False):
    owners, units = np.unique(
        np.where(layer.labels_ == cluster, layer.member, 8), return_index=True
    )
    for ax, owner, unit in zip(row, owners[owners < 8], units, strict=False):
        weights = trained[owner].module.hidden[0].weight[layer.index[unit]]
        ax.imshow(weights.detach().numpy().reshape(8, 8), cmap="RdBu")
        ax.set_title(f"member {owner}")

# %% [markdown]
# In a population without labels in common, or with shuffled ones, nearly nothing recurs:
# [Significance](../results/significance.md) has such controls, and how often the test is wrong. The
# [atlas](../atlas.md) shows all clusters of a census with these numbers, [motifs](../motifs.md) whether their wiring
# recurs too.
