"""Colour prior (oracles: dense normal equations, explicit inverses, the chi2 law, finite differences)."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import block_diag

from lensml.lensing import colour, reddening, sed

BANDS = ["g", "r", "i", "z", "y"]
SKY_NJY = np.array([6.0, 8.0, 9.0, 15.0, 28.0])  # HSC, per pixel
ZENITH = 2.5 / math.log(10)
K = reddening.extinction_per_a_v(sed.wavelengths(BANDS), 0.5, 3.1, "G23")
Float = NDArray[np.float64]


def segments(flux: Float, covariance: Float, group: Any, bad: Any = None) -> colour.Segments:
    bad = np.zeros(flux.shape, dtype=bool) if bad is None else bad
    return colour.Segments(*(torch.as_tensor(a) for a in (flux, covariance, bad, group)))


def prior(data: colour.Segments, k: Any = K, gate: Any = None, **changes: Any) -> colour.Colours:
    groups = int(data.group.max()) + 1
    gate = torch.ones(groups) if gate is None else gate
    settings = {"extinction_sigma": 0.5, "scatter_mag": 0.0, "huber": 4.0, "passes": 4} | changes
    return colour.colour_prior(data, groups, torch.as_tensor(k), gate, **settings)


def pairs(rng: np.random.Generator, count: int, snr: float, a_v: Float, magnification: float = 2.0) -> colour.Segments:
    """Two images of one source each, the second dustier and fainter; snr of the second's i band."""
    bright = 10 ** (-0.4 * rng.normal([1.0, 0.5, 0, -0.2, -0.3], 0.3, (count, 5)))
    faint = bright / magnification * 10 ** (-0.4 * a_v[:, None] * K)
    sigma = np.broadcast_to((faint[:, 2:3] / snr) * (SKY_NJY / SKY_NJY[2])[None], (count, 5))
    flux = np.stack([bright, faint], axis=1).reshape(-1, 5)
    sigma = np.repeat(sigma, 2, axis=0)
    return segments(flux + sigma * rng.normal(size=flux.shape), sigma**2, np.repeat(np.arange(count), 2))


def contrast(told: colour.Colours, truth: Float) -> tuple[Float, Float]:
    """Pulls and errors of all segments but the references; truth is each segment's A_V."""
    reference = np.repeat(told.reference.numpy(), 2)
    free = reference != np.arange(len(truth))
    off = told.a_v.numpy() - (truth - truth[reference])
    return off[free] / told.a_v_error.numpy()[free], told.a_v_error.numpy()[free]


# --- against linear algebra


def dense(magnitude: Float, covariance: Float, seen: NDArray[np.bool_], reference: int, sigma: float) -> dict[str, Any]:
    """The same model of one group by normal equations over every offset, colour and extinction at once."""
    count, bands = magnitude.shape
    rows, weights, values = [], [], []
    for s in range(count):
        b = np.flatnonzero(seen[s])
        block = np.zeros((len(b), count + bands + count))
        block[:, s] = 1
        block[np.arange(len(b)), count + b] = 1
        block[:, count + bands + s] = K[b] * (s != reference)
        rows.append(block)
        weights.append(np.linalg.inv(covariance[s][np.ix_(b, b)]))
        values.append(magnitude[s][b])
    x, w, y = np.concatenate(rows), block_diag(*weights), np.concatenate(values)
    prior_precision = np.diag(np.concatenate([np.zeros(count), np.full(bands, 1e-4), np.full(count, sigma**-2)]))
    posterior = np.linalg.inv(x.T @ w @ x + prior_precision)
    solution = posterior @ x.T @ w @ y
    rest = y - x @ solution
    a_v = solution[-count:]
    return {
        "a_v": a_v, "error": np.sqrt(np.diag(posterior))[-count:], "chi2": rest @ w @ rest,
        "dof": len(y) - np.trace(posterior @ x.T @ w @ x), "penalty": (a_v**2).sum() / sigma**2,
        "colour": solution[count : count + bands],
    }  # fmt: skip


