"""psf-match against a plain per-object loop: photutils kernel, scipy convolutions of flux, variance and mask.

    python -m benchmarks.psf_match [OBJECTS]

Both do the same work on the same 5-band 64 x 64 stamps with a PSF each, single-threaded, in turns in one process; the
best of three turns counts.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from astropy.modeling.models import Moffat2D
from photutils.psf_matching import make_wiener_kernel
from scipy.signal import fftconvolve
from threadpoolctl import threadpool_limits

from lensml import config
from lensml.imaging import psf
from lensml.imaging.psf_stamp import fwhm_halfmax
from lensml.store.stamps import Stamps

BANDS = ["g", "r", "i", "z", "y"]
SIDE, PSF_SIDE, TURNS, LIKENESS = 64, 41, 3, 0.01


def make(count: int) -> Stamps:
    """Noise with a Moffat PSF of its own for every object and band."""
    rng = np.random.default_rng(0)
    axis = np.arange(PSF_SIDE) - PSF_SIDE // 2
    fwhm = rng.uniform(3.6, 5.0, (count, len(BANDS), 1, 1))
    gamma = fwhm / (2 * np.sqrt(2 ** (1 / 3.0) - 1))
    psfs = Moffat2D.evaluate(axis[:, None], axis, 1.0, 0.0, 0.0, gamma, 3.0)
    each = [[1.0] * len(BANDS)] * count
    catalogue = pl.DataFrame(
        {
            "object_id": [f"{i:06d}" for i in range(count)],
            "survey": ["hsc"] * count,
            "bands": [BANDS] * count,
            "pixel_scale": [0.168] * count,
            "sky_sigma": each,
            "noise_correlation": [[0.0] * len(BANDS)] * count,
        }
    )
    flux = rng.normal(0, 1, (count, len(BANDS), SIDE, SIDE)).astype(np.float32)
    variance = rng.uniform(0.5, 2, flux.shape).astype(np.float32)
    return Stamps(catalogue, flux, variance, (psfs / psfs.sum(axis=(2, 3), keepdims=True)).astype(np.float32))


def plain(stamps: Stamps, target_pixels: float, params: config.PsfMatch) -> tuple[np.ndarray, np.ndarray]:
    """What one writes first: object by object, band by band."""
    axis = np.arange(PSF_SIDE) - PSF_SIDE // 2
    target = np.exp(-4 * np.log(2) * (axis[:, None] ** 2 + axis**2) / target_pixels**2)
    target /= target.sum()
    flux, variance = np.empty_like(stamps.flux), np.empty_like(stamps.variance)
    for i in range(len(flux)):
        for b in range(len(BANDS)):
            source = stamps.psf[i, b]
            if fwhm_halfmax(source) > target_pixels:
                raise ValueError("the benchmark's PSFs must be narrower than the target")
            kernel = make_wiener_kernel(source, target, regularization=params.regularisation**2)
            squared = kernel**2
            matched = fftconvolve(source, kernel, "same")
            if np.abs(matched - target).sum() > params.residual_max or not np.isfinite(fwhm_halfmax(matched)):
                raise ValueError("the benchmark's PSFs must reach the target")
            bad = fftconvolve(np.ones((SIDE, SIDE)), squared, "same") < (1 - params.lost_weight_max) * squared.sum()
            flux[i, b] = np.where(bad, 0, fftconvolve(stamps.flux[i, b], kernel, "same"))
            variance[i, b] = np.where(bad, np.inf, fftconvolve(stamps.variance[i, b], squared, "same"))
    return flux, variance


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main(count: int) -> None:
    values = config.load(Path("params.yaml"))
    survey, params = values.surveys["hsc"], values.psf_match.model_copy(update={"mode": "per_survey"})
    stamps, pixels = make(count), survey.target_psf_fwhm / survey.pixel_scale
    inner = (..., slice(24, 40), slice(24, 40))
    ours, (flux, _) = psf.match(stamps, survey, params)[0], plain(stamps, pixels, params)
    off = float(np.abs(ours.flux[inner] - flux[inner]).max() / flux[inner].std())
    if off > LIKENESS:
        raise SystemExit(f"the two must agree within {LIKENESS:g} sigma, got {off:.3g}")
    turns = [
        (seconds(lambda: plain(stamps, pixels, params)), seconds(lambda: psf.match(stamps, survey, params)))
        for _ in range(TURNS)
    ]
    slow, fast = (min(column) for column in zip(*turns, strict=True))
    print(f"plain loop  {count / slow:8.0f} objects/s  ({len(BANDS)} bands of {SIDE} x {SIDE})")
    print(f"psf-match   {count / fast:8.0f} objects/s  (agree within {off:.1g} sigma away from the border)")
    print(f"ratio       {slow / fast:8.2f}")


if __name__ == "__main__":
    with threadpool_limits(1):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 128)
