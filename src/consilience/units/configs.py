"""Configs of Hugging Face's networks, which say the sizes that ``from_pretrained`` builds.

The config of a resized copy gets the copy's sizes. Where no config can say them, the copy's ``save_pretrained`` raises
an error: a saved directory would load as another network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from consilience.errors import InputError, in_one_line
from consilience.units.grouped import GroupedNorm

CURE = "keep it with save_network(network, directory), and load it with load_network(directory, member, example_input)"


@dataclass(frozen=True)
class Family:
    """Where a family of configs keeps its sizes: by entry, a parameter of the base model and a dimension of it.

    Attributes
    ----------
    stream, inner, heads : of the residual stream, of the inside of the MLPs, and of all heads' values side by side.
    key_heads : of all keys side by side; None where each head has its own.
    head_dim : whether the config may say the features of a head.
    """

    stream: tuple[str, str, int]
    inner: tuple[str, str, int]
    heads: tuple[str, str, int]
    key_heads: tuple[str, str, int] | None = None
    head_dim: bool = False


LLAMA = Family(
    ("hidden_size", "embed_tokens.weight", 1),
    ("intermediate_size", "layers.0.mlp.gate_proj.weight", 0),
    ("num_attention_heads", "layers.0.self_attn.o_proj.weight", 1),
    ("num_key_value_heads", "layers.0.self_attn.k_proj.weight", 0),
    head_dim=True,
)
FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        ("n_embd", "wte.weight", 1), ("n_inner", "h.0.mlp.c_fc.weight", 1), ("n_head", "h.0.attn.c_proj.weight", 0)
    ),
    "gpt_neox": Family(
        ("hidden_size", "embed_in.weight", 1),
        ("intermediate_size", "layers.0.mlp.dense_h_to_4h.weight", 0),
        ("num_attention_heads", "layers.0.attention.dense.weight", 1),
    ),
    "llama": LLAMA,
    "gemma": LLAMA,
    "qwen2": LLAMA,
    "bert": Family(
        ("hidden_size", "embeddings.word_embeddings.weight", 1),
        ("intermediate_size", "encoder.layer.0.intermediate.dense.weight", 0),
        ("num_attention_heads", "encoder.layer.0.attention.output.dense.weight", 1),
    ),
    "distilbert": Family(
        ("dim", "embeddings.word_embeddings.weight", 1),
        ("hidden_dim", "transformer.layer.0.ffn.lin1.weight", 0),
        ("n_heads", "transformer.layer.0.attention.out_lin.weight", 1),
    ),
    "vit": Family(
        ("hidden_size", "embeddings.cls_token", 2),
        ("intermediate_size", "layers.0.mlp.fc1.weight", 0),
        ("num_attention_heads", "layers.0.attention.o_proj.weight", 1),
        head_dim=True,
    ),
}


@dataclass(frozen=True)
class Refused:
    """In place of ``save_pretrained``: an error with the reason."""

    reason: str

    def __call__(self, *_: object, **__: object) -> None:
        """Raise the error."""
        raise InputError(f"save_pretrained must get a network that a config describes, got {self.reason}", cure=CURE)


def has_config(module: nn.Module) -> bool:
    """Whether a module is one of Hugging Face's, with a config and ``save_pretrained``."""
    return hasattr(module, "save_pretrained") and hasattr(getattr(module, "config", None), "model_type")


def unsayable(module: nn.Module) -> str:
    """Why no config can say what a module is, so that its ``save_pretrained`` raises an error; empty if it does not."""
    refused = vars(module).get("save_pretrained")
    return refused.reason if isinstance(refused, Refused) else ""


def make_plain(module: nn.Module) -> None:
    """Let the configs of a module and its parts say that no weights are tied and no cache is kept, in place."""
    for part in module.modules() if has_config(module) else ():
        config: Any = getattr(part, "config", None)
        for name in ("tie_word_embeddings", "use_cache"):
            if part is module or hasattr(config, name):
                setattr(config, name, False)


def set_config(module: nn.Module) -> None:
    """Let the config of a resized module say its sizes, or its ``save_pretrained`` why none can, in place."""
    if not has_config(module):
        return
    vars(module).pop("save_pretrained", None)
    network: Any = module
    config = network.config
    family = FAMILIES.get(config.model_type)
    if family is not None:
        _set_sizes(network.base_model, config, family)
    reason = _unlike(network)
    if reason:
        vars(module)["save_pretrained"] = Refused(reason)


def _set_sizes(base: nn.Module, config: Any, family: Family) -> None:
    parameters = dict(base.named_parameters())
    places = (family.stream, family.inner, family.heads, *([family.key_heads] if family.key_heads else []))
    if not {path for _, path, _ in places} <= parameters.keys():  # of another version of the library
        return

    def size(place: tuple[str, str, int]) -> int:
        return parameters[place[1]].shape[place[2]]

    old, new = getattr(config, family.stream[0]), size(family.stream)
    head_dim = getattr(config, "head_dim", None) or old // getattr(config, family.heads[0])
    sizes = {family.stream[0]: new, family.inner[0]: size(family.inner)}
    sizes |= {place[0]: size(place) // head_dim for place in (family.heads, family.key_heads) if place is not None}
    sizes |= {"head_dim": head_dim} if family.head_dim else {}
    for name, value in sizes.items():
        setattr(config, name, value)
    for part in base.modules():
        if getattr(part, "scalar_embed_scale", None) == old**0.5:  # Gemma multiplies embeddings by it
            vars(part)["scalar_embed_scale"] = new**0.5
            part.embed_scale = torch.full_like(part.embed_scale, new**0.5)  # type: ignore[arg-type]


def _unlike(network: Any) -> str:
    """What a network of the config has otherwise; empty if nothing."""
    if any(isinstance(part, GroupedNorm) for part in network.modules()):
        return "norms with a group of units for each member, as at full width"
    try:
        if hasattr(network.config, "validate"):  # as save_pretrained does
            network.config.validate()
        with torch.device("meta"):
            built = type(network)(network.config)
    except Exception as error:  # the config's own checks
        return f"sizes that {type(network.config).__name__} refuses: {in_one_line(error)}"
    theirs = dict(built.named_parameters(remove_duplicate=False))
    for name, value in network.named_parameters():
        if name not in theirs or theirs[name].shape != value.shape:
            wanted = tuple(theirs[name].shape) if name in theirs else "nothing"
            got = f"'{name}' of {tuple(value.shape)} where its config has {wanted}"
            needs = "one width in all blocks, heads × features of a head = stream, and nothing that was written out"
            return f"{got}: it needs {needs}"
    return ""
