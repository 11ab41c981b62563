"""bayesian_ensemble: a ResNet and a transformer, and how sure they are: dropout stays on (Gal & Ghahramani 2016).

Both backbones read the maps of one convolutional trunk, as the hybrid of Dosovitskiy et al. 2021 (arXiv:2010.11929)
does, and what they find is joined in a hidden layer. Dropout acts late, on the joined features and on the hidden layer:
the backbones run once, and two small layers 20 times. So it is these layers whose posterior is sampled; convolutions
and transformer are point estimates, and a doubt about what they see does not show.

The prior. Dropout with weight decay is variational inference under a Gaussian prior N(0, s^2) on the weights, with
s^2 = (1 - p) / (N decay) for dropout p, N objects and L2 decay (their eq. 7, s = 1 / length scale). AdamW's decay
(params.yaml: train.fit.weight_decay) is decoupled from the gradient's scale: the prior's form, its width only roughly.
"""

from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lensml.models.enhanced_vit import SIZES, Transformer
from lensml.models.host_light import VIEWS, views
from lensml.models.network import Network
from lensml.models.residual import BASE_PIXELS, Residual, pooled

DROPOUT: Final = 0.2  # of Gal & Ghahramani's 0.1 and 0.2 (section 5.1) the one that tells more
SAMPLES: Final = 20
MASK_SEED: Final = 20  # of the masks at prediction: the same for every object, so that a score depends on no other one
HIDDEN: Final = {"tiny": 64, "base": 512}
TRUNK_STAGES: Final = 3  # of the ResNet, before the two part
TRUNK_SHRINKS: Final = {"tiny": 8, "base": 16}  # by how much, stem included


class Uncertainty(NamedTuple):
    """What the samples say of each object; each (B,)."""

    probability: Tensor  # the mean of the samples'
    entropy: Tensor  # nats, 0 to ln 2: of that probability, all that is not known
    mutual_information: Tensor  # nats, 0 to `entropy`: the part in which the samples disagree, for lack of training


class BayesianEnsemble(Network):
    """In training one dropout mask per object, at prediction `SAMPLES` fixed ones whose probabilities are averaged."""

    needs: ClassVar[tuple[str, ...]] = ("pixel_scale",)
    masks: Tensor

    def __init__(self, size: str, bands: int, stamp_pixels: int, metadata: int, dropout: float = DROPOUT) -> None:
        super().__init__(HIDDEN[size])
        shape, backbone = SIZES[size], Residual(size, VIEWS * bands)
        grid = -(-(BASE_PIXELS if size == "base" else stamp_pixels) // TRUNK_SHRINKS[size])
        joined = backbone.channels[-1] + 2 * shape.width
        self.dropout = dropout
        self.backbone = backbone
        self.to_patches = nn.Conv2d(backbone.channels[TRUNK_STAGES - 1], shape.width, 1)
        self.transformer = Transformer(shape, grid, metadata, arc_aware=True)
        self.hidden = nn.Linear(joined, HIDDEN[size])
        self.register_buffer("masks", _masks(joined + HIDDEN[size], dropout), persistent=False)

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        """The hidden layer, (B, width); without dropout at prediction."""
        joined = functional.dropout(self._joined(stamps, metadata, **beside), self.dropout, self.training)
        return functional.dropout(functional.gelu(self.hidden(joined)), self.dropout, self.training)

    def forward(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        if self.training:
            return super().forward(stamps, metadata, **beside)
        return mean_logit(self.samples(stamps, metadata, **beside))

    def uncertainty(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Uncertainty:
        """Probability, entropy and mutual information of each object, as `predictive`; the same in training mode."""
        return predictive(self.samples(stamps, metadata, **beside))

    def samples(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        """The logit of every sample, (SAMPLES, B)."""
        joined = self._joined(stamps, metadata, **beside)
        first, second = self.masks[:, None].split([joined.shape[1], self.width], dim=2)
        return self.head(functional.gelu(self.hidden(joined * first)) * second).squeeze(2)

    def _joined(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        maps = self.backbone.prepared(views(stamps))
        for stage in self.backbone.stages[:TRUNK_STAGES]:
            maps = stage(maps)
        patches = self.to_patches(maps).flatten(2).transpose(1, 2)
        seen = self.transformer(patches, metadata, beside["pixel_scale"] * (stamps.shape[-1] / 2))
        return torch.cat([pooled(self.backbone.stages[TRUNK_STAGES](maps)), seen], dim=1)


def mean_logit(logits: Tensor) -> Tensor:
    """The logit of the mean probability of samples (S, B), (B,); exact also where a probability rounds to 0 or 1."""
    return functional.logsigmoid(logits).logsumexp(dim=0) - functional.logsigmoid(-logits).logsumexp(dim=0)


def predictive(logits: Tensor) -> Uncertainty:
    """What samples (S, B) of the logit say together.

    Predictive entropy H[mean p], and of it the mutual information of label and weights, H[mean p] - mean H[p] (Houlsby
    et al. 2011, arXiv:1112.5745, eq. 2): what training on more objects like this one would take away.
    """
    logit = mean_logit(logits)
    entropy = _entropy(logit)
    return Uncertainty(logit.sigmoid(), entropy, (entropy - _entropy(logits).mean(dim=0)).clamp(min=0))


def _entropy(logit: Tensor) -> Tensor:
    """Of a yes or no, nats."""
    size = logit.abs()
    return functional.softplus(-size) + size * torch.sigmoid(-size)


def _masks(width: int, dropout: float) -> Tensor:
    """(SAMPLES, width): 0 with that probability, else what keeps the mean at 1."""
    kept = torch.rand(SAMPLES, width, generator=torch.Generator().manual_seed(MASK_SEED), device="cpu") >= dropout
    return kept / (1 - dropout)


def build(size: str, bands: Sequence[str], stamp_pixels: int, metadata: int) -> Network:
    """The network for stamps of that side."""
    return BayesianEnsemble(size, len(bands), stamp_pixels, metadata)
