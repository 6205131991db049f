"""Errors in one line, with an exit code."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import CompactHydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException


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
        line = " ".join(message.split())
        raise CompactHydraException(f"{key}: {line}" if key else line) from error


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exits if the body raises. In a callback, Hydra would only warn and continue."""
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
