"""How bad input is told to the user."""

import contextlib
import errno
import sys
from collections.abc import Iterator

import typer


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input, in one line and exit code 1; anything else is a mistake of ours and keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        remedy = " (writing). Make room on the disk and run again" if _is_full(error) else ""
        typer.echo(f"error: {' '.join(str(error).split())}{remedy}", err=True)
        sys.exit(1)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