def ragged(seed: int = 3) -> tuple[colour.Segments, list[list[int]]]:
    """Groups of 2, 3 and 4 segments in mixed order, full covariances, missing bands."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat([0, 1, 2], [2, 3, 4]))
    flux = rng.uniform(5, 20, (9, 1)) * rng.uniform(0.5, 2, (3, 5))[group] * rng.normal(1, 0.06, (9, 5))
    root = 0.02 * rng.normal(size=(9, 5, 5))
    covariance = flux[:, :, None] * flux[:, None, :] * (root @ root.transpose(0, 2, 1) + 0.03**2 * np.eye(5))
    bad = rng.uniform(size=(9, 5)) < 0.15
    return segments(flux, covariance, group, bad), [list(np.flatnonzero(group == g)) for g in range(3)]


def test_the_closed_form_is_that_of_the_dense_normal_equations() -> None:
    data, groups = ragged()
    told = prior(data, huber=1e9, passes=1)
    flux, covariance, seen = data.flux.numpy(), data.covariance.numpy(), ~data.bad.numpy()
    magnitude = -ZENITH * np.log(flux)
    covariance = ZENITH**2 * covariance / flux[:, :, None] / flux[:, None, :]
    for g, rows in enumerate(groups):
        reference = rows.index(int(told.reference[g]))
        want = dense(magnitude[rows], covariance[rows], seen[rows], reference, 0.5)
        np.testing.assert_allclose(told.a_v[rows], want["a_v"], atol=1e-9)
        errors = np.where(np.arange(len(rows)) == reference, 0, want["error"])
        np.testing.assert_allclose(told.a_v_error[rows], errors, atol=1e-9)
        np.testing.assert_allclose(told.dof[g], want["dof"], atol=1e-6)
        np.testing.assert_allclose(told.penalty[g], want["penalty"], rtol=1e-8)
        np.testing.assert_allclose(told.colour[g], want["colour"], atol=1e-6)


def sharp(scale: float = 1.0) -> tuple[colour.Segments, Float]:
    """Two segments with errors so small that magnitudes are linear, and their covariances in magnitudes."""
    rng = np.random.default_rng(5)
    flux = 10 + 1e-3 * rng.normal(size=(2, 5))
    root = scale * 1e-3 * rng.normal(size=(2, 5, 5))
    covariance = root @ root.transpose(0, 2, 1) + (scale * 2e-4) ** 2 * np.eye(5)
    return segments(flux, covariance, [0, 0]), covariance * (ZENITH / 10) ** 2


def test_the_distance_is_of_the_inverse_covariance_of_the_colours() -> None:
    """chi2 and penalty together are d' (D (C1 + C2 + sigma^2 k k') D')^-1 d of the difference of colours d."""
    data, covariance = sharp()
    told = prior(data, extinction_sigma=3e-4, huber=1e9)
    to_colours = np.diff(np.eye(5), axis=0)
    d = to_colours @ (-ZENITH * np.diff(np.log(data.flux.numpy()), axis=0)[0])
    spread = to_colours @ (covariance.sum(axis=0) + 3e-4**2 * np.outer(K, K)) @ to_colours.T
    expected = d @ np.linalg.inv(spread) @ d
    assert float(told.chi2 + told.penalty) == pytest.approx(expected, rel=1e-3)
    assert float(told.chi2 + told.penalty) != pytest.approx(d @ spread @ d, rel=0.5)


@pytest.mark.parametrize("error", [1e-7, 1e-4, 1e3])
def test_any_error_can_be_computed_with(error: float) -> None:
    flux = np.full((3, 5), 10.0)
    told = prior(segments(flux, (error * flux) ** 2, [0, 0, 0]))
    assert told.defined.all()
    assert float(told.chi2) == pytest.approx(0, abs=1e-6)


def test_larger_errors_make_a_smaller_distance() -> None:
    once, twice = (prior(sharp(scale)[0], extinction_sigma=10.0, huber=1e9) for scale in (1.0, 2.0))
    assert float(twice.chi2) == pytest.approx(float(once.chi2) / 4, rel=1e-3)


