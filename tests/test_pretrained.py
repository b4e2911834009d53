"""Networks of the transformers library: from directories, proved, assembled, saved, and loaded again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import consilience as cs
from consilience.errors import ConsilienceError, InputError, TracingError
from consilience.population.config_entries import check_configs
from consilience.population.pretrained import load_pretrained
from consilience.population.tokenizers import check_tokenizers
from consilience.studies.networks import open_networks

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

IDS = torch.randint(0, 50, (60, 8), generator=torch.Generator().manual_seed(0))
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 16, "initializer_range": 0.3}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 4}
GPT2 = {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
IDS_OF_TEXT = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
DISTILBERT = {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 16}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "GPT2LMHeadModel": ("GPT2Config", GPT2),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", {**TEXT, "hidden_size": 32}),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED),
    "GemmaForCausalLM": ("GemmaConfig", GROUPED),
    "Qwen2ForCausalLM": ("Qwen2Config", GROUPED),
    "BertForSequenceClassification": ("BertConfig", TEXT),
    "BertForMaskedLM": ("BertConfig", TEXT),
    "DistilBertForSequenceClassification": ("DistilBertConfig", DISTILBERT),
    "ViTForImageClassification": (
        "ViTConfig",
        {**SIZES, "image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 5},
    ),
}


def member(name: str, seed: int = 0, **changed: object) -> nn.Module:
    """A small network of the library, in eval mode, all of whose parameters have a part."""
    config, entries = FAMILIES[name]
    ids = IDS_OF_TEXT if "vocab_size" in entries else {}
    torch.manual_seed(seed)
    net = getattr(transformers, name)(getattr(transformers, config)(**{**entries, **ids, **changed}))
    for value in net.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return net.eval()


def gpt2(seed: int = 0, **changed: object) -> nn.Module:
    return member("GPT2LMHeadModel", seed, **changed)


def llama(seed: int = 0, **changed: object) -> nn.Module:
    return member("LlamaForCausalLM", seed, **changed)


def logits(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).logits


def deviation(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def saved(folder: Path, nets: list[nn.Module]) -> list[Path]:
    for k, net in enumerate(nets):
        net.save_pretrained(folder / str(k))
    return [folder / str(k) for k in range(len(nets))]


@pytest.mark.parametrize(
    "name", [name if name == "GPT2LMHeadModel" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_assemblies_are_networks_of_the_library_that_load_again(name: str, tmp_path: Path) -> None:
    nets = [member(name, seed) for seed in range(3)]
    x = torch.randn(40, 1, 8, 8) if name.startswith("ViT") else IDS
    population = cs.Population.from_pretrained(saved(tmp_path, nets), x[:4])
    assert len({id(network.architecture.program) for network in population.networks}) == 1
    census = cs.Census(random_state=0).fit(population, x)
    for width in ("1x", "2x"):
        net = cs.assemble(census, width)
        net.save_pretrained(tmp_path / width)
        again = getattr(transformers, name).from_pretrained(tmp_path / width)
        assert again.config.tie_word_embeddings is False
        assert deviation(logits(again, x), logits(net, x)) < 1e-6
    full = cs.assemble(census, "full")
    assert deviation(logits(full, x), torch.stack([logits(net, x) for net in nets]).mean(0)) < 1e-5
    with pytest.raises(InputError, match="norms with a group of units for each member"):
        full.save_pretrained(tmp_path / "full")


def test_members_of_other_widths_where_embeddings_are_scaled_by_the_width(tmp_path: Path) -> None:
    sizes = [{}, {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 30}]
    nets = [member("GemmaForCausalLM", k, **sizes[k > 0]) for k in range(3)]
    population = cs.Population.from_modules(nets, IDS[:4], output="logits")
    census = cs.Census(random_state=0).fit(population, IDS)
    one, full = cs.assemble(census, "1x"), cs.assemble(census, "full")
    assert one.config.hidden_size == 24
    assert one.config.num_key_value_heads == 3
    one.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert deviation(logits(again, IDS), logits(one, IDS)) < 1e-6
    assert deviation(logits(full, IDS), torch.stack([logits(net, IDS) for net in nets]).mean(0)) < 1e-5


def test_members_of_other_widths_share_one_program() -> None:
    sizes = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3}
    a, b = cs.Population.from_modules([llama(0), llama(1, **sizes)], IDS[:4], output="logits").networks
    assert a.architecture.program is b.architecture.program


def test_masks_are_inputs(tmp_path: Path) -> None:
    nets = [member("BertForSequenceClassification", seed) for seed in range(2)]
    mask = (torch.arange(8) < torch.randint(4, 9, (60, 1))).long()
    x = {"input_ids": IDS, "attention_mask": mask}
    population = cs.Population.from_pretrained(saved(tmp_path, nets), {name: value[:4] for name, value in x.items()})
    census = cs.Census(random_state=0).fit(population, x)
    one, full = cs.assemble(census, "1x"), cs.assemble(census, "full")
    one.save_pretrained(tmp_path / "one")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "one")
    with torch.no_grad():
        assert deviation(again(**x).logits, one(**x).logits) < 1e-6
        assert deviation(full(**x).logits, torch.stack([net(**x).logits for net in nets]).mean(0)) < 1e-5


def test_several_layers_are_fitted_together() -> None:
    nets = [gpt2(seed, n_layer=1) for seed in range(2)]
    census = cs.Census(n_resamples=0).fit(cs.Population.from_modules(nets, IDS[:4], output="logits"), IDS)
    candidates = cs.assemble(census, "1x", correction="second-order").assembly_.candidates
    least = min(candidate.error for candidate in candidates if candidate.correction == "least-squares")
    assert min(candidate.error for candidate in candidates if candidate.correction == "second-order") <= least


def test_widths_that_no_config_can_say(tmp_path: Path) -> None:
    nets = [gpt2(0), gpt2(1)]
    census = cs.Census(random_state=0).fit(cs.Population.from_modules(nets, IDS[:4], output="logits"), IDS)
    net = cs.assemble(census, {"transformer.h.0.attn.c_attn": 2})
    with pytest.raises(InputError, match=r"one width in all blocks.*\n.*cure: .*save_network"):
        net.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_widths_that_the_config_refuses(tmp_path: Path) -> None:
    nets = [llama(seed, num_hidden_layers=1) for seed in range(2)]
    population = cs.Population.from_modules(nets, IDS[:4], output="logits")
    census = cs.Census(random_state=0, n_resamples=0).fit(population, IDS)
    net = cs.assemble(census, {"heads": 3, "stream": "2x"}, correction="none")
    with pytest.raises(InputError, match=r"LlamaConfig refuses: .*32\) is not a multiple of .* heads \(6\)"):
        net.save_pretrained(tmp_path / "net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "depth"),
    [("BertForSequenceClassification", "num_hidden_layers"), ("DistilBertForSequenceClassification", "n_layers")],
)
def test_layers_of_classifiers_that_the_config_makes_as_wide_as_the_stream(
    name: str, depth: str, tmp_path: Path
) -> None:
    nets = [member(name, seed, **{depth: 1}) for seed in range(2)]
    population = cs.Population.from_modules(nets, IDS[:4], output="logits")
    assert sorted(population.architecture.kinds.values()) == ["heads", "mlp", "stream", "stream"]
    census = cs.Census(random_state=0, n_resamples=0).fit(population, IDS)
    net = cs.assemble(census, {"heads": 8, "stream": "2x", "mlp": 40}, correction="none")
    net.save_pretrained(tmp_path)
    again = getattr(transformers, name).from_pretrained(tmp_path)
    assert deviation(logits(again, IDS), logits(net, IDS)) < 1e-6


def test_training_mode_a_cache_and_half_precision_are_put_right() -> None:
    nets = [gpt2(0).train(), gpt2(1).half()]
    assert all(net.config.use_cache for net in nets)
    population = cs.Population.from_modules(nets, IDS[:4], output="logits")
    assert all(member.module.training is False and member.module.config.use_cache is False for member in population)
    assert population.dtype == torch.float32
    assert nets[0].training
    assert nets[0].config.use_cache
    assert nets[1].dtype == torch.float16


KINDS_APART: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "vocabulary": (lambda: [gpt2(), gpt2(vocab_size=60)], "vocabulary size of member 0, vocab_size=50, got 60"),
    "depth": (lambda: [gpt2(), gpt2(n_layer=3)], "depth of member 0, num_hidden_layers=2, got 3"),
    "head": (lambda: [gpt2(), gpt2(n_head=2)], "features of each head of member 0, head_dim=4, got 8"),
    "activation": (lambda: [gpt2(), gpt2(activation_function="relu")], "activation of member 0"),
    "rope base": (
        lambda: [llama(), llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0})],
        "rotary positions of member 0, .*10000.0.*, got .*500.0",
    ),
    "rope layout": (
        lambda: [
            member(
                "GPTNeoXForCausalLM",
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": share},
            )
            for share in (0.25, 0.5)
        ],
        "rotary positions of member 0, .*0.25.*, got .*0.5",
    ),
    "key groups": (lambda: [llama(), llama(num_key_value_heads=4)], "number of heads for each key of member 0"),
    "norms": (
        lambda: [member("GPTNeoXForCausalLM"), member("GPTNeoXForCausalLM", use_parallel_residual=False)],
        "placement of norms and residuals of member 0",
    ),
    "epsilon": (
        lambda: [gpt2(), gpt2(layer_norm_epsilon=1e-2)],
        "config entry of member 0, layer_norm_epsilon=1e-05, got 0.01",
    ),
    "scale": (
        lambda: [gpt2(), gpt2(scale_attn_by_inverse_layer_idx=True)],
        "config entry of member 0, scale_attn_by_inverse_layer_idx=False, got True",
    ),
    "bias": (lambda: [llama(), llama(attention_bias=True)], "config entry of member 0, attention_bias=False, got True"),
    "kinds": (lambda: [gpt2(), llama()], "kind of network of member 0, model_type=gpt2, got llama"),
}


@pytest.mark.parametrize("name", KINDS_APART)
def test_networks_that_differ_in_more_than_sizes(name: str) -> None:
    make, message = KINDS_APART[name]
    with pytest.raises(InputError, match=rf"member 1 must have the {message}(.|\n)*cure: leave this member out"):
        cs.Population.from_modules(make(), IDS[:4], output="logits")


def test_entries_of_training_and_sizes_may_differ() -> None:
    changed = {"attn_pdrop": 0.5, "initializer_range": 0.1, "n_inner": 40, "bos_token_id": 3, "summary_type": "mean"}
    check_configs([gpt2(), gpt2(**changed, n_embd=24, n_head=6)])
    wrapped = [nn.Linear(4, 4), gpt2(), gpt2(vocab_size=60)]
    with pytest.raises(InputError, match="member 2 must have the vocabulary size of member 1, vocab_size=50, got 60"):
        check_configs(wrapped)


def test_entries_of_configs_inside_are_compared() -> None:
    inside = [transformers.CLIPTextConfig(hidden_act=act, hidden_size=8) for act in ("gelu", "relu")]
    nets = [gpt2(), gpt2()]
    for net, text in zip(nets, inside, strict=True):
        net.config = transformers.CLIPConfig(text_config=text.to_dict())
    with pytest.raises(InputError, match="config entry of member 0, text_config.hidden_act=gelu, got relu"):
        check_configs(nets)


def test_tokens_out_of_range() -> None:
    with pytest.raises(InputError, match="IndexError(.|\n)*cure: tokens and positions"):
        cs.Population.from_modules([gpt2()], IDS[:4] + 50, output="logits")
    population = cs.Population.from_modules([gpt2(0), gpt2(1)], IDS[:4], output="logits")
    with pytest.raises(InputError, match=r"indices from 0 to 49 for 'transformer.wte.weight', got 50 to 99"):
        cs.Census().fit(population, IDS + 50)
    with pytest.raises(InputError, match="got -1 to"):
        cs.Census().fit(population, torch.where(IDS == 0, -1, IDS))


class DataMask(nn.Module):
    """Attends to positions whose units are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        q, k, v = (m(x).unflatten(-1, (4, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        mask = (x.sum(-1) > 0)[:, None, None, :].expand(-1, 1, 8, 8)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)


def test_a_mask_that_depends_on_units() -> None:
    with pytest.raises(TracingError):
        cs.Population.from_modules([DataMask()], IDS[:4])


def test_directories_that_cannot_be_loaded(tmp_path: Path) -> None:
    good, other = saved(tmp_path, [gpt2(0), gpt2(1)])

    def refused(folders: object, message: str, **options: Any) -> None:
        with pytest.raises(ConsilienceError, match=message):
            cs.Population.from_pretrained(folders, IDS[:4], **options)

    refused(good, "directories must be a list of directories, got ")
    refused([], "directories must have at least one directory, got none")
    refused([tmp_path / "absent"], "config.json must be the config of a network, got FileNotFoundError")
    refused([good], "auto must be the name of a class of networks in transformers, got 'Missing'", auto="Missing")
    refused([good], "got 'GPT2LMHeadMode'\n  cure: pass auto='GPT2LMHeadModel'", auto="GPT2LMHeadMode")
    refused([good], "got <class .*\n  cure: pass auto='GPT2LMHeadModel'", auto=transformers.GPT2LMHeadModel)
    refused([good], "auto must be the name of a class of networks .*got 'GPT2Config'", auto="GPT2Config")
    for folder, tokens in ((good, {"a": 0}), (other, {"b": 0})):
        (folder / "vocab.json").write_text(json.dumps(tokens))
    refused([good, other], "must have the tokens of .*vocab.json, got others")
    (other / "vocab.json").unlink()
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "n_head": 3}))
    refused([other], r"must be a network that GPT2LMHeadModel loads, got ValueError(.|\n)*cure: .*number of heads")
    (other / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2ForSequenceClassification"]}))
    refused([other], "must have all weights of a GPT2ForSequenceClassification, got none of score.weight")
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    refused([other], "must have model.safetensors or its shards, got none(.|\n)*pickles are not read")


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
ADDED = [{"id": 3, "content": "<x>"}, {"id": 4, "content": "<y>"}]
UNIGRAMS = {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"model": BPE}, {"model": {**BPE, "merges": [["a", "b"]], "dropout": None, "ignore_merges": False}}, True),
        ({"model": BPE, "padding": {"length": 8}}, {"model": {**BPE, "vocab": {"ab": 2, "b": 1, "a": 0}}}, True),
        ({"model": BPE, "added_tokens": [{"id": 2, "content": "ab"}]}, {"model": BPE, "added_tokens": []}, True),
        ({"model": BPE, "added_tokens": ADDED}, {"model": BPE, "added_tokens": ADDED[::-1]}, True),
        (
            {"model": BPE, "added_tokens": ADDED},
            {"model": BPE, "added_tokens": [{"id": 4, "content": "<x>"}, {"id": 3, "content": "<y>"}]},
            False,
        ),
        ({"model": BPE}, {"model": {**BPE, "merges": []}}, False),
        ({"model": BPE}, {"model": {**BPE, "vocab": {"a": 1, "b": 0, "ab": 2}}}, False),
        ({"model": UNIGRAMS}, {"model": UNIGRAMS}, True),
        ({"model": UNIGRAMS}, {"model": {**UNIGRAMS, "vocab": [["b", -1.0], ["a", -2.0]]}}, False),
    ],
)
def test_tokenizers_are_compared_by_the_numbers_of_their_tokens(
    one: dict[str, Any], other: dict[str, Any], same: bool, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder, content in zip(folders, (one, other), strict=True):
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(content))
    with nullcontext() if same else pytest.raises(InputError, match="must have the tokens of .*a/tokenizer.json"):
        check_tokenizers(folders, "build one population for each kind")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "{", "JSONDecodeError"),
        ("tokenizer.json", "[1]", "TypeError: expected an object, got list"),
        ("tokenizer.json", "{}", "KeyError: 'model'"),
        ("vocab.json", "[1]", "TypeError: expected an object, got list"),
    ],
)
def test_damaged_files_of_tokenizers(name: str, content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name} must be a file of a tokenizer, got {reason}(.|\n)*cure: write"):
        check_tokenizers([tmp_path], "")


