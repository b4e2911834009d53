"""``einsum`` of two values as permutations, products and matrix products, of which it is known what they do to units.

A letter is in both values and in the result (*shared*, as samples and heads), in both and not in the result
(*summed*), or in one and in the result.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any

from torch.ops import aten

Compute = Callable[..., Any]  # of an operation and its arguments, of which it gives the result


def parsed(equation: str, dims: Sequence[int]) -> tuple[list[str], str] | None:
    """Return the letters of each value of so many dimensions and of the result; None where they are unusual.

    >>> parsed("...i, oi -> ...o", [3, 2])
    (['ABi', 'oi'], 'ABo')
    >>> parsed("ii,i->i", [2, 1])
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    letters = left.split(",")
    if len(letters) != len(dims):
        return None
    if not arrow:
        once = sorted(letter for letter in {*left} - {*",."} if left.count(letter) == 1)
        result = "..." * ("..." in left) + "".join(once)
    more = [n - len(own.replace("...", "")) for own, n in zip(letters, dims, strict=True) if "..." in own]
    dots = string.ascii_uppercase[: max(more, default=0)]
    letters, result = [own.replace("...", dots) for own in letters], result.replace("...", dots)
    fits = all(len(own) == n for own, n in zip(letters, dims, strict=True))
    single = all(len({*own}) == len(own) for own in (*letters, result))
    return (letters, result) if fits and single and {*result} <= {*"".join(letters)} else None


def as_products(letters: Sequence[str], result: str, values: Sequence[Any], compute: Compute) -> Any:
    """Return an einsum of two values by other operations, or None where it cannot be written so.

    ``letters`` are those of each value, ``result`` those of what is returned, the first of which are samples.
    """
    (first, second), (a, b) = letters, values
    if result[:1] and result[0] not in first:
        first, second, a, b = second, first, b, a
    summed = [letter for letter in first if letter in second and letter not in result]
    mine, theirs = [v for v in first if v not in second], [v for v in second if v not in first]
    shared = [letter for letter in result if letter in first and letter in second]
    if not {*mine, *theirs} <= {*result}:
        return None  # a sum over one value alone
    if not summed:
        return compute(aten.mul.Tensor, *(_spread(*own, result, compute) for own in ((a, first), (b, second))))
    if len(summed) > 1 or len(theirs) > 1 or (shared and len(mine) > 1):
        return None
    a = _permuted(a, first, [*shared, *mine, *summed], compute)
    if [*second] == [*theirs, *summed] and theirs:
        return _permuted(compute(aten.linear.default, a, b), [*mine, *theirs], result, compute)
    b = _permuted(b, second, [*shared, *summed, *theirs], compute)
    at = len(shared)
    a = a if mine or not shared else compute(aten.unsqueeze.default, a, at)
    b = b if theirs else compute(aten.unsqueeze.default, b, at + 1)
    product = compute(aten.matmul.default, a, b)
    product = product if theirs else compute(aten.squeeze.dim, product, -1)
    product = product if mine or not shared else compute(aten.squeeze.dim, product, at)
    return _permuted(product, [*shared, *mine, *theirs], result, compute)


def _permuted(value: Any, letters: Sequence[str], order: Sequence[str], compute: Compute) -> Any:
    """A value with its dimensions in another order."""
    places = [[*letters].index(letter) for letter in order]
    return value if places == sorted(places) else compute(aten.permute.default, value, places)


def _spread(value: Any, letters: str, order: Sequence[str], compute: Compute) -> Any:
    """A value with all dimensions of an order, of one entry where it has none."""
    value = _permuted(value, letters, [letter for letter in order if letter in letters], compute)
    for place, letter in enumerate(order):
        value = value if letter in letters else compute(aten.unsqueeze.default, value, place)
    return value
