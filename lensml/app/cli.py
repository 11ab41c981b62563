"""The command `lensml`."""

from pathlib import Path
from typing import Annotated

import typer

from lensml.app.cluster import cluster
from lensml.app.export import export
from lensml.app.inspect import look
from lensml.errors import one_line_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(look)
app.command()(export)
app.command()(cluster)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="A folder in the cutouts contract (README).")],
    out: Annotated[Path, typer.Option(help="The candidate table to write, .parquet.")],
    project: Annotated[Path, typer.Option(help="Where the ensemble was trained.")] = Path(),
) -> None:
    """Score a folder of cutouts with the trained ensemble: a row per object, best first, or the reason why not."""
    with one_line_errors():
        from lensml.app.score import score as scored

        table = scored(folder, out, project)
        refused = table.filter(table["reason"] != "").height
        typer.echo(f"{table.height - refused} scored, {refused} refused with a reason: {out}")


@app.callback()
def main() -> None:
    """Find strong gravitational lenses in survey cutouts."""
