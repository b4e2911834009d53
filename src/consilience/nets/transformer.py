"""Pre-norm transformers: a ViT for images, a GPT and a Llama-like network for tokens.

One stream runs through all blocks. A block adds to it what its attention gives, then what its MLP gives; each reads the
stream through a norm. Queries, keys, values and outputs have linear layers of their own. The numbers of heads and of
MLP units may differ from block to block, and heads may be of any width.

Axis legend: ``n`` sample, ``t`` position, ``d`` stream, ``j`` inside a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from consilience.checks import check_count, check_positive
from consilience.errors import InputError
from consilience.nets.blocks import Attention, Block, ClassToken, FeedForward, Positions, Rotation, Tokens
from consilience.nets.net import MOST, Net, check_config, of_type

NORM_EPS = 1e-5  # of RMS norms, as in Llama


@dataclass(frozen=True)
class ViTConfig:
    """The arguments of a `ViT`; what `config.json` of a saved network holds."""

    NOT_SIZES: ClassVar = ("image_size", "heads", "head_width")  # entries that need not be the size of a tensor

    n_channels: int
    image_size: int
    patch_size: int
    n_outputs: int
    width: int = 64
    heads: tuple[int, ...] = (4, 4)
    mlp_widths: tuple[int, ...] = (256, 256)
    head_width: int | None = None
    activation: str = "gelu"

    def __post_init__(self) -> None:
        _check_blocks(self)
        if self.image_size % self.patch_size:
            raise InputError(f"image_size must be a multiple of patch_size {self.patch_size}, got {self.image_size}")


@dataclass(frozen=True)
class GPTConfig:
    """The arguments of a `GPT`; what `config.json` of a saved network holds."""

    NOT_SIZES: ClassVar = ("heads", "head_width")  # entries that need not be the size of a tensor

    n_tokens: int
    n_positions: int
    width: int = 64
    heads: tuple[int, ...] = (4, 4)
    mlp_widths: tuple[int, ...] = (256, 256)
    head_width: int | None = None
    activation: str = "gelu"

    def __post_init__(self) -> None:
        _check_blocks(self)


@dataclass(frozen=True)
class LlamaConfig:
    """The arguments of a `Llama`; what `config.json` of a saved network holds."""

    NOT_SIZES: ClassVar = (
        "heads",
        "head_width",
        "queries_per_key",
        "rotary_base",
    )  # entries that need not be the size of a tensor

    n_tokens: int
    n_positions: int
    width: int = 64
    heads: tuple[int, ...] = (4, 4)
    mlp_widths: tuple[int, ...] = (176, 176)
    head_width: int | None = None
    queries_per_key: int = 1
    rotary_base: float = 10000.0
    activation: str = "silu"

    def __post_init__(self) -> None:
        _check_blocks(self)
        check_positive("rotary_base", self.rotary_base)
        assert self.head_width is not None
        if self.head_width % 2:
            cure = "rotary positions turn pairs of numbers"
            raise InputError(f"head_width must be even, got {self.head_width}", cure=cure)
        if any(heads % self.queries_per_key for heads in self.heads):
            got = f"{self.queries_per_key} for {self.heads}"
            raise InputError(f"queries_per_key must divide each number of heads, got {got}")


class ViT(Net):
    """``patches``, ``class_token``, ``positions``, then blocks ``blocks.0``, …, then ``norm`` and ``readout``.

    ``patches`` is a convolution that reads each square of an image into one position of the stream. The readout reads
    the class token, a learned first position. Norms are layer norms.

    Parameters
    ----------
    n_channels, image_size : inputs are images (n, n_channels, image_size, image_size).
    patch_size : height and width of a patch; it divides image_size.
    n_outputs : outputs (classes).
    width : d, of the stream.
    heads, mlp_widths : heads, and units of the MLP, of each block.
    head_width : j, numbers in a head; by default ``width // heads[0]``.
    activation : one of `consilience.nets.ACTIVATIONS`, of the MLPs.

    References
    ----------
    Dosovitskiy et al. (2021), An image is worth 16×16 words: transformers for image recognition at scale, ICLR.

    Examples
    --------
    >>> import torch
    >>> net = ViT(1, 28, 7, 10, width=48, heads=(4, 4), mlp_widths=(128, 128))
    >>> net(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    Config = ViTConfig

    def build(self, config: ViTConfig) -> None:
        """Make the layers."""
        width, size = config.width, config.patch_size
        self.patches = nn.Conv2d(config.n_channels, width, size, stride=size)
        self.class_token = ClassToken(width)
        self.positions = Positions(1 + (config.image_size // size) ** 2, width)
        self.blocks = _blocks(config, causal=False)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, config.n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, n_channels, image_size, image_size) to outputs (n, n_outputs)."""
        x = self.positions(self.class_token(self.patches(x).flatten(2).transpose(1, 2)))
        for block in self.blocks:
            x = block(x)
        outputs: Tensor = self.readout(self.norm(x)[:, 0])
        return outputs

    @property
    def config(self) -> ViTConfig:
        """The arguments that give a network of these sizes."""
        side = math.isqrt(len(self.positions.weight) - 1)
        size = self.patches.kernel_size[0]
        sizes = _sizes(self)
        return ViTConfig(self.patches.in_channels, side * size, size, self.readout.out_features, *sizes)


class GPT(Net):
    """``tokens`` (an embedding), ``positions``, then blocks ``blocks.0``, …, then ``norm`` and ``readout``.

    Attention is causal, and norms are layer norms.

    Parameters
    ----------
    n_tokens : size of the vocabulary.
    n_positions : the most tokens of an input (n, t).
    width : d, of the stream.
    heads, mlp_widths : heads, and units of the MLP, of each block.
    head_width : j, numbers in a head; by default ``width // heads[0]``.
    activation : one of `consilience.nets.ACTIVATIONS`, of the MLPs.

    References
    ----------
    Radford et al. (2019), Language models are unsupervised multitask learners; here the readout has its own weights.

    Examples
    --------
    >>> import torch
    >>> net = GPT(80, 64, width=48, heads=(4, 4), mlp_widths=(128, 128))
    >>> net(torch.zeros(5, 64, dtype=torch.long)).shape
    torch.Size([5, 64, 80])
    """

    Config = GPTConfig

    def build(self, config: GPTConfig) -> None:
        """Make the layers."""
        self.tokens = Tokens(config.n_tokens, config.width)
        self.positions = Positions(config.n_positions, config.width)
        self.blocks = _blocks(config, causal=True)
        self.norm = nn.LayerNorm(config.width)
        self.readout = nn.Linear(config.width, config.n_tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, t) to the logits of the next ones, (n, t, n_tokens)."""
        x = self.positions(self.tokens(x))
        for block in self.blocks:
            x = block(x)
        outputs: Tensor = self.readout(self.norm(x))
        return outputs

    @property
    def config(self) -> GPTConfig:
        """The arguments that give a network of these sizes."""
        return GPTConfig(self.readout.out_features, len(self.positions.weight), *_sizes(self))


class Llama(Net):
    """``tokens`` (an embedding), then blocks ``blocks.0``, …, then ``norm`` and ``readout``, without biases.

    Attention is causal with rotary positions, norms are RMS norms, and MLPs are gated.

    Parameters
    ----------
    n_tokens : size of the vocabulary.
    n_positions : the most tokens of an input (n, t).
    width : d, of the stream.
    heads, mlp_widths : heads (of queries), and units of the MLP, of each block.
    head_width : j, numbers in a head, even; by default ``width // heads[0]``.
    queries_per_key : heads that share one key and value.
    rotary_base : base of the angles; see `Rotation`.
    activation : one of `consilience.nets.ACTIVATIONS`, of the gates.

    References
    ----------
    Touvron et al. (2023), LLaMA: open and efficient foundation language models.

    Examples
    --------
    >>> import torch
    >>> net = Llama(80, 64, width=48, heads=(4, 4), mlp_widths=(128, 128), queries_per_key=2)
    >>> net(torch.zeros(5, 64, dtype=torch.long)).shape
    torch.Size([5, 64, 80])
    """

    Config = LlamaConfig

    def build(self, config: LlamaConfig) -> None:
        """Make the layers."""
        assert config.head_width is not None
        self.tokens = Tokens(config.n_tokens, config.width)
        self.blocks = nn.ModuleList()
        for heads, inner in zip(config.heads, config.mlp_widths, strict=True):
            norms = nn.RMSNorm(config.width, NORM_EPS), nn.RMSNorm(config.width, NORM_EPS)
            attention = Attention(
                config.width,
                heads,
                config.head_width,
                causal=True,
                bias=False,
                queries_per_key=config.queries_per_key,
            )
            attention.rotate = Rotation(config.n_positions, config.head_width, config.rotary_base)
            mlp = FeedForward(config.width, inner, config.activation, gated=True, bias=False)
            self.blocks.append(Block(norms, attention, mlp))
        self.norm = nn.RMSNorm(config.width, NORM_EPS)
        self.readout = nn.Linear(config.width, config.n_tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, t) to the logits of the next ones, (n, t, n_tokens)."""
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        outputs: Tensor = self.readout(self.norm(x))
        return outputs

    @property
    def config(self) -> LlamaConfig:
        """The arguments that give a network of these sizes."""
        attention = of_type(self.blocks, Block)[0].attention
        rotate = attention.rotate
        assert isinstance(rotate, Rotation)
        *sizes, activation = _sizes(self)
        sizes += [attention.q.out_features // attention.k.out_features, rotate.base, activation]
        return LlamaConfig(self.readout.out_features, len(rotate.cos), *sizes)


def _blocks(config: ViTConfig | GPTConfig, causal: bool) -> nn.ModuleList:
    assert config.head_width is not None
    blocks = nn.ModuleList()
    for heads, inner in zip(config.heads, config.mlp_widths, strict=True):
        norms = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        attention = Attention(config.width, heads, config.head_width, causal=causal)
        blocks.append(Block(norms, attention, FeedForward(config.width, inner, config.activation)))
    return blocks


def _sizes(net: Any) -> tuple[Any, ...]:
    """Width, heads, MLP widths, head width and activation of a network."""
    blocks = of_type(net.blocks, Block)
    head_width = blocks[0].attention.head_width
    heads = tuple(block.attention.q.out_features // head_width for block in blocks)
    mlp_widths = tuple(block.mlp.up.out_features for block in blocks)
    return net.readout.in_features, heads, mlp_widths, head_width, net.activation


def _check_blocks(config: ViTConfig | GPTConfig | LlamaConfig) -> None:
    """Check the sizes of a config, and set the width of its heads if it is left out."""
    check_config(config, ("heads", "mlp_widths"))
    if len(config.mlp_widths) != len(config.heads):
        raise InputError(f"mlp_widths must be {len(config.heads)} numbers, as many as heads, got {config.mlp_widths}")
    if config.head_width is None:
        if config.width % config.heads[0]:
            wanted = f"a multiple of {config.heads[0]}, the heads of the first block"
            cure = "take such a width, other heads, or set head_width"
            raise InputError(f"width must be {wanted}, got {config.width}", cure=cure)
        object.__setattr__(config, "head_width", config.width // config.heads[0])
    check_count("head_width", config.head_width, most=MOST)
