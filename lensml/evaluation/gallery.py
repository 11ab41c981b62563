"""Contact sheets: pictures of stamps with what is known of each, a compass, a scale bar and the PSF, as one PNG."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from tqdm import tqdm

from lensml.evaluation.composite import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

EDGES: Final = {"lens": "#e66100", "nonlens": "#2d7fb8", "unknown": "#808080"}  # apart for every kind of colour vision
SCALE_BARS_ARCSEC: Final = (0.1, 0.5, 1.0, 5.0, 30.0)
SCALE_BAR_SHARE: Final = 0.4  # of a picture's width, at most, of any bar but the shortest
STAMPS_MAX: Final = 600  # a higher picture than programs show

# In pixels of the PNG
DPI: Final = 100
COLUMNS: Final = 5
COLUMNS_MIN: Final = 3  # room for the heading
SIDE: Final = 270
GAP: Final = 14
HEADING: Final = 34
LINE: Final = 13
_COMPASS: Final = 20  # length of an arrow
_CORNER: Final = 36  # of the compass's middle from the picture's corner: arrow and letter fit in any direction
_INSET: Final = 66  # side of the PSF's picture
_BAR: Final = 16  # of the scale bar from the picture's corner
_POINTS: Final = 8  # of the text
_WHITE: Final = "#ffffff"
_BESIDE: Final = "#b0b0b0"  # beside the picture of a stamp that is no square


@dataclass(frozen=True)
class Tile:
    """A stamp on a sheet.

    Attributes
    ----------
    picture : (y, x, 3)
    lines : text above it
    label : of schema.LABELS; colours the frame
    pixel_scale : arcsec; None: no scale bar
    north_deg : where north is, from +y towards -x; None: no compass
    psf : (y, x, 3), a picture of the PSF; None: no inset
    """

    picture: Picture
    lines: tuple[str, ...]
    label: str
    pixel_scale: float | None = None
    north_deg: float | None = None
    psf: Picture | None = None


def lines(
    object_id: str, label: str, source: str, survey: str, score: float | None, shown: Sequence[str]
) -> tuple[str, ...]:
    """What stands above a stamp: its name, what is known of it and from whom, survey, bands (red first) and score."""
    told = f"{survey} ({' '.join(shown)})"
    return object_id, f"{label} ({source})", told if score is None else f"{told}, score {score:.4f}"


def compass(north_deg: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Unit vectors (x, y) to the north and to the east, which is 90 deg further from +y over -x."""
    directions = np.radians([north_deg, north_deg + 90])
    north, east = np.stack([-np.sin(directions), np.cos(directions)], axis=1).tolist()
    return (north[0], north[1]), (east[0], east[1])


def scale_bar_arcsec(width_arcsec: float) -> float:
    """The longest of `SCALE_BARS_ARCSEC` that takes no more than `SCALE_BAR_SHARE` of a picture's width."""
    fitting = [bar for bar in SCALE_BARS_ARCSEC if bar <= SCALE_BAR_SHARE * width_arcsec]
    return fitting[-1] if fitting else SCALE_BARS_ARCSEC[0]


