"""Scenes to images: light is traced onto a fine grid, convolved with each band's PSF and summed over pixels.

    images = render_batch(scene.collate(scenes), Grid(64, 0.1, supersampling=2), Psf(kernels))

Shapes are (object, band, y, x). Everything is differentiable in every parameter, in float32 and float64, and is done
where the parameters' tensors are.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from lensml.lensing import convolution, light, mass, refine, scene
from lensml.lensing.convolution import Psf
from lensml.lensing.scene import Parameters, Point, PointMass, Ring, Sersic, Shear, Sie, Table

_CHUNK_SAMPLES: Final = {"cpu": 2**18, "cuda": 2**26}  # of a tensor in work: so that it stays in a cache; in memory
_LARGEST_KEPT: Final = 2**25 - 2**16  # bytes; see `_keep_freed_memory`
_CLOSED: Final[dict[type, Any]] = {Sie: mass.sie, Shear: mass.shear, PointMass: mass.point_mass}

__all__ = ["Grid", "Psf", "observe", "render_batch", "surface_brightness"]


@dataclass(frozen=True)
class Grid:
    """The pixels of square stamps, and how finely they are sampled.

    Attributes
    ----------
    pixels : of a side
    pixel_scale : arcsec
    supersampling : fine pixels along the side of a pixel
    refinement : samples along the side of a fine pixel in whose middle one would not do, as in a host's core, a clump
        or an arc's crest; 1 takes that one everywhere, as lenstronomy does
    margin : pixels outside each border that are drawn too, so that the PSF brings in their light; 0 is lenstronomy's
        way, which darkens the border of a halo larger than the stamp
    """

    pixels: int
    pixel_scale: float
    supersampling: int
    refinement: int = 8
    margin: int = 0

    def __post_init__(self) -> None:
        for name, least in (("pixels", 1), ("supersampling", 1), ("refinement", 1), ("margin", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)} (Grid). Take {least}.")
        if not self.pixel_scale > 0:
            raise ValueError(f"pixel_scale must be larger than 0, got {self.pixel_scale:g} (Grid). Give it in arcsec.")

    @property
    def side(self) -> int:
        """Pixels along an axis, with margins."""
        return self.pixels + 2 * self.margin

    @property
    def fine(self) -> int:
        """Fine pixels along an axis, with margins."""
        return self.side * self.supersampling

    @property
    def step(self) -> float:
        """Side of a fine pixel, arcsec."""
        return self.pixel_scale / self.supersampling


def render_batch(
    parameters: Parameters, grid: Grid, psf: Psf | None, cache_invariants: bool = True, compiled: bool = False
) -> Tensor:
    """Images: (object, band, y, x), flux per pixel. Worked off in chunks that fit a cache.

    Parameters
    ----------
    parameters
        of `scene.collate`; every flux has the PSF's bands
    psf
        None for no blur
    cache_invariants
        keep coordinates and the PSF's transforms for the next call
    compiled
        compile the arithmetic of batches whose objects all have one row in every table, without power laws: faster by
        half for many thousands of objects of one make, after half a minute; on a CPU it needs a C++ compiler

    Raises
    ------
    ValueError
        A parameter is unphysical, or the PSF is larger than the stamp or not one per object.
    """
    _check(parameters, grid, psf)
    _keep_freed_memory()
    draw = _compiled() if compiled and _alike(parameters) else _light
    image = torch.cat([_image(*chunk, grid, psf, cache_invariants, draw) for chunk in _chunks(parameters, grid)])
    return image if psf is None else _with_stars(image, parameters, grid, psf)


def surface_brightness(parameters: Parameters, grid: Grid) -> Tensor:
    """Light before the PSF, flux per fine pixel: (object, band, fine y, fine x), with margins, without `Point`s.

    Where it was sampled again, a fine pixel's light stands in it and its neighbours (see `lensml.lensing.refine`), for
    a PSF to come; `refinement=1` gives plain samples.
    """
    return torch.cat([_maps(part, grid, True, _light) for _, part in _chunks(parameters, grid)])


def observe(maps: Tensor, psf: Psf | None, grid: Grid) -> Tensor:
    """Convolve with each band's PSF, sum fine pixels, cut off margins: (object, band, y, x) of `surface_brightness`."""
    return _observed(maps, psf, grid, slice(None), True)


