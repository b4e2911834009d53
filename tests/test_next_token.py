"""Next tokens: a text becomes windows, members are trained on them, and networks are scored by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs
from consilience.agreement import agreement
from consilience.data import Dataset, check_dataset
from consilience.data.vocabulary import UNKNOWN, Vocabulary, windows
from consilience.errors import InputError
from consilience.training import Run, Training, fit_members

TEXT = "The quick brown fox jumps over the lazy dog. " * 40 + "\U0001d11e\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# --- text ------------------------------------------------------------------------------------------------------------


def test_a_vocabulary_decodes_what_it_encodes() -> None:
    vocabulary = Vocabulary.of(TEXT)
    assert list(vocabulary.characters) == [UNKNOWN, *sorted({*TEXT})]
    tokens = vocabulary.encode(TEXT)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [vocabulary.characters.index(character) for character in TEXT]
    assert vocabulary.decode(tokens) == TEXT
    assert (
        vocabulary.decode(vocabulary.encode("fox\u00e9!\U0001f600 \ud800"))
        == f"fox{UNKNOWN}{UNKNOWN}{UNKNOWN} {UNKNOWN}"
    )
    assert vocabulary.encode("").shape == (0,)


def test_rare_characters_are_unknown() -> None:
    vocabulary = Vocabulary.of("ab" * 8_000 + "ccd")
    assert vocabulary.characters == (UNKNOWN, "a", "b", "c")
    assert vocabulary.encode("dcba").tolist() == [0, 3, 2, 1]


def test_a_text_is_cut_into_contiguous_parts_of_windows_and_the_characters_that_follow(file: Path) -> None:
    data = cs.load_data(file, context=10)
    assert (data.name, data.task, data.n_classes) == (
        "fox.txt",
        "next-token",
        len({*TEXT[: round(0.65 * len(TEXT))]}) + 1,
    )
    assert data.read_as == f"x: windows of 10 characters; y: the next character, of {data.n_classes}"
    assert data.vocabulary is not None
    begin, ends = 0, (round(0.65 * len(TEXT)), round(0.8 * len(TEXT)), len(TEXT))
    for part, end in zip((data.train, data.validation, data.test), ends, strict=True):
        assert len(part) == (end - begin - 1) // 10
        for row, (x, y) in enumerate(zip(part.x, part.y, strict=True)):
            at = begin + 10 * row
            assert data.vocabulary.decode(x) == TEXT[at : at + 10]
            assert data.vocabulary.decode(y) == TEXT[at + 1 : at + 11]
        begin = end
    assert torch.equal(
        torch.cat([p.ids for p in (data.train, data.validation, data.test)]), torch.arange(sum(data_sizes(data)))
    )
    for part in (data.train, data.validation, data.test):
        check_dataset(part, data.n_classes)


def data_sizes(data: cs.Data) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


def test_calibration_is_a_random_part_of_the_training_windows(file: Path) -> None:
    first, again, other = (cs.load_data(f"text:{file}", context=9, n_calibration=20, random_state=s) for s in (0, 0, 1))
    assert torch.equal(first.calibration.ids, again.calibration.ids)
    assert not torch.equal(first.calibration.ids, other.calibration.ids)
    assert torch.equal(first.train.x, other.train.x)
    assert torch.equal(first.calibration.x, first.train.take(first.calibration.ids).x)


def test_a_file_of_another_suffix_is_a_text_by_its_prefix(file: Path) -> None:
    other = file.rename(file.with_suffix(".md"))
    assert torch.equal(cs.load_data(f"text:{other}").train.x[0], cs.load_data(f"text:{other}", context=64).train.x[0])


def test_windows_do_not_overlap() -> None:
    x, y = windows(torch.arange(13), 4)
    assert x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert torch.equal(y, x + 1)
    assert windows(torch.arange(4), 4)[0].shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context must be an int >= 1, got 0"),
        ({"context": 1000}, "{file} must have at least 6674 characters for windows of 1000, got 1802 characters"),
        ({"subwords": 256}, "subwords must be an int >= 257, got 256"),
        ({"source": "digits", "subwords": 300}, "subwords must be left out for a source that is no text, got 300 for"),
        ({"task": "regression"}, "task must be 'next-token' for the text {file}, got 'regression'"),
        ({"target": "y"}, "target must be left out for a source without columns, got 'y' for"),
        ({"source": "text:missing.txt"}, "missing.txt must be a text in UTF-8, got [Errno 2]"),
        (
            {"source": "digits", "context": 5},
            "context must be left out for a source that is no text, got 5 for 'digits'",
        ),
    ],
)
def test_texts_that_cannot_be_read_are_refused(options: dict[str, Any], message: str, file: Path) -> None:
    source = options.pop("source", file)
    with pytest.raises(InputError) as error:
        cs.load_data(source, **options)
    assert str(error.value).startswith(message.format(file=file))


def test_a_text_is_cut_into_subwords(file: Path) -> None:
    pytest.importorskip("tokenizers")
    data, again = (cs.load_data(file, context=4, subwords=300) for _ in range(2))
    assert 256 < data.n_classes <= 300
    assert data.n_classes == len(data.vocabulary) == data.n_outputs
    assert data.read_as == f"x: windows of 4 subwords; y: the next subword, of {data.n_classes}"
    assert data.vocabulary.decode(data.vocabulary.encode("fox \u00e9\U0001f600")) == "fox \u00e9\U0001f600"
    assert TEXT.startswith(data.vocabulary.decode(data.train.x[:5].flatten()))
    assert len(data.vocabulary.encode(TEXT)) < len(TEXT) / 2
    assert torch.equal(data.train.x, again.train.x)


def test_bytes_that_are_no_utf_8_are_refused(file: Path) -> None:
    file.write_bytes(b"\xff" * 3000)
    with pytest.raises(InputError, match=r"fox.txt must be a text in UTF-8, got 'utf-8' codec"):
        cs.load_data(file)


# --- training --------------------------------------------------------------------------------------------------------


def tokens(n: int, t: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens that count up by one, mod 7, from a random start."""
    starts = torch.randint(7, (n, 1), generator=torch.Generator().manual_seed(seed))
    sequences = (starts + torch.arange(t + 1)) % 7
    return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)  # its own kernels in eval mode


