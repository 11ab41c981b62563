"""color_aware_lens on planted images: ridge in closed form, brute force, polyfit, integrals, cosmology by astropy."""

import math
from typing import Any

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy import constants
from astropy.cosmology import FlatLambdaCDM
from numpy.typing import NDArray
from torch import Tensor

from lensml.lensing import reddening, sed
from lensml.models import color_aware_lens, colour_gate, enhanced_vit, segment_colours
from lensml.models.color_aware_lens import TERM, ColorAwareLens
from lensml.models.host_light import views
from lensml.models.network import Network
from lensml.models.segment_colours import Measured
from lensml.models.segments import Segments
from lensml.schema import ContractError
from lensml.store.quantisation import BAD_LOG_VARIANCE

Float = NDArray[np.float64]

NAMES = ("g", "r", "i", "z", "y")
BANDS, METADATA, SIDE, SCALE = 5, 9, 48, 0.168
SIGMA = 0.45  # arcsec, the PSF's
NM = sed.wavelengths(NAMES)
LN_NM = torch.from_numpy(np.log(NM))
DUST = torch.from_numpy(reddening.extinction_per_a_v(NM, 0.5, 3.1, "G23"))
HOST = sed.passive(NAMES, 0.4)
MAGNITUDE = 2.5 / math.log(10)
SCATTER = 0.05  # of a flux, as the network has it


def power_law(slope: float) -> Float:
    """f_nu ~ nu^slope, 1 in i."""
    return np.asarray((NM[2] / NM) ** slope)


def rows(flux: Float, owner: Any = None, snr: float = 100.0, **changes: Any) -> Segments:
    """Segments 1.5 arcsec from the host, PSF-sized, in the order that they are given in."""
    count, light = len(flux), torch.from_numpy(np.asarray(flux, dtype=np.float64))
    given = Segments(
        owner=torch.zeros(count, dtype=torch.int64) if owner is None else torch.as_tensor(owner),
        x_arcsec=torch.full((count,), 1.5), y_arcsec=torch.zeros(count),
        flux=light, variance=(light / snr) ** 2, bad=torch.zeros(light.shape, dtype=torch.bool),
        pixels=torch.full((count,), 40.0), snr=torch.full((count,), snr),
        moments=torch.tensor([SIGMA**2, SIGMA**2, 0.0]).expand(count, 3),
    )  # fmt: skip
    return given._replace(**changes)


def compared(found: Segments, objects: int = 1) -> Measured:
    host = torch.from_numpy(np.tile(1e3 * HOST, (objects, 1)))
    widths = torch.full((objects,), SIGMA), torch.full((objects,), SCALE)
    return segment_colours.measured(found, host, *widths, LN_NM)


def told(found: Segments, trust: float = 1.0, dust: Tensor = DUST, objects: int = 1) -> Any:
    measured = compared(found, objects)
    return color_aware_lens.consistent(measured, torch.full((len(found.flux),), trust).double(), dust, objects)


# --- the prior of planted rows


def test_dust_in_front_of_one_image_is_found_in_closed_form() -> None:
    """The ridge draws A_V towards 0 by S / (S + 1 / sigma^2), S = k' P k, P the precision of the pair's colours."""
    a_v = 0.6
    source = 50 * power_law(-0.3)
    flux = np.stack([source, 0.5 * source * 10 ** (-0.4 * a_v * DUST.numpy())])
    found, loss = told(rows(flux))
    precision = np.eye(BANDS) / (2 * MAGNITUDE**2 * (SCATTER**2 + 0.01**2))
    colours = precision - np.outer(precision.sum(0), precision.sum(0)) / precision.sum()
    weight = DUST.numpy() @ colours @ DUST.numpy()
    contrast = float(found.a_v[1] - found.a_v[0])
    assert bool(found.defined[0])
    assert contrast == pytest.approx(a_v * weight / (weight + 0.5**-2), abs=2e-3)
    assert contrast == pytest.approx(a_v, abs=0.1)
    assert float(found.chi2[0] / found.dof[0]) < 0.2
    assert float(loss[0]) < 0.5


