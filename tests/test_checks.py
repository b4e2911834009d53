"""The checks that recur, by their messages; and the random streams, by their numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from consilience import checks, seeds
from consilience.errors import InputError

NAN = float("nan")
X = torch.tensor([[0.0, 1], [NAN, 1], [2, 3], [float("inf"), NAN]])
Y = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.check_choice("kind", "c", ("a", "b")), "kind must be one of 'a', 'b', got 'c'"),
        (lambda: checks.check_count("n", 0), "n must be an int >= 1, got 0"),
        (lambda: checks.check_count("n", True), "n must be an int >= 1, got True"),
        (lambda: checks.check_count("n", 2.0, 0, 5), "n must be an int from 0 to 5, got 2.0"),
        (lambda: checks.check_number("p", 1.5, 0, 1), "p must be a number in [0, 1], got 1.5"),
        (lambda: checks.check_number("p", 1, 0, below=1), "p must be a number in [0, 1), got 1"),
        (lambda: checks.check_number("p", NAN), "p must be a number in [-inf, inf], got nan"),
        (lambda: checks.check_positive("rate", "fast"), "rate must be a number > 0, got 'fast'"),
        (lambda: checks.check_finite(X, "x"), "x must be finite, got NaN or infinity in 2 of 4 rows, first row 1"),
        (lambda: checks.check_rows(Y, 4, "y"), "y must have one row for each of the 4 rows of x, got int64 (3,)"),
        (lambda: checks.check_labels(Y.float(), 3, "y"), "y must be integer labels (3,), got float32 (3,)"),
        (lambda: checks.check_labels(Y[:, None], 3, "y"), "y must be integer labels (3,), got int64 (3, 1)"),
        (lambda: checks.check_labels(Y[:0], 0, "y"), "y must be integer labels (1,), got int64 (0,)"),
        (lambda: checks.check_labels(Y, 3, "y", 2), "y must be labels from 0 to 1, got 2 in row 2"),
        (lambda: checks.check_labels(Y - 1, 3, "y"), "y must be labels >= 0, got -1 in row 0"),
        (lambda: checks.check_targets(Y, torch.rand(3, 2), "y"), "y must be labels from 0 to 1, got 2 in row 2"),
        (
            lambda: checks.check_targets(Y, torch.rand(3), "y"),
            "outputs must have shape (n, classes) for labels y, got (3",
        ),
        (
            lambda: checks.check_targets(X, torch.rand(4, 3), "y"),
            "y must have shape (n, 3), as the outputs, got (4, 2)",
        ),
        (
            lambda: checks.as_inputs(Y, (2,), torch.float32, "x"),
            "x must be a tensor of torch.float32, as the members'",
        ),
        (
            lambda: checks.as_inputs(torch.full((2, 2), 1e20), (2,), torch.float32, "x"),
            "x must have values up to 1e+18, whose squares can be added, got 1e+20\n  cure: scale them",
        ),
        (
            lambda: checks.as_inputs(X[:1], (2,), torch.float32, "x"),
            "x must have shape (n, 2) with n >= 2, got (1, 2)",
        ),
        (
            lambda: checks.resolve_width("0x", 4, "width"),
            'width must be a positive int or a multiple such as "2x", got \'0x',
        ),
    ],
)
def test_a_check_names_the_argument_its_rule_and_its_value(check: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        check()
    assert str(error.value).startswith(message)


def test_numbers_of_numpy_are_numbers() -> None:
    checks.check_count("n", np.int64(3))
    checks.check_number("p", np.float32(0.5), 0, 1)
    checks.check_labels(torch.tensor([0, 1], dtype=torch.uint8), 2, "y", 2)
    checks.check_finite(Y, "y")


def test_plain_arguments_are_checked_without_torch() -> None:
    code = "import sys, consilience.checks, consilience.seeds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_streams_are_apart_and_their_numbers_stay() -> None:
    streams = {name: value for name, value in vars(seeds).items() if name.isupper() and type(value) is int}
    assert len(streams) >= 11
    assert len({seeds.seed(0, stream) for stream in streams.values()}) == len(streams)
    assert seeds.seed(0, seeds.INITIALISATION, 3) == 16870062034036316749
    assert torch.rand(1, generator=seeds.generator(5)).equal(torch.rand(1, generator=torch.Generator().manual_seed(5)))
    assert seeds.numpy_generator(5).random() == np.random.default_rng(5).random()
    assert seeds.numpy_generator(5, 51).random() == np.random.default_rng([5, 51]).random()
    with pytest.raises(InputError, match="random_state must be an int >= 0, got -1"):
        seeds.generator(-1)


def test_a_global_seed_ends_with_its_block() -> None:
    before = torch.get_rng_state()
    with seeds.global_seed(3):
        inside = torch.rand(2)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(3)
    assert torch.rand(2).equal(inside)
