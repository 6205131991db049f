"""Parts of a report that may fail: no report may cost a sweep its results, and no figure the other figures."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def optional(part: str, failed: dict[str, str] | None = None) -> Iterator[None]:
    """Within the context, an error costs only this part of the report: it is logged in one line.

    failed: where the line is added, {line: stack trace}.
    """
    try:
        yield
    except Exception as error:  # whatever it is, training has succeeded
        line = " ".join(f"Left out: {part}: {type(error).__name__}: {error}".split())
        log.warning(line)
        if failed is not None:
            failed[line] = traceback.format_exc()
