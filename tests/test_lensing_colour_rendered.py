"""Colour prior on lensed images: doubly imaged sources, dust in front of one image, HSC noise, aperture photometry."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from astropy.modeling.models import Moffat2D
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from lensml.lensing import colour, reddening, render, scene, sed

BANDS = ["g", "r", "i", "z", "y"]
SKY_NJY = np.array([6.0, 8.0, 9.0, 15.0, 28.0])  # HSC, per pixel
NJY_PER_ELECTRON = 1 / 20
PIXELS, SCALE = 48, 0.168
GRID = render.Grid(PIXELS, SCALE, supersampling=2)
FWHM, BETA = 1.05, 3.5  # arcsec, of every band: matched
APERTURE = 0.9  # arcsec
COUNT = 300
SETTINGS = {"extinction_sigma": 0.5, "scatter_mag": 0.0, "huber": 3.0, "passes": 4}
Float = NDArray[np.float64]


class Sample(NamedTuple):
    flux: Float  # (system, image, band) nJy
    variance: Float
    a_v: Float  # (system,) mag, in front of the second image
    k: Float  # (system, band)


def galaxy_colours(rng: np.random.Generator, count: int) -> Float:
    """f_nu of faint field galaxies: two thirds star-forming at redshift 0.5 to 3, the others old at 0.2 to 1.2."""
    young = [sed.young(BANDS, rng.uniform(0.5, 3), rng.normal(-1.6, 0.5)) for _ in range(count)]
    old = [sed.passive(BANDS, rng.uniform(0.2, 1.2)) for _ in range(count)]
    chosen = np.where(rng.uniform(size=count)[:, None] < 2 / 3, young, old)
    return np.asarray(chosen * 10 ** (-0.4 * rng.normal(0, 0.03, chosen.shape)))


def lensed(rng: np.random.Generator, count: int) -> tuple[Float, Float]:
    """Maps before the PSF (system, 1, y, x), and the screen: 1 in front of the fainter image, 0 elsewhere."""
    theta_e, radius = rng.uniform(1.4, 2.2, count), rng.uniform(0.1, 0.3, count)
    e1, e2, f1, f2 = rng.normal(0, 0.08, (4, count))
    offset = theta_e * rng.uniform(0.35, 0.6, count)
    scenes = [
        scene.Scene((scene.Sie(t, a, b, 0.0, 0.0, 0.0),), (), (scene.Sersic((1.0,), r, 1.0, c, d, x, 0.0),))
        for t, a, b, r, c, d, x in zip(theta_e, e1, e2, radius, f1, f2, offset, strict=True)
    ]
    maps = render.surface_brightness(scene.collate(scenes), GRID).numpy()
    axis = (np.arange(GRID.fine) - (GRID.fine - 1) / 2) * GRID.step
    return maps, np.broadcast_to(1 / (1 + np.exp(axis / 0.1)), maps.shape)


def observed(maps: Float) -> Float:
    """Convolved with the matched PSF and summed to pixels: (system, band, y, x)."""
    side = np.arange(-24, 25) * GRID.step
    psf = Moffat2D(1, 0, 0, FWHM / 2 / np.sqrt(2 ** (1 / BETA) - 1), BETA)(*np.meshgrid(side, side))
    kernels = torch.from_numpy(psf / psf.sum()).float().expand(1, maps.shape[1], -1, -1).contiguous()
    return render.observe(torch.from_numpy(maps).float(), render.Psf(kernels), GRID).numpy().astype(np.float64)


def apertures(images: Float) -> NDArray[np.bool_]:
    """Around the brightest pixel of either half of noiseless images (system, y, x): (system, image, y, x)."""
    half = PIXELS // 2
    axis = np.arange(PIXELS)
    found = []
    for columns in (slice(half, None), slice(0, half)):
        part = np.zeros_like(images)
        part[:, :, columns] = images[:, :, columns]
        y, x = np.divmod(part.reshape(len(images), -1).argmax(axis=1), PIXELS)
        square = (axis[None, :, None] - y[:, None, None]) ** 2 + (axis[None, None, :] - x[:, None, None]) ** 2
        found.append(square * SCALE**2 < APERTURE**2)
    return np.stack(found, axis=1)


def sample(seed: int, impostors: bool = False) -> Sample:
    """Aperture fluxes, the fainter image at a signal-to-noise of 30 to 200; an impostor's second is another galaxy."""
    rng = np.random.default_rng(seed)
    maps, screen = lensed(rng, COUNT)
    a_v = np.where(rng.uniform(size=COUNT) < 0.5, rng.uniform(0, 1, COUNT), 0.0)
    k = reddening.extinction_per_a_v(sed.wavelengths(BANDS), rng.uniform(0.2, 0.8, COUNT), 3.1, "G23")
    first = galaxy_colours(rng, COUNT)
    second = galaxy_colours(rng, COUNT) if impostors else first
    dusty = (second * 10 ** (-0.4 * a_v[:, None] * k))[:, :, None, None]
    clean = first[:, :, None, None]
    images = observed(maps * (clean + (dusty - clean) * screen))
    inside = apertures(observed(maps)[:, 0])
    wanted = 10 ** rng.uniform(np.log10(30), np.log10(200), COUNT)
    sky = _photometry(np.broadcast_to(SKY_NJY[:, None, None] ** 2, images.shape), inside)
    snr = np.sqrt((_photometry(images, inside) ** 2 / sky).sum(axis=2).min(axis=1))
    images *= (wanted / snr)[:, None, None, None]
    variance = SKY_NJY[:, None, None] ** 2 + images.clip(0) * NJY_PER_ELECTRON
    noisy = images + rng.normal(size=images.shape) * np.sqrt(variance)
    return Sample(_photometry(noisy, inside), _photometry(variance, inside), a_v, k)


