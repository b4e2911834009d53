"""An assembly while it is built, from the inputs up: one map, with its basis and projections, at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection
from consilience.signals.responses import Responses, rows_of, stream
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.axes import Axis
from consilience.units.maps import Map, Weights

KEPT_BYTES = 2**30  # of traced values that are kept; others are computed again


@dataclass(frozen=True)
class Draft:
    """The part of the assembly that is built. Every step returns a new draft."""

    network: TracedNetwork  # at the assembly's widths; parameters of maps not reached yet are zero
    responses: Responses  # of the members to the calibration inputs
    bases: Mapping[str, Basis] = field(default_factory=dict)  # by layer written so far
    projections: Mapping[Axis, Sequence[Projection]] = field(default_factory=dict)  # per member, by place read so far
    values: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # that later maps need and do not change, if there is room

    left: Mapping[tuple[str, int], Tensor] = field(
        default_factory=dict
    )  # of the targets of a layer, at some number of positions, by the maps so far: (r, c)

    @property
    def architecture(self) -> Architecture:
        """The layers at the assembly's widths."""
        return self.network.architecture

    @property
    def members(self) -> Sequence[TracedNetwork]:
        """The networks that are mixed."""
        return self.responses.networks

    def with_basis(self, layer: str, basis: Basis) -> Draft:
        """Return the draft with the basis of a layer."""
        return replace(self, bases={**self.bases, layer: basis})

    def with_projections(self, axis: Axis, projections: Sequence[Projection]) -> Draft:
        """Return the draft with the members' projections on a layer in one place where it is read."""
        return replace(self, projections={**self.projections, axis: projections})

    def with_weights(self, m: Map, weights: Weights) -> Draft:
        """Return the draft with the hyperplanes of a map."""
        return replace(self, network=self.network.with_weights(m, weights))

    def with_values(self, m: Map) -> Draft:
        """Return the draft with the output of a finished map, if there is room, and only values that are needed."""
        later = self.architecture.maps[self.architecture.maps.index(m) + 1 :]
        if m.output.name not in self.architecture.program.varying or any(
            other.output.name == m.output.name for other in later
        ):
            return self  # a norm of several layers, which is written layer by layer
        values, x = dict(self.values), self.responses.x
        room = KEPT_BYTES - sum(value.nbytes for value in values.values())
        whole: Tensor | None = None
        for which, batch in stream(self.network, x, [m.output.name], known=values):
            value = batch[m.output.name]
            each = len(value) // (which.stop - which.start)
            if value.nbytes // len(value) * each * len(x) > room:
                break
            whole = value.new_empty(each * len(x), *value.shape[1:]) if whole is None else whole
            whole[each * which.start : each * which.stop] = value
        else:
            assert whole is not None
            values[m.output.name] = whole
        wanted = [axis.name for other in later for axis in other.inputs] + [self.architecture.program.output]
        needed = self.architecture.program.needed(wanted, values)
        return replace(self, values={name: value for name, value in values.items() if name in needed})

    def rows(self, axis: Axis) -> Tensor:
        """Return the values (r, u) of the units built so far in one place, at the sampled positions."""
        return rows_of(self.network, self.responses.x, [axis], self.responses.sampling, self.values)[axis]

    def patches(self, m: Map) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and outputs of a map, batch by batch: (r, d), or (r, u, s) of a map per unit, and (r, u).

        Rows that do not reach the outputs are left out.
        """
        value = m.inputs[0].name
        for which, batch in stream(self.network, self.responses.x, [value, m.output.name], known=self.values):
            yield self.rows_at(m, which, batch[value], batch[m.output.name])

    def rows_at(self, m: Map, which: slice, value: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a map reads and writes on some samples, as `patches` yields it, from the traced values."""
        n, start, responses = which.stop - which.start, which.start, self.responses
        rows, outputs = m.rows(value, output, self.architecture.widths, responses.sampling, start, n)
        reaching = responses.reaching(m.output)
        if reaching is None:
            return rows, outputs
        kept = reaching.unflatten(0, (len(responses.x), -1))[which].flatten()
        return rows[kept], outputs[kept]

    def subset(self, samples: Tensor) -> Draft:
        """Return the draft with the responses to some of the samples."""
        responses, n = self.responses.subset(samples), len(self.responses.x)
        values = {name: _taken(value, samples, n) for name, value in self.values.items()}
        left = {place: _taken(rows, samples, n) for place, rows in self.left.items()}
        return replace(self, responses=responses, values=values, left=left)


def _taken(rows: Tensor, samples: Tensor, n: int) -> Tensor:
    """The rows of some of n samples, each of which has as many."""
    taken: Tensor = rows.unflatten(0, (n, -1))[samples].flatten(0, 1)
    return taken
