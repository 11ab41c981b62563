"""Pictures of stamps: colour composites with Lupton's stretch, many on one sheet, each with its label and score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Picture = NDArray[np.uint8]

NOISY_BANDS: Final = ("u",)  # left out of a composite where three others are there
STRETCH_SIGMA: Final = 5.0  # in sky sigmas: about linear below, logarithmic above
SOFTENING: Final = 8.0  # Lupton's Q
BLACK_SIGMA: Final = -1.0  # what is black, in sky sigmas: the noise stays to be seen
EDGES: Final = {"lens": "#e66100", "nonlens": "#2d7fb8", "unknown": "#808080"}  # apart for every kind of colour vision
COLUMNS: Final = 6
COLUMNS_MIN: Final = 3  # room for the heading
TILE_INCHES: Final = 1.75
GAP_INCHES: Final = 0.12
ROW_INCHES: Final = TILE_INCHES + 0.42  # with three lines of text
HEADING_INCHES: Final = 0.35
LINE_CHARACTERS: Final = 34
DPI: Final = 110


@dataclass(frozen=True)
class Tile:
    """A stamp's picture (y, x, 3) with the lines that stand above it and the label that colours its frame."""

    picture: Picture
    lines: tuple[str, ...]
    label: str


def composite(flux: ArrayLike, sky_sigma: ArrayLike, bands: Sequence[str]) -> Picture:
    """Colours of three bands, red for the longest wavelength; grey where there are fewer than three: (y, x, 3).

    `flux` (band, y, x) and `sky_sigma` (band,) in nJy, in order of wavelength. Each band is in units of its noise, so
    that the sky is grey, and one stretch serves all three (Lupton et al. 2004, PASP 116, 133).
    """
    from astropy.visualization import make_lupton_rgb

    images = np.asarray(flux, float) / np.asarray(sky_sigma, float)[:, None, None]
    wanted = [i for i, band in enumerate(bands) if band not in NOISY_BANDS]
    chosen = wanted if len(wanted) >= 3 else list(range(len(bands)))
    blue, green, red = images[chosen[:3]] if len(chosen) >= 3 else [images.mean(axis=0)] * 3
    stretched = make_lupton_rgb(red, green, blue, minimum=BLACK_SIGMA, stretch=STRETCH_SIGMA, Q=SOFTENING)
    return np.asarray(stretched, np.uint8)


def lines(object_id: str, label: str, source: str, survey: str, score: float | None) -> tuple[str, ...]:
    """What stands above a stamp: its name, what is known of it and from whom, the survey and the score."""
    told = survey if score is None else f"{survey}, score {score:.4f}"
    return object_id, f"{label} ({source})", told


def sheet(tiles: Sequence[Tile], heading: str, path: Path) -> None:
    """Write the tiles as one PNG, row by row, in the same bytes every time.

    Raises
    ------
    ValueError
        There is no tile.
    """
    if not tiles:
        raise ValueError(f"a contact sheet must hold a stamp, got none ({heading}). Choose others.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(tiles) // COLUMNS)
    width, height = max(min(COLUMNS, len(tiles)), COLUMNS_MIN) * TILE_INCHES, HEADING_INCHES + rows * ROW_INCHES
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(GAP_INCHES / width, 1 - GAP_INCHES / height, heading, fontsize=10, ha="left", va="top")
    for i, tile in enumerate(tiles):
        row, column = divmod(i, COLUMNS)
        left, bottom = column * TILE_INCHES + GAP_INCHES / 2, height - HEADING_INCHES - (row + 1) * ROW_INCHES
        side = TILE_INCHES - GAP_INCHES
        axes = figure.add_axes((left / width, (bottom + GAP_INCHES) / height, side / width, side / height))
        axes.imshow(tile.picture, origin="lower", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title("\n".join(_short(line) for line in tile.lines), fontsize=6.5, pad=3)
        axes.spines[:].set(color=EDGES.get(tile.label, EDGES["unknown"]), linewidth=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


def _short(line: str) -> str:
    """A line that fits above a tile, its middle left out where it must be."""
    half = LINE_CHARACTERS // 2 - 1
    return line if len(line) <= LINE_CHARACTERS else f"{line[:half]}\u2026{line[-half:]}"
