"""`lensml.lensing.render` against lenstronomy and caustics on the same scenes: `python -m benchmarks.render`.

An isothermal ellipsoid in shear, a Sersic source and a Sersic host, 64 x 64 pixels, one band, PSF, supersampling 2,
single precision where there is a choice. lenstronomy's ImageModel is built once and given each object's parameters, in
one process and in two with half of the objects each; caustics' LensSource is mapped over the batch by torch.func.vmap.
Ours and caustics have two threads, one for each half of the batch: torch's own wait for each other, for both. All take
turns; times are medians. That images are alike, at equal sampling, is shown in the same run.

caustics also draws half a PSF's width outside the stamp; `with margin` is ours doing so too. `refined` is the
renderer's default, which samples cusps, clumps and crests more finely.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a thread each

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from typing import Annotated, Any

import caustics
import numpy as np
import torch
import typer
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel

from lensml.lensing import light, scene
from lensml.lensing.render import Grid, Psf, render_batch
from lensml.lensing.scene import Parameters, Scene, Sersic, Shear, Sie, Table

PIXELS, SCALE, SUPERSAMPLING, FWHM = 64, 0.05, 2, 0.15
AREA = SCALE**2
TRUTH, FEW = 16, 8  # supersampling that is taken for true; objects to show it
NEEDED = {"lenstronomy, 1 process": 8.0, "lenstronomy, 2 processes": 4.0, "caustics": 10.0}
ALIKE = 1e-4  # of the peak
GPU_BATCH = 4096


def scenes(objects: int) -> list[Scene]:
    rng = np.random.default_rng(0)

    def pair(width: float) -> tuple[float, float]:
        return float(rng.uniform(-width, width)), float(rng.uniform(-width, width))

    def one() -> Scene:
        lens = Sie(rng.uniform(0.6, 1.2), *pair(0.2), *pair(0.05), 0.0), Shear(*pair(0.05), 0.0, 0.0)
        host = Sersic((1.0,), rng.uniform(0.3, 0.8), rng.uniform(2, 5), *pair(0.2), *pair(0.05))
        source = Sersic((0.1,), rng.uniform(0.1, 0.3), rng.uniform(1, 2), *pair(0.2), *pair(0.2))
        return Scene(lens, (host,), (source,))

    return [one() for _ in range(objects)]


@cache
def psf(supersampling: int, width: int) -> np.ndarray:
    """A Gaussian with wings, of odd side, `width` pixels wide, as fine pixels gather it."""
    side, steps = width * supersampling // 2 * 2 + 1, 2 * (16 // supersampling) + 1
    axis = (np.arange(side * steps) - (side * steps - 1) / 2) * SCALE / supersampling / steps
    radius = np.hypot(axis[:, None], axis)
    square = (radius / (FWHM / 2)) ** 2
    fall = np.clip(4 - 8 * radius / (width * SCALE), 0, 1)  # to nothing at the border
    kernel = (0.5**square + 0.02 / (1 + square) ** 1.5) * fall
    kernel = kernel.reshape(side, steps, side, steps).sum(axis=(1, 3))
    return np.asarray(kernel / kernel.sum())


def as_theirs(p: Sersic, b: float) -> tuple[float, float]:
    """Effective radius and brightness there, per arcsec^2, of the same profile where b_n is somebody's own."""
    n, r = torch.tensor(p.n_sersic, dtype=torch.float64), torch.tensor(p.r_sersic, dtype=torch.float64)
    exact = float(light.sersic_b(n))
    return p.r_sersic * (b / exact) ** p.n_sersic, p.flux[0] / float(light.sersic_flux(r, n)) * np.exp(exact - b)


# --- lenstronomy


def kwargs(s: Scene) -> tuple[Any, ...]:
    sie, shear = s.mass
    lens = {"theta_E": sie.theta_e, "e1": sie.e1, "e2": sie.e2, "center_x": sie.center_x, "center_y": sie.center_y}

    def sersic(p: Sersic) -> dict[str, float]:
        r, amplitude = as_theirs(p, 1.9992 * p.n_sersic - 0.3271)
        place = {"e1": p.e1, "e2": p.e2, "center_x": p.center_x, "center_y": p.center_y}
        return {"amp": amplitude, "R_sersic": r, "n_sersic": p.n_sersic, **place}

    lights = [[sersic(p)] for p in (*s.source_light, *s.lens_light)]
    return [lens, {"gamma1": shear.gamma1, "gamma2": shear.gamma2}], *lights