def _photometry(images: Float, inside: NDArray[np.bool_]) -> Float:
    """(system, band, y, x) summed over (system, image, y, x): (system, image, band)."""
    return np.einsum("sbyx,siyx->sib", images, inside.astype(np.float64))


def told(data: Sample) -> colour.Colours:
    rows = [torch.from_numpy(a.reshape(-1, len(BANDS))) for a in (data.flux, data.variance)]
    segments = colour.Segments(
        *rows, torch.zeros_like(rows[0], dtype=torch.bool), torch.arange(COUNT).repeat_interleave(2)
    )
    return colour.colour_prior(segments, COUNT, torch.from_numpy(data.k), torch.ones(COUNT), **SETTINGS)


@pytest.fixture(scope="module")
def genuine() -> tuple[Sample, colour.Colours]:
    data = sample(1)
    return data, told(data)


def test_the_extinction_is_recovered_within_its_error(genuine: tuple[Sample, colour.Colours]) -> None:
    data, found = genuine
    second = np.diff(found.a_v.numpy().reshape(-1, 2), axis=1)[:, 0]  # over the first, whichever is the reference
    error = found.a_v_error.numpy().reshape(-1, 2).sum(axis=1)
    pull = (second - data.a_v) / error
    print(f"pull {pull.mean():.3f} +- {pull.std():.3f}, median error {np.median(error):.3f} mag")
    assert abs(pull.mean()) < 0.2
    assert 0.8 < pull.std() < 1.25
    assert np.corrcoef(second, data.a_v)[0, 1] > 0.9


def test_colours_agree_once_extinction_is_allowed_for(genuine: tuple[Sample, colour.Colours]) -> None:
    data, found = genuine
    print(f"chi2/dof {float(found.chi2.sum() / found.dof.sum()):.3f}, loss {float(found.loss.mean()):.3f}")
    assert found.defined.all()
    assert float(found.chi2.sum() / found.dof.sum()) == pytest.approx(1, abs=0.15)
    ignored = told(data._replace(k=0 * data.k))
    dusty = torch.from_numpy(data.a_v > 0.5)
    assert float((ignored.chi2 / ignored.dof)[dusty].mean()) > 3


def test_impostors_are_told_apart_by_colours_alone(genuine: tuple[Sample, colour.Colours]) -> None:
    _, found = genuine
    wrong = told(sample(2, impostors=True))
    truth = np.repeat([0, 1], COUNT)
    scores = {
        "chi2": torch.cat([found.chi2, wrong.chi2]).numpy(),
        "loss": torch.cat([found.loss, wrong.loss]).numpy(),
    }
    areas = {name: roc_auc_score(truth, score) for name, score in scores.items()}
    print({name: round(area, 4) for name, area in areas.items()})
    assert min(areas.values()) > 0.9
