"""One larger network out of a census."""

from __future__ import annotations

from torch import Tensor, nn

from consilience.assembly.building import FITTED, build, check_correction
from consilience.assembly.norms import check_foldable, without_norms
from consilience.assembly.plan import CensusPlan
from consilience.assembly.pooling import POOLINGS, check_pooling
from consilience.assembly.reconstruction import reconstruct
from consilience.assembly.selection import Selection, resolve, select
from consilience.bases.grounding import groups_of
from consilience.census.census import Census, member_networks, without_data
from consilience.errors import InputError
from consilience.population.checks import check_inputs
from consilience.signals.responses import Responses

CHOICES = ("cut", "reconstruction")
BATCH_NORMS = ("kept", "folded")


def assemble(
    census: Census,
    width: Selection = "2x",
    *,
    correction: str = "least-squares",
    choice: str | None = None,
    pooling: str = "mean",
    calibration: Tensor | None = None,
    batch_norm: str = "kept",
    random_state: int = 0,
) -> nn.Module:
    """Build one network of the members' class from the clusters of a census.

    Any width comes from the same census; nothing is clustered again. With ``width="full"`` the result is the ensemble
    of the members (their outputs, pooled).

    Parameters
    ----------
    census : a fitted census.
    width : an int, "2x", a dict by layer, "frequency>=0.5", "parameters<=100000" or "full"; see
        `consilience.assembly.selection`.
    correction : in order of cost, "none", "moments" (REPAIR), "least-squares" (closed form, layer by layer),
        "second-order" (least squares, then all layers above the first together, by L-BFGS) or "distill" (least squares,
        then a few hundred gradient steps on all layers). The last two go towards the members' pooled outputs. None
        needs labels.
    choice : which clusters. "cut": those of the census's tree cut at this number, or the most frequent ones.
        "reconstruction": clusters of any height in the tree, chosen for what the members' outputs need of them (see
        `consilience.assembly.reconstruction`). By default the latter wherever weights are fitted to calibration data
        and the width is a number; else the former.
    pooling : how the members' outputs become one: "mean", the ensemble, or "class-share", for members that know
        different classes; see `consilience.assembly.pooling`.
    calibration : inputs (n, ...) without labels; by default those of the census. Not needed for correction="none" on a
        census grounded in weights.
    batch_norm : "kept", with statistics estimated on the calibration data and the function as it is without; or
        "folded" into the weights before them.
    random_state : seed of the distillation.

    Returns
    -------
    A plain ``nn.Module`` in eval mode, a resized copy of the first member.

    Raises
    ------
    InputError
        If the width, correction, choice, pooling or treatment of norms is not understood or not possible, there are
        fewer clusters than units asked for, or data is missing or does not fit.
    """
    members = member_networks(census)
    x = census.calibration_ if calibration is None else calibration
    check_correction(correction, x, where="assemble")
    _check_choice(choice, x)
    if batch_norm not in BATCH_NORMS:
        raise InputError(
            "unknown treatment of batch norms", where="assemble(batch_norm=...)", got=repr(batch_norm),
            expected=", ".join(BATCH_NORMS),
        )  # fmt: skip
    if batch_norm == "folded":
        check_foldable(census.population_.members[0].module, census.population_.architecture)
    check_pooling(pooling, x, where="assemble")
    if calibration is not None:
        check_inputs(census.population_, calibration, "calibration")
    numbers = resolve(census, width)
    if choice is None:
        choice = "reconstruction" if numbers is not None and correction in FITTED else "cut"
    if choice == "reconstruction" and numbers is None:
        raise InputError(
            "only a number of clusters can be chosen by reconstruction", where="assemble(width=..., choice=...)",
            got=f"width={width!r}", expected='a width such as "2x" or 64', cure='use choice="cut"',
        )  # fmt: skip
    cut = {} if choice == "reconstruction" else select(census, width)  # or raises
    responses = without_data(members, census.population_.example_input) if x is None else Responses(members, x)
    weights = POOLINGS[pooling](responses)
    if choice == "reconstruction" and numbers is not None:
        groups = reconstruct(census, responses, numbers, weights)
    else:
        groups = {name: groups_of(clusters.labels) for name, clusters in cut.items()}
    widths = {name: group.shape[1] for name, group in groups.items()}
    network = build(
        census.population_, responses, widths, CensusPlan(census, groups, has_data=x is not None), pooling=weights,
        correction=correction, random_state=random_state,
    )  # fmt: skip
    return network if batch_norm == "kept" else without_norms(network, census.population_.architecture)


def _check_choice(choice: str | None, x: Tensor | None) -> None:
    if choice is not None and choice not in CHOICES:
        raise InputError(
            "unknown choice of clusters", where="assemble(choice=...)", got=repr(choice), expected=", ".join(CHOICES)
        )
    if choice == "reconstruction" and x is None:
        raise InputError(
            "what clusters reconstruct is seen on data only", where="assemble(calibration=...)", got=None,
            cure='pass unlabelled inputs, or use choice="cut"',
        )  # fmt: skip
