"""Objects put together that are alike: what calibration takes at once."""

from collections.abc import Mapping
from itertools import groupby

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml.imaging import psf_stamp
from lensml.imaging.cutouts import Cutouts
from lensml.ingest.planes import Cutout, Float


def batched(source: str, survey: str, opened: Mapping[str, Cutout], metadata: pl.DataFrame) -> list[Cutouts]:
    """Batches of objects with the same bands, shape and planes, each in the order given.

    Parameters
    ----------
    opened : by object_id
    metadata : object_id, and any of the catalogue's scalar columns that the source knows
    """
    ordered = sorted(opened.items(), key=lambda item: repr(item[1].form))  # stable
    groups = [dict(group) for _, group in groupby(ordered, key=lambda item: repr(item[1].form))]
    return [_batch(source, survey, group, metadata) for group in groups]


def _batch(source: str, survey: str, group: dict[str, Cutout], metadata: pl.DataFrame) -> Cutouts:
    objects, names = list(group.values()), list(group)
    first = objects[0]
    return Cutouts(
        object_id=names,
        source=source,
        survey=survey,
        bands=first.bands,
        flux=np.stack([o.flux for o in objects]),
        variance=None if first.variance is None else np.stack([o.variance for o in objects if o.variance is not None]),
        bad=np.stack([o.bad for o in objects]),
        psf=_psfs([o.psf for o in objects if o.psf is not None]),
        pixel_scale=np.array([o.pixel_scale for o in objects]),
        metadata=metadata.filter(pl.col("object_id").is_in(names)),
        saturated=_saturated(objects),
        psf_fwhm=np.stack([o.psf_fwhm for o in objects]),
        north_deg=np.array([o.north_deg for o in objects]),
    )


def _psfs(psfs: list[Float]) -> Float | None:
    """PSF stamps of one side: their sizes differ from object to object where they come from a picker."""
    side = max((psf.shape[-1] for psf in psfs), default=0)
    return np.stack([psf_stamp.pad(psf, side) for psf in psfs]) if psfs else None


def _saturated(objects: list[Cutout]) -> NDArray[np.bool_] | None:
    planes = [o.saturated for o in objects if o.saturated is not None]
    return np.stack(planes) if planes else None