def test_an_impostor_has_another_colour() -> None:
    """Old stars at redshift 1.2 beside a blue power law: no dust that is likely makes the one of the other."""
    young, old = 50 * power_law(0.3), 30 * sed.passive(NAMES, 1.2)
    found, loss = told(rows(np.stack([young, old])))
    assert float(found.chi2[0] / found.dof[0]) > 5
    assert float(found.penalty[0]) > 10
    assert float(loss[0]) > 5


def test_what_has_the_hosts_colour_is_no_image_however_dim() -> None:
    source = power_law(-0.3)
    flux = np.stack([50 * source, 40 * HOST, 20 * source, 0.3 * HOST])
    assert compared(rows(flux)).image.tolist() == [True, False, True, False]


def test_images_lie_in_the_annulus_are_seen_and_are_four_at_most() -> None:
    flux = np.tile(50 * power_law(-0.3), (7, 1))
    x = torch.tensor([0.2, 1.5, 1.5, 1.5, 1.5, 1.5, 4.5])
    assert compared(rows(flux, x_arcsec=x)).image.tolist() == [False, True, True, True, True, False, False]
    assert not bool(compared(rows(flux, snr=4.0)).image.any())
    two = compared(rows(flux, owner=[0, 0, 0, 1, 1, 1, 1]), objects=2)
    assert bool(two.image.all())


def test_one_band_is_not_compared() -> None:
    bad = torch.ones(2, BANDS, dtype=torch.bool)
    bad[:, 2] = False
    found = rows(np.tile(50 * power_law(-0.3), (2, 1)), bad=bad)
    assert not bool(compared(found).image.any())
    assert not bool(told(found)[0].defined[0])


def test_trust_is_worth_what_the_colours_are() -> None:
    """Least at colours / chi2 by brute force over trust; without dust, where chi2 is proportional to it."""
    source = 50 * power_law(-0.3)
    wrong = np.exp(np.array([0.16, -0.16, 0.16, -0.16, 0.0]))
    found = rows(np.stack([source, source * wrong]))
    plain = torch.zeros(BANDS, dtype=torch.float64)
    chi2 = float(told(found, dust=plain)[0].chi2[0])
    grid = np.linspace(0.1, 1, 181)
    losses = [float(told(found, trust, plain)[1][0]) for trust in grid]
    best = (BANDS - 1) / chi2
    assert 0.2 < best < 0.8
    assert grid[int(np.argmin(losses))] == pytest.approx(best, rel=0.05)


def summary_of(found: Segments) -> color_aware_lens.Told:
    measured = compared(found)
    trust = torch.ones(len(found.flux), dtype=torch.float64)
    return color_aware_lens.summarised(measured, trust, DUST, torch.tensor([BANDS]))


def test_a_flux_that_is_no_number_is_counted_as_a_failure() -> None:
    flux = np.tile(50 * power_law(-0.3), (2, 1))
    found = rows(flux)
    assert not bool(summary_of(found).failed)
    broken = found.flux.clone()
    broken[1, 3] = torch.nan
    told = summary_of(found._replace(flux=broken))
    assert bool(told.failed)
    assert float(told.loss) == 0
    assert bool((told.summary == 0).all())


# --- the gate


def images(**changes: float) -> colour_gate.Images:
    given = {"point": 1.0, "slope": -2.5, "excess": 1.0, "radius_arcsec": 1.0} | changes
    return colour_gate.Images(**{name: torch.tensor([value]) for name, value in given.items()})


