"""Noise, sky and artefacts. Oracles: Monte Carlo in numpy, the pipeline's noise meter, brute force, planted faults."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lensml.config_camera import Observing
from lensml.imaging import noise
from lensml.lensing import artefacts, observe
from lensml.schema import ContractError
from tests.observing import artefact, observing
from tests.observing import artefacts as spoiling

SIGMA = np.array([2.0, 5.0])
PIXELS, SCALE = 64, 0.2
Float = NDArray[np.float64]


def camera(what: Observing | None = None, pixels: int = PIXELS) -> observe.Camera:
    return observe.Camera(("g", "r"), pixels, SCALE, SIGMA, what or observing())


def gaussian(fwhm: float, side: int = 21) -> Float:
    axis = (np.arange(side) - side // 2) / (fwhm / 2.3548)
    stamp = np.exp(-(axis[:, None] ** 2 + axis**2) / 2)
    return np.stack([stamp / stamp.sum()] * 2)


PSF = gaussian(3.5)


def records(count: int, what: Observing, light: Float | None = None) -> list[observe.Record]:
    seen, found = camera(what), []
    light = np.zeros((2, PIXELS, PIXELS)) if light is None else light
    for rng in (np.random.default_rng([1, k]) for k in range(count)):
        exposure = observe.expose(rng, seen)
        found.append(observe.record(rng, light, PSF, exposure, seen))
    return found


def lag_one(values: Float, axis: int) -> float:
    a = np.moveaxis(values, axis, -1)
    return float((a[..., 1:] * a[..., :-1]).mean() / (a**2).mean())


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.25, 0.45, 0.8])
def test_noise_has_the_correlation_that_was_asked_for(correlation: float) -> None:
    drawn = [observe.correlated(np.random.default_rng(k), np.array([correlation]), PIXELS) for k in range(150)]
    field = np.stack(drawn)
    assert field.mean() == pytest.approx(0, abs=0.02)
    assert field.var() == pytest.approx(1, abs=0.02)
    border = field[..., 0, :].var(), field[..., -1].var(), field[..., 0, 0].var()
    np.testing.assert_allclose(border, 1, atol=0.35)
    assert lag_one(field, -1) == pytest.approx(correlation, abs=0.01)
    assert lag_one(field, -2) == pytest.approx(correlation, abs=0.01)
    diagonal = (field[..., 1:, 1:] * field[..., :-1, :-1]).mean()
    assert diagonal == pytest.approx(correlation**2, abs=0.01)
    opposite = (field[..., 0] * field[..., -1]).mean()
    assert opposite == pytest.approx(0, abs=0.12)  # the torus is wider than the stamp
    measured = noise.measure(field.astype(np.float32), np.zeros(field.shape, dtype=bool))
    assert np.median(measured.correlation) == pytest.approx(correlation, abs=0.025)
    assert np.median(measured.sky_sigma) == pytest.approx(1, abs=0.02)


def test_white_noise_is_told_from_correlated() -> None:
    """The fault: a generator that forgets its kernel."""
    white = np.random.default_rng(0).normal(size=(50, 1, PIXELS, PIXELS))
    assert lag_one(white, -1) == pytest.approx(0, abs=0.01)
    measured = noise.measure(white.astype(np.float32), np.zeros(white.shape, dtype=bool)).correlation
    assert np.median(measured) == pytest.approx(0, abs=0.025)


def test_widths_are_those_of_drizzle_and_of_resampled_infrared() -> None:
    """Of whole drops at their own scale the cubic B-spline has 1/4; over pixels three times as wide, 0.8611."""
    np.testing.assert_allclose(observe.spline_width(np.array([0.25, 0.861111, 0.0])), [1, 3, 0.5], rtol=1e-4)


@pytest.mark.parametrize("correlation", [-0.1, 0.97, np.nan])
def test_a_correlation_that_noise_cannot_have_is_refused(correlation: float) -> None:
    with pytest.raises(ContractError, match="noise_correlation must be within 0 and"):
        observe.correlated(np.random.default_rng(0), np.array([correlation]), 16)


def test_the_variance_plane_is_the_noise() -> None:
    light = np.full((2, PIXELS, PIXELS), 300.0)
    light[:, :, PIXELS // 2 :] = 0
    found = records(200, observing(depth=[0.7, 2.0], band_depth_scatter=0.2), light)
    score = np.stack([(r.flux - light) / np.sqrt(r.variance) for r in found])
    for half in (score[..., : PIXELS // 2], score[..., PIXELS // 2 :]):
        np.testing.assert_allclose(half.std(axis=(0, 2, 3)), 1, atol=0.02)
    assert np.abs(score.mean(axis=(0, 2, 3))).max() < 0.02
    variance = np.stack([r.variance for r in found])
    extra = variance[..., 0] / variance[..., -1]  # depth^2 (sky + read + light / gain) over depth^2 (sky + read)
    empty = SIGMA**2 + (9.0 / 10.0) ** 2
    np.testing.assert_allclose(extra, np.broadcast_to(((empty + 30.0) / empty)[:, None], extra.shape), rtol=1e-9)


def test_depths_cover_their_range() -> None:
    seen = camera(observing(depth=[0.7, 2.0]))
    many = observe.stack([observe.expose(np.random.default_rng(k), seen) for k in range(400)])
    depth = np.sqrt(many.background / seen.background)
    assert 0.7 <= depth.min() < 0.72
    assert 1.95 < depth.max() <= 2.0
    np.testing.assert_allclose(depth[:, 0], depth[:, 1])
    np.testing.assert_allclose(many.electrons_per_nJy * depth**2, 10.0)
    assert (many.correlation >= 0.2).all()
    assert (many.correlation <= 0.4).all()


def test_signal_to_noise_of_one_pixel() -> None:
    extra, base = np.zeros((1, 2, 8, 8)), np.full((1, 2, 8, 8), 100.0)
    extra[0, 1, 3, 3] = 50.0
    exposure = observe.stack([observe.expose(np.random.default_rng(0), camera())])
    variance = SIGMA[1] ** 2 + (9.0 / 10.0) ** 2 + 150.0 / 10.0
    assert observe.signal_to_noise(extra, base, exposure)[0] == pytest.approx(50.0 / np.sqrt(variance))


def test_the_same_seed_gives_the_same_bytes() -> None:
    busy = spoiling(cosmic_ray=artefact(0.5), star=artefact(0.5), ghost=artefact(0.5), satellite=artefact(0.5))
    what = observing(depth=[0.7, 2.0], residue_sigma=0.2, over_subtraction=[0.0, 1.0], artefacts=busy)
    first, again = records(5, what), records(5, what)
    assert [[p.tobytes() for p in r] for r in first] == [[p.tobytes() for p in r] for r in again]
    assert first[0].flux.tobytes() != first[1].flux.tobytes()


def test_sky_residue_is_a_smooth_plane_of_unit_rms() -> None:
    many = np.stack([observe.sky_residue(np.random.default_rng(k), 2, 32) for k in range(1500)])
    assert (many**2).mean() == pytest.approx(1, rel=0.06)
    level = many.mean(axis=(-2, -1))
    assert level.var() == pytest.approx(0.5, rel=0.1)
    assert np.abs(np.corrcoef(level.T)[0, 1]) < 0.1  # each band has its own
    np.testing.assert_allclose(np.diff(many[0, 0], n=3, axis=0), 0, atol=1e-9)


def test_the_mesh_takes_the_mean_of_what_is_too_faint_to_mask() -> None:
    rng = np.random.default_rng(0)
    light = rng.uniform(0, 8, (2, 33, 33))
    for side in (9, 33, 70):
        found = observe.mesh_sky(light, SIGMA, float(side))
        for row, column in ((16, 16), (0, 0), (0, 32)):
            reach = np.arange(33)
            near = np.abs(reach[:, None] - row).clip(0) <= (side - 1) / 2
            box = near & (np.abs(reach - column) <= (side - 1) / 2)
            if side % 2 == 0:
                box = np.ones((33, 33), dtype=bool)  # reaches beyond the stamp on all sides from anywhere
            for band, sigma in enumerate(SIGMA):
                kept = box & (light[band] < 3 * sigma)
                weight = side**2 - (box & ~kept).sum()
                assert found[band, row, column] == pytest.approx(light[band][kept].sum() / weight, rel=1e-6)


def test_over_subtraction_takes_a_halo_away() -> None:
    axis = np.arange(PIXELS) - (PIXELS - 1) / 2
    halo = np.stack([200 * np.exp(-np.hypot(axis[:, None], axis) / 12)] * 2)
    plain = np.mean([r.flux for r in records(40, observing(), halo)], axis=0)
    taken = np.mean([r.flux for r in records(40, observing(over_subtraction=[1.0, 1.0]), halo)], axis=0)
    corner = (plain - taken)[:, :10, :10].mean()
    assert 0.3 < corner < SIGMA.max() * 3


FRAME = artefacts.Frame(PIXELS, SCALE, PSF, SIGMA, 4)


@pytest.mark.parametrize("name", artefacts.KINDS)
def test_an_artefact_can_be_put_at_a_place(name: str) -> None:
    """At the place it is brighter than it mostly is elsewhere; as bright as asked for, in one band or in all."""
    row, column = PIXELS // 2 - 8, PIXELS // 2 + 14
    half = (PIXELS - 1) / 2
    at = ((column - half) * SCALE, (row - half) * SCALE)
    for seed in range(20):
        flux = np.abs(artefacts.KINDS[name](np.random.default_rng(seed), FRAME, 100.0, at))
        assert flux.shape == (2, PIXELS, PIXELS)
        assert np.isfinite(flux).all()
        band = int(flux.reshape(2, -1).max(axis=1).argmax())
        near = flux[band, row - 2 : row + 3, column - 2 : column + 3].max()
        if name == "star":
            without = FRAME._replace(star_arms=0)
            halo = artefacts.star_spikes(np.random.default_rng(seed), without, 100.0, at)[band]
            assert flux[band, row, column] > 1.3 * halo[row, column]
        else:
            assert near > 0.2 * flux[band].max()
        if name in ("satellite", "cosmic_ray", "bad_column"):
            assert flux[band].max() == pytest.approx(100 * SIGMA[band], rel=0.1)
            assert not flux[1 - band].any()


def test_a_cosmic_ray_is_sharper_than_the_psf() -> None:
    flux = artefacts.cosmic_ray(np.random.default_rng(1), FRAME, 100.0, (0.0, 0.0)).sum(axis=0)
    star = artefacts.star_spikes(np.random.default_rng(1), FRAME, 100.0)[0]
    assert np.abs(np.diff(flux, axis=0)).max() / flux.max() > 1.5 * np.abs(np.diff(star, axis=0)).max() / star.max()


def test_a_star_has_its_spikes_and_a_falling_halo() -> None:
    y, x = np.mgrid[-40:41, -40:41].astype(np.float64)
    light = artefacts._star(x, y, PSF[0], 0.0, 4)
    ring = np.abs(np.hypot(x, y) - 30) < 0.5
    angle = np.arctan2(y, x)[ring]
    fourfold = (light[ring] * np.cos(4 * angle)).sum() / light[ring].sum()
    assert fourfold > 0.25
    assert (light[40, 40], light.argmax()) == (light.max(), light.size // 2)
    assert light[40, 50] > light[40, 60] > light[40, 70] > light[60, 60]


def test_bleeding_keeps_the_charge() -> None:
    star = np.zeros((1, 101, 5))
    star[0, 50, 2], star[0, 49, 2], star[0, 50, 1] = 20.0, 5.0, 0.5
    found = artefacts.bleed(star, np.array([1.0]))
    assert found.max() == 1.0
    assert found[0, :, 2].sum() == pytest.approx(25.0, abs=1.1)
    np.testing.assert_allclose(found[0, :, 1], star[0, :, 1])
    assert np.ptp(np.flatnonzero(found[0, :, 2])) == pytest.approx(24, abs=1)


def test_artefacts_come_in_their_shares_and_are_flagged_in_theirs() -> None:
    what = observing(artefacts=spoiling(cosmic_ray=artefact(0.3, 0.6, 30.0, 200.0)))
    found = records(600, what)
    flagged = np.array([r.bad.any() for r in found])
    hit = np.array([(np.abs(r.flux) / np.sqrt(r.variance)).max() > 8 for r in found])
    assert hit.mean() == pytest.approx(0.3, abs=0.06)
    assert (flagged & hit).sum() / hit.sum() == pytest.approx(0.6, abs=0.12)
    assert not (flagged & ~hit).any()
    for r in (r for r, f in zip(found, flagged, strict=True) if f):
        assert np.abs(np.where(r.bad, 0, r.flux) / np.sqrt(r.variance)).max() < 10


def test_a_hard_negative_has_the_artefact_that_it_wants() -> None:
    params = observing(artefacts=spoiling(cosmic_ray=artefact(0.0, 0.0))).artefacts
    half, row, column = (PIXELS - 1) / 2, 40, 20
    at = ((column - half) * SCALE, (row - half) * SCALE)
    for rng in (np.random.default_rng(k) for k in range(20)):
        found = artefacts.draw(rng, FRAME, params, ("cosmic_ray", at))
        assert (found.pixels[:, row, column] > 3 * SIGMA).any()
        assert not found.light.any()
        assert not found.bad.any()


def test_light_of_artefacts_has_photon_noise_and_hits_have_none() -> None:
    trail = records(40, observing(artefacts=spoiling(satellite=artefact(1.0, 0.0))))
    assert all((r.variance.max() > 2 * r.variance.min()) for r in trail)
    hit = records(40, observing(artefacts=spoiling(cosmic_ray=artefact(1.0, 0.0))))
    assert all(np.ptp(r.variance[0]) == 0 for r in hit)


def test_a_place_that_no_artefact_was_put_at_is_found_empty() -> None:
    """The fault: an artefact that ignores where it is wanted would be there by luck only."""
    row, column = PIXELS // 2 - 8, PIXELS // 2 + 14
    luck = 0
    for seed in range(20):
        flux = artefacts.cosmic_ray(np.random.default_rng(seed), FRAME, 100.0)
        luck += bool(flux[:, row - 2 : row + 3, column - 2 : column + 3].max() > 20)
    assert luck < 5


def test_bands_that_two_instruments_claim_are_refused() -> None:
    twice = observing().model_dump()
    twice["instruments"] *= 2
    with pytest.raises(ValueError, match="instruments must name each band once"):
        Observing.model_validate(twice)
