# %% [markdown]
# # Three tiny GPT-2s into one
#
# Three GPT-2s of Hugging Face's `transformers` are trained from different seeds, and become one that the library loads
# again. They read characters and are tiny, so that this page takes seconds. You need `pip install 'consilience[hf]'`.
#
# ## Three networks
#
# The text is Python's own reference, which every Python brings along.

# %%
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import consilience as cs

CONTEXT, STEPS = 16, 150
text = "\n".join(
    topics[name]
    for name in ("assert", "assignment", "class", "function", "import", "try", "while")
)
characters = {c: number for number, c in enumerate(sorted(set(text)))}
tokens = torch.tensor([characters[c] for c in text])
n = len(tokens) // CONTEXT
rows = tokens[: n * CONTEXT].view(n, CONTEXT)[
    torch.randperm(n, generator=torch.Generator().manual_seed(0))
]
train, test = rows[:-200], rows[-200:]
print(f"{len(characters)} characters, {len(train)} rows of {CONTEXT} to train on")


def trained(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(characters),
        "n_positions": CONTEXT,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
    }
    tiny = {"initializer_range": 0.1, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    net = GPT2LMHeadModel(GPT2Config(**sizes, **tiny, bos_token_id=0, eos_token_id=0))
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(STEPS):
        batch = train[torch.randint(len(train), (32,))]
        optimizer.zero_grad()
        net(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    return net


for seed in range(3):
    trained(seed).save_pretrained(f"gpt2-{seed}")

# %% [markdown]
# ## In
#
# Networks come from the directories that `save_pretrained` has written. Their heads, MLP units and residual streams are
# found by tracing, and proved on the networks' own forward pass.

# %%
population = cs.Population.from_pretrained(
    [f"gpt2-{seed}" for seed in range(3)], train[:8], task="next-token"
)
print("directions of the stream", population.widths("transformer.wte"))
print("heads of the first block", population.widths("transformer.h.0.attn.c_attn"))
print("units of its MLP        ", population.widths("transformer.h.0.mlp.c_fc"))

# %% [markdown]
# ## One network
#
# The census needs texts without anything else: the tokens that follow are told by the inputs.

# %%
assembler = cs.Assembler(cs.Census().fit(population, train[:200]))
fused = {width: assembler.assemble(width) for width in ("1x", "2x")}
following = cs.Dataset(test[:, :-1], test[:, 1:], torch.arange(len(test)), task="next-token")
loss = {
    f"member {k}": cs.evaluate(member.module, following).loss
    for k, member in enumerate(population)
}
loss |= {
    f"one network, {width}": cs.evaluate(net, following).loss for width, net in fused.items()
}
loss["ensemble"] = cs.evaluate(cs.Ensemble(population), following).loss
for name, nats in loss.items():
    print(f"{name:<16} {nats:.3f} nats")
print({width: net.assembly_.choice for width, net in fused.items()})

# %%
figure, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
ax.barh([*loss], [*loss.values()], color=["lightgray"] * 3 + ["tab:blue"] * 2 + ["gray"])
ax.set(xlabel="loss on other rows (nats a character)", xlim=(0.9 * min(loss.values()), None))
ax.invert_yaxis()

# %% [markdown]
# The last line says what the networks are made of. Transformers of different seeds have few heads in common, so that
# at a member's size a network of clusters is usually worse than a member. Whole members are therefore among the
# candidates, and what is nearest to the ensemble on held-out rows is returned. From 2x on there is something to gain.
#
# ## Out
#
# The result is a `GPT2LMHeadModel`, whose config says its sizes.

# %%
fused["2x"].save_pretrained("fused")
net = AutoModelForCausalLM.from_pretrained("fused")
print(type(net).__name__, net.config.n_embd, net.config.n_head)
assert torch.allclose(net(test).logits, fused["2x"](test).logits, atol=1e-4)

# %% [markdown]
# [Transformers](../transformers.md) says which families go in and come out, what a unit of a transformer is, and what
# was measured on larger ones.
