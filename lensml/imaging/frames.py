"""Grids of pixels around one object, and how much of each pixel of one grid lies in each pixel of another.

Where grids differ by scale, whole quarter turns and parity, the shares are known in closed form, axis by axis. For any
other rotation the areas come from `reproject.reproject_exact`: combs of lit pixels, so far apart that no new pixel sees
two teeth of one, go through it once, and what each new pixel shows of each comb is its share of one old pixel.
"""

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy import sparse

Areas: TypeAlias = sparse.csr_array  # (new pixel, old pixel), both as y * width + x; in old pixels
Matrix = NDArray[np.float64]

ALIGNED_PIXELS: Final = 0.01  # a rotation that moves no pixel by more of the larger pixels is none: no WCS is better
SQUARE_TOLERANCE: Final = 0.01
_TOUCH: Final = 1e-7  # of an old pixel: less is rounding
_FIELD_DEG: Final = 0.05  # on the sky while areas are taken: flat to 1e-7, and far from the rounding of degrees


@dataclass(frozen=True)
class Frame:
    """Square pixels on the tangent plane around an object.

    Attributes
    ----------
    height, width : pixels
    pixel_scale : arcsec
    position_angle : degrees, of the +y axis, from north over east
    mirrored : False where east is left of north, as on the sky
    centre : (y, x), 0-based pixel coordinates of the object; None is the stamp's centre, (n - 1) / 2 on either axis

    Raises
    ------
    ValueError
        No pixels, or no positive pixel scale.
    """

    height: int
    width: int
    pixel_scale: float
    position_angle: float = 0.0
    mirrored: bool = False
    centre: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"a frame must have pixels, got {self.height} x {self.width}. Mend the stamp.")
        if not 0 < self.pixel_scale < math.inf:
            raise ValueError(f"pixel_scale must be positive, got {self.pixel_scale:g} arcsec. Mend the WCS.")

    @property
    def origin(self) -> tuple[float, float]:
        """(y, x), 0-based pixel coordinates of the object."""
        return self.centre if self.centre is not None else ((self.height - 1) / 2, (self.width - 1) / 2)

    @property
    def matrix(self) -> Matrix:
        """Arcsec (east, north) per pixel (x, y)."""
        sine, cosine = math.sin(math.radians(self.position_angle)), math.cos(math.radians(self.position_angle))
        right = (cosine, -sine) if self.mirrored else (-cosine, sine)
        return self.pixel_scale * np.array([[right[0], sine], [right[1], cosine]])

    @classmethod
    def of_matrix(cls, shape: tuple[int, int], matrix: Matrix, centre: tuple[float, float] | None = None) -> "Frame":
        """From arcsec (east, north) per pixel (x, y).

        Raises
        ------
        ValueError
            The pixels are not square to 1 %.
        """
        scale = math.sqrt(abs(float(np.linalg.det(matrix))))
        angle = math.degrees(math.atan2(matrix[0, 1], matrix[1, 1]))
        frame = cls(*shape, scale, angle, bool(np.linalg.det(matrix) > 0), centre)
        if np.abs(frame.matrix - matrix).max() > SQUARE_TOLERANCE * scale:
            raise ValueError(f"pixels must be square to {SQUARE_TOLERANCE:.0%}, got {matrix.tolist()} arcsec. Drizzle.")
        return frame

    @classmethod
    def of_wcs(cls, wcs: WCS, shape: tuple[int, int], ra: float, dec: float) -> "Frame":
        """The frame of an image (height, width) around a place in degrees, ICRS.

        Raises
        ------
        ValueError
            The pixels are not square to 1 %.
        """
        place, sky = SkyCoord(ra, dec, unit="deg"), wcs.celestial
        x, y = (float(value) for value in sky.world_to_pixel(place))
        ends = sky.pixel_to_world([x + 0.5, x - 0.5, x, x], [y, y, y + 0.5, y - 0.5]).icrs
        ends = SkyCoord(ends.ra, ends.dec)  # without what its own frame had beside: an equinox, a time
        offset = np.array([part.arcsec for part in place.spherical_offsets_to(ends)])  # (east or north, end)
        return cls.of_matrix(shape, offset[:, ::2] - offset[:, 1::2], (y, x))


def step(old: Frame, new: Frame) -> Matrix:
    """Old pixels (y, x) per new pixel (y, x)."""
    return np.asarray(np.linalg.solve(old.matrix, new.matrix)[::-1, ::-1])


