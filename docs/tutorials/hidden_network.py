# %% [markdown]
# # Recover a hidden network
#
# Somebody computes outputs from your inputs by a network that you cannot see. How many units does it have, and which
# weights? Here the hidden network is ours, so that the answer can be checked.
#
# ## The outputs
#
# Four inputs, three tanh units, two outputs:

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch

import consilience as cs
from consilience.recovery import IdentifiabilityWarning

torch.manual_seed(0)
hidden = cs.MLP(4, [3], 2, activation="tanh")
for parameter in hidden.parameters():
    torch.nn.init.normal_(parameter)
x = torch.randn(300, 4)
y = hidden(x).detach()

# %% [markdown]
# ## The network behind them
#
# Students four times as wide as the expected size are trained on the outputs to machine precision. Units that all of
# them share are those of the hidden network. Without `n_units` and `activation` both are searched for, which takes
# longer.

# %%
found = cs.ExpandAndCluster(n_units=3, n_students=8, activation="tanh").fit(x, y)
print(f"hidden units: {found.n_units_}")
print(f"exact: {found.diagnostics_.exact}")

# %% [markdown]
# *Exact* is a claim with evidence: the network explains rows that were kept from every fit, the fitted rows determine
# every weight, and the students agree on every unit. Where one of them is missing, `diagnostics_.reason` says which.

# %%
evidence = found.diagnostics_.evidence
print(f"determined parameters: {evidence.rank} of {evidence.n_free}")
print(f"rows kept from the fit: {evidence.n_held_out}")
print(f"students that share each unit, at least: {evidence.agreement[0].n_agreeing} of 8")

# %% [markdown]
# ## Is it the hidden network?
#
# Up to the order and the signs of its units, which no output can tell, it is:

# %%
distance = found.distance_to(hidden)
print(distance.pairs[0], "recovered and hidden unit of each pair")
print(f"all weights right to 1e-4: {distance.worst_error < 1e-4}")

# %%
(stage,) = found.diagnostics_.stages
heights = np.maximum(stage.cut.tree.heights, 1e-8)
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
left.plot(heights, stage.cut.tree.n_leaves - 1 - np.arange(len(heights)), ".")
left.axvspan(*stage.cut.plateau, alpha=0.2)
left.set(
    xscale="log",
    xlabel="distance at which units of students merge",
    ylabel="clusters that are left",
)
for layer, (theirs, ours) in zip(("hidden layer", "readout"), distance.weights, strict=True):
    right.plot(theirs.flatten(), ours.flatten(), "o", label=layer)
right.axline((0, 0), slope=1, color="lightgray", zorder=0)
right.set(xlabel="weights of the hidden network", ylabel="recovered")
right.legend()

# %% [markdown]
# On the left the tree of all units of all students. Copies of one unit are as near to each other as training is
# precise, other units are far; in between, on the shaded plateau, the number of clusters that all students share stays
# the same over orders of magnitude.
#
# ## When it is not exact
#
# Twenty rows are fewer numbers than the students have weights. A warning says so, and the claim is not made:

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", IdentifiabilityWarning)
    few = cs.ExpandAndCluster(n_units=3, n_students=8, activation="tanh").fit(x[:20], y[:20])
print(f"exact: {few.diagnostics_.exact}")
print(few.diagnostics_.reason)

# %% [markdown]
# [Which network produced these outputs?](../recovery.md) does the same on the command line, from files of inputs and
# outputs, and says what limits it: noise, deep networks, units that no input excites.
