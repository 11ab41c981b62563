"""How bad input is told to the user."""

import contextlib
import sys
from collections.abc import Iterator

import typer


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input, in one line and exit code 1; anything else is a mistake of ours and keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
