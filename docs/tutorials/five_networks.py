# %% [markdown]
# # Five of your own networks into one
#
# Five training runs have left five checkpoints of a class of your own, of different widths. They become **one** network
# of that class.
#
# ## The networks
#
# This class stands for yours. `consilience` has never seen it: its layers are found by tracing, and proved on its own
# forward pass.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs


class Net(nn.Module):
    def __init__(self, first: int = 24, second: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(64, first)
        self.second = nn.Linear(first, second)
        self.out = nn.Linear(second, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.first(x.flatten(1)))
        return self.out(torch.tanh(self.second(x)))


# %% [markdown]
# And this stands for the training that you have already done, on images of digits.

# %%
data = cs.load_data("digits")


def train(seed: int) -> Net:
    torch.manual_seed(seed)
    net = Net(first=20 + 4 * (seed % 3), second=16 + 2 * (seed % 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        rows = torch.randint(len(data.train), (128,))
        optimizer.zero_grad()
        functional.cross_entropy(net(data.train.x[rows]), data.train.y[rows]).backward()
        optimizer.step()
    return net


runs = Path("runs")
runs.mkdir(exist_ok=True)
for seed in range(5):
    torch.save({"epoch": 10, "model": train(seed).state_dict()}, runs / f"{seed}.pt")

# %% [markdown]
# ## From checkpoints to one network
#
# A population is read from the folder. It needs your class and a few inputs. Weights are found in each file under
# whatever key and prefix, and nothing is unpickled but tensors and plain values.

# %%
inputs = data.train.x[:16]
population = cs.Population.from_directory(runs, Net, inputs, task="classification")
for layer in ("first", "second"):
    print(f"{layer}: {population.widths(layer)} units in the five networks")

# %% [markdown]
# A census clusters the units of all members, layer by layer. It looks at inputs, never at labels. From one census come
# networks of several widths, here of once, twice and four times the median width of the five.

# %%
census = cs.Census().fit(population, data.calibration.x)
assembler = cs.Assembler(census)
nets = {
    width: assembler.assemble(width, correction="second-order") for width in ("1x", "2x", "4x")
}
print(nets["2x"])

# %% [markdown]
# ## Is it as good as the five?
#
# On labels that nobody has seen yet, beside the mean member and the ensemble of the five, which costs five forward
# passes. Accuracies on so few images have a standard error of about one point. Nearness to the ensemble is measured
# more exactly: *worth* is the number of members whose mean outputs would be as near to it.

# %%
members = [cs.evaluate(member.module, data.test).quality for member in population]
ensemble = cs.evaluate(cs.Ensemble(population), data.test).quality
print(f"mean member {sum(members) / 5:.3f}, best member {max(members):.3f}")
print(f"ensemble {ensemble:.3f}")
near = {width: cs.evaluate(net, data.test, population) for width, net in nets.items()}
for width, net in nets.items():
    accuracy = cs.evaluate(net, data.test).quality
    print(f"{width}: {accuracy:.3f}, worth {near[width].worth:.1f} of 5 members")

# %%
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.axhline(near["1x"].member_error, color="gray", linestyle="--", label="mean member")
for width, net in nets.items():
    ax.plot(
        sum(p.numel() for p in net.parameters()),
        near[width].error,
        "o",
        label=f"one network, {width}",
    )
ax.set(xlabel="parameters", ylabel="error to the ensemble (nats)", yscale="log")
ax.legend()

# %% [markdown]
# At full width the five stand side by side in one network, which is the ensemble itself:

# %%
full = assembler.assemble("full")
mean = population.logits(data.test.x).mean(0)
assert torch.allclose(full(data.test.x), mean, atol=1e-4)

# %% [markdown]
# ## Keep it
#
# It is a plain module of your class. A saved network is a directory with a `config.json` and a safetensors file.

# %%
cs.save_network(nets["2x"], "fused")
again = cs.load_network("fused", Net(first=48, second=32))  # as printed above
assert torch.equal(again(data.test.x), nets["2x"](data.test.x))

# %% [markdown]
# Modules in memory go in by `Population.from_modules`. [Your own networks](../own-networks.md) says what else a
# checkpoint may hold, [One network out of many](../one-network.md) which width and correction to choose, and
# [Networks supported](../networks.md) what your class may compute.
