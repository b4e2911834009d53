# %% [markdown]
# # A thousand members on Dask
#
# Many small networks train independently of each other. Here they do so on the workers of a Dask cluster, and what
# comes out is the same, to the byte, as in one process. You need `pip install 'consilience[dask]'`.
#
# This page is built with few members, so that it takes seconds. For the thousand of its title, set `MEMBERS = 1000`,
# `EPOCHS = 20` and as many workers as there are cores.

# %%
import matplotlib.pyplot as plt
from distributed import LocalCluster

import consilience as cs

MEMBERS, EPOCHS, WORKERS = 128, 3, 2

# %% [markdown]
# ## Train
#
# The engine says where tasks run: blocks of 64 members. `LocalCluster` starts workers on this machine; with a scheduler
# elsewhere, its address is all that changes. A worker runs one task at a time, on one thread.


# %%
data = cs.load_data("digits")
training = cs.Training(epochs=EPOCHS, batch_size=64, learning_rate=1e-2)


def trained() -> cs.Population:
    return cs.train_population(cs.MLP(64, [16], 10), data.train, MEMBERS, training=training)


if __name__ == "__main__":  # in a script: workers import it
    cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0")
    with cluster, cs.engine(f"dask:{cluster.scheduler_address}"):
        population = trained()
    print(f"{len(population)} members, fingerprint {population.fingerprint[:12]}")

# %% [markdown]
# The same call without an engine runs in this process, and gives the same networks:

# %%
if __name__ == "__main__":
    assert trained().fingerprint == population.fingerprint

# %% [markdown]
# A worker that dies, at any moment, costs the epochs since its last resume state, and no result:
# [Scaling](../scaling.md#faults) lists what survives what.
#
# ## One network
#
# All units of all members are clustered, and one network is made of the clusters.

# %%
if __name__ == "__main__":
    assembler = cs.Assembler(cs.Census(n_resamples=0).fit(population, data.calibration.x))
    fused = {
        width: assembler.assemble(width, correction="second-order") for width in ("1x", "2x")
    }
    members = [100 * cs.evaluate(member.module, data.test).quality for member in population]
    ensemble = 100 * cs.evaluate(cs.Ensemble(population), data.test).quality
    for width, net in fused.items():
        accuracy = 100 * cs.evaluate(net, data.test).quality
        worth = cs.evaluate(net, data.test, population).worth
        print(f"{width}: accuracy {accuracy:.1f} %, worth {worth:.0f} of {MEMBERS} members")
    print(f"ensemble: {ensemble:.1f} %")

# %%
if __name__ == "__main__":
    figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    ax.hist(members, bins=20, color="lightgray", label=f"{MEMBERS} members")
    ax.axvline(ensemble, color="black", linestyle="--", label="ensemble of all")
    ax.axvline(100 * cs.evaluate(fused["2x"], data.test).quality, label="one network, 2x")
    ax.set(xlabel="test accuracy (%)", ylabel="members")
    ax.legend()

# %% [markdown]
# [Scaling](../scaling.md) starts clusters by SSH, SLURM and Kubernetes, and says what grows with the number of members;
# [results](../results/scale.md) have times and memory for thousands.