NETS: dict[str, Callable[[], nn.Module]] = {
    "GPT": lambda: cs.GPT(7, 6, width=8, heads=2, mlp_widths=8),
    "Llama": lambda: cs.Llama(7, 6, width=8, heads=2, mlp_widths=8),
    "torch's own layer": lambda: nn.Sequential(nn.Embedding(7, 8), encoder_layer(), nn.Linear(8, 7)),
}


@pytest.mark.parametrize("name", NETS)
def test_members_trained_on_tokens_equal_a_plain_loop_and_learn(name: str) -> None:
    torch.manual_seed(0)
    x, y = tokens(32)
    modules = [NETS[name]() for _ in range(2)]
    run = Run(Training(learning_rate=1e-2, batch_size=32, shuffle="shared"), max_steps=80, task="next-token")
    trained = fit_members(modules, x, y, run)
    for module, state in zip(modules, trained.states, strict=True):
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(80):
            loss = functional.cross_entropy(module(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected = module(x)
        module.load_state_dict(state)
        assert torch.allclose(module(x), expected, atol=1e-2)
    last = trained.metrics[-1]
    assert last["accuracy"] > 0.95
    assert last["loss"] < 0.5 < math.log(7) - 0.1 < trained.metrics[0]["loss"]


@pytest.mark.parametrize(
    ("outputs", "y", "message"),
    [
        (nn.Flatten(), tokens(8)[1], "a member's outputs must have shape (n, t, c) for tokens, got (8, 42)"),
        (nn.Identity(), tokens(8)[1] + 3, "y must be tokens from 0 to 6, got "),
        (nn.Identity(), tokens(8, 5)[1], "y must have shape (n, 6), as the outputs, got (8, 5)"),
        (nn.Identity(), tokens(8)[1] - 7, "y must be tokens >= 0, got -"),
        (nn.Identity(), tokens(8)[1].float(), "y must be targets of a next-token, got float32 (8, 6)"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(outputs: nn.Module, y: Tensor, message: str) -> None:
    net = nn.Sequential(cs.GPT(7, 6, width=8, heads=2, mlp_widths=8), outputs)
    with pytest.raises(InputError) as error:
        fit_members([net], tokens(8)[0], y, Run(Training(epochs=1), task="next-token"))
    assert str(error.value).startswith(message)


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_a_network_is_scored_on_every_position() -> None:
    torch.manual_seed(0)
    x, y = tokens(300)
    net, rows = NETS["GPT"]().eval(), Dataset(x, y, torch.arange(300), task="next-token")
    score = cs.evaluate(net, rows)
    with torch.no_grad():
        outputs = net(x)
    right = (outputs.argmax(-1) == y).double().mean(1)
    loss = functional.cross_entropy(outputs.double().flatten(0, 1), y.flatten())
    assert score.accuracy == pytest.approx(float(right.mean()))
    assert score.accuracy_se == pytest.approx(float(right.std(correction=0)) / math.sqrt(300))
    assert score.loss == pytest.approx(float(loss))
    assert score.perplexity == pytest.approx(math.exp(float(loss)))
    assert score.n == 300


def test_tokens_agree_by_the_divergence_of_their_probabilities() -> None:
    rows, reference = torch.randn(2, 10, 5, generator=torch.Generator().manual_seed(0))
    assert agreement(rows, reference, "next-token") == agreement(rows, reference, "classification")


def test_populations_of_language_models_check_their_tokens() -> None:
    x, _ = tokens(40)
    population = cs.Population.from_modules([NETS["GPT"](), NETS["GPT"]()], x[:8], task="next-token")
    census = cs.Census(n_resamples=0)
    for call in (lambda: census.fit(population, x + 3), lambda: cs.evaluate(NETS["GPT"](), x + 3, population)):
        with pytest.raises(InputError, match="x must have indices from 0 to 6 for 'tokens.weight', got"):
            call()
    nets = [cs.Llama(7, 6, width=8, heads=2, mlp_widths=8, rotary_base=base) for base in (100.0, 10.0)]
    with pytest.raises(InputError, match="member 1 must compute what member 0 computes of the same parameters"):
        cs.Population.from_modules(nets, x[:8])


def test_tokens_of_another_vocabulary_are_refused() -> None:
    x, y = tokens(8)
    rows = Dataset(x % 5, y, torch.arange(8), task="next-token")
    with pytest.raises(InputError, match="y must be tokens from 0 to 4, got"):
        cs.evaluate(cs.GPT(5, 6, width=8, heads=2, mlp_widths=8), rows)
    with pytest.raises(InputError, match=r"data.x must be tokens >= 0, got -1 in row 0"):
        check_dataset(Dataset(x * 0 - 1, y, torch.arange(8), task="next-token"))