def test_chi2_follows_its_law_when_the_extinction_follows_its_prior() -> None:
    rng = np.random.default_rng(6)
    told = prior(pairs(rng, 1500, 60, rng.normal(0, 0.5, 1500)), huber=1e9)
    assert stats.kstest((told.chi2 + told.penalty).numpy(), stats.chi2(4).cdf).pvalue > 0.01
    assert stats.kstest((told.chi2 + told.penalty).numpy() * 1.15, stats.chi2(4).cdf).pvalue < 0.01
    assert float(told.chi2.sum() / told.dof.sum()) == pytest.approx(1, abs=0.06)
    assert float(told.loss.mean()) == pytest.approx(0.5, abs=0.05)


# --- what must change nothing, and what must


def test_magnification_order_and_values_of_missing_bands_change_nothing() -> None:
    data, _ = ragged()
    told = prior(data)
    factor = torch.from_numpy(np.random.default_rng(7).uniform(0.01, 100, 9))
    covariance = data.covariance * factor[:, None, None] ** 2
    magnified = data._replace(flux=data.flux * factor[:, None], covariance=covariance)
    junk = torch.where(data.bad, math.nan, data.flux)
    order = torch.from_numpy(np.random.default_rng(8).permutation(9))
    shuffled = colour.Segments(*(field[order] for field in data))
    for other, rows in ((magnified, slice(None)), (data._replace(flux=junk), slice(None)), (shuffled, order)):
        again = prior(other)
        for name in ("chi2", "dof", "loss", "penalty", "colour"):
            torch.testing.assert_close(getattr(again, name), getattr(told, name), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(again.a_v, told.a_v[rows], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(again.a_v_error, told.a_v_error[rows], rtol=1e-6, atol=1e-8)


def test_infinite_variance_is_a_missing_band_and_variances_are_a_diagonal() -> None:
    data, _ = ragged()
    variance = data.covariance.diagonal(dim1=1, dim2=2)
    masked = prior(data._replace(covariance=variance))
    infinite = torch.where(data.bad, math.inf, variance)
    unmasked = data._replace(covariance=infinite, bad=torch.zeros_like(data.bad))
    for one, other in zip(masked, prior(unmasked), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_a_group_with_nothing_to_compare_is_undefined_and_spoils_no_neighbour() -> None:
    """One segment; none; two without a common colour; two with one band in common."""
    flux = torch.full((8, 5), 10.0).requires_grad_()
    group = torch.tensor([0, 0, 1, 3, 3, 4, 4, 6])
    bad = torch.zeros(8, 5, dtype=torch.bool)
    bad[3, :3] = bad[4, 3:] = bad[5, 2:] = bad[6, :1] = bad[7] = True
    told = colour.colour_prior(
        colour.Segments(flux, torch.ones(8, 5), bad, group), 7, torch.from_numpy(K), torch.ones(7),
        extinction_sigma=0.5, scatter_mag=0.0, huber=3.0, passes=3,
    )  # fmt: skip
    np.testing.assert_array_equal(told.defined, [True, False, False, False, False, False, False])
    for term in (told.chi2, told.penalty, told.loss):
        np.testing.assert_array_equal(torch.isnan(term), ~told.defined)
    np.testing.assert_array_equal(told.reference.numpy()[[2, 5]], [-1, -1])
    np.testing.assert_allclose(
        told.a_v_error.detach()[3:5].max(), 0.5, rtol=1e-3
    )  # nothing was learned: that of the prior
    assert torch.isnan(told.colour[6]).all()
    assert not torch.isnan(told.colour[0]).any()
    (told.loss[told.defined].sum() + told.a_v_error.sum()).backward()
    assert torch.isfinite(flux.grad).all()


def test_two_bands_tell_no_extinction_but_still_compare() -> None:
    data, _ = ragged()
    bad = torch.ones_like(data.bad)
    bad[:, :2] = False
    told = prior(data._replace(bad=bad))
    assert told.defined.all()
    assert (told.dof < 1).all()


def test_the_gate_turns_the_loss_down_and_nothing_else() -> None:
    data, _ = ragged()
    full, half = prior(data), prior(data, gate=torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(half.loss, full.loss * torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(half.chi2, full.chi2)


def test_an_outlier_neither_drags_the_mean_colour_nor_hides() -> None:
    rng = np.random.default_rng(9)
    flux = np.tile(10 ** (-0.4 * np.array([1.0, 0.5, 0, -0.2, -0.3])), (5, 1)) * (1 + 0.01 * rng.normal(size=(5, 5)))
    flux[4] *= 10 ** (-0.4 * np.array([0, 1.5, 0, 1.5, 0]))  # no dust does that
    data = segments(flux, (0.01 * flux) ** 2, [0] * 5)
    truth = prior(segments(flux[:4], (0.01 * flux[:4]) ** 2, [0] * 4), extinction_sigma=0.1).colour
    off = {h: float((prior(data, huber=h, extinction_sigma=0.1).colour - truth).abs().max()) for h in (1.5, 1e9)}
    assert off[1.5] < off[1e9] / 5
    told = prior(data, huber=1.5)
    assert float(told.chi2 / told.dof) > 100
    square = (told.chi2 + told.penalty) / 16
    assert float(told.loss) == pytest.approx(float(1.5 * square.sqrt() - 1.5**2 / 2), rel=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    data, _ = ragged()

    def told(flux: torch.Tensor, covariance: torch.Tensor, k: torch.Tensor, gate: torch.Tensor) -> tuple[Any, ...]:
        symmetric = (covariance + covariance.mT) / 2
        result = prior(data._replace(flux=flux, covariance=symmetric), k, gate, huber=1.5, scatter_mag=0.02)
        return result.a_v, result.a_v_error, result.chi2, result.dof, result.penalty, result.loss

    gate = torch.tensor([0.9, 0.4, 0.7], dtype=torch.float64)
    arguments = (data.flux, data.covariance, torch.from_numpy(K).repeat(3, 1), gate)
    assert torch.autograd.gradcheck(
        told, [a.clone().requires_grad_() for a in arguments], eps=1e-5, atol=3e-4, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flux": (1, math.nan)}, "flux must be finite where it is not bad, got nan .segment 1"),
        ({"covariance": (2, -1.0)}, "covariance must be finite and have eigenvalues above 0, got -1 .segment 2"),
        ({"group": (3, -1)}, "group must be below 2, got -1 .segment 3"),
        ({"gate": (1, 1.5)}, "gate must be within 0 to 1, got 1.5 .group 1"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    data = segments(np.ones((4, 5)), np.ones((4, 5)), [0, 0, 1, 1])
    gate = torch.ones(2)
    [(name, (row, value))] = change.items()
    (gate if name == "gate" else getattr(data, name))[row] = value
    with pytest.raises(ValueError, match=message):
        colour.colour_prior(
            data, 2, torch.from_numpy(K), gate, extinction_sigma=0.5, scatter_mag=0.0, huber=3.0, passes=1
        )


def test_shapes_that_do_not_fit_are_refused() -> None:
    data = segments(np.ones((4, 5)), np.ones((4, 5)), [0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"must be \(segment, band\)"):
        prior(data._replace(covariance=torch.ones(4, 3)))
    with pytest.raises(ValueError, match="gate must be"):
        prior(data, gate=torch.ones(3))


# --- dust and impostors


@pytest.mark.parametrize("snr", [5, 15, 60])
def test_the_extinction_is_recovered_within_its_error(snr: float) -> None:
    rng = np.random.default_rng(10)
    a_v = rng.uniform(0, 1, 600)
    told = prior(pairs(rng, 600, snr, a_v), extinction_sigma=3.0)
    pull, _ = contrast(told, np.stack([0 * a_v, a_v], axis=1).ravel())
    assert abs(pull.mean()) < 0.2
    assert 0.8 < pull.std() < 1.25
    assert float(told.chi2.sum() / told.dof.sum()) == pytest.approx(1, abs=0.1)
