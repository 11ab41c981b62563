"""`lensml cluster`: critical curves and caustics of a Lenstool model, with the multiple images that it explains."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import polars as pl
import typer

from lensml.errors import one_line_errors
from lensml.evaluation import gallery
from lensml.schema import ContractError
from lensml.sources import multiple_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lensml.lensing.cluster import Curves
    from lensml.lensing.lenstool import Model

_BYTES_MAX: Final = 2**24  # of a list of images; a real one has thousands
_COLOURS: Final = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7")  # apart for every kind of colour vision
_MARKERS: Final = "os^Dv"  # families next to each other differ in form too
_LEGEND_ROWS: Final = 30
_DPI: Final = 120
_MARGIN: Final = 1.3  # about the widest caustic: room for compass and bar


def cluster(
    model: Annotated[Path, typer.Argument(help="A Lenstool parameter file that lists every potential: best.par.")],
    redshift: Annotated[list[float], typer.Option(help="Of the sources; may be given several times.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    images: Annotated[Path | None, typer.Option(help="The multiple images: arcs.dat.")] = None,
    field: Annotated[float, typer.Option(help="Side of the square about the model's reference, arcsec.")] = 120.0,
    step: Annotated[float, typer.Option(help="Of the grid that curves are drawn from, arcsec.")] = 0.2,
) -> None:
    """Draw critical curves and caustics of a cluster, and its multiple images by family; north is up, east left.

    The scatter of a family is the rms distance of its images from their mean, each traced back to the source plane.
    """
    with one_line_errors():
        from lensml.lensing import cluster as lens
        from lensml.lensing import lenstool

        if not 1 <= len(redshift) <= len(_COLOURS):
            raise ValueError(f"--redshift must be given 1 to {len(_COLOURS)} times, got {len(redshift)}.")
        found = lenstool.read(model)
        ratios = lens.distance_ratio(found, redshift)
        shown = None if images is None else read_images(images)
        places = None if shown is None else lens.traced(found, shown)
        families = None if shown is None else lens.scatter(found, shown)
        maps = lens.maps(found, field, step)
        critical = [lens.critical_curves(found, maps, z) for z in redshift]
        caustics = [lens.caustics(found, curves, z) for curves, z in zip(critical, redshift, strict=True)]
        heading = f"{model.name}: {len(found.potentials)} potentials at z {found.z_lens:g}"
        picture(heading, redshift, critical, caustics, field, places, families, out)
        for line in report(found, redshift, ratios.tolist(), critical, families, out):
            typer.echo(line)


def read_images(path: Path) -> pl.DataFrame:
    """id, ra, dec (deg) and z (null where it is free) of a list of multiple images.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ContractError
        It is no such list, or larger than 16 MiB.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--images must be a list of multiple images, got none at {path}. Name one: arcs.dat.")
    if (size := path.stat().st_size) > _BYTES_MAX:
        raise ContractError(f"{path} must have at most {_BYTES_MAX} bytes, got {size}. Name a list of images.")
    try:
        return multiple_images.positions(path.read_bytes())
    except ContractError as error:
        raise ContractError(f"{path.name}: {error}") from None


def report(
    model: "Model", redshift: list[float], ratios: list[float], critical: "list[Curves]",
    families: pl.DataFrame | None, out: Path,
) -> list[str]:  # fmt: skip
    """What was drawn, in words; a curve that leaves the field is said."""
    found = [f"{out}: {len(model.potentials)} potentials at z {model.z_lens:g}"]
    for z, ratio, curves in zip(redshift, ratios, critical, strict=True):
        lines = curves.tangential + curves.radial
        is_open = any((line[0] != line[-1]).any() for line in lines)
        told = "no critical curve in the field" if not lines else f"{len(lines)} critical curves"
        found.append(f"z {z:g}: D_ls/D_s {ratio:.4f}, {told}{', cut by its edge (--field)' if is_open else ''}")
    if families is not None:
        found.append(scatter_line(families))
    return found


def scatter_line(families: pl.DataFrame) -> str:
    """How well the images come together in the source plane."""
    told = f"{families['images'].sum()} images of {families.height} families"
    several = families.drop_nulls("rms_arcsec")
    if not several.height:
        return f"{told}, none with two images"
    worst = several.row(int(np.argmax(several["rms_arcsec"].to_numpy())), named=True)
    median = several.select(pl.median("rms_arcsec")).item()
    return f"{told}: scatter median {median:.3f}, at most {worst['rms_arcsec']:.3f} arcsec (family {worst['family']})"


