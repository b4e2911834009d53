"""The command ``consilience``: options become the request of a study, whose result is printed.

Importing this file imports neither torch nor NumPy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from difflib import get_close_matches
from types import ModuleType
from typing import Any, NoReturn

import tyro

from consilience import __version__
from consilience.checks import check_count
from consilience.devices import check_device, device
from consilience.engines.choice import check_engine, engine
from consilience.errors import ConsilienceError, InputError, is_of_memory
from consilience.studies import (
    assemble,
    atlas,
    census,
    compare,
    demo,
    doctor,
    inspect,
    modularity,
    motifs,
    recover,
    report,
    route,
    train,
    transfer,
)
from consilience.studies.request import Options, check_words, in_options, kept
from consilience.studies.result import Result

QUESTIONS: dict[str, tuple[ModuleType, ...]] = {
    "How do I get one network out of many?": (demo, train, census, assemble, route, report),
    "What did they all learn?": (atlas, motifs, transfer),
    "Which network produced these outputs?": (recover,),
    "Is it modular?": (modularity,),
    "Which networks behave alike?": (compare,),
    "What is in my network, and in this installation?": (inspect, doctor),
}
VERBS = {study.__name__.rpartition(".")[2]: study for studies in QUESTIONS.values() for study in studies}
RUN = {study.Request: study.run for study in VERBS.values()}


def main(arguments: list[str] | None = None) -> None:
    """Run one command. An error is printed to stderr with exit status 2; a result not to be trusted has status 1.

    After an interruption (Ctrl-C) the status is 130.
    """
    try:
        try:
            _main(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the result, or the help, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _main(arguments: list[str]) -> None:
    if arguments in ([], ["--version"]):
        print(f"consilience {__version__}" if arguments else _overview())
        return
    if not arguments[0].startswith("-") and arguments[0] not in VERBS:
        near = get_close_matches(arguments[0], VERBS, n=1)
        cure = f"consilience {near[0]}" if near else "consilience, without a verb, lists them"
        _fail(f"there is no verb {arguments[0]}", f"  cure: {cure}")
    request: Any = tyro.extras.subcommand_cli_from_dict(
        {verb: study.Request for verb, study in VERBS.items()},
        prog="consilience",
        description="Find the features that recur across networks, and build one network of any width from them.",
        args=arguments,
    )
    try:
        check_words(arguments, request)
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():  # stdout is for results alone
            warnings.showwarning = _say
            result = _run(request)
        _print(result, request.json)
    except ConsilienceError as error:
        verb = type(request).__module__.rpartition(".")[2]
        help_of = [f"  cure: consilience {verb} --help"] if isinstance(error, InputError) and not error.cure else []
        _fail(in_options(str(error), request), *help_of, *getattr(error, "__notes__", []))
    except KeyboardInterrupt:
        _fail(f"interrupted; {kept(request)}", status=130)
    except BrokenPipeError:
        raise
    except OSError as error:
        _fail(f"an error of the system: {error}; {kept(request)}")
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        _fail(f"not enough memory; {kept(request)}")
    if result.status:
        raise SystemExit(result.status)


def _overview() -> str:
    """The verbs by question."""
    lines = ["consilience VERB --help shows what a verb does, its options and an example."]
    for question, studies in QUESTIONS.items():
        lines += ["", question]
        for study in studies:
            verb, does = study.__name__.rpartition(".")[2], " ".join(study.Request.__doc__.split())
            lines.append(f"  {verb:<12}{does.partition('. ')[0].removesuffix('.')}")
    return "\n".join(lines)


def _say(message: Warning | str, *where: object, **unused: object) -> None:
    print(f"consilience: {message}", file=sys.stderr)


def _fail(*lines: str, status: int = 2) -> NoReturn:
    print(f"consilience: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr)
    raise SystemExit(status) from None


def _run(request: Options) -> Result:
    check_count("threads", request.threads)
    check_count("random_state", request.seed, least=0)
    check_engine(request.engine)
    check_device(request.device)
    for library in ("OMP", "OPENBLAS", "MKL"):  # read when torch and NumPy are imported, which has not happened yet
        os.environ[f"{library}_NUM_THREADS"] = str(request.threads)
    with contextlib.nullcontext() if request.device == "cpu" else device(request.device), engine(request.engine):
        result: Result = RUN[type(request)](request)
    return result


def _print(result: Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.as_json, indent=1))
    elif result.table is not None and sys.stdout.isatty():
        from rich import print as show

        show(result.table)
    else:
        print(result.text)
    sys.stdout.flush()  # so that a full disk is noticed here


if __name__ == "__main__":
    main()