@pytest.mark.parametrize(
    "change", [{"slope": -0.44}, {"excess": 8.0}, {"radius_arcsec": 3.0}], ids=["quasar", "microlensed", "delayed"]
)
def test_the_gate_closes_for_points_alone(change: dict[str, float]) -> None:
    assert float(colour_gate.gate(images())) > 0.95
    assert float(colour_gate.gate(images(**change))) < 0.1
    assert float(colour_gate.gate(images(**change, point=0.0))) == 1
    unknown = {name: math.nan for name in change}
    assert float(colour_gate.gate(images(**unknown))) > 0.95


def test_the_delay_that_the_threshold_is_made_of() -> None:
    """(1 + z) D_l D_s / (c D_ls) theta_E (theta_1 - theta_2), the images of an isothermal sphere 2 offsets apart."""
    cosmos = FlatLambdaCDM(70, 0.3)
    lens, source, between = (
        cosmos.angular_diameter_distance(0.5), cosmos.angular_diameter_distance(2.0),
        cosmos.angular_diameter_distance(0.5, 2.0),
    )  # fmt: skip
    square = float((u.arcsec**2).to(u.rad**2))
    delay = (1.5 * lens * source / between / constants.c).to(u.day) * square * 2 * 0.3
    assert delay.value == pytest.approx(48, abs=2)


@pytest.mark.parametrize("reach", [0.5, 1.0, 2.0, 4.0])
def test_a_gaussian_within_its_isophote_is_a_point(reach: float) -> None:
    """Moments by sums over a fine grid; 1.6 times as long is none."""
    axis = np.linspace(-4, 4, 1601)
    x, y = np.meshgrid(axis, axis)
    light = np.exp(-(x**2 + y**2) / 2) * (x**2 + y**2 < reach**2)
    second = SIGMA**2 * (light * x**2).sum() / light.sum()
    area = torch.tensor([math.pi * reach**2 * SIGMA**2])
    sigma = torch.tensor([SIGMA])
    point = colour_gate.point_like(torch.tensor([[second, second, 0.0]]), area, sigma)
    exact = torch.sigmoid(torch.tensor(0.15 / 0.05))
    torch.testing.assert_close(point.float(), exact[None], rtol=0, atol=2e-3)
    turned = colour_gate.point_like(torch.tensor([[2 * second, 2 * second, 0.5 * second]]), area, sigma)
    assert float(turned) < 0.01


def test_the_sigma_of_a_gaussian_psf() -> None:
    y, x = np.mgrid[-15:16, -15:16]
    psf = np.exp(-(x**2 + y**2) / 2 / 2.5**2)
    kernels = torch.zeros(2, 3, 31, 31)
    kernels[0, :2] = torch.from_numpy(psf / psf.sum())
    sigma = colour_gate.psf_sigma(kernels, torch.tensor([0.2, 0.2]))
    np.testing.assert_allclose(sigma, [0.5, 0.0], rtol=1e-3)


def test_the_slope_is_polyfits() -> None:
    rng = np.random.default_rng(1)
    flux, sigma = rng.uniform(5, 20, (4, BANDS)), rng.uniform(0.5, 2, (4, BANDS))
    flux[3, 1:], sigma[3, 1:] = 0.1, 1.0  # below 1 sigma: one band is left
    bad = np.zeros((4, BANDS), dtype=bool)
    bad[1, 0] = True
    given = torch.from_numpy(flux), torch.from_numpy(sigma**2), torch.from_numpy(bad)
    slope = colour_gate.spectral_slope(*given, LN_NM).numpy()
    for row in range(3):
        keep = ~bad[row]
        want = np.polyfit(-np.log(NM[keep]), np.log(flux[row, keep]), 1, w=flux[row, keep] / sigma[row, keep])[0]
        assert slope[row] == pytest.approx(want, rel=1e-9)
    assert math.isnan(slope[3])
    same = colour_gate.spectral_slope(*given, torch.zeros(BANDS))
    assert bool(torch.isnan(same).all())


# --- the network on planted stamps


