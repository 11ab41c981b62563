"""Writes synthetic folders in the `cutouts` contract, with the truth in nJy kept beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from astropy.io import fits
from numpy.typing import NDArray

from lensml import config


@dataclass(frozen=True)
class Truth:
    """What the files hold, per object_id."""

    flux: dict[str, NDArray[np.float32]]  # (band, y, x), nJy
    variance: dict[str, NDArray[np.float32]]  # (band, y, x), nJy^2
    bad: dict[str, NDArray[np.bool_]]
    psf: dict[str, NDArray[np.float32]]  # (band, py, px)


def write_cutouts(
    folder: Path,
    n: int,
    name: str = "hsc",
    bands: tuple[str, ...] = ("g", "r", "i"),
    *,
    pixels: int = 48,
    psf_pixels: int = 31,
    pixel_scale: float = 0.168,
    sky_sigma: float = 10.0,
    noise: str | None = "VAR",
    psf: bool = True,
    mask: bool = True,
    zero_point: float = 27.0,
    labels: tuple[str | None, ...] = ("lens", "nonlens", None),
    seed: int = 5,
    prefix: str = "obj",
) -> Truth:
    """A folder of `n` objects of the survey `name`: a Gaussian source on Gaussian noise, MAGZERO, a rotated WCS."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = Truth({}, {}, {}, {})
    for index in range(n):
        object_id = f"{prefix}-{index:04d}"
        rng = np.random.default_rng([seed, index])
        flux, variance, bad = _pixels(rng, len(bands), pixels, sky_sigma)
        stamp = gaussian((psf_pixels, psf_pixels), 4.0)
        truth.flux[object_id], truth.variance[object_id] = flux, variance
        truth.bad[object_id] = bad if mask else np.zeros_like(bad)
        truth.psf[object_id] = np.stack([stamp] * len(bands))
        planes = {
            "SCI": flux,
            noise: variance,
            "MASK": bad if mask else None,
            "PSF": truth.psf[object_id] if psf else None,
        }
        write_object(folder / f"{object_id}.fits", bands, planes, zero_point, pixel_scale)
    ids = list(truth.flux)
    pl.DataFrame(
        {
            "object_id": ids,
            "survey": [name] * n,
            "label": [labels[k % len(labels)] for k in range(n)],
            "z_spec": [0.1 + 0.01 * k for k in range(n)],
            "ra": [10.0 + k for k in range(n)],
            "dec": [-5.0 + 0.01 * k for k in range(n)],
        }
    ).write_csv(folder / "catalogue.csv")
    return truth


def write_object(
    path: Path,
    bands: tuple[str, ...],
    planes: Mapping[str | None, NDArray[Any] | None],
    zero_point: float = 27.0,
    pixel_scale: float = 0.168,
    angle_deg: float = 30.0,
) -> None:
    """One multi-extension FITS; planes are (band, y, x) in nJy and nJy^2 and are written in counts."""
    unit = 10 ** (0.4 * (31.4 - zero_point))  # nJy per count
    hdus: list[fits.hdu.base.ExtensionHDU] = [fits.PrimaryHDU()]
    for index, band in enumerate(bands):
        for kind, plane in planes.items():
            if plane is None or kind is None:
                continue
            hdus.append(fits.ImageHDU(_counts(plane[index], kind, unit)))
            hdus[-1].header["EXTNAME"] = f"{band}_{kind}"
            if kind == "SCI":
                hdus[-1].header.update(MAGZERO=zero_point, **wcs(pixel_scale, angle_deg))
    fits.HDUList(hdus).writeto(path, overwrite=True)


def wcs(pixel_scale: float, angle_deg: float) -> dict[str, object]:
    """CD matrix of a rotated frame, as keywords."""
    step, angle = pixel_scale / 3600, np.deg2rad(angle_deg)
    cd = {"CD1_1": -step * np.cos(angle), "CD1_2": step * np.sin(angle)}
    cd |= {"CD2_1": step * np.sin(angle), "CD2_2": step * np.cos(angle)}
    return {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", **cd}


def gaussian(shape: tuple[int, int], fwhm: float, centre: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """A Gaussian of unit sum on pixels; its centre is pixel n // 2 unless said."""
    y0, x0 = centre or (shape[0] // 2, shape[1] // 2)
    y, x = np.indices(shape)
    image = np.exp(-4 * np.log(2) * ((y - y0) ** 2 + (x - x0) ** 2) / fwhm**2)
    return (image / image.sum()).astype(np.float32)


def survey(name: str = "hsc") -> config.Survey:
    """A survey of params.yaml."""
    return config.load(Path("params.yaml")).surveys[name]


def _pixels(
    rng: np.random.Generator, bands: int, pixels: int, sky_sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    sigma = sky_sigma * (1 + np.arange(bands))[:, None, None]
    source = 3e4 * gaussian((pixels, pixels), 5.0, ((pixels - 1) / 2, (pixels - 1) / 2))
    flux = source + rng.normal(size=(bands, pixels, pixels)) * sigma
    variance = np.broadcast_to(sigma**2, flux.shape) + np.maximum(source, 0)
    bad = rng.random(flux.shape) < 0.01
    return flux.astype(np.float32), variance.astype(np.float32), bad


def _counts(plane: NDArray[Any], kind: str, unit: float) -> NDArray[Any]:
    """A plane in nJy as the file has it."""
    if kind in ("MASK", "PSF"):
        return plane.astype(np.uint8) if kind == "MASK" else plane
    power = {"SCI": plane / unit, "VAR": plane / unit**2}
    if kind == "RMS":
        return (np.sqrt(plane) / unit).astype(np.float32)
    return (unit**2 / plane if kind == "IVAR" else power[kind]).astype(np.float32)
