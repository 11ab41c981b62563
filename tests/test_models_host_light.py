"""The host's light told from arcs inside the networks (oracles: lenstronomy's Sersics, planted arcs, brute force)."""

import numpy as np
import pytest
import torch
from lenstronomy.LightModel.light_model import LightModel
from torch import Tensor

from lensml.models import host_light

PIXELS = 48
AXIS = np.arange(PIXELS) - (PIXELS - 1) / 2
X, Y = np.meshgrid(AXIS, AXIS)


def sersic(amp: float, radius: float, index: float, e1: float, e2: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Pixels of a galaxy under seeing that rounds off its cusp, amp sky sigma at the effective radius (pixels)."""
    soft = np.hypot(X - x, Y - y) < 1
    kwargs = {"amp": amp, "R_sersic": radius, "n_sersic": index, "e1": e1, "e2": e2, "center_x": x, "center_y": y}
    image = LightModel(["SERSIC_ELLIPSE"]).surface_brightness(X.ravel(), Y.ravel(), [kwargs]).reshape(X.shape)
    return np.where(soft, np.minimum(image, image[~soft].max()), image)


def stamp(*flux: np.ndarray) -> Tensor:
    return torch.from_numpy(np.arcsinh(np.stack(flux))).float()[None]


def left(stamps: Tensor) -> np.ndarray:
    """What the host's light leaves of the first object, sky sigma."""
    return torch.sinh(host_light.views(stamps))[0, stamps.shape[1] :].numpy().astype(np.float64)


@pytest.mark.parametrize(("e1", "e2"), [(0.0, 0.0), (0.2, -0.1), (0.0, 0.3)])
@pytest.mark.parametrize("radius", [4.0, 12.0, 60.0])
def test_a_sersic_leaves_little_of_itself_even_where_its_halo_fills_the_stamp(
    radius: float, e1: float, e2: float
) -> None:
    galaxy = sersic(50.0, radius, 3.0, e1, e2, 0.4, -0.6)
    outside = np.hypot(X, Y) > 5
    assert np.abs(left(stamp(galaxy))[0][outside]).sum() < 0.06 * galaxy[outside].sum()


def test_an_arc_stays_whole() -> None:
    arc = 5.0 * np.exp(-0.5 * ((np.hypot(X, Y) - 13) / 1.5) ** 2) * (np.abs(np.arctan2(Y, X) - 0.5) < 0.6)
    host = sersic(30.0, 15.0, 4.0, 0.1, 0.05)
    assert left(stamp(host + arc))[0][arc > 0.5].sum() == pytest.approx(arc[arc > 0.5].sum(), rel=0.15)


def test_the_median_of_a_round_host_is_that_of_its_circles() -> None:
    """Brute force on noise about a round galaxy at the centre: rings of the same pixels, one after the other."""
    rng = np.random.default_rng(1)
    flux = sersic(30.0, 15.0, 4.0, 0.0, 0.0)
    noisy = flux + rng.normal(size=flux.shape)
    radius = torch.hypot(torch.from_numpy(X), torch.from_numpy(Y)).float()
    zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    rings = host_light.rings(host_light.Ellipse(zero, zero, one, one, zero), torch.Size(radius.shape))
    order = rings.order[0].numpy()
    level = np.minimum.accumulate([np.sort(noisy.ravel()[r])[11] for r in order.reshape(-1, 24)])
    middle = np.array([radius.numpy().ravel()[r].mean() for r in order.reshape(-1, 24)])
    model = np.interp(radius.numpy(), middle, level)
    seen = host_light.views(stamp(noisy))
    found = noisy - torch.sinh(seen)[0, 1].numpy()
    inner = (radius.numpy() > middle[0]) & (radius.numpy() < middle[-1])
    assert np.abs(found - model)[inner].mean() < 0.1  # the centre and the shape are measured, on noise


def test_the_ellipse_of_a_gaussian_is_its_own() -> None:
    """A Gaussian of axis ratio q under a window of its own shape: moments of unit area are 1/q and q."""
    q, angle = 0.6, 0.7
    u, v = np.cos(angle) * X + np.sin(angle) * Y, np.cos(angle) * Y - np.sin(angle) * X
    image = torch.from_numpy(np.exp(-0.5 * (q * u**2 + v**2 / q) / 25))[None].float()
    shape = host_light.ellipse(image)
    wanted = np.array([[1 / q, 0], [0, q]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    (xx, xy), (_, yy) = turn @ wanted @ turn.T
    np.testing.assert_allclose([float(shape.xx), float(shape.yy), float(shape.xy)], [xx, yy, xy], atol=0.03)
    assert abs(float(shape.x)) + abs(float(shape.y)) < 1e-3


def test_bad_pixels_are_filled_with_the_host_and_leave_nothing() -> None:
    galaxy = sersic(50.0, 12.0, 3.0, 0.1, 0.0)
    stamps = stamp(galaxy)
    stamps[0, 0, 10:14, 30:33] = 0
    seen = host_light.views(stamps)
    np.testing.assert_allclose(torch.sinh(seen)[0, 0, 10:14, 30:33].numpy(), galaxy[10:14, 30:33], rtol=0.1)
    assert bool((seen[0, 1, 10:14, 30:33] == 0).all())
    assert torch.equal(seen[0, 0][stamps[0, 0] != 0], stamps[0, 0][stamps[0, 0] != 0])


def test_a_stamp_that_ends_within_the_frame_has_no_edge() -> None:
    galaxy = sersic(20.0, 6.0, 1.0, 0.0, 0.2)
    stamps = stamp(galaxy)
    stamps[0, 0, :14], stamps[0, 0, :, :14] = 0, 0
    seen = torch.sinh(host_light.views(stamps))[0, 0].numpy()
    np.testing.assert_allclose(seen[12, 20:30], galaxy[12, 20:30], rtol=0.3)  # beyond it, as the galaxy would go on


def test_bands_share_the_ellipse_and_missing_ones_stay_nothing() -> None:
    galaxy = sersic(50.0, 12.0, 3.0, 0.2, 0.1)
    rng = np.random.default_rng(2)
    faint = 0.01 * galaxy + rng.normal(size=galaxy.shape)
    three = torch.cat([stamp(galaxy, faint), torch.zeros(1, 1, PIXELS, PIXELS)], dim=1)
    seen = host_light.views(three)
    assert bool((seen[:, [2, 5]] == 0).all())
    assert np.std(left(three)[1]) == pytest.approx(1.0, abs=0.1)


def test_nothing_at_all_is_nothing() -> None:
    assert bool((host_light.views(torch.zeros(2, 3, 20, 20)) == 0).all())


def test_the_gradient_reaches_the_pixels() -> None:
    stamps = stamp(sersic(50.0, 12.0, 3.0, 0.2, 0.1)).requires_grad_(True)
    host_light.views(stamps).square().sum().backward()
    assert stamps.grad is not None
    assert bool(torch.isfinite(stamps.grad).all())
    assert float(stamps.grad.abs().sum()) > 0
