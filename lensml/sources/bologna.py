"""The Bologna strong lens finding challenges: I, ground and space (Metcalf et al. 2019, A&A 625, A119), and II."""

import itertools
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from tqdm import tqdm

from lensml import config
from lensml.ingest import archive, bring, planes
from lensml.ingest.batches import batched
from lensml.ingest.kind import Read, SourceKind
from lensml.ingest.planes import Band, Cutout
from lensml.schema import EVIDENCE, check
from lensml.sources import bologna_files
from lensml.sources.bologna_files import Images

MASKED: Final = 100.0  # what a masked pixel holds, 10^13 sigma
_LICENCE: Final = "none stated; cite Metcalf et al. 2019 (A&A 625, A119)"
_FRAMES: Final = {"ground": "bologna", "space": "bologna", "two": "bologna_two"}  # I has one light cone
_SAME_EVIDENCE: Final[dict[str, object]] = {
    "label_source": "sim:bologna",
    "grade": "",
    "parent": "",
    "kind": "",
    "flux_ratio": None,
    "theta_e_arcsec": None,
    "z_lens": None,
}


def fetch(params: config.BolognaSource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Bring the challenge's images and truth tables into tars, from a folder, an archive or mirrors.

    Raises
    ------
    ValueError, ConnectionError, OSError
        There is no such data, it is damaged, or its checksum is another.
    """
    _survey(params.challenge, surveys)
    rule = None if params.lens_rule is None else params.lens_rule.model_dump()
    bring.packed(
        params, lambda name: _wanted(name, params.challenge), _LICENCE, out, challenge=params.challenge, lens_rule=rule
    )


def evidence(source: str, raw: Path) -> pl.DataFrame:
    """The challenge's claims, also about objects that have a label but no image.

    `ra` and `dec` are positions in the light cone, by which objects on one sight-line are found.

    Raises
    ------
    ContractError
        Two claims about one object differ.
    """
    objects, labels = _contents(raw)
    survey = f"bologna_{_challenge(raw)}"
    rows: list[dict[str, object]] = []
    for number in tqdm(sorted(objects.keys() | labels.keys()), "positions", unit=" objects", disable=None):
        first = objects[number].members[0][1] if number in objects else None
        place = bologna_files.position(archive.read(raw, first)) if first else None
        rows.append(
            _SAME_EVIDENCE
            | {
                "object_id": f"{source}.{number}",
                "source": source,
                "survey": survey,
                "label": {True: "lens", False: "nonlens", None: "unknown"}[labels.get(number)],
                "label_confidence": 1.0 if number in labels else 0.0,
                "frame": _FRAMES[_challenge(raw)] if place else "",
                "ra": place[0] if place else None,
                "dec": place[1] if place else None,
            }
        )
    return check(pl.DataFrame(rows, schema=EVIDENCE), EVIDENCE, f"evidence of {source}")


def batches(source: str, raw: Path, convert: config.Convert) -> list[tuple[Images, ...]]:
    """All objects by number, those that have a label but no image too, in batches."""
    objects, labels = _contents(raw)
    without = [Images(number, ()) for number in labels.keys() - objects.keys()]
    everything = sorted([*objects.values(), *without], key=lambda images: images.number)
    size = convert.objects_per_batch
    return [tuple(everything[i : i + size]) for i in range(0, len(everything), size)]


def read(
    source: str, raw: Path, unit: tuple[Images, ...], surveys: dict[str, config.Survey], convert: config.Convert
) -> Read:
    """Images in nJy; pixels of value 100 are bad. There is no variance plane and no PSF.

    The infrared bands of challenge II have pixels three times as large: they are resampled to those of VIS.
    """
    name = f"bologna_{_challenge(raw)}"
    survey = _survey(_challenge(raw), surveys)
    opened: dict[str, Cutout] = {}
    refused = []
    for images in unit:
        object_id = f"{source}.{images.number}"
        try:
            opened[object_id] = _cutout(raw, images, survey, convert)
        except ValueError as error:
            refused.append((object_id, str(error)))
    return Read(batched(source, name, opened, pl.DataFrame({"object_id": list(opened)})), refused)


KIND: Final = SourceKind(fetch, evidence, batches, read)


def _cutout(raw: Path, images: Images, survey: config.Survey, convert: config.Convert) -> Cutout:
    if not images.members:
        raise ValueError("a label but no image")
    contents = {band: archive.read(raw, member) for band, member in images.members}
    read_in = {band: bologna_files.image(content, survey, convert) for band, content in contents.items()}
    for (band, (image, *_)), (other, (twin, *_)) in itertools.combinations(read_in.items(), 2):
        if image.tobytes() == twin.tobytes():
            raise ValueError(f"bands {band} and {other} are byte-identical")
    return planes.assemble({band: _band(*parts) for band, parts in read_in.items()})


def _band(image: planes.Image, factor: float, frame: dict[str, Any]) -> Band:
    bad = (image == MASKED) | ~np.isfinite(image)
    flux = planes.scaled(np.where(bad, 0, image.astype(np.float64)), factor)
    return Band(flux=flux, bad=bad, **frame)


def _contents(raw: Path) -> tuple[dict[int, Images], dict[int, bool]]:
    members, told = bring.members(raw), bring.facts(raw)
    objects = bologna_files.objects(members, told["challenge"])
    return objects, bologna_files.labels(raw, members, told["challenge"], told["lens_rule"])


def _challenge(raw: Path) -> str:
    return str(bring.facts(raw)["challenge"])


def _survey(challenge: str, surveys: dict[str, config.Survey]) -> config.Survey:
    if f"bologna_{challenge}" not in surveys:
        raise ValueError(f"surveys.bologna_{challenge} must be in params.yaml, got none. Add its constants.")
    return surveys[f"bologna_{challenge}"]


def _wanted(name: str, challenge: str) -> bool:
    return bologna_files.is_image(name, challenge) or bologna_files.is_truth(name, challenge)
