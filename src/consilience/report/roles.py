"""What a row of the table is, told by its group and the words of its method.

- "mean member", "best member" and "ensemble…" are what everything else is measured against: lines, not points.
- "assembly, CORRECTION" of group "assembly" was not trained on labels; with "fine-tuned" in its name, it was.
- "… from scratch" is a network of an assembly's width that never saw the members.
- Anything else goes by its own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from consilience.report.results import Row

MEAN_MEMBER, BEST_MEMBER, ENSEMBLE = "mean member", "best member", "ensemble"
FINE_TUNED, SCRATCH = "fine-tuned assembly", "from scratch"
REFERENCES = (MEAN_MEMBER, BEST_MEMBER, ENSEMBLE)
FULL = "full"


def role(row: Row) -> str:
    """Return one of the constants above, the name of a correction ("assembly, none"), or the method itself.

    >>> from consilience.evaluation import Score
    >>> score = Score(0.9, 0.01, 0.3, 100)
    >>> role(Row("ensemble of the members", "members", "", 10, score, score, 0, 0.0))
    'ensemble'
    >>> role(Row("assembly, distill, fine-tuned", "assembly", "2x", 10, score, score, 300, 1.0))
    'fine-tuned assembly'
    """
    if row.group == "assembly":
        return by_name(row.method) if by_name(row.method) in (FINE_TUNED, SCRATCH) else row.method
    words = row.method.lower()
    for reference in REFERENCES:
        if words.startswith(reference):
            return reference
    return SCRATCH if by_name(row.method) == SCRATCH else row.method


def by_name(name: str) -> str:
    """Return the role that the name of a learning curve or of an assembly tells, or the name itself."""
    words = name.lower()
    if "scratch" in words:
        return SCRATCH
    return FINE_TUNED if "fine-tun" in words and "assembly" in words else name


def is_assembly(row: Row) -> bool:
    """Tell whether the row is an assembly that was not trained on labels."""
    return row.group == "assembly" and role(row) not in (FINE_TUNED, SCRATCH)


def first(rows: Iterable[Row], wanted: str) -> Row | None:
    """Return the first row with this role, if there is one."""
    return next((row for row in rows if role(row) == wanted), None)


def by_role(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each role, in the order of the table."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(role(row), []).append(row)
    return grouped