def blob(x: float, y: float, sigma: float, long: float = 1.0) -> Float:
    """Of unit sum; arcsec from the centre; `long` times longer along y."""
    axis = (np.arange(SIDE) - (SIDE - 1) / 2) * SCALE
    image = np.exp(-((axis - x) ** 2) / 2 / sigma**2 - ((axis[:, None] - y) / long) ** 2 / 2 / sigma**2)
    return np.asarray(image / image.sum())


def planted(*pictures: Float) -> dict[str, Tensor]:
    """A batch of scenes (C, y, x) in nJy under noise of 1 nJy in every band."""
    rng = np.random.default_rng(3)
    flux = np.stack(pictures) + rng.normal(size=(len(pictures), BANDS, SIDE, SIDE))
    count = len(pictures)
    metadata = np.concatenate([np.ones((count, BANDS)), rng.normal(size=(count, METADATA - BANDS))], axis=1)
    size = 15
    psf = blob(0, 0, SIGMA)[SIDE // 2 - size : SIDE // 2 + size, SIDE // 2 - size : SIDE // 2 + size]
    batch = {
        "stamps": np.arcsinh(flux), "metadata": metadata, "log_variance": np.zeros(flux.shape),
        "pixel_scale": np.full(count, SCALE), "sky_sigma": np.ones((count, BANDS)),
        "psf": np.broadcast_to(psf / psf.sum(), (count, BANDS, *psf.shape)), "label": np.ones(count),
    }  # fmt: skip
    return {name: torch.from_numpy(np.array(values, dtype=np.float32)) for name, values in batch.items()}


def one_band(batch: dict[str, Tensor], row: int, band: int = 2) -> None:
    """Only that band is left, as in an object of Euclid."""
    gone = torch.arange(BANDS) != band
    for name, value in {"stamps": 0.0, "sky_sigma": 0.0, "psf": 0.0, "log_variance": BAD_LOG_VARIANCE}.items():
        batch[name][row, gone] = value
    batch["metadata"][row, :BANDS][gone] = 0


def scene(slopes: tuple[float, float], sigma: float, long: float = 1.0, flux: float = 1500.0) -> Float:
    """A red host and two images beside it."""
    host = 5000 * HOST[:, None, None] * blob(0, 0, 0.6)
    first, second = (flux * power_law(slope)[:, None, None] for slope in slopes)
    return np.asarray(host + first * blob(2.2, 0, sigma, long) + 0.7 * second * blob(-1.9, 0, sigma, long))


def network(names: tuple[str, ...] = NAMES, seed: int = 0, **changes: Any) -> ColorAwareLens:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = color_aware_lens.build("tiny", names, SIDE, METADATA, **changes)
    assert isinstance(net, ColorAwareLens)
    return net


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Arcs of one colour, arcs of two, blue points, no images, and arcs of one colour of which one band is there."""
    arcs, points = {"sigma": 0.5, "long": 2.2}, {"sigma": SIGMA}
    empty = scene((0, 0), SIGMA, flux=0.0)
    one = scene((-0.3, -0.3), **arcs)
    made = planted(one, scene((0.8, -3.8), **arcs), scene((-0.3, -0.3), **points), empty, one)
    one_band(made, 4)
    return made


def test_stamps_tell_lenses_impostors_and_points_apart(batch: dict[str, Tensor]) -> None:
    net = network()
    told = net.told(views(batch["stamps"]), **net.beside(batch))
    assert told.defined.tolist() == [True, True, True, False, False]
    assert not bool(told.failed.any())
    bounded = told.summary[:, 1].detach()  # x / (1 + x) of chi2 per degree of freedom
    assert float(bounded[0]) < 0.75
    assert float(bounded[1]) > 0.85
    assert float(told.gate[0]) > 0.9
    assert float(told.gate[2]) < 0.2
    assert not told.gate.requires_grad
    assert bool((told.loss[3:] == 0).all())


def test_a_single_band_leaves_the_backbone_alone(batch: dict[str, Tensor]) -> None:
    net, off = network(), network(colours=False)
    with_prior, without = (n.features(batch["stamps"], batch["metadata"], **n.beside(batch)) for n in (net, off))
    assert torch.equal(with_prior[4], without[4])
    assert not torch.equal(with_prior[0], without[0])
    assert bool(torch.isfinite(net.logit(batch)).all())
    alone = {name: values[4:] for name, values in batch.items()}
    assert bool(torch.isfinite(net.logit(alone)).all())
    assert float(net.explained(alone).losses[TERM].detach()) == 0


def test_the_loss_holds_for_lenses_and_teaches_trust_but_no_pixel(batch: dict[str, Tensor]) -> None:
    net = network()
    batch["stamps"].requires_grad_(True)
    batch["label"] = torch.tensor([1.0, 0.0, torch.nan, 1.0, 1.0])
    said = net.explained(batch)
    told = net.told(views(batch["stamps"]), **net.beside(batch))
    share = torch.stack([torch.tensor(1.0), torch.tensor(0.0), torch.sigmoid(said.logit[2])])
    torch.testing.assert_close(said.losses[TERM][:3], share.detach() * told.loss[:3])
    torch.testing.assert_close(said.logit, net.logit(batch))
    said.losses[TERM].sum().backward()
    assert batch["stamps"].grad is None
    taught = {name for name, p in net.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert taught == {name for name, _ in net.named_parameters() if name.startswith("trust")}
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)


def test_every_parameter_has_a_finite_gradient_from_the_logit(batch: dict[str, Tensor]) -> None:
    net = network()
    net.logit(batch).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert bool(torch.isfinite(p.grad).all()), name
        assert bool(p.grad.abs().sum() > 0), name


def test_a_score_does_not_depend_on_the_rest_of_the_batch(batch: dict[str, Tensor]) -> None:
    net = network().eval()
    with torch.inference_mode():
        whole = net.logit(batch)
        alone = [net.logit({name: values[i : i + 1] for name, values in batch.items()}) for i in range(5)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_training_changes_no_buffer_and_weights_carry_the_bands(batch: dict[str, Tensor]) -> None:
    net, other = network(), network(NAMES[::-1], seed=1)
    before = {name: value.clone() for name, value in net.named_buffers()}
    net.train().logit(batch).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.eval().logit(batch), other.eval().logit(batch))


def test_nothing_breaks_under_bfloat16(batch: dict[str, Tensor]) -> None:
    """The physics is in 32 and 64 bits all the same."""
    net = network().eval()
    want = net.told(views(batch["stamps"]), **net.beside(batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net.told(views(batch["stamps"]), **net.beside(batch))
        assert bool(torch.isfinite(net.logit(batch)).all())
    assert torch.equal(found.defined, want.defined)
    torch.testing.assert_close(found.gate, want.gate, rtol=1e-4, atol=1e-4)


class Means(Network):
    """Gives `features` as a whole, and needs something."""

    needs = ("sky_sigma",)

    def __init__(self) -> None:
        super().__init__(BANDS)

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        return stamps.mean(dim=(2, 3)) * beside["sky_sigma"]


@pytest.mark.parametrize("backbone", ["views", "features"])
def test_any_network_is_a_backbone(backbone: str, batch: dict[str, Tensor]) -> None:
    inner = enhanced_vit.build("tiny", NAMES, SIDE, METADATA) if backbone == "views" else Means()
    width = inner.width
    net = ColorAwareLens(inner, NAMES)
    assert net.width == width + color_aware_lens.EMBEDDING
    net.logit(batch).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_bands_must_be_known() -> None:
    with pytest.raises(ContractError, match=r"bands must be of .*, got K9"):
        network(("g", "r", "i", "z", "K9"))


def test_the_base_size_is_built_without_memory() -> None:
    with torch.device("meta"):
        net = color_aware_lens.build("base", NAMES, SIDE, METADATA)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(23.5e6, rel=0.02)
