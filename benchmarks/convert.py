"""`python -m benchmarks.convert`: `convert`, and `convert` with `psf_match`, against plain loops on the same files."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from astropy.io import fits
from astropy.stats import sigma_clipped_stats

from benchmarks.folder import BANDS, in_processes, ours, write_folder
from lensml import config
from lensml.sources import SOURCES
from lensml.store.parallel import in_order


def plain_loop(folder: Path, out: Path, parts: int, part: int) -> None:
    """Per object: open, unit, clipped statistics of every band, mask, write. Every `parts`-th object from `part` on."""
    out.mkdir(exist_ok=True)
    for path in sorted(folder.glob("*.fits"))[part::parts]:
        planes = []
        with fits.open(path, memmap=False) as hdus:
            for band in BANDS:
                header = hdus[f"{band}_SCI"].header
                factor = 10 ** (0.4 * (31.4 - header["MAGZERO"]))
                flux = hdus[f"{band}_SCI"].data.astype("f4") * factor
                variance = hdus[f"{band}_VAR"].data.astype("f4") * factor**2
                psf = hdus[f"{band}_PSF"].data / hdus[f"{band}_PSF"].data.sum()
                bad = ~np.isfinite(flux) | ~(variance > 0)
                _, level, sigma = sigma_clipped_stats(flux, mask=bad)
                planes.append((np.where(bad, 0, flux), np.where(bad, np.inf, variance), psf, level, sigma))
        names = ("flux", "variance", "psf", "level", "sigma")
        np.savez(out / path.stem, **{n: np.stack(p) for n, p in zip(names, zip(*planes, strict=True), strict=True)})


def plain_match(folder: Path, out: Path, pixels: float) -> None:
    """The loop over what `plain_loop` wrote; see benchmarks.psf_match."""
    from benchmarks import psf_match  # which imports this file

    def objects() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as planes:
                yield path.stem, planes["flux"], planes["variance"], planes["psf"]

    psf_match.plain_loop(objects(), out, pixels)


def plain_part(folder: Path, out: Path, pixels: float | None, parts: int, part: int) -> None:
    """Convert a part of the objects, and match them where there is a target."""
    converted = out / f"converted{part}"
    plain_loop(folder, converted, parts, part)
    if pixels is not None:
        plain_match(converted, out / "matched", pixels)


def plain(folder: Path, out: Path, pixels: float | None, parts: int) -> None:
    """In so many processes."""
    out.mkdir()
    list(in_order(partial(plain_part, folder, out, pixels, parts), range(parts), parts))


def both(raw: Path, out: Path, params: config.Params) -> None:
    """The two stages."""
    from benchmarks import psf_match

    ours(raw, out / "stamps", params)
    psf_match.stage(out / "stamps", out / "matched", params, params.psf_match.jobs)


def main(
    objects: Annotated[int, typer.Option(min=8)] = 1024,
    pixels: Annotated[int, typer.Option(min=56)] = 64,
    turns: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Convert alone, and convert and psf_match together, on the same files in turns."""
    from benchmarks.psf_match import compared, seconds

    warnings.simplefilter("ignore")
    values = config.load(Path("params.yaml"))
    hsc = values.surveys["hsc"]
    target = hsc.target_psf_fwhm / hsc.pixel_scale
    alone: dict[str, float] = {}
    together: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        write_folder(here / "in", objects, pixels)
        source = config.CutoutsSource(kind="cutouts", path=str(here / "in"), files_per_archive=4096)
        SOURCES["cutouts"].fetch(source, values.surveys, here / "raw")
        plain(here / "in", here / "warm", target, 2)  # the workers, who then stay
        for turn in range(turns):
            for count in (1, 2):
                params = in_processes(values, count)
                took = {
                    ("plain loop", 0): seconds(plain, here / "in", here / f"p{turn}{count}", None, count),
                    ("lensml", 0): seconds(ours, here / "raw", here / f"l{turn}{count}", params),
                    ("plain loop", 1): seconds(plain, here / "in", here / f"pp{turn}{count}", target, count),
                    ("lensml", 1): seconds(both, here / "raw", here / f"ll{turn}{count}", params),
                }
                for (name, which), duration in took.items():
                    best, key = (alone, together)[which], f"{name}, {count} process"
                    best[key] = min(duration, best.get(key, np.inf))
    compared("convert", objects, alone)
    compared("convert and psf_match", objects, together)


if __name__ == "__main__":
    typer.run(main)