def overlaps(old: Frame, new: Frame) -> tuple[Areas, Matrix]:
    """Which area of each old pixel lies in each new one.

    Returns
    -------
    areas : (new pixel, old pixel), in old pixels
    squares : (new pixel,), sum of the squared areas, beyond the old frame's border too
    """
    along = step(old, new)
    scale = math.sqrt(abs(float(np.linalg.det(along))))
    turn = np.rint(along / scale)
    moved = np.abs(along - scale * turn) @ np.array([new.height, new.width]) / 2
    quarter = bool((np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all())
    if quarter and moved.max() <= ALIGNED_PIXELS * max(scale, 1):
        return _aligned(old, new, scale * turn)
    return _rotated(old, new, along)


def _aligned(old: Frame, new: Frame, along: Matrix) -> tuple[Areas, Matrix]:
    """Axes of the one grid are axes of the other, perhaps swapped or reversed."""
    swapped = along[0, 0] == 0
    lengths, origins = (old.height, old.width), old.origin
    parts = []
    for axis, (count, centre) in enumerate(zip((new.height, new.width), new.origin, strict=True)):
        of = 1 - axis if swapped else axis
        parts.append(
            _along_axis(origins[of] + along[of, axis] * (np.arange(count) - centre), along[of, axis], lengths[of])
        )
    (rows, squares_y), (columns, squares_x) = parts
    areas = sparse.kron(sparse.csr_array(rows), sparse.csr_array(columns), format="csr")
    if swapped:  # old pixels stand as x * height + y
        areas = areas[:, np.arange(old.width * old.height).reshape(old.width, old.height).T.ravel()]
    return sparse.csr_array(areas), np.multiply.outer(squares_y, squares_x).ravel()


def _along_axis(centre: Matrix, width: float, length: int) -> tuple[Matrix, Matrix]:
    """Shares (new, old) of old intervals in new ones, which have their centres (in old pixels) and width in common;
    and the shares' summed squares."""
    low, high = centre - abs(width) / 2, centre + abs(width) / 2
    first, last = min(0, math.floor(low.min())), max(length, math.ceil(high.max()) + 1)
    pixel = np.arange(first, last)
    shares = np.minimum(high[:, None], pixel + 0.5) - np.maximum(low[:, None], pixel - 0.5)
    shares[shares < _TOUCH] = 0
    return shares[:, -first : length - first], (shares**2).sum(axis=1)


def _rotated(old: Frame, new: Frame, along: Matrix) -> tuple[Areas, Matrix]:
    """Any angle, by combs through `reproject_exact`; the old frame is widened until the new one lies within."""
    count, extent = new.height * new.width, np.abs(along).sum(axis=1)  # of a new pixel along y and x, in old pixels
    grid = np.indices((new.height, new.width)).reshape(2, -1) - np.array(new.origin)[:, None]
    centre = along @ grid + np.array(old.origin)[:, None]  # (2, new pixel)
    lengths = np.array([old.height, old.width])
    first = np.minimum(0, np.floor(centre.min(axis=1) - extent)).astype(int)
    last = np.maximum(lengths, np.ceil(centre.max(axis=1) + extent) + 1).astype(int)
    apart = np.ceil(extent + 1).astype(int)
    seen = _combs_seen(old, new, first, last, apart)  # (tooth, new pixel)
    teeth = np.indices(tuple(apart)).reshape(2, -1, 1)
    spacing = apart[:, None, None]
    pixel = teeth + spacing * np.rint((centre[:, None] - teeth) / spacing).astype(int)  # (2, tooth, new pixel)
    area = np.where(seen > _TOUCH, seen, 0)
    inside = (area > 0) & ((pixel >= 0) & (pixel < lengths[:, None, None])).all(axis=0)
    row = np.broadcast_to(np.arange(count), area.shape)[inside]
    column = (pixel[0] * old.width + pixel[1])[inside]
    shape = (count, old.height * old.width)
    return sparse.csr_array((area[inside], (row, column)), shape=shape), (area**2).sum(axis=0)


def _combs_seen(old: Frame, new: Frame, first: Matrix, last: Matrix, apart: Matrix) -> Matrix:
    """(tooth, new pixel): the area, in old pixels, of the tooth of each comb that a new pixel sees."""
    from reproject import reproject_exact  # takes a second to import, and grids that are not rotated do without

    height, width = last - first
    unit = _FIELD_DEG / (max(height, width) * old.pixel_scale)
    y, x = (np.arange(low, high) % n for low, high, n in zip(first, last, apart, strict=True))
    combs = (y == np.arange(apart[0])[:, None])[:, None, :, None] & (x == np.arange(apart[1])[:, None])[None, :, None]
    before = _sky(old.matrix * unit, (old.origin[0] - first[0], old.origin[1] - first[1]))
    shape = (int(apart.prod()), new.height, new.width)
    images = combs.reshape(-1, height, width).astype(np.float64)
    mean = reproject_exact((images, before), _sky(new.matrix * unit, new.origin), shape, return_footprint=False)
    return np.asarray(mean).reshape(len(images), -1) * (new.pixel_scale / old.pixel_scale) ** 2


def _sky(matrix: Matrix, origin: tuple[float, float]) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cd = ["RA---TAN", "DEC--TAN"], [10.0, 0.0], matrix
    wcs.wcs.crpix = [origin[1] + 1, origin[0] + 1]  # FITS counts from 1
    return wcs