def sheet(tiles: Sequence[Tile], heading: str, path: Path, notes: Sequence[str] = ()) -> None:
    """Write the tiles as one PNG, row by row, and the notes beneath, in the same bytes every time.

    Raises
    ------
    ValueError
        There is no tile, or more than `STAMPS_MAX`.
    """
    if not 1 <= len(tiles) <= STAMPS_MAX:
        got = len(tiles) or "none"
        raise ValueError(f"a contact sheet must hold 1 to {STAMPS_MAX} stamps, got {got} ({heading}). Choose others.")
    from matplotlib.image import imsave

    width = max(min(COLUMNS, len(tiles)), COLUMNS_MIN) * (SIDE + GAP) + GAP
    below = [part for note in notes for part in textwrap.wrap(note, width // 6, subsequent_indent="    ")]
    rows = [tiles[first : first + COLUMNS] for first in range(0, len(tiles), COLUMNS)]
    strips = [_written([heading], width, HEADING, fontsize=11)]
    for row in tqdm(rows, "sheet", unit=" rows", disable=None, delay=5, leave=False):
        strips.append(_row(row, width, LINE * max(len(tile.lines) for tile in tiles)))
    strips.append(_written(below, width, GAP + LINE * len(below)))
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, np.concatenate(strips), format="png", metadata={"Software": "lensml"})  # not matplotlib's version


def _blank(width: int, height: int) -> "tuple[FigureCanvasAgg, Axes]":
    """A strip of the sheet, and axes whose units are its pixels, from its lower left corner."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), frame_on=False, xticks=[], yticks=[])
    return FigureCanvasAgg(figure), axes


def _pixels(canvas: "FigureCanvasAgg") -> Picture:
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _written(words: Sequence[str], width: int, height: int, **style: Any) -> Picture:
    """Lines of text, from the top."""
    canvas, axes = _blank(width, height)
    for i, line in enumerate(words):
        _text(axes, GAP, height - GAP / 2 - LINE * i, line, va="top", **style)
    return _pixels(canvas)


def _row(tiles: Sequence[Tile], width: int, text: int) -> Picture:
    """Tiles side by side, with so many pixels for the lines above them."""
    canvas, axes = _blank(width, GAP + SIDE + GAP // 2 + text)
    for column, tile in enumerate(tiles):
        left = GAP + column * (SIDE + GAP)
        _draw(axes, tile, left, GAP)
        for above, line in enumerate(reversed(tile.lines)):
            _text(axes, left, GAP + SIDE + GAP // 2 + LINE * above, _fitting(canvas, line), va="bottom")
    return _pixels(canvas)


def _draw(axes: "Axes", tile: Tile, left: int, bottom: int) -> None:
    """A tile whose square has its lower left corner there."""
    from matplotlib.patches import Rectangle

    rows, columns = tile.picture.shape[:2]
    zoom = SIDE / max(rows, columns)
    x, y = left + (SIDE - columns * zoom) / 2, bottom + (SIDE - rows * zoom) / 2
    axes.add_patch(Rectangle((left, bottom), SIDE, SIDE, facecolor=_BESIDE, linewidth=0, zorder=-1))
    _image(axes, tile.picture, x, y, zoom)
    edge = EDGES.get(tile.label, EDGES["unknown"])
    axes.add_patch(Rectangle((left, bottom), SIDE, SIDE, fill=False, edgecolor=edge, linewidth=2))
    if tile.pixel_scale is not None:
        _scale_bar(axes, columns, tile.pixel_scale, zoom, (left + _BAR, bottom + _BAR))
    if tile.north_deg is not None:
        _compass(axes, tile.north_deg, (left + _CORNER, bottom + SIDE - _CORNER))
    if tile.psf is not None:
        corner = (left + SIDE - _INSET - 4, bottom + SIDE - _INSET - 4)
        _image(axes, tile.psf, *corner, _INSET / tile.psf.shape[0])
        axes.add_patch(Rectangle(corner, _INSET, _INSET, fill=False, edgecolor=_WHITE, linewidth=0.8))


def _image(axes: "Axes", picture: Picture, x: float, y: float, zoom: float) -> None:
    rows, columns = picture.shape[:2]
    how = "nearest" if zoom >= 1 else "hanning"  # pixels as they are, where the picture has one for each
    extent = (x, x + columns * zoom, y, y + rows * zoom)
    axes.imshow(picture, origin="lower", interpolation=how, extent=extent, aspect="auto", clip_on=False)
    axes.set(xlim=(0, axes.figure.bbox.width), ylim=(0, axes.figure.bbox.height))


def _scale_bar(axes: "Axes", columns: int, pixel_scale: float, zoom: float, at: tuple[float, float]) -> None:
    bar = scale_bar_arcsec(columns * pixel_scale)
    length, (x, y) = bar / pixel_scale * zoom, at
    axes.plot([x, x + length], [y, y], color=_WHITE, linewidth=2, solid_capstyle="butt", path_effects=_outline(4))
    _text(axes, x, y + 4, f'{bar:g}"', weight="bold", color=_WHITE, va="bottom", path_effects=_outline(2))


def _compass(axes: "Axes", north_deg: float, at: tuple[float, float]) -> None:
    for letter, direction in zip("NE", compass(north_deg), strict=True):
        tip = at[0] + _COMPASS * direction[0], at[1] + _COMPASS * direction[1]
        arrow = {"arrowstyle": "-|>", "color": _WHITE, "shrinkA": 0, "shrinkB": 0, "path_effects": _outline(3)}
        axes.annotate("", tip, at, arrowprops=arrow)
        x, y = (at[k] + (_COMPASS + 8) * direction[k] for k in (0, 1))
        _text(axes, x, y, letter, weight="bold", color=_WHITE, ha="center", va="center", path_effects=_outline(2))


def _outline(width: float) -> list[Any]:
    """White marks are seen on white cores too."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="#000000")]


def _text(axes: "Axes", x: float, y: float, words: str, **style: Any) -> None:
    axes.text(x, y, words, **({"fontsize": _POINTS, "parse_math": False} | style))


def _fitting(canvas: "FigureCanvasAgg", line: str) -> str:
    """A line that fits above a tile, its middle left out where it must be."""
    from matplotlib.font_manager import FontProperties

    renderer, font = canvas.get_renderer(), FontProperties(size=_POINTS)
    kept, shown = len(line), line
    while kept > 1 and renderer.get_text_width_height_descent(shown, font, False)[0] > SIDE:
        kept -= 1
        shown = f"{line[: kept - kept // 2]}\u2026{line[len(line) - kept // 2 :]}"
    return shown