def _check(parameters: Parameters, grid: Grid, psf: Psf | None) -> None:
    mass.check(parameters.mass)
    light.check((*parameters.lens_light, *parameters.source_light))
    if any(isinstance(t.profile, Point) for t in parameters.source_light):
        raise ValueError("source_light must have a size, got a Point (render). Put its images into lens_light.")
    if psf is None:
        if any(isinstance(t.profile, Point) for t in parameters.lens_light):
            raise ValueError("psf must be given where lens_light has a Point, got None (render). Give the fine grid's.")
        return
    objects, bands, side, _ = psf.kernels.shape
    if side > grid.fine:
        raise ValueError(f"psf must not exceed the stamp's {grid.fine} fine pixels, got {side} (render). Cut it.")
    if objects not in (1, parameters.objects):
        raise ValueError(f"psf must be one or {parameters.objects} objects', got {objects} (render). Give one each.")
    for table in (*parameters.lens_light, *parameters.source_light):
        if table.profile.flux.shape[1] != bands:
            got = f"{table.profile.flux.shape[1]} ({type(table.profile).__name__})"
            raise ValueError(f"flux must have the psf's {bands} bands, got {got}. Give a flux or a kernel for each.")


def _chunks(parameters: Parameters, grid: Grid) -> Iterator[tuple[slice, Parameters]]:
    """Objects, some at a time."""
    tables = [*parameters.lens_light, *parameters.source_light]
    device = tables[0].owner.device.type if tables else "cpu"
    rows = max([parameters.objects, *(len(t.owner) for t in tables)])
    samples = grid.fine**2 * rows / max(parameters.objects, 1)
    size = max(1, int(_CHUNK_SAMPLES.get(device, _CHUNK_SAMPLES["cuda"]) / samples))
    for i, part in enumerate(scene.split(parameters, size)):
        yield slice(i * size, (i + 1) * size), part


def _image(objects: slice, part: Parameters, grid: Grid, psf: Psf | None, keep: bool, draw: Any) -> Tensor:
    return _observed(_maps(part, grid, keep, draw), psf, grid, objects, keep)


def _observed(maps: Tensor, psf: Psf | None, grid: Grid, objects: slice, keep: bool) -> Tensor:
    if psf is None:
        part = slice(grid.margin, grid.margin + grid.pixels)
        return convolution.bin_pixels(maps, grid.supersampling)[..., part, part]
    side = convolution.padded_side(grid.side, psf.reach(grid.supersampling), grid.margin)
    transform = psf.transform(side, grid.supersampling, keep)
    phases = convolution.by_pixel(maps, grid.supersampling)
    mine = transform[objects] if len(transform) > 1 else transform
    return convolution.convolved(phases, mine, grid.margin, grid.pixels)


