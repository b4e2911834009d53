"""Networks of torchvision, timm and transformers, by family: what `benchmarks/zoo.py --parts libraries` tries.

    python benchmarks/library_networks.py SECONDS NAME ...

puts each of them through the proof and an assembly at full width, in a process of its own that ends after so many
processor seconds, and prints a line of JSON after each step. The libraries are no dependency of the package: install
them apart, with torch and the package's own dependencies.

Choices
- Networks have their initial weights, 10 classes, and norms that are shaken. Nothing is downloaded.
- Images have the smallest size that the class takes; those of transformers have one from a small configuration.
- *Proved* is what `Population.from_modules` takes. The check is independent of the proof: in double precision, an
  assembly of two members at full width must return the mean of the members' outputs before their tail. Where a norm
  is no module of its own, and takes the units of all members, one of a member twice must return what the member does.
  Networks of more than 2 million parameters are not checked.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

import consilience as cs
from consilience.baselines import Ensemble
from consilience.errors import ConsilienceError
from consilience.units.outputs import outputs_in
from consilience.units.precision import InDouble, exact

WRONG = 1e-4  # of the spread over samples
FLAT = 1e-9  # spread of outputs, of the largest, below which assemblies in single precision cannot be compared
CHECKED = 2_000_000  # parameters of a network of which an assembly is made
MEMORY = 12 * 2**30  # bytes that a process may take
SAMPLES = 12
UNCHECKED, LIMIT = "proved, not checked", "over the limit"  # of memory or seconds


@dataclass(frozen=True)
class Public:
    """One network: its library and family, what makes it, its inputs, and which of its outputs is taken."""

    library: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    output: str | int | None = None
    size: str = ""  # of a sample, for the table


def images(size: int, *more: int) -> Callable[[int], Tensor]:
    """Random images, or videos with ``more`` dimensions before the pixels."""
    return lambda n: torch.randn(n, 3, *more, size, size)


def tokens(length: int, vocabulary: int, **more: Callable[[int], Tensor]) -> Callable[[int], dict[str, Tensor]]:
    """Random tokens, and other inputs by name."""
    return lambda n: {"input_ids": torch.randint(3, vocabulary, (n, length))} | {k: make(n) for k, make in more.items()}


def _torchvision(module: str, name: str, size: int, *more: int, output: str | None = None, **options: Any) -> Public:
    def build() -> nn.Module:
        package = importlib.import_module(f"torchvision.models.{module}" if module else "torchvision.models")
        extra = {} if not module or module == "video" else {"weights_backbone": None}
        made: nn.Module = getattr(package, name)(weights=None, num_classes=10, **extra, **options)
        return made

    family = {"": "classification", "segmentation": "segmentation", "video": "video"}[module]
    shown = "x".join(map(str, (*more, size, size)))
    return Public("torchvision", family, build, images(size, *more), output, shown)


def _timm(family: str, name: str, size: int, **options: Any) -> Public:
    def build() -> nn.Module:
        made: nn.Module = importlib.import_module("timm").create_model(name, num_classes=10, **options)
        return made

    return Public("timm", family, build, images(size), size=f"{size}x{size}")


VOCABULARY, LENGTH = 60, 10
SIZES_BY_VALUE = {  # under the names that configurations have for them
    24: "hidden_size d_model n_embd dim embedding_size",
    2: "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers",
    4: "num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads patch_size",
    36: "intermediate_size hidden_dim d_ff encoder_ffn_dim decoder_ffn_dim ffn_dim d_inner",
    32: "max_position_embeddings n_positions",
    6: "head_dim d_kv",
    16: "image_size",
    5: "num_labels",
    VOCABULARY: "vocab_size",
}
SMALL: dict[str, Any] = {name: value for value, names in SIZES_BY_VALUE.items() for name in names.split()}
SMALL |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _small(
    family: str,
    model: str,
    head: str,
    inputs: Callable[[int], Any] | None = None,
    output: str | None = "logits",
    size: str = "",
    **options: Any,
) -> Public:
    """A network of transformers from a small configuration."""

    def build() -> nn.Module:
        package = importlib.import_module("transformers")
        kind: Any = getattr(package, f"{model}Config")
        given = {**SMALL, **options}
        made = kind(**{name: value for name, value in given.items() if _takes(kind, name) or name in options})
        if getattr(made, "rope_parameters", None) is None and _takes(kind, "rope_parameters"):
            made.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
        network: nn.Module = getattr(package, f"{model}{head}")(made)
        return network

    return Public("transformers", family, build, inputs or tokens(LENGTH, VOCABULARY), output, size or f"{LENGTH}")


def _takes(kind: Any, name: str) -> bool:
    own = {n for base in kind.__mro__ for n in getattr(base, "__annotations__", {})}
    return name in own or name in getattr(kind, "attribute_map", {})


def pixels(size: int) -> Callable[[int], dict[str, Tensor]]:
    """Random images by name."""
    return lambda n: {"pixel_values": torch.randn(n, 3, size, size)}


def sound(*shape: int) -> Callable[[int], dict[str, Tensor]]:
    """Random sound, or spectra."""
    return lambda n: {"input_values": torch.randn(n, *shape)}


def series(*shape: int) -> Callable[[int], dict[str, Tensor]]:
    """Random series."""
    return lambda n: {"past_values": torch.randn(n, *shape)}


def _by_name(sizes: Mapping[int, str]) -> Iterator[tuple[str, int]]:
    return ((name, size) for size, names in sizes.items() for name in names.split())


def _all() -> dict[str, Public]:
    networks = dict[str, Public]()
    for name, size in _by_name(CLASSIFIERS):
        options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        networks[f"torchvision {name}"] = _torchvision("", name, size, **options)
    for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        networks[f"torchvision {name}"] = _torchvision("segmentation", name, 32, output="out")
    for name in ("r3d_18", "mc3_18", "r2plus1d_18"):
        networks[f"torchvision {name}"] = _torchvision("video", name, 16, 4)
    for family, sizes in TIMM.items():
        for name, size in _by_name(sizes):
            options = {"img_size": size} if name.startswith(tuple(SIZED.split())) else {}
            networks[f"timm {name}"] = _timm(family, name, size, **options)
    return {f"transformers {name}": public for name, public in TRANSFORMERS.items()} | networks


CLASSIFIERS = {
    32: "vgg11 vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 squeezenet1_1 googlenet "
    "mobilenet_v2 mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 regnet_x_400mf regnet_y_400mf efficientnet_b0 "
    "efficientnet_v2_s convnext_tiny swin_t swin_v2_t",
    64: "alexnet",
    75: "inception_v3",
    224: "maxvit_t vit_b_16",
}
TIMM: dict[str, dict[int, str]] = {
    "convolutions": {
        32: "resnet10t resnetv2_18 convmixer_768_32 convnext_atto convnextv2_atto",
        64: "cspresnet50 darknet17 dla34 dpn48b ese_vovnet19b_dw gernet_s repvgg_a0 mobileone_s0 hgnetv2_b0 "
        "hrnet_w18_small legacy_seresnet18 xception41 nf_regnet_b0 nf_resnet26 res2net50_26w_4s resnest14d skresnet18 "
        "selecsls42 rexnet_100 regnetz_005 tresnet_m rdnet_tiny ecaresnet26t gcresnet33ts inception_next_atto "
        "fasternet_t0 starnet_s1 mambaout_femto focalnet_tiny_srf ghostnet_050 repghostnet_050 lcnet_050 mixnet_s "
        "mobilenetv1_100 mobilenetv4_conv_small tinynet_e spnasnet_100 hardcorenas_a efficientnet_lite0 "
        "edgenext_xx_small",
    },
    "transformers, mixers": {
        28: "eva02_tiny_patch14_224",
        32: "vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 convit_tiny "
        "resmlp_12_224 gmlp_ti16_224",
        64: "pit_ti_224 pvt_v2_b0 twins_pcpvt_small davit_tiny poolformer_s12 mobilevit_xxs mobilevitv2_050 "
        "repvit_m0_9 efficientvit_b0 mixer_s32_224 nextvit_small swiftformer_xs",
        224: "swin_tiny_patch4_window7_224 tiny_vit_5m_224 levit_128s efficientformer_l1 coatnet_nano_rw_224 "
        "visformer_tiny hiera_tiny_224 sequencer2d_s",
        240: "crossvit_tiny_240",
        256: "botnet26t_256",
    },
}
SIZED = "vit_tiny deit_tiny eva02_tiny cait_xxs24 convit_tiny pit_ti mixer_s32 resmlp_12 gmlp_ti16 twins_pcpvt"
CLASSIFICATION, LANGUAGE, VISION = "ForSequenceClassification", "ForCausalLM", "ForImageClassification"
WORDS, PICTURES, SERIES = "language", "vision", "sound, series"
BOTH = tokens(LENGTH, VOCABULARY, decoder_input_ids=lambda n: torch.randint(3, VOCABULARY, (n, 7)))
GROUPED = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Phi3", "Olmo2", "StableLm", "Cohere")
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
FOUR_STAGES: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
RESNET = STAGES | {"embedding_size": 8}
SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1], "window_size": 2, "patch_size": 2}
SWIN |= {"num_heads": [2, 4], "num_attention_heads": [2, 4]}
WAV2VEC: dict[str, Any] = {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2]}
WAV2VEC |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
SPECTRA: dict[str, Any] = {"max_length": 24, "num_mel_bins": 16, "frequency_stride": 4, "time_stride": 4}
PATCHES: dict[str, Any] = {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8}
PATCHES |= {"num_targets": 5, "use_cls_token": True}
TRANSFORMERS: dict[str, Public] = {
    **{
        f"{model} classifier": _small(WORDS, model, CLASSIFICATION)
        for model in ("Bert", "DistilBert", "Electra", "MPNet", "Albert", "DebertaV2", "SqueezeBert", "FNet")
    },
    "Roberta classifier": _small(WORDS, "Roberta", CLASSIFICATION, max_position_embeddings=40),
    "XLNet classifier": _small(WORDS, "XLNet", CLASSIFICATION),
    "Bert masked": _small(WORDS, "Bert", "ForMaskedLM"),
    **{f"{model} decoder": _small(WORDS, model, LANGUAGE) for model in ("GPTNeoX", "OPT", "Bloom", "Falcon")},
    "GPTJ decoder": _small(WORDS, "GPTJ", LANGUAGE, rotary_dim=4),
    "Phi decoder": _small(WORDS, "Phi", LANGUAGE, num_attention_heads=2),
    "GPT2 decoder": _small(WORDS, "GPT2", "LMHeadModel"),
    "GPTNeo decoder": _small(WORDS, "GPTNeo", LANGUAGE, attention_types=[[["global", "local"], 1]], window_size=4),
    **{f"{model} decoder": _small(WORDS, model, LANGUAGE, num_key_value_heads=2) for model in GROUPED},
    "Mixtral decoder": _small(WORDS, "Mixtral", LANGUAGE, num_key_value_heads=2, num_local_experts=3),
    "Qwen2Moe decoder": _small(
        WORDS, "Qwen2Moe", LANGUAGE, num_key_value_heads=2, num_experts=3, num_experts_per_tok=2
    ),
    "Mamba decoder": _small(WORDS, "Mamba", LANGUAGE, state_size=4),
    "Rwkv decoder": _small(WORDS, "Rwkv", LANGUAGE),
    "T5 translator": _small(WORDS, "T5", "ForConditionalGeneration", BOTH),
    "Bart translator": _small(WORDS, "Bart", "ForConditionalGeneration", BOTH),
    **{
        f"{model} images": _small(PICTURES, model, VISION, pixels(16), size="16x16")
        for model in ("ViT", "DeiT", "Beit", "Dinov2", "IJepa")
    },
    "ResNet images": _small(PICTURES, "ResNet", VISION, pixels(32), size="32x32", **RESNET),
    "RegNet images": _small(PICTURES, "RegNet", VISION, pixels(32), size="32x32", groups_width=4, **RESNET),
    "ConvNext images": _small(PICTURES, "ConvNext", VISION, pixels(32), size="32x32", **STAGES),
    "ConvNextV2 images": _small(PICTURES, "ConvNextV2", VISION, pixels(32), size="32x32", **STAGES),
    "MobileNetV2 images": _small(PICTURES, "MobileNetV2", VISION, pixels(64), size="64x64", image_size=64),
    "Swin images": _small(PICTURES, "Swin", VISION, pixels(16), size="16x16", **SWIN),
    "Segformer images": _small(
        PICTURES, "Segformer", VISION, pixels(32), size="32x32", num_attention_heads=[1, 2, 2, 4], **FOUR_STAGES
    ),
    "PoolFormer images": _small(PICTURES, "PoolFormer", VISION, pixels(32), size="32x32", **FOUR_STAGES),
    "Wav2Vec2 sound": _small(SERIES, "Wav2Vec2", CLASSIFICATION, sound(1600), size="1600", **WAV2VEC),
    "AST sound": _small(SERIES, "AST", "ForAudioClassification", sound(24, 16), size="24x16", **SPECTRA),
    "PatchTST series": _small(
        SERIES, "PatchTST", "ForClassification", series(32, 2), "prediction_logits", "32x2", **PATCHES
    ),
}
NETWORKS = _all()


def lively(module: nn.Module, x: Any) -> nn.Module:
    """Give batch norms the statistics of inputs, as training does, and norms scales of their own; use eval mode.

    With the initial statistics the outputs of deep networks hardly depend on the inputs.
    """
    module.eval()
    for part in module.modules():
        if "norm" in type(part).__name__.lower() and isinstance(getattr(part, "weight", None), Tensor):
            with torch.no_grad():
                part.weight.add_(0.3 * torch.randn_like(part.weight))
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.train()
            part.momentum = 0.9
    with torch.no_grad():
        _run(module, x)
    return module.eval()


def tried(public: Public) -> Iterator[dict[str, Any]]:
    """Put a network through the proof and an assembly at full width; yield what becomes of it after each step."""
    torch.manual_seed(0)
    x = public.inputs(SAMPLES)
    modules = [lively(public.build(), x) for _ in range(2)]
    n = sum(value.numel() for value in modules[0].parameters())
    told: dict[str, Any] = {"parameters": n, "version": importlib.import_module(public.library).__version__}
    step, start = "refused", time.process_time()
    try:
        first = cs.Population.from_modules(modules[:1], x, output=public.output)
        told |= {"seconds": time.process_time() - start, "memory": _memory()}
        yield told | {"outcome": UNCHECKED, "cause": f"{n / 1e6:.0f} million parameters" if n > CHECKED else ""}
        if n > CHECKED:
            return
        step = "kept apart"
        error, cause = _error(first.with_members(modules[1:]), x, public.output), ""
        if error > WRONG and any(norm.module is None for norm in first.architecture.statistics):
            cause = "a norm takes the units of all members; checked with one member twice"
            error = _error(first.with_members(modules[:1]), x, public.output)
        elif error > WRONG:  # single precision may round parameters by more than the outputs vary
            cause, doubled = "members in double precision", tree_map_only(Tensor, exact, x)
            members = [copy.deepcopy(module).double() for module in modules]
            error = _error(cs.Population.from_modules(members, doubled, output=public.output), doubled, public.output)
    except ConsilienceError as refusal:
        yield told | {"outcome": step, "cause": str(refusal)}
        return
    except Exception as failure:
        if (step == "kept apart" and isinstance(failure, MemoryError)) or "allocate memory" in str(failure):
            yield told | {"outcome": UNCHECKED if step == "kept apart" else LIMIT, "cause": "memory"}
            return
        yield told | {"outcome": "foreign", "cause": f"{type(failure).__name__}: {failure}"}
        return
    if math.isnan(error):
        yield told | {"outcome": UNCHECKED, "cause": "outputs that hardly depend on the inputs"}
        return
    outcome = ("proved", cause) if error <= WRONG else ("wrong", f"{error:.1e} of the spread")
    yield told | dict(zip(("outcome", "cause"), outcome, strict=True))


def _error(population: Any, x: Any, output: str | int | None) -> float:
    """The largest difference between an assembly at full width and the ensemble, as a share of the spread."""
    full = cs.assemble(cs.Census(n_resamples=0).fit(population, x), width="full")
    if population.architecture.program.is_bent:
        with torch.no_grad():
            expected = Ensemble(population)(x)
            ours = outputs_in(_run(full, x), "full", output)
        return float((ours - expected).abs().max() / expected.std(0).max())
    with torch.no_grad(), InDouble():
        doubled = tree_map_only(Tensor, exact, x)
        ours, *theirs = (
            _flat(_run(copy.deepcopy(m).double(), doubled), output) for m in (full, *(m.module for m in population))
        )
    means = [torch.stack(each).mean(0) for each in zip(*theirs, strict=True)]
    if max(float(mean.std(0).max() / mean.abs().max()) for mean in means) < FLAT:
        return math.nan
    return max(float((a - b).abs().max() / b.std(0).max()) for a, b in zip(ours, means, strict=True))


def _run(module: nn.Module, x: Any) -> Any:
    return module(**x) if isinstance(x, Mapping) else module(x)


def _flat(outputs: Any, output: str | int | None) -> list[Tensor]:
    return [v for v in tree_flatten(outputs if output is None else outputs[output])[0] if isinstance(v, Tensor)]


def _memory() -> float:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seconds, names = int(sys.argv[1]), sys.argv[2:]
    for library in {NETWORKS[name].library for name in names}:
        importlib.import_module(library)  # once for all
    for name in names:
        process = os.fork()
        if process == 0:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            used = math.ceil(sum(os.times()[:2]))
            resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds))
            for told in tried(NETWORKS[name]):
                print(json.dumps({"name": name} | told), flush=True)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        print(json.dumps({"name": name, "ended": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
