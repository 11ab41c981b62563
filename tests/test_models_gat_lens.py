"""The graph over segments by brute force: who is a node, who knows whom, and what the features say of planted arcs."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensml.models import gat_lens, segments
from lensml.models.host_light import views
from lensml.store.quantisation import BAD_LOG_VARIANCE

PIXELS, SCALE, BANDS, METADATA = 48, 0.25, 3, 8
AXIS = np.arange(PIXELS) - (PIXELS - 1) / 2
X, Y = np.meshgrid(AXIS, AXIS)
SINES, EVEN = (7, 9, 11), (0, 1, 2, 3, 4, 5, 6, 8, 10)  # of the place features: what a reflection turns round, or not
Image = NDArray[np.float64]


def host(peak: float = 60.0) -> Image:
    return peak * np.exp(-0.5 * (X**2 + Y**2) / 16)


def arc(radius: float, angle: float, width: float, peak: float) -> Image:
    away = np.abs(np.angle(np.exp(1j * (np.arctan2(Y, X) - angle))))
    return peak * np.exp(-0.5 * ((np.hypot(X, Y) - radius) / 1.3) ** 2) * (away < width)


def spoke(angle: float, peak: float) -> Image:
    along, across = np.cos(angle) * X + np.sin(angle) * Y, np.cos(angle) * Y - np.sin(angle) * X
    return peak * np.exp(-0.5 * (across / 1.2) ** 2) * ((along > 8) & (along < 18))


def given(*rest: Image, peak: float = 60.0) -> tuple[Tensor, dict[str, Tensor]]:
    """Views of three bands, the third missing in the first object, with too little noise for a segment.

    The host's light is taken off as it was put there: what `host_light` leaves of it is for others to test.
    """
    noise = 0.3 * np.random.default_rng(0).normal(size=(len(rest), BANDS, PIXELS, PIXELS))
    colour = np.array([1.0, 0.5, 0.8])[:, None, None]
    residual = np.stack(rest)[:, None] * colour + noise
    sky = np.tile([1.0, 2.0, 3.0], (len(rest), 1))
    there = np.ones((len(rest), BANDS, 1, 1))
    sky[0, 2], there[0, 2] = 0, 0
    images = np.concatenate([(residual + host(peak) * colour) * there, residual * there], axis=1)
    log_variance = np.where(there, np.zeros_like(residual), BAD_LOG_VARIANCE)
    beside = {"log_variance": log_variance, "pixel_scale": np.full(len(rest), SCALE), "sky_sigma": sky}
    tensors = {name: torch.from_numpy(values).float() for name, values in beside.items()}
    return torch.from_numpy(np.arcsinh(images)).float(), tensors


def scene() -> tuple[Tensor, dict[str, Tensor]]:
    """A host alone; an arc and its counter-image; a spoke and a far companion."""
    far = 40 * np.exp(-0.5 * ((X + 17) ** 2 + (Y + 8) ** 2) / 4)
    lens = arc(12, 0.4, 0.7, 15) + arc(9, 0.4 + np.pi, 0.3, 9)
    return given(np.zeros_like(X), lens, spoke(0.3, 12) + far)


def stamps_of_scene() -> tuple[Tensor, dict[str, Tensor]]:
    images, beside = scene()
    return images[:, :BANDS], beside


def graph_of(images: Tensor, beside: dict[str, Tensor]) -> gat_lens.Graph:
    return gat_lens.graphs(images, **beside)


def network(size: str = "tiny", seed: int = 0) -> gat_lens.GatLens:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = gat_lens.build(size, "gri"[:BANDS], PIXELS, METADATA)
    assert isinstance(net, gat_lens.GatLens)
    return net


def metadata(objects: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).normal(size=(objects, METADATA))).float()


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def place(graph: gat_lens.Graph) -> NDArray[np.float32]:
    return graph.features[:, -gat_lens.PLACE_FEATURES :].numpy()


def test_nodes_are_host_stamp_and_segments() -> None:
    graph = graph_of(*scene())
    assert graph.owner.tolist() == [0, 1, 2, 0, 1, 2, 1, 1, 2, 2]
    assert graph.slot.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 2, 3]
    np.testing.assert_array_equal(place(graph)[:, :2].nonzero(), [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]])
    seen = graph.features[:, BANDS : 2 * BANDS]
    np.testing.assert_array_equal(seen[:3], [[1, 1, 0], [1, 1, 1], [1, 1, 1]])
    assert not bool(seen[3:6].any())
    assert bool(seen[6:].all())


def test_those_within_five_arcsec_know_each_other() -> None:
    graph = graph_of(*scene())
    radius, angle = np.expm1(place(graph)[:, 5]), np.arctan2(place(graph)[:, 7], place(graph)[:, 6])
    at = radius * np.exp(1j * angle)
    wanted = {
        (i, j)
        for i, one in enumerate(graph.owner.tolist())
        for j, other in enumerate(graph.owner.tolist())
        if one == other and abs(at[i] - at[j]) <= 5
    }
    assert {(int(i), int(j)) for i, j in graph.pairs.T} == wanted
    assert len(wanted) == graph.pairs.shape[1]
    assert {(6, 7), (7, 6), (1, 6), (9, 2)} - wanted == {
        (6, 7),
        (7, 6),
    }  # 12 and 9 pixels on opposite sides: 5.2 arcsec
    separation = np.expm1(graph.edges[:, 0].numpy())
    np.testing.assert_allclose(separation, [abs(at[i] - at[j]) for i, j in graph.pairs.T.tolist()], atol=1e-3)


def test_arcs_lie_along_the_tangent_and_counter_images_opposite() -> None:
    arc_node, counter, far, spoke_node = place(graph_of(*scene()))[6:]
    assert np.expm1(arc_node[5]) == pytest.approx(12 * SCALE * np.sinc(0.7 / np.pi), rel=0.05)  # centroid of a chord
    np.testing.assert_allclose(arc_node[6:10], [1, 0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(counter[6:10], [-1, 0, 1, 0], atol=0.15)
    assert arc_node[10] > 0.7
    along, across = 10**2 / 12 + 1, 1.2**2 + 1  # variances, the detection image's smoothing in them, pixels
    assert spoke_node[10] == pytest.approx((across - along) / (across + along), abs=0.08)
    assert abs(far[10]) < 0.1


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_changes_no_feature(turns: int) -> None:
    images, beside = scene()
    turned = beside | {"log_variance": beside["log_variance"].rot90(turns, (2, 3))}
    one, other = graph_of(images, beside), graph_of(images.rot90(turns, (2, 3)), turned)
    torch.testing.assert_close(one.features, other.features, rtol=1e-3, atol=2e-3)
    assert torch.equal(one.pairs, other.pairs)
    torch.testing.assert_close(one.edges, other.edges, rtol=1e-3, atol=2e-3)


def test_a_reflection_turns_the_sines_round() -> None:
    images, beside = scene()
    one = place(graph_of(images, beside))
    other = place(graph_of(images.flip(3), beside | {"log_variance": beside["log_variance"].flip(3)}))
    np.testing.assert_allclose(one[:, EVEN], other[:, EVEN], atol=2e-3)
    np.testing.assert_allclose(one[:, SINES], -other[:, SINES], atol=2e-3)
    assert np.abs(one[:, SINES]).max() > 0.1


def photometry(flux: Image, sigma: Image) -> gat_lens.Photometry:
    bad, none = sigma <= 0, torch.zeros(len(flux))
    kept, variance = torch.from_numpy(np.where(bad, 0, flux)), torch.from_numpy(np.where(bad, np.inf, sigma**2))
    return gat_lens.measured(
        segments.Segments(none, none, none, kept, variance, torch.from_numpy(bad), none, none, none)
    )


def test_bright_magnitudes_are_pogsons() -> None:
    flux, sigma = np.array([[1e4, 3e6]]), np.array([[2.0, 50.0]])
    light = photometry(flux, sigma)
    np.testing.assert_allclose(light.magnitude, -2.5 * np.log10(flux), atol=1e-5)
    np.testing.assert_allclose(light.error, 2.5 / np.log(10) * sigma / flux, rtol=1e-5)


def test_colour_distance_by_brute_force() -> None:
    """The best common shift in magnitude, searched for; the second pair shares one band, the third none."""
    rng = np.random.default_rng(5)
    flux, sigma = rng.uniform(20, 500, (6, 4)), rng.uniform(2, 9, (6, 4))
    sigma[2, :3], sigma[4, ::2], sigma[5, 1::2] = 0, 0, 0
    light = photometry(flux, sigma)
    distance, degrees = gat_lens.colour_distance(light, torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5]))
    np.testing.assert_array_equal(degrees, [3, 0, 0])
    np.testing.assert_array_equal(distance[1:], [0, 0])
    difference = (light.magnitude[0] - light.magnitude[1]).numpy()
    error2 = (light.error[0] ** 2 + light.error[1] ** 2).numpy()
    shifts = np.linspace(-6, 6, 200001)[:, None]
    assert float(distance[0]) == pytest.approx(((difference - shifts) ** 2 / error2).sum(axis=1).min() / 3, rel=1e-4)


def test_one_source_magnified_has_no_colour_distance_beyond_its_noise() -> None:
    rng = np.random.default_rng(6)
    source, sigma = np.array([300.0, 500.0, 900.0, 700.0]), np.full((4000, 4), 10.0)
    flux = np.repeat([[1.0], [3.0]], 2000, axis=0) * source + sigma * rng.normal(size=sigma.shape)
    rows = torch.arange(2000)
    distance, degrees = gat_lens.colour_distance(photometry(flux, sigma), rows, rows + 2000)
    assert float((distance * degrees).mean()) == pytest.approx(3, abs=0.2)
    flux[2000:, 0] *= 2
    assert float(gat_lens.colour_distance(photometry(flux, sigma), rows, rows + 2000)[0].min()) > 20


@pytest.mark.parametrize("grid", [3, 6, 7])
def test_maps_are_averaged_over_the_pixels_of_nodes(grid: int) -> None:
    graph = graph_of(*scene())
    maps = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 5, grid, grid)))
    found = gat_lens.averaged(maps, graph, torch.Size((PIXELS, PIXELS)))
    wanted = np.zeros(found.shape)
    for node in range(len(wanted)):
        pixel = graph.outlines.pixel[graph.outlines.segment == node].numpy()
        owner, y, x = np.unravel_index(pixel, (3, PIXELS, PIXELS))
        assert set(owner) <= {int(graph.owner[node])}
        if len(pixel):
            wanted[node] = maps.numpy()[owner, :, y * grid // PIXELS, x * grid // PIXELS].mean(axis=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(wanted).sum(axis=1).astype(bool).tolist() == [True] * 3 + [False] * 3 + [True] * 4


def test_a_host_alone_has_a_finite_logit_and_every_parameter_its_gradient() -> None:
    images, beside = given(np.zeros_like(X), np.zeros_like(X), peak=6)
    stamps = images[:, :BANDS]
    assert len(graph_of(views(stamps), beside).owner) == 4
    net = network()
    logit = net(stamps, metadata(2), **beside)
    assert bool(torch.isfinite(logit).all())
    logit.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


def test_nothing_at_all_has_a_finite_logit() -> None:
    stamps = torch.zeros(1, BANDS, 16, 16)
    beside = {"pixel_scale": torch.tensor([0.1]), "sky_sigma": torch.zeros(1, BANDS)}
    logit = network()(stamps, metadata(1), log_variance=torch.full_like(stamps, BAD_LOG_VARIANCE), **beside)
    assert bool(torch.isfinite(logit).all())


def test_an_object_scores_the_same_alone() -> None:
    net, (stamps, beside), told = network().eval(), stamps_of_scene(), metadata(3)
    with torch.inference_mode():
        whole = net(stamps, told, **beside)
        alone = [
            net(stamps[[i]], told[[i]], **{name: values[[i]] for name, values in beside.items()}) for i in range(3)
        ]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("deterministic")
def test_scores_and_gradients_are_the_same_bits_each_time() -> None:
    (stamps, beside), told = stamps_of_scene(), metadata(3)
    runs = []
    for _ in range(2):
        net = network(seed=1)
        logit = net(stamps, told, **beside)
        logit.sum().backward()
        runs.append([logit.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_half_precision_changes_no_graph_and_little_of_the_score() -> None:
    net, (stamps, beside), told = network().eval(), stamps_of_scene(), metadata(3)
    with torch.inference_mode():
        whole = net(stamps, told, **beside)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(stamps, told, **beside)
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.05)


def test_segments_and_bands_reach_the_logit() -> None:
    net, (stamps, beside), told = network().eval(), stamps_of_scene(), metadata(3)
    scores = net(stamps, told, **beside)
    deeper = beside | {"log_variance": beside["log_variance"] - 1}
    assert not torch.equal(net(stamps, told, **deeper), scores)
    assert not torch.equal(net(stamps, told, **beside | {"pixel_scale": beside["pixel_scale"] * 2}), scores)


def test_the_base_size_is_a_resnet_50_and_a_graph_on_its_maps() -> None:
    net = network("base").eval()
    backbone = sum(p.numel() for p in net.backbone.parameters())
    assert backbone == pytest.approx(23.5e6, rel=0.01)
    images, beside = given(arc(12, 0.4, 0.7, 15))
    with torch.inference_mode():
        assert net(images[:, :BANDS], metadata(1), **beside).shape == (1,)