@cache
def image_model(width: int, supersampling: int) -> ImageModel:
    start = -(PIXELS - 1) / 2 * SCALE
    frame = ImageData(
        np.zeros((PIXELS, PIXELS)), ra_at_xy_0=start, dec_at_xy_0=start, transform_pix2angle=np.eye(2) * SCALE
    )
    stamp = psf(supersampling, width)
    kernel = PSF("PIXEL", kernel_point_source=stamp, point_source_supersampling_factor=supersampling)
    numerics = {  # with a kernel size it convolves the PSF's wings on the coarse grid, which is off by per mille
        "supersampling_factor": supersampling, "supersampling_convolution": True, "supersampling_kernel_size": None,
    }  # fmt: skip
    sersic = LightModel(["SERSIC_ELLIPSE"])
    return ImageModel(frame, kernel, LensModel(["SIE", "SHEAR"]), sersic, sersic, kwargs_numerics=numerics)


def lenstronomy(width: int, objects: list[tuple[Any, ...]], supersampling: int = SUPERSAMPLING) -> np.ndarray:
    warnings.simplefilter("ignore")
    model = image_model(width, supersampling)
    return np.stack([model.image(*each) for each in objects])


# --- caustics


def simulator(width: int, supersampling: int) -> caustics.LensSource:
    cosmology = caustics.FlatLambdaCDM(name="cosmology")
    redshifts: dict[str, Any] = {"cosmology": cosmology, "z_l": 0.5, "z_s": 1.5}
    shear = caustics.ExternalShear(name="shear", x0=0.0, y0=0.0, **redshifts)
    lens = caustics.SinglePlane(name="lens", lenses=[caustics.SIE(name="sie", **redshifts), shear], **redshifts)
    lights = {"source": caustics.Sersic(name="source"), "lens_light": caustics.Sersic(name="host")}
    kernel = torch.from_numpy(psf(supersampling, width)).float()
    made = caustics.LensSource(
        lens=lens, pixelscale=SCALE, pixels_x=PIXELS, upsample_factor=supersampling, psf=kernel, **lights
    )
    made.to(dtype=torch.float32)
    return made


def caustics_row(s: Scene, names: list[tuple[str, str]]) -> list[float]:
    """The parameters in the order of its simulator, angles and axis ratios instead of ellipticities."""
    sie, shear = s.mass
    values = {("sie", "Rein"): sie.theta_e, ("shear", "gamma_1"): shear.gamma1, ("shear", "gamma_2"): shear.gamma2}
    for name, p in (("sie", sie), ("source", s.source_light[0]), ("host", s.lens_light[0])):
        e = np.hypot(p.e1, p.e2)
        values |= {(name, "q"): (1 - e) / (1 + e), (name, "phi"): np.arctan2(p.e2, p.e1) / 2 % np.pi}
        values |= {(name, "x0"): p.center_x, (name, "y0"): p.center_y}
        if isinstance(p, Sersic):
            b = float(caustics.light.func.k_sersic(torch.tensor(p.n_sersic, dtype=torch.float64)))
            r, brightness = as_theirs(p, b)
            values |= {(name, "n"): p.n_sersic, (name, "Re"): r / np.sqrt((1 - e) / (1 + e)), (name, "Ie"): brightness}
    return [float(values[key]) for key in names]


Batch = tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]  # a simulator serves one thread


def caustics_batch(width: int, chosen: list[Scene], supersampling: int = SUPERSAMPLING) -> Batch:
    made = simulator(width, supersampling)
    names = [(next(iter(p.parents)).name, p.name) for p in made.dynamic_params]
    rows = torch.tensor([caustics_row(s, names) for s in chosen], dtype=torch.float32)
    return torch.func.vmap(made), rows


def simulated(batch: Batch) -> torch.Tensor:
    return batch[0](batch[1])


# --- measuring