def test_line_ends_and_comments_of_vocabularies_are_not_compared(tmp_path: Path) -> None:
    for name, merges in (("a", b"#version: 0.2\na b\n"), ("b", b"a b\r\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "merges.txt").write_bytes(merges)
    check_tokenizers([tmp_path / "a", tmp_path / "b"], "")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "model_type in .*config.json must be 'llama', .* got 'gpt2'"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": None}, r"must have weights for its config, \d+ values"),
        ({"n_embd": 40000}, r"must have weights for its config, \d+ values for a GPT2LMHeadModel, got 7648\n.*sizes"),
        ({"n_inner": 60}, r"'transformer.h.0.mlp.c_fc.bias' in .* must have the shape .*\(60,\), got \(64,\)"),
        ({"n_embd": "16"}, "StrictDataclassFieldValidationError: .* expected int, got str"),
        ({"architectures": "GPT2LMHeadModel"}, "must be a list with the name of a class, got 'GPT2LMHeadModel'"),
        ({"architectures": ["Missing"]}, "must name a class of transformers in its architectures, got Missing"),
    ],
)
def test_configs_that_do_not_describe_the_weights(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    (folder,) = saved(tmp_path, [gpt2()])
    config = json.loads((folder / "config.json").read_text()) | changed
    kept = {name: value for name, value in config.items() if value is not None or name not in changed}
    (folder / "config.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match=message):
        cs.Population.from_pretrained([folder], IDS[:4])


def test_errors_about_members_name_their_directories(tmp_path: Path) -> None:
    bad = gpt2(1)
    nn.init.constant_(bad.transformer.wte.weight, float("nan"))
    with pytest.raises(InputError, match=r"'transformer.wte.weight' of member 1 must be finite") as caught:
        cs.Population.from_pretrained(saved(tmp_path, [gpt2(), bad]), IDS[:4])
    assert caught.value.__notes__ == [f"member 1 is {tmp_path / '1'}"]
    with pytest.raises(InputError, match="member 1 must have the depth of member 0") as caught:
        cs.Population.from_pretrained(saved(tmp_path, [gpt2(), gpt2(n_layer=1)]), IDS[:4])
    assert caught.value.__notes__ == [f"member {k} is {tmp_path / str(k)}" for k in range(2)]


def test_damaged_weights(tmp_path: Path) -> None:
    whole, sharded = saved(tmp_path, [gpt2(), gpt2()])
    (sharded / "model.safetensors").unlink()
    gpt2().save_pretrained(sharded, max_shard_size="10KB")
    weights = (whole / "model.safetensors").read_bytes()
    sorted(sharded.glob("model-*"))[0].unlink()
    for folder, content in ((whole, weights[: len(weights) // 2]), (whole, b""), (sharded, None)):
        if content is not None:
            (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"model.*safetensors must be a file of weights, got .*\n.*cure: copy or"):
            cs.Population.from_pretrained([folder], IDS[:4])


def test_no_bars_while_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = saved(tmp_path, [gpt2()])
    transformers.logging.enable_progress_bar()
    try:
        load_pretrained(folders)
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.disable_progress_bar()
    assert "Loading" not in capsys.readouterr().err


def test_commands_read_a_folder_of_directories(tmp_path: Path) -> None:
    saved(tmp_path / "runs", [gpt2(0), gpt2(1)])
    population = open_networks(str(tmp_path / "runs"), None, (8,), 0)
    assert len(population) == 2
    assert population.output == "logits"
    assert population.example_input.dtype == torch.int64


def test_the_library_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"transformers must be installed(.|\n)*consilience\[hf\]"):
        cs.Population.from_pretrained([tmp_path], IDS[:4])


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("GPT2LMHeadModel", "n_layer"),
        ("LlamaForCausalLM", "num_hidden_layers"),
        ("GPTNeoXForCausalLM", "num_hidden_layers"),
    ],
)
def test_patterns_of_heads_are_the_attentions_that_the_library_returns(name: str, depth: str) -> None:
    nets = [member(name, seed, attn_implementation="eager", **{depth: 1}) for seed in range(2)]
    population = cs.Population.from_modules(nets, IDS[:4], output="logits", task="next-token")
    census = cs.Census(n_clusters="1x", n_resamples=0).fit(population, IDS)
    x = IDS[torch.linspace(0, len(IDS) - 1, 16).long()]
    with torch.no_grad():
        every = [net(x, output_attentions=True).attentions[0].mean(0) for net in nets]
    ((layer, roles),) = census.head_roles().items()
    units = torch.cat([own.unflatten(0, (census.layers_[layer].n_units // 2, -1)) for own in every])
    for c, pattern in enumerate(torch.from_numpy(roles.patterns).float()):
        own = units[torch.from_numpy(census.layers_[layer].labels_ == c)].mean((0, 1))
        torch.testing.assert_close(pattern, own, atol=1e-5, rtol=1e-4)
    assert {*roles.scores} == {"previous token", "duplicate token", "induction"}
    assert [*census.head_effects()] == [*census.head_roles()]
