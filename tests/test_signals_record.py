"""What modules return on samples, against their own forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.signals.record import record


class Repeated(nn.Module):
    """A module that is called twice, and an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.relu = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(inplace=True)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.again(self.relu(self.again(self.relu(self.first(x)))))))


def test_what_is_recorded_is_what_the_module_returned_last() -> None:
    net, x = Repeated(), torch.randn(600, 6)
    found = record(net, ["first", "again", "relu"], x, "flatten")
    with torch.no_grad():
        first = net.first(x)
        again = net.again(functional.relu(net.again(functional.relu(first))))
    assert found["first"] == pytest.approx(first.numpy(), abs=1e-6)
    assert (found["first"] < 0).any()
    assert found["again"] == pytest.approx(again.numpy(), abs=1e-6)
    assert found["relu"] == pytest.approx(functional.relu(again).numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("part", "shape", "axes"),
    [
        (nn.Conv2d(3, 5, 2), (3, 4, 4), (2, 3)),
        (nn.Conv1d(3, 5, 2), (3, 4), (2,)),
        (nn.Linear(3, 5), (4, 4, 3), (1, 2)),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (7, 4), (1,)),
        (nn.GRU(3, 5, batch_first=True), (7, 3), (1,)),
    ],
)
def test_positions_are_flattened_or_pooled(part: nn.Module, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    net, x = nn.Sequential(part).eval(), torch.randn(4, *shape)
    with torch.no_grad():
        outputs = part.eval()(x)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    assert record(net, ["0"], x, "flatten")["0"] == pytest.approx(outputs.flatten(1).numpy(), abs=1e-5)
    assert record(net, ["0"], x, "pool")["0"] == pytest.approx(outputs.mean(axes).numpy(), abs=1e-5)


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def test_a_norm_of_a_derived_class_may_have_its_units_first() -> None:
    x = torch.randn(4, 3, 5, 6)
    for norm, axes in ((ChannelsFirst(3), (2, 3)), (nn.LayerNorm(6), (1, 2))):
        expected = norm(x).mean(axes).detach().numpy()
        assert record(nn.Sequential(norm), ["0"], x, "pool")["0"] == pytest.approx(expected, abs=1e-6)
