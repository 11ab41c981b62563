"""A folder of cutouts to measure on, and the stage `convert` on it."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.modeling.models import Moffat2D

from lensml import config
from lensml.ingest.conversion import Account, convert_all
from lensml.sources import SOURCES
from lensml.store.stamps import StampWriter

BANDS = ("g", "r", "i", "z", "y")
PSF_SIDE = 41


def moffats(count: int) -> np.ndarray:
    """PSFs (count, y, x) of 3.6 to 5 pixels, each its own."""
    axis = np.arange(PSF_SIDE) - PSF_SIDE // 2
    fwhm = np.random.default_rng(2).uniform(3.6, 5.0, (count, 1, 1))
    gamma = fwhm / (2 * np.sqrt(2 ** (1 / 3.0) - 1))
    return Moffat2D.evaluate(axis[:, None], axis, 1.0, 0.0, 0.0, gamma, 3.0).astype("f4")


def write_folder(folder: Path, objects: int, pixels: int) -> None:
    """Objects of five bands with variance and PSF, in the `cutouts` contract."""
    folder.mkdir()
    rng, psfs = np.random.default_rng(1), moffats(objects * len(BANDS))
    for index in range(objects):
        hdus: list[fits.PrimaryHDU | fits.ImageHDU] = [fits.PrimaryHDU()]
        for number, band in enumerate(BANDS):
            variance = rng.uniform(0.9, 1.1, (pixels, pixels)).astype("f4")
            image = fits.ImageHDU(
                (rng.normal(size=variance.shape) * np.sqrt(variance)).astype("f4"), name=f"{band}_SCI"
            )
            image.header.update(MAGZERO=27.0, CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CD1_1=-4.6667e-5, CD2_2=4.6667e-5)
            hdus += [image, fits.ImageHDU(variance, name=f"{band}_VAR")]
            hdus += [fits.ImageHDU(psfs[index * len(BANDS) + number], name=f"{band}_PSF")]
        fits.HDUList(hdus).writeto(folder / f"o{index:06d}.fits")
    rows = "".join(f"o{index:06d},hsc\n" for index in range(objects))
    (folder / "catalogue.csv").write_text("object_id,survey\n" + rows)


def ours(raw: Path, out: Path, params: config.Params) -> None:
    account = Account()
    with StampWriter(out, params.convert.objects_per_stack) as writer:
        for converted in convert_all(SOURCES["cutouts"], "mine", raw, params.surveys, params.convert):
            for encoded in converted.encoded:
                writer.append(encoded)
            account.add(converted)
    account.check("mine", params.convert.refused_max)


def in_processes(params: config.Params, count: int) -> config.Params:
    """The parameters with so many jobs."""
    jobs = {"jobs": count}
    matching = params.psf_match.model_copy(update=jobs | {"mode": "per_survey"})
    return params.model_copy(update={"convert": params.convert.model_copy(update=jobs), "psf_match": matching})