def _maps(part: Parameters, grid: Grid, keep: bool, draw: Any) -> Tensor:
    axis = _coordinates(part, grid, keep)
    maps = draw(part, *_plane(axis), grid.step**2)
    if grid.refinement == 1 or grid.fine == 1:
        return maps

    def sample(objects: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return _light(scene.take(part, objects), x, y, grid.step**2)

    return refine.refined(maps, axis, grid.refinement, sample)


def _light(part: Parameters, x: Tensor, y: Tensor, area: float) -> Tensor:
    """Flux in `area` (arcsec^2) about each place: (object, band, ...), of x and y (object or 1, ...)."""
    found = [_lit(table, x, y, part.objects, area) for table in part.lens_light if not isinstance(table.profile, Point)]
    if part.source_light:
        ax, ay = mass.deflection(part.mass, x, y, part.objects)
        x, y = x - ax, y - ay
        found += [_lit(table, x, y, part.objects, area) for table in part.source_light]
    if not found:
        bands = [table.profile.flux.shape[1] for table in part.lens_light]
        return _dark(x, y, part.objects, max(bands, default=1))
    return functools.reduce(torch.add, found)


def _dark(x: Tensor, y: Tensor, objects: int, bands: int) -> Tensor:
    return x.new_zeros(objects, bands, *torch.broadcast_shapes(x.shape, y.shape)[1:])


def _lit(table: Table, x: Tensor, y: Tensor, objects: int, area: float) -> Tensor:
    owner = table.owner
    if len(owner) == 0:
        return _dark(x, y, objects, table.profile.flux.shape[1])
    if _alone(table, objects):
        return _rows(table, x, y, area)
    x, y = (v if len(v) == 1 else v[owner] for v in (x, y))
    rows = _rows(table, x, y, area)
    return rows.new_zeros(objects, *rows.shape[1:]).index_add(0, owner, rows)


def _rows(table: Table, x: Tensor, y: Tensor, area: float) -> Tensor:
    """Of each row of a table: (row, band, ...)."""
    found = light.brightness(x, y, table.profile)[:, None]
    flux = table.profile.flux * area
    return flux.reshape(*flux.shape, *[1] * (found.ndim - 2)) * found


def _alone(table: Table, objects: int) -> bool:
    """Whether every object has one row, which is the common case."""
    return len(table.owner) == objects and torch.equal(table.owner, torch.arange(objects, device=table.owner.device))


def _alike(parameters: Parameters) -> bool:
    lit = (*parameters.lens_light, *parameters.source_light)
    closed = all(type(table.profile) in _CLOSED for table in parameters.mass)
    spread = all(isinstance(table.profile, Sersic | Ring) for table in lit)
    return closed and spread and all(_alone(table, parameters.objects) for table in (*parameters.mass, *lit))


def _alike_light(part: Parameters, x: Tensor, y: Tensor, area: float) -> Tensor:
    """`_light` of parameters that are `_alike`, in one piece for the compiler."""
    found = [_rows(table, x, y, area) for table in part.lens_light]
    deflected = x, y
    for table in part.mass:
        columns = (v.reshape(-1, 1, 1) for v in table.profile)
        bent = _CLOSED[type(table.profile)](x, y, type(table.profile)(*columns))
        deflected = deflected[0] - bent[0], deflected[1] - bent[1]
    return functools.reduce(torch.add, found + [_rows(table, *deflected, area) for table in part.source_light])


def _with_stars(image: Tensor, parameters: Parameters, grid: Grid, psf: Psf) -> Tensor:
    """With its point sources."""
    for table in parameters.lens_light:
        if isinstance(table.profile, Point):
            flux, x, y = table.profile
            kernels = psf.kernels[table.owner] if len(psf.kernels) > 1 else psf.kernels
            first = (grid.pixels * grid.supersampling - 1) / 2
            stamps, begin = convolution.stars(kernels, x / grid.step + first, y / grid.step + first, grid.supersampling)
            image = _pasted(image, stamps * flux[..., None, None], begin, table.owner)
    return image


def _pasted(image: Tensor, stamps: Tensor, begin: Tensor, owner: Tensor) -> Tensor:
    """Stamps (row, band, n, n) added to their owners' images from pixels `begin` (row, 2) on; the rest is lost."""
    objects, bands, side, _ = image.shape
    row, column = (begin[..., None] + torch.arange(stamps.shape[-1], device=image.device)).unbind(1)
    inside = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None, :]
    where = (owner[:, None, None] * side + row[:, :, None]) * side + column[:, None, :]
    light_there = stamps.permute(0, 2, 3, 1)[inside]
    added = image.new_zeros(objects * side**2, bands).index_add(0, where[inside], light_there)
    return image + added.reshape(objects, side, side, bands).permute(0, 3, 1, 2)


def _plane(axis: Tensor) -> tuple[Tensor, Tensor]:
    return axis[None, None, :], axis[None, :, None]


def _coordinates(part: Parameters, grid: Grid, keep: bool) -> Tensor:
    tables = [*part.lens_light, *part.source_light]
    value = tables[0].profile.flux if tables else torch.zeros(0)
    return (_axis if keep else _axis.__wrapped__)(grid.fine, grid.step, value.dtype, value.device)


@functools.lru_cache(maxsize=64)
def _axis(fine: int, step: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Centres of fine pixels along one axis, arcsec from the middle of the stamp: (fine,)."""
    return ((torch.arange(fine, dtype=torch.float64) - (fine - 1) / 2) * step).to(dtype=dtype, device=device)


@functools.cache
def _keep_freed_memory() -> None:
    """Free a large block once.

    glibc gives freed memory back to the system, to have it cleared anew for the next temporary, which takes as long as
    what is computed there; from the largest block that it saw freed on, it keeps it (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(_LARGEST_KEPT, dtype=torch.uint8)


@functools.cache
def _compiled() -> Any:
    # Numbers of rows are worked out apart, not anew in every pixel.
    apart: Any = {"realize_reads_threshold": 0, "realize_opcount_threshold": 0}
    return torch.compile(_alike_light, dynamic=True, options=apart)
