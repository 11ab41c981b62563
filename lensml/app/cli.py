"""The command `lensml`."""

import typer

from lensml.app.inspect import look

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(look)


@app.callback()
def main() -> None:
    """Find strong gravitational lenses in survey cutouts."""
