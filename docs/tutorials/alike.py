# %% [markdown]
# # Which checkpoints behave alike?
#
# A folder of checkpoints, and nobody remembers which came from which recipe. Their units cannot be compared one by one:
# some are perceptrons and some are ConvNets. What can be compared is which *samples* a layer puts together.
#
# ## Nine networks
#
# Three recipes, three seeds each: perceptrons, perceptrons trained on shuffled labels, and ConvNets.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch

import consilience as cs

data = cs.load_data("digits")
order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
shuffled = replace(data.train, y=data.train.y[order])
training = cs.Training(epochs=15, batch_size=64, learning_rate=3e-3)
recipes = {
    "perceptron": (cs.MLP(64, [32, 32], 10), data.train),
    "shuffled": (cs.MLP(64, [32, 32], 10), shuffled),
    "convnet": (cs.ConvNet(1, [8, 16], 10), data.train),
}
nets = {
    f"{name} {k}": member.module
    for name, (net, rows) in recipes.items()
    for k, member in enumerate(cs.train_population(net, rows, n_members=3, training=training))
}

# %% [markdown]
# ## Compared
#
# Each layer clusters the same 359 images by its activations. Two networks are as similar as these clusterings are, by
# the adjusted Rand index: 1 where they are the same, 0 as by chance. Layers are aligned by name or by depth, and no
# labels are needed.

# %%
comparison = cs.ModelComparison(n_clusters=10).fit(nets, data.test.x)
for place, groups in comparison.groups_.items():
    print(f"{place}: {groups.n_groups} groups")
    for group in range(groups.n_groups):
        models = np.flatnonzero(groups.labels == group)
        print("   ", ", ".join(comparison.names_[k] for k in models))

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained")
for ax, (place, values) in zip(axes, comparison.matrix_.items(), strict=True):
    image = ax.imshow(values, vmin=0, vmax=1)
    ax.set_title(place)
    ax.set_xticks(range(len(nets)), nets, rotation=90)
    ax.set_yticks(range(len(nets)), nets)
    ax.grid(visible=False)
figure.colorbar(image, ax=axes, label="adjusted Rand index")

# %% [markdown]
# The first layers tell the recipes apart: ConvNets, perceptrons, and perceptrons that had noise to learn, which are
# hardly like each other. In the last hidden layer the task counts: networks that have learned the digits put the same
# images together, whatever they are made of.
#
# Other measures (`measure="cka"`, `"procrustes"`, `"rsa"`) compare the activations themselves. None says whether
# networks can be merged: that is the question of [One network out of many](../one-network.md).
#
# [Which networks behave similarly?](../comparison.md) has the report of the command line, networks at several epochs,
# and a test of families; [results](../results/comparison-mnist.md) say which measure finds known families.
