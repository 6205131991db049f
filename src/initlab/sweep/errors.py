"""Errors in one line, with an exit code."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import CompactHydraException, InstantiationException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from initlab.resolvers import PREFIX


@contextmanager
def concise_errors() -> Iterator[None]:
    """Turns an error about a value, whichever library raises it, into one that Hydra prints without a stack trace."""
    try:
        yield
    except (ValueError, TypeError, OSError, OmegaConfBaseException, InstantiationException) as error:
        text = str(error).partition("\n\nConfig search path:")[0]
        message, _, rest = text.partition("full_key: ")  # Hydra and OmegaConf name the key on a line of its own
        key = rest.partition("\n")[0]
        if isinstance(error, InstantiationException):
            message = str(error.__cause__ or "") or message
        line = " ".join(message.split()).removeprefix(PREFIX)
        raise CompactHydraException(f"{key}: {line}" if key else line) from error


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exits with code 1 if the body raises: with one line for an expected error, with a stack trace for any other.

    In a callback, Hydra would only warn and continue.
    """
    try:
        with concise_errors():
            yield
    except CompactHydraException as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        sys.exit(f"error: {error}")
    except Exception:
        traceback.print_exc()
        sys.exit(1)


@contextmanager
def override_hints() -> Iterator[None]:
    """Within the context, an error about an override, with which Hydra exits, is followed by a line on what to type."""
    try:
        yield
    except SystemExit as exit:
        hint = _hint(exit.__context__, multirun=not {"-m", "--multirun"}.isdisjoint(sys.argv))
        if hint is None:
            raise
        if not isinstance(exit.code, str):
            print(f"hint: {hint}", file=sys.stderr)
            raise
        raise SystemExit(f"{exit.code}\nhint: {hint}") from exit


def _hint(error: BaseException | None, *, multirun: bool) -> str | None:
    """Returns what to type instead of the override that Hydra did not accept, if that is known."""
    if isinstance(error, OverrideParseException):
        if error.override.endswith(","):
            return f"{error.override} ends with a comma; expected another value after it, without a space"
        examples = """"KEY=[1, 2]" with spaces or brackets, "KEY='a?b=c'" with ? or ="""
        return f"{error.override} can't be read; expected KEY=VALUE, {examples}"
    if several := re.match(r"Ambiguous value for argument '(.+)'|Sweep parameters '(.+)' requires", str(error)):
        override = several[1] or several[2]
        return f'several values of {override.partition("=")[0]}: add -m, as in python train.py -m "{override}"'
    if missing := re.match(r"Could not override '(.+)'\.\nTo append to your config use \+(.+)", str(error)):
        new = f"++{missing[2]}" if multirun else f"+{missing[2]}"  # of a sweep's files, some may have the key
        return f"{missing[1]} is not in the configuration; if it is a new key and no misspelling: {new}"
    return None