def halves(pool: ThreadPoolExecutor, work: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    """Each part in a thread of its own."""

    def without_gradients(part: Any) -> Any:
        with torch.no_grad():
            return work(part)

    return list(pool.map(without_gradients, parts))


def in_turns(ways: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median seconds of each."""
    for work in ways.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, work in ways.items():
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(all_of_it)) for name, all_of_it in times.items()}


def off(images: Any, others: Any) -> float:
    """Largest difference over each image's peak."""
    first, second = np.asarray(images, dtype=np.float64), np.asarray(others, dtype=np.float64)
    return float((abs(first - second).max(axis=(1, 2)) / second.max(axis=(1, 2))).max())


def kernel_of(width: int, supersampling: int = SUPERSAMPLING) -> Psf:
    return Psf(torch.from_numpy(psf(supersampling, width)).float()[None, None])


def measure(objects: int, width: int, turns: int, compiled: bool) -> bool:
    """Print everything for one size of PSF; True where all that is needed is reached."""
    chosen = scenes(objects)
    parts = [scene.collate(chosen[i::2]) for i in (0, 1)]
    kernel = kernel_of(width)
    reach, side = kernel.reach(SUPERSAMPLING), kernel.kernels.shape[-1]
    plain = Grid(PIXELS, SCALE, SUPERSAMPLING, refinement=1)
    grids = {"lensml": plain, "lensml, with margin": Grid(PIXELS, SCALE, SUPERSAMPLING, 1, reach)}
    draw = {name: partial(render_batch, grid=grid, psf=kernel) for name, grid in grids.items()}
    if compiled:
        draw |= {f"{name}, compiled": partial(work, compiled=True) for name, work in draw.items()}
    draw["lensml, refined"] = partial(render_batch, grid=Grid(PIXELS, SCALE, SUPERSAMPLING), psf=kernel)
    theirs = [caustics_batch(width, part) for part in (chosen[0::2], chosen[1::2])]
    given = [kwargs(s) for s in chosen]
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2) as processes:
        ways: dict[str, Callable[[], Any]] = {
            name: partial(halves, threads, work, parts) for name, work in draw.items()
        }
        ways["caustics"] = partial(halves, threads, simulated, theirs)
        ways["lenstronomy, 1 process"] = partial(lenstronomy, width, given)
        half = partial(lenstronomy, width)
        ways["lenstronomy, 2 processes"] = lambda: list(processes.map(half, [given[0::2], given[1::2]]))
        seconds = in_turns(ways, turns)
    print(f"PSF {side} x {side}, {objects} objects")
    for name, duration in seconds.items():
        print(f"  {name:<32}{objects / duration:8.0f} objects/s{1e3 * duration / objects:9.3f} ms")
    return compared(seconds, chosen, draw, theirs[0], width)


def compared(seconds: dict[str, float], chosen: list[Scene], draw: Any, theirs: Batch, width: int) -> bool:
    """Print ratios and how alike the images are."""
    ours = {name: value for name, value in seconds.items() if name.startswith("lensml") and "refined" not in name}
    for name, need in NEEDED.items():
        ratios = "; ".join(
            f"{seconds[name] / value:.1f} {mine.removeprefix('lensml, ')}" for mine, value in ours.items()
        )
        print(f"  times {name} (needed {need:g}): {ratios}")
    some = chosen[0::2]
    inside, around = (draw[name](scene.collate(some))[:, 0] for name in ("lensml", "lensml, with margin"))
    alike = off(inside, lenstronomy(width, [kwargs(s) for s in some])), off(around, simulated(theirs) * AREA)
    print(f"  largest difference over the peak: lenstronomy {alike[0]:.1e}, caustics {alike[1]:.1e} (needed {ALIKE:g})")
    reached = all(seconds[name] >= need * min(ours.values()) for name, need in NEEDED.items())
    return reached and max(alike) < ALIKE


def accuracy(width: int) -> None:
    """Print which supersampling the others need to be as true as the renderer's default, and how long that takes."""
    chosen = scenes(FEW)
    parameters, reach = scene.collate(chosen, torch.float64), kernel_of(width).reach(SUPERSAMPLING)

    def ours(supersampling: int, refinement: int, margin: int) -> np.ndarray:
        kernels = torch.from_numpy(psf(supersampling, width))[None, None]
        grid = Grid(PIXELS, SCALE, supersampling, refinement, margin)
        return np.asarray(render_batch(parameters, grid, Psf(kernels))[:, 0])

    true = {margin: ours(TRUTH, 1, margin) for margin in (0, reach)}

    def wrong(images: Any, margin: int = 0) -> float:
        return float((abs(np.asarray(images) - true[margin]).sum((1, 2)) / true[margin].sum((1, 2))).max())

    print(f"off sampling {TRUTH} times, at most, share of the flux; one thread")
    print(
        f"  lensml at {SUPERSAMPLING}, refined {wrong(ours(SUPERSAMPLING, 8, 0)):.2%}; plain {wrong(ours(2, 1, 0)):.2%}"
    )
    for supersampling in (2, 4, 8):
        given, batch = [kwargs(s) for s in chosen], caustics_batch(width, chosen, supersampling)
        ways = {
            "lenstronomy": partial(lenstronomy, width, given, supersampling),
            "caustics": partial(simulated, batch),
        }
        off_by = wrong(ways["lenstronomy"]()), wrong(ways["caustics"]() * AREA, reach)
        for (name, duration), share in zip(in_turns(ways, 3).items(), off_by, strict=True):
            print(f"  {name:<12} at {supersampling}: {share:.2%}, {1e3 * duration / FEW:.2f} ms")


def on_gpu(width: int, turns: int) -> None:
    """Stamps per second, and which part of what the memory's bandwidth allows.

    The limit: the fine map, its phases' spectra, the image's spectrum and the image, written and read once each.
    """
    whole = moved(scene.collate(scenes(256)))
    whole = scene.take(whole, torch.arange(GPU_BATCH, device="cuda") % 256)
    kernel = Psf(kernel_of(width).kernels.cuda())
    block = torch.empty(2**28, device="cuda")
    speed = 2 * block.nbytes / synchronised(block.clone, turns)
    padded = PIXELS + kernel.reach(SUPERSAMPLING)
    moves = 2 * (
        (PIXELS * SUPERSAMPLING) ** 2 * 4 + (SUPERSAMPLING**2 + 1) * padded * (padded // 2 + 1) * 8 + PIXELS**2 * 4
    )
    grid = Grid(PIXELS, SCALE, SUPERSAMPLING, refinement=1)
    print(f"{torch.cuda.get_device_name()}: copies {speed / 1e12:.2f} TB/s; limit {speed / moves:,.0f} stamps/s")
    for compiled in (False, True):
        rate = GPU_BATCH / synchronised(partial(render_batch, whole, grid, kernel, compiled=compiled), turns)
        name = "compiled" if compiled else "plain"
        print(f"  {name:<10}{rate:12,.0f} stamps/s, {rate * moves / speed:.2f} of the limit")


def moved(parameters: Parameters) -> Parameters:
    def table(t: Table) -> Table:
        return Table(t.owner.cuda(), type(t.profile)(*(v.cuda() for v in t.profile)))

    return Parameters(parameters.objects, *(tuple(table(t) for t in tables) for tables in parameters[1:]))


def synchronised(work: Callable[[], Any], turns: int) -> float:
    """Median seconds on the GPU."""
    times = []
    for turn in range(turns + 2):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.no_grad():
            work()
        torch.cuda.synchronize()
        times += [time.perf_counter() - begin] if turn > 1 else []
    return float(np.median(times))


def main(
    objects: Annotated[int, typer.Option(min=4)] = 256,
    width: Annotated[list[int], typer.Option(min=2, help="of the PSF, pixels")] = [10, 20],  # noqa: B006
    turns: Annotated[int, typer.Option(min=1)] = 9,
    compiled: Annotated[bool, typer.Option(help="also by torch.compile")] = True,
) -> None:
    """Exit code 1 where a ratio or a likeness is missed."""
    warnings.simplefilter("ignore")
    fine = [measure(objects, each, turns, compiled) for each in width]
    accuracy(width[0])
    if torch.cuda.is_available():
        on_gpu(width[-1], turns)
    else:
        print("no GPU")
    if not all(fine):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