def picture(
    heading: str, redshift: list[float], critical: "list[Curves]", caustics: "list[Curves]", field: float,
    places: pl.DataFrame | None, families: pl.DataFrame | None, path: Path,
) -> None:  # fmt: skip
    """Draw both planes into one PNG, in the same bytes every time.

    Parameters
    ----------
    critical, caustics : of each redshift
    field : side of the square, arcsec
    places : images with family, x and y (arcsec); None: none to draw
    families : with z and rms_arcsec, as in `places`
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(19, 8.6), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(heading, fontsize=12, ha="left", x=0.01)
    image_plane, source_plane = figure.subplots(1, 2)
    for axes, title, drawn, half in (
        (image_plane, "image plane: critical curves", critical, field / 2),
        (source_plane, "source plane: caustics", caustics, _reach(caustics) or field / 2),
    ):
        _frame(axes, title, half)
        for z, curves, colour in zip(redshift, drawn, _COLOURS, strict=False):
            _draw(axes, curves, colour, f"z {z:g}")
    image_plane.legend(loc="lower right", fontsize=8, framealpha=0.9)
    if places is not None and families is not None:
        _draw_images(image_plane, places, families)
        title, columns = "family, z, scatter", -(-families.height // _LEGEND_ROWS)
        handles, labels = image_plane.get_legend_handles_labels()
        chosen = [i for i, label in enumerate(labels) if label.startswith("family ")]
        figure.legend(
            [handles[i] for i in chosen], [labels[i].removeprefix("family ") for i in chosen],
            loc="outside right upper", fontsize=8, title=title, title_fontsize=8, ncols=columns,
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": "lensml"})


def _reach(caustics: "list[Curves]") -> float:
    """Half the side of a square about the reference that holds the widest caustic; 0 without any."""
    lines = [line for curves in caustics for line in curves.tangential]
    return _MARGIN * float(np.abs(max(lines, key=lambda line: np.ptp(line, axis=0).max())).max()) if lines else 0.0


def _frame(axes: "Axes", title: str, half: float) -> None:
    """A square of the sky: north up, east left, and a scale bar."""
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", title=title)
    axes.set(xlabel="arcsec to the west of the reference", ylabel="arcsec to the north")
    x, y = -0.8 * half, 0.8 * half
    for letter, (right, up) in zip("NE", gallery.compass(0.0), strict=True):
        tip, beyond = 0.12 * half, 0.16 * half
        arrow = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x + tip * right, y + tip * up), (x, y), arrowprops=arrow)
        axes.text(x + beyond * right, y + beyond * up, letter, weight="bold", ha="center", va="center")
    bar = gallery.scale_bar_arcsec(2 * half)
    left, below = -0.92 * half, -0.92 * half
    axes.plot([left, left + bar], [below, below], color="black", lw=3, solid_capstyle="butt")
    axes.text(left + bar / 2, below + 0.02 * half, f'{bar:g}"', weight="bold", ha="center", va="bottom")


def _draw(axes: "Axes", curves: "Curves", colour: str, label: str) -> None:
    from matplotlib.collections import LineCollection

    for lines, name, style, width in ((curves.tangential, "tangential", "-", 1.2), (curves.radial, "radial", ":", 1.0)):
        told = f"{label}, {name}"
        axes.add_collection(LineCollection(list(lines), colors=colour, linestyles=style, linewidths=width, label=told))


def _draw_images(axes: "Axes", places: pl.DataFrame, families: pl.DataFrame) -> None:
    from matplotlib import colormaps

    colours: Any = colormaps["turbo"](np.linspace(0.05, 0.95, families.height))
    for i, (name, _, z, rms) in enumerate(families.iter_rows()):
        here = places.filter(pl.col("family") == name)
        told = f"family {name}, {z:.3f}" + ("" if rms is None else f', {rms:.3f}"')
        style: dict[str, Any] = {"s": 26, "color": [colours[i]], "edgecolor": "black", "linewidth": 0.5, "zorder": 3}
        axes.scatter(here["x"], here["y"], marker=_MARKERS[i % len(_MARKERS)], label=told, **style)
        for x, y in here.select("x", "y").iter_rows():
            axes.annotate(name, (x, y), (3, 3), textcoords="offset points", fontsize=7, zorder=4, clip_on=True)
