"""`python -m benchmarks.psf_match`: the stage psf_match against a plain loop, on the same stacks of stamps, same cores.

The loop goes object by object, band by band: codes decoded with numpy, photutils' kernel, scipy's convolutions of flux,
variance and mask, residual and FWHM measured, results saved. It is run as one usually runs it, in one process, and as
two that take half of the objects each.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import tifffile
import typer
from photutils.psf_matching import make_wiener_kernel
from scipy.signal import fftconvolve

from benchmarks.folder import BANDS, PSF_SIDE, ours, write_folder
from lensml import config
from lensml.sources import SOURCES
from lensml.store import quantisation, stamps
from lensml.store.parallel import in_order
from stages.psf_match import psf_match

LIKENESS = 0.02  # sky sigmas: rounding to codes, and single precision
INNER = (..., slice(24, -24), slice(24, -24))  # where the border's treatment is not seen


def gaussian(fwhm: float) -> np.ndarray:
    axis = np.arange(PSF_SIDE) - PSF_SIDE // 2
    image = np.exp(-4 * np.log(2) * (axis[:, None] ** 2 + axis**2) / fwhm**2)
    return image / image.sum()


def fwhm_pixels(psf: np.ndarray) -> float:
    """Where the mean in rings falls to half."""
    y, x = np.indices(psf.shape) - psf.shape[0] // 2
    ring = np.rint(np.hypot(y, x)).astype(int).ravel()
    profile = np.bincount(ring, psf.ravel()) / np.bincount(ring)
    return float(2 * np.interp(-profile[0] / 2, -profile[:15], np.arange(15)))


def match_one(flux: np.ndarray, variance: np.ndarray, psf: np.ndarray, target: np.ndarray, params: config.PsfMatch):
    """One band of one object."""
    kernel = make_wiener_kernel(psf, target, regularization=params.regularisation**2)
    squared, good = kernel**2, np.isfinite(variance)
    seen = fftconvolve(good.astype(float), squared, "same")
    bad = seen < (1 - params.lost_weight_max) * squared.sum()
    reached = fftconvolve(psf, kernel, "same")
    residual = np.abs(reached - target).sum()
    if residual > params.residual_max or fwhm_pixels(psf) > fwhm_pixels(target) or not fwhm_pixels(reached) > 0:
        raise ValueError("the benchmark's PSFs must reach the target")
    matched = np.where(bad, 0, fftconvolve(flux, kernel, "same"))
    spread = np.where(bad, np.inf, fftconvolve(np.where(good, variance, 0), squared, "same"))
    return matched, spread, reached


def plain_loop(objects: Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]], out: Path, pixels: float) -> None:
    """What one writes first, over (name, flux, variance, psf) with bands in front."""
    out.mkdir(exist_ok=True)
    params, target = config.load(Path("params.yaml")).psf_match, gaussian(pixels)
    for name, flux, variance, psf in objects:
        bands = [match_one(*planes, target, params) for planes in zip(flux, variance, psf, strict=True)]
        stacked = (np.stack(planes).astype("f4") for planes in zip(*bands, strict=True))
        np.savez(out / name, **dict(zip(("flux", "variance", "psf"), stacked, strict=True)))


def from_stacks(folder: Path, part: int, parts: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Every object of the stacks, or each `parts`-th from `part` on."""
    table = pl.read_parquet(folder / "catalogue.parquet", columns=["object_id", "sky_sigma", "stack", "row"])
    codes = {
        (stack, plane): tifffile.memmap(folder / stack / f"{plane}.tif", mode="r")
        for stack in table["stack"].unique()
        for plane in ("flux", "variance", "psf")
    }
    for name, sigma, stack, row in table[part::parts].iter_rows():
        sigma = np.array(sigma)[:, None, None]
        flux = np.sinh(codes[stack, "flux"][row] * quantisation.STEP) * sigma
        variance = codes[stack, "variance"][row]
        variance = np.where(variance == quantisation.BAD, np.inf, np.exp(variance * quantisation.STEP) * sigma**2)
        psf = np.sinh(codes[stack, "psf"][row] / quantisation.PSF_STEPS)
        yield name, flux, variance, psf / psf.sum(axis=(1, 2), keepdims=True)


def plain_part(folder: Path, out: Path, pixels: float, parts: int, part: int) -> None:
    plain_loop(from_stacks(folder, part, parts), out, pixels)


def plain(folder: Path, out: Path, pixels: float, parts: int) -> None:
    list(in_order(partial(plain_part, folder, out, pixels, parts), range(parts), parts))


def stage(folder: Path, out: Path, values: config.Params, jobs: int) -> None:
    params = values.psf_match.model_copy(update={"mode": "per_survey", "jobs": jobs})
    report = out.with_suffix(".json")
    psf_match.function("mine", folder, params, values.surveys, values.convert.objects_per_stack, out, report)


def likeness(mine: Path, theirs: Path) -> float:
    """Largest difference of matched fluxes in sky sigmas, away from the border."""
    worst = 0.0
    for batch in stamps.iterate(mine, 64):
        for name, flux, sigma in zip(batch.catalogue["object_id"], batch.flux, batch.sky_sigma, strict=True):
            other = np.load(theirs / f"{name}.npz")["flux"]
            worst = max(worst, float(np.abs((flux - other) / sigma[:, None, None])[INNER].max()))
    return worst


def seconds(function: Callable[..., None], *arguments: Any) -> float:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def compared(title: str, objects: int, best: dict[str, float]) -> None:
    """Print objects per second, and how many times faster ours is, process against process."""
    print(f"{title}: {objects} objects of {len(BANDS)} bands; best of the turns")
    for name, duration in best.items():
        print(f"  {name:<24}{objects / duration:8.0f} objects/s")
    for ours_in, plain_in in ((2, 1), (1, 1), (2, 2)):
        ratio = best[f"plain loop, {plain_in} process"] / best[f"lensml, {ours_in} process"]
        print(f"  ratio, ours in {ours_in} against the loop in {plain_in}: {ratio:5.1f}")


def main(
    objects: Annotated[int, typer.Option(min=8)] = 1024,
    pixels: Annotated[int, typer.Option(min=56)] = 64,
    turns: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Both on the same files in turns, so that what else the machine does meets both."""
    warnings.simplefilter("ignore")
    values = config.load(Path("params.yaml"))
    hsc = values.surveys["hsc"]
    target = hsc.target_psf_fwhm / hsc.pixel_scale
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        write_folder(here / "in", objects, pixels)
        source = config.CutoutsSource(kind="cutouts", path=str(here / "in"), files_per_archive=4096)
        SOURCES["cutouts"].fetch(source, values.surveys, here / "raw")
        ours(here / "raw", here / "stamps", values)
        plain(here / "stamps", here / "warm", target, 2)  # the workers, who then stay
        for turn in range(turns):
            for count in (1, 2):
                for name, work, last in (("plain loop", plain, target), ("lensml", stage, values)):
                    out, arguments = here / f"{name[0]}{turn}{count}", (last, count)
                    took = seconds(work, here / "stamps", out, *arguments)
                    best[f"{name}, {count} process"] = min(took, best.get(f"{name}, {count} process", np.inf))
        off = likeness(here / "l01", here / "p01")
    if off > LIKENESS:
        raise SystemExit(f"the two must agree within {LIKENESS:g} sky sigmas, got {off:.3g}")
    compared("psf_match", objects, best)
    print(f"  the two agree within {off:.1g} sky sigmas away from the border")


if __name__ == "__main__":
    typer.run(main)
