"""gat_lens: graph attention over the segments about the host (GATv2: Brody et al. 2022, arXiv:2105.14491).

The nodes of an object are its segments (`lensml/models/segments.py`) and two that every object has: the host, the
central aperture of the stamp as it is, and the stamp as a whole, without photometry. So an object without a segment is
a graph too. A node's features are its photometry, place and shape, and beside them what a residual backbone makes of
the two views of the stamp, averaged over the node's pixels: what is too faint for a segment reaches the logit through
the stamp's node alone. Which pixels belong to a segment is not learned, and photometry passes no gradient on.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lensml.models.host_light import VIEWS, views
from lensml.models.network import MetadataEmbedding, Network
from lensml.models.residual import Residual, pooled
from lensml.models.segments import Outlines, Planes, Segments, outlined, photometry, rank

EDGE_ARCSEC: Final = 5.0  # nodes further apart do not know each other
HOST_ARCSEC: Final = 1.0  # radius of the host's aperture
FIXED: Final = 2  # nodes that every object has: host and stamp
LOCAL_STAGE: Final = 2  # of the backbone, whose map is averaged over nodes: an eighth of the stamp's pixels
BAND_FEATURES: Final = 4  # per band: asinh S/N, whether it is there, colour and its error
PLACE_FEATURES: Final = 12  # of a node beside them
EDGE_FEATURES: Final = 8
_MAGNITUDE: Final = 2.5 / math.log(10)
_FLOOR_ARCSEC: Final = 0.1  # radii below it are as good as none


@dataclass(frozen=True)
class Size:
    """Shape of the graph network."""

    width: int
    heads: int
    layers: int


SIZES = {"tiny": Size(64, 4, 2), "base": Size(256, 8, 3)}


class Photometry(NamedTuple):
    """Of nodes (N, C); 0 where a band is not seen."""

    snr: Tensor
    magnitude: Tensor  # asinh magnitudes of zero-point 1 nJy, softened at the flux's own sigma (Lupton et al. 1999)
    error: Tensor  # of it
    seen: Tensor  # bool


class Graph(NamedTuple):
    """The graphs of a batch: nodes are the B hosts, the B stamps, then the segments."""

    owner: Tensor  # (N,) int64, object
    slot: Tensor  # (N,) int64, place among the nodes of its object
    features: Tensor  # (N, BAND_FEATURES C + PLACE_FEATURES)
    pairs: Tensor  # (2, E) int64, rows of the node that speaks and of that which listens; every node to itself too
    edges: Tensor  # (E, EDGE_FEATURES)
    outlines: Outlines  # of all nodes but the stamps


class GatLens(Network):
    """Features are the host's node, the stamp's node, and all nodes of the object by attention."""

    needs: ClassVar[tuple[str, ...]] = ("log_variance", "pixel_scale", "sky_sigma")

    def __init__(self, size: str, bands: int, metadata: int) -> None:
        shape = SIZES[size]
        super().__init__(3 * shape.width)
        self.backbone = Residual(size, VIEWS * bands)
        channels = self.backbone.channels
        self.to_local = nn.Conv2d(channels[LOCAL_STAGE], shape.width, 1)
        self.to_stamp = nn.Linear(channels[-1], shape.width)
        self.to_node = MetadataEmbedding(BAND_FEATURES * bands + PLACE_FEATURES, shape.width)
        self.embedding = MetadataEmbedding(metadata, shape.width)
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(shape.layers))
        self.layers = nn.ModuleList(_attention(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.pool = _pool(shape)

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        images = views(stamps)
        with torch.no_grad(), torch.autocast(stamps.device.type, enabled=False):  # photometry in 32 bits
            graph = graphs(images, beside["log_variance"], beside["pixel_scale"], beside["sky_sigma"])
        nodes = self.to_node(graph.features) + self.embedding(metadata)[graph.owner] + self._seen(images, graph)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            nodes = nodes + functional.gelu(layer(norm(nodes), graph.pairs, graph.edges))
        nodes, objects = self.norm(nodes), len(stamps)
        every = self.pool(nodes, graph.owner, dim_size=objects)
        return torch.cat([nodes[:objects], nodes[objects : FIXED * objects], every], dim=1)

    def _seen(self, images: Tensor, graph: Graph) -> Tensor:
        """What the backbone makes of the views, at each node (N, width)."""
        maps, local = self.backbone.prepared(images), images
        for index, stage in enumerate(self.backbone.stages):
            maps = stage(maps)
            local = maps if index == LOCAL_STAGE else local
        nodes = averaged(self.to_local(local), graph, images.shape[-2:])
        objects = len(images)
        return torch.cat([nodes[:objects], self.to_stamp(pooled(maps)), nodes[FIXED * objects :]])


def graphs(images: Tensor, log_variance: Tensor, pixel_scale: Tensor, sky_sigma: Tensor) -> Graph:
    """The graphs of (B, 2 C, H, W) `host_light.views`; see `segments.detected` for what else it takes."""
    stamps, residual = images.chunk(VIEWS, dim=1)
    objects = torch.arange(len(stamps), device=stamps.device)
    segments, outlines = outlined(residual, log_variance, pixel_scale, sky_sigma)
    host = _aperture(stamps, pixel_scale)
    flux = photometry(Planes(stamps, log_variance, sky_sigma, torch.ones_like(sky_sigma)), host, objects)
    nodes = _nodes(segments, flux, torch.bincount(host.segment, minlength=len(objects)))
    slot = torch.cat([torch.zeros_like(objects), torch.ones_like(objects), FIXED + rank(segments.owner)])
    row = torch.cat([host.segment, FIXED * len(objects) + outlines.segment])
    light, towards = measured(nodes), _towards(nodes)
    features = torch.cat([_band_features(light), _place_features(nodes, towards, pixel_scale)], dim=1)
    pairs = _pairs(nodes, slot)
    edges = _edge_features(nodes, light, towards, *pairs)
    return Graph(nodes.owner, slot, features, pairs, edges, Outlines(row, torch.cat([host.pixel, outlines.pixel])))


def averaged(maps: Tensor, graph: Graph, size: torch.Size) -> Tensor:
    """(B, D, h, w) maps of stamps of that size averaged over the pixels of each node, (N, D); 0 for the stamps."""
    (height, width), (h, w), pixel = size, maps.shape[-2:], graph.outlines.pixel
    cell = (pixel // width % height * h // height) * w + pixel % width * w // width
    owner, slot = graph.owner[graph.outlines.segment], graph.slot[graph.outlines.segment]
    slots = int(graph.slot.max()) + 1
    number = torch.bincount((owner * slots + slot) * h * w + cell, minlength=len(maps) * slots * h * w)
    number = number.view(len(maps), slots, h * w)
    share = (number / number.sum(dim=2, keepdim=True).clamp(min=1)).to(maps)
    return (share @ maps.flatten(2).transpose(1, 2))[graph.owner, graph.slot]


def measured(nodes: Segments) -> Photometry:
    """S/N and asinh magnitudes."""
    seen = ~nodes.bad
    sigma = torch.where(seen, nodes.variance, 1.0).sqrt()
    snr = torch.where(seen, nodes.flux / sigma, 0.0)
    magnitude = -_MAGNITUDE * (torch.asinh(snr / 2) + torch.log(sigma))
    error = _MAGNITUDE / torch.sqrt(snr**2 + 4)
    return Photometry(snr, magnitude * seen, error * seen, seen)


def colour_distance(light: Photometry, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """chi2 per degree of freedom between the colours of nodes in these rows, and the degrees, (E,); 0 without any.

    Over the bands that both have, the magnitudes' mean difference taken out: that is magnification, not colour.
    """
    both = light.seen[one] & light.seen[other]
    weight = torch.where(both, 1 / (light.error[one] ** 2 + light.error[other] ** 2).clamp(min=1e-12), 0.0)
    difference = light.magnitude[one] - light.magnitude[other]
    mean = (weight * difference).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-12)
    degrees = (both.sum(dim=1) - 1).clamp(min=0)
    chi2 = (weight * (difference - mean[:, None]) ** 2).sum(dim=1)
    return torch.where(degrees > 0, chi2 / degrees.clamp(min=1), 0.0), degrees


def _nodes(segments: Segments, host: tuple[Tensor, Tensor, Tensor], pixels: Tensor) -> Segments:
    """Hosts, stamps and segments as rows of one table; a stamp has no photometry."""
    objects = torch.arange(len(pixels), device=pixels.device)
    none = torch.zeros_like(host[0]), torch.full_like(host[1], torch.inf), torch.ones_like(host[2])
    flux, variance, bad = (torch.cat(parts) for parts in zip(host, none, segments[3:6], strict=True))
    centre = segments.x_arcsec.new_zeros(FIXED * len(pixels))
    return Segments(
        torch.cat([objects, objects, segments.owner]),
        torch.cat([centre, segments.x_arcsec]),
        torch.cat([centre, segments.y_arcsec]),
        flux,
        variance,
        bad,
        torch.cat([pixels, torch.zeros_like(pixels), segments.pixels]),
        torch.cat([centre, segments.snr]),
        torch.cat([centre.new_zeros(len(centre), 3), segments.moments]),
    )


def _aperture(stamps: Tensor, pixel_scale: Tensor) -> Outlines:
    y, x = (torch.arange(n, device=stamps.device) - (n - 1) / 2 for n in stamps.shape[-2:])
    inside = torch.hypot(y[:, None], x) * pixel_scale[:, None, None] < HOST_ARCSEC
    pixel = inside.flatten().nonzero().squeeze(1)
    return Outlines(pixel // inside[0].numel(), pixel)


def _towards(nodes: Segments) -> Tensor:
    """(N, 2) unit vectors from the centre, 0 of what is there."""
    place = torch.stack([nodes.x_arcsec, nodes.y_arcsec], dim=1)
    return place / place.norm(dim=1, keepdim=True).clamp(min=_FLOOR_ARCSEC)


def _band_features(light: Photometry) -> Tensor:
    weight = torch.where(light.seen, 1 / light.error.clamp(min=1e-6) ** 2, 0.0)
    mean = (weight * light.magnitude).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1e-12)
    colour = (light.magnitude - mean) * light.seen
    return torch.cat([torch.asinh(light.snr), light.seen * 1.0, colour, light.error], dim=1)


def _place_features(nodes: Segments, towards: Tensor, pixel_scale: Tensor) -> Tensor:
    """Kind, size, radius, angle from the brightest segment in harmonics, and the shape along the tangent."""
    objects, (x, y), (xx, yy, xy) = len(pixel_scale), towards.T, nodes.moments.T
    rows = torch.arange(len(x), device=x.device)
    first = FIXED * objects + (rank(nodes.owner[FIXED * objects :]) == 0).nonzero().squeeze(1)
    brightest = torch.zeros_like(towards[:objects]).index_put((nodes.owner[first],), towards[first])[nodes.owner]
    cosine, sine = (towards * brightest).sum(dim=1), x * brightest[:, 1] - y * brightest[:, 0]
    radial, tangential = xx * x**2 + 2 * xy * x * y + yy * y**2, xx * y**2 - 2 * xy * x * y + yy * x**2
    slant = 2 * ((yy - xx) * x * y + xy * (x**2 - y**2))
    size = (radial + tangential).clamp(min=_FLOOR_ARCSEC**2)
    columns = [
        rows < objects, (rows >= objects) & (rows < FIXED * objects),
        torch.log1p(nodes.pixels), torch.log1p(nodes.pixels * pixel_scale[nodes.owner] ** 2), 0.5 * torch.log(size),
        torch.log1p(torch.hypot(nodes.x_arcsec, nodes.y_arcsec)),
        cosine, sine, cosine**2 - sine**2, 2 * cosine * sine, (tangential - radial) / size, slant / size,
    ]  # fmt: skip
    return torch.stack([column.to(x) for column in columns], dim=1)


def _pairs(nodes: Segments, slot: Tensor) -> Tensor:
    """(2, E) all nodes of an object that are within `EDGE_ARCSEC` of each other."""
    objects, slots = int(nodes.owner.max()) + 1, int(slot.max()) + 1
    row = torch.full((objects, slots), -1, device=slot.device)
    row[nodes.owner, slot] = torch.arange(len(slot), device=slot.device)
    there = row >= 0
    owner, one, other = (there[:, :, None] & there[:, None, :]).nonzero(as_tuple=True)
    pairs = torch.stack([row[owner, one], row[owner, other]])
    return pairs[:, _separation(nodes, *pairs) <= EDGE_ARCSEC]


def _separation(nodes: Segments, one: Tensor, other: Tensor) -> Tensor:
    return torch.hypot(nodes.x_arcsec[one] - nodes.x_arcsec[other], nodes.y_arcsec[one] - nodes.y_arcsec[other])


def _edge_features(nodes: Segments, light: Photometry, towards: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Separation, colour distance, angle about the centre in harmonics, ratios of radius and of S/N."""
    radius = torch.log(torch.hypot(nodes.x_arcsec, nodes.y_arcsec) + _FLOOR_ARCSEC)
    bright = torch.asinh(light.snr.sum(dim=1) / light.seen.sum(dim=1).clamp(min=1).sqrt())
    distance, degrees = colour_distance(light, one, other)
    cosine = (towards[one] * towards[other]).sum(dim=1)
    sine = towards[one, 0] * towards[other, 1] - towards[one, 1] * towards[other, 0]
    columns = [
        torch.log1p(_separation(nodes, one, other)), torch.log1p(distance), torch.log1p(degrees),
        cosine, sine, cosine**2 - sine**2, radius[one] - radius[other], bright[one] - bright[other],
    ]  # fmt: skip
    return torch.stack(columns, dim=1)


def _geometric() -> Any:
    """torch_geometric's layers, imported when a network is built: it takes seconds, and uses what torch deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
        from torch_geometric import nn as layers
    return layers


def _attention(shape: Size) -> nn.Module:
    layer: nn.Module = _geometric().GATv2Conv(
        shape.width, shape.width // shape.heads, shape.heads, edge_dim=EDGE_FEATURES, add_self_loops=False
    )
    return layer


def _pool(shape: Size) -> nn.Module:
    gate = nn.Linear(shape.width, 1, bias=False)  # the same to all nodes would be nothing
    pool: nn.Module = _geometric().AttentionalAggregation(gate)
    return pool


def build(size: str, bands: Sequence[str], stamp_pixels: int, metadata: int) -> Network:
    """The network; it takes stamps of any side."""
    return GatLens(size, len(bands), metadata)
