# %% [markdown]
# # A regression ensemble into one network
#
# Eight small networks predict how far diabetes has progressed in a patient a year later, from ten numbers
# (scikit-learn's table of 442 patients). Their mean predicts better than most of them. Here **one** network of a
# member's size takes the place of all eight.
#
# ## The ensemble

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

import consilience as cs

torch.manual_seed(0)
table = load_diabetes()
order = torch.randperm(len(table.data))
x, y = (
    torch.tensor(values, dtype=torch.float32)[order] for values in (table.data, table.target)
)
x, y = x / x.std(), y.unsqueeze(1)  # the target stays in its own units
train = cs.Dataset(x[:300], y[:300], torch.arange(300))
test = cs.Dataset(x[300:], y[300:], torch.arange(300, 442))


class Net(nn.Module):
    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(10, first), nn.Tanh(), nn.Linear(first, second), nn.Tanh()
        )
        self.out = nn.Linear(second, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x)) * 77 + 152  # standard deviation and mean of the target


def trained(first: int, second: int) -> Net:
    net = Net(first, second)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(40):
        for rows in torch.randperm(300).split(64):
            optimizer.zero_grad()
            (net(train.x[rows]) - train.y[rows]).square().mean().backward()
            optimizer.step()
    return net


nets = [
    trained(first, second) for first, second in [(16, 12), (24, 16), (20, 20), (32, 16)] * 2
]

# %% [markdown]
# `task="regression"` says how outputs are measured: R², and the root of the mean squared error in the target's units.

# %%
population = cs.Population.from_modules(nets, x[:16], task="regression")
print("members", [f"{cs.evaluate(net, test).rmse[0]:.1f}" for net in nets])
print(f"ensemble {cs.evaluate(cs.Ensemble(population), test).rmse[0]:.1f}")

# %% [markdown]
# ## One network
#
# The census and the fit look at the inputs of the training rows, not at their targets.

# %%
assembler = cs.Assembler(cs.Census().fit(population, train.x))
fused = {
    f"{c} {w}": assembler.assemble(w, correction=c)
    for w in ("1x", "2x")
    for c in ("none", "second-order")
}
alone = cs.evaluate(nets[0], test, population).member_error
print(f"mean error of a single member to the ensemble: {alone:.4f}\n")
print(f"{'':<16} RMSE  error to the ensemble  worth")
for name, net in fused.items():
    near = cs.evaluate(net, test, population)
    rmse = cs.evaluate(net, test).rmse[0]
    print(f"{name:<16} {rmse:.1f}  {near.error:<21.4f}  {near.worth:.1f} of 8 members")

# %% [markdown]
# The error to the ensemble is the squared distance of the predictions, as a share of the variance of the ensemble's. It
# is the measure to trust here, since 142 patients leave the RMSE an uncertainty of several units. *Worth* is the number
# of members whose mean would be as near to the ensemble.

# %%
with torch.no_grad():
    mean = population.logits(test.x).mean(0)
    shown = {"a member": nets[0](test.x), "one network, 1x": fused["second-order 1x"](test.x)}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained", sharey=True)
for ax, (name, predictions) in zip(axes, shown.items(), strict=True):
    ax.plot(mean, mean, color="lightgray")
    ax.plot(mean, predictions, ".")
    ax.set(title=name, xlabel="prediction of the ensemble", aspect="equal")
axes[0].set_ylabel("its prediction")

# %% [markdown]
# ## And the spread?
#
# The network has the ensemble's mean, not the disagreement of its members. Keep the ensemble where you need that.
#
# [Numbers, labels and tables](../regression.md) does the same from a table to a report on the command line, and
# for several outputs. [Three ensembles](../results/ensembles.md) has larger measurements.
