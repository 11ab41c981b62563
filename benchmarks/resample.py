"""Resampling by one map for all stamps against reproject's functions on the same 64 x 64 stamps.

    python -m benchmarks.resample [STAMPS]

Time is the best of three turns, flux and variance for the map and flux alone for reproject. A star of 4.7 pixels FWHM
says what happens to flux and width, white noise what happens to sigma and to neighbours along x; single-threaded.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from reproject import reproject_adaptive, reproject_exact
from threadpoolctl import threadpool_limits

from lensml.imaging import resample
from lensml.imaging.frames import Frame

SIDE, SIGMA, TURNS, FIELD_DEG, BORDER = 64, 2.0, 3, 0.05, 5
CASES = [(1.19, 0.0), (2.5, 0.0), (0.6, 0.0), (1.19, 30.0)]  # new over old pixel scale, degrees
Planes = NDArray[np.floating]
Way = Callable[[Planes], Planes]


def sky(frame: Frame) -> WCS:
    """Nothing but the frame, small enough on the sky to be flat."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [10.0, 0.0]
    wcs.wcs.cd, wcs.wcs.crpix = frame.matrix * FIELD_DEG / SIDE, [frame.origin[1] + 1, frame.origin[0] + 1]
    return wcs


def ways(old: Frame, new: Frame) -> dict[str, Way]:
    """Flux on the new frame, NaN where bad."""
    before, after, through = sky(old), sky(new), resample.between(old, new)

    def shape(planes: Planes) -> tuple[int, int, int]:
        return len(planes), new.height, new.width

    def by_map(planes: Planes) -> Planes:
        moved = resample.to_frame(planes.astype(np.float32), np.ones(planes.shape, np.float32), through, 0.5)
        return np.where(np.isfinite(moved.variance), moved.flux, np.nan)

    def exact(planes: Planes) -> Planes:
        return reproject_exact((planes, before), after, shape(planes), return_footprint=False) * through.area

    def adaptive(kernel: str) -> Way:
        return lambda planes: reproject_adaptive(
            (planes, before), after, shape(planes), conserve_flux=True, kernel=kernel, return_footprint=False
        )

    return {
        "map": by_map,
        "reproject_exact": exact,
        "adaptive gaussian": adaptive("gaussian"),
        "adaptive hann": adaptive("hann"),
    }


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def width(image: Planes, pixel_scale: float) -> float:
    """Second moment along x, in old pixels."""
    x = np.arange(image.shape[1]) - (image.shape[1] - 1) / 2
    return float(np.sqrt((image * x**2).sum() / image.sum()) * pixel_scale)


def main(count: int) -> None:
    rng, axis = np.random.default_rng(0), np.arange(SIDE) - (SIDE - 1) / 2
    stamps = rng.normal(size=(count, SIDE, SIDE)).astype(np.float32)
    star = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / SIGMA**2)[None]
    for ratio, angle in CASES:
        side = int(SIDE / ratio)
        old, new = Frame(SIDE, SIDE, 1.0), Frame(side, side, ratio, angle)
        building = min(seconds(lambda o=old, n=new: resample.between.__wrapped__(o, n)) for _ in range(TURNS))
        print(f"\nscale {ratio:g}, {angle:g} degrees; the map is made in {1e3 * building:.0f} ms")
        slow = 0.0
        for name, way in reversed(ways(old, new).items()):
            each = min(seconds(lambda w=way: w(stamps)) for _ in range(TURNS)) / count
            slow = each if name == "reproject_exact" else slow
            seen, noise = np.nan_to_num(way(star)), way(stamps)[:, BORDER:-BORDER, BORDER:-BORDER]
            flux, sigma = seen.sum() / star.sum() - 1, np.nanstd(noise)
            neighbour = np.nanmean(noise[..., :-1] * noise[..., 1:]) / sigma**2
            print(
                f"{name:18s} {1e6 * each:9.1f} us/stamp  flux {flux:+.1e}  width {width(seen[0], ratio):.3f}  "
                f"sigma {sigma:.3f}  neighbour {neighbour:.3f}"
                + (f"  ratio {slow / each:.0f}" if name == "map" else "")
            )


if __name__ == "__main__":
    with threadpool_limits(1):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 320)
