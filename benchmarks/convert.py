"""`python -m benchmarks.convert`: stamps per second of `convert`, against a plain loop with astropy."""

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from astropy.io import fits
from astropy.stats import sigma_clipped_stats

from lensml import config
from lensml.sources import SOURCES
from lensml.sources.conversion import Account, convert_all
from lensml.store.stamps import StampWriter

BANDS = ("g", "r", "i", "z", "y")


def write_folder(folder: Path, objects: int, pixels: int, psf_pixels: int) -> None:
    """Objects of five bands with variance and PSF, in the `cutouts` contract."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    psf = np.exp(-(((np.indices((psf_pixels, psf_pixels)) - psf_pixels // 2) / 2.0) ** 2).sum(axis=0)).astype("f4")
    for index in range(objects):
        hdus: list[fits.PrimaryHDU | fits.ImageHDU] = [fits.PrimaryHDU()]
        for band in BANDS:
            image = fits.ImageHDU(rng.normal(size=(pixels, pixels)).astype("f4"), name=f"{band}_SCI")
            image.header.update(MAGZERO=27.0, CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CD1_1=-4.6667e-5, CD2_2=4.6667e-5)
            hdus += [image, fits.ImageHDU(np.ones((pixels, pixels), "f4"), name=f"{band}_VAR")]
            hdus += [fits.ImageHDU(psf, name=f"{band}_PSF")]
        fits.HDUList(hdus).writeto(folder / f"o{index:06d}.fits")
    rows = "".join(f"o{index:06d},hsc\n" for index in range(objects))
    (folder / "catalogue.csv").write_text("object_id,survey\n" + rows)


def plain_loop(folder: Path, out: Path) -> None:
    """Per object: open, unit, clipped statistics of every band, mask, write."""
    out.mkdir()
    for path in sorted(folder.glob("*.fits")):
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
        np.savez(
            out / path.stem,
            **{f"{n}{k}": p for k, plane in enumerate(planes) for n, p in zip(names, plane, strict=True)},
        )


def ours(raw: Path, out: Path, params: config.Params) -> None:
    account = Account()
    with StampWriter(out, params.convert.objects_per_stack) as writer:
        for converted in convert_all(SOURCES["cutouts"], "mine", raw, params.surveys, params.convert):
            for encoded in converted.encoded:
                writer.append(encoded)
            account.add(converted)
    account.check("mine", params.convert.refused_max)


def seconds(function: Callable[..., None], *arguments: Any) -> float:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def main(
    objects: Annotated[int, typer.Option(min=8)] = 1000,
    pixels: Annotated[int, typer.Option(min=16)] = 64,
    jobs: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Time both on the same files, in the same run; the target is 3 times."""
    warnings.simplefilter("ignore")
    params = config.load(Path("params.yaml"))
    params = params.model_copy(update={"convert": params.convert.model_copy(update={"jobs": jobs})})
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        write_folder(here / "in", objects, pixels, 41)
        source = config.CutoutsSource(kind="cutouts", path=str(here / "in"), files_per_archive=4096)
        SOURCES["cutouts"].fetch(source, params.surveys, here / "raw")
        plain, mine = np.inf, np.inf
        for turn in range(rounds):  # in turns, so that other load meets both; the best counts
            plain = min(plain, seconds(plain_loop, here / "in", here / f"plain{turn}"))
            mine = min(mine, seconds(ours, here / "raw", here / f"ours{turn}", params))
    print(f"convert, {objects} objects of {len(BANDS)} x {pixels} x {pixels} with variance and PSF, {jobs} processes")
    for name, duration in (("plain astropy loop", plain), ("lensml", mine)):
        print(f"{name:<20}{objects / duration:8.0f} objects/s {objects * len(BANDS) / duration:8.0f} stamps/s")
    print(f"ratio {plain / mine:.1f} (target 3)")


if __name__ == "__main__":
    typer.run(main)
