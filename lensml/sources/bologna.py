"""The Bologna strong lens finding challenge I, ground and space (Metcalf et al. 2019, A&A 625, A119)."""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from lensml import config, paths
from lensml.imaging import units
from lensml.imaging.cutouts import Cutouts
from lensml.schema import EVIDENCE, ContractError, check
from lensml.sources import archive, bologna_files, download
from lensml.sources.bologna_files import Images
from lensml.sources.kind import Read, SourceKind
from lensml.store import tables

MASKED: Final = 100.0  # what a masked pixel holds, 10^13 sigma
_MAX_BYTES: Final = 64 * 2**30  # the largest set, 400,000 images, has 18 GB
_LICENCE: Final = "none stated; cite Metcalf et al. 2019 (A&A 625, A119)"
_SAME_EVIDENCE: Final[dict[str, object]] = {
    "label_source": "sim:bologna",
    "grade": "",
    "parent": "",
    "kind": "",
    "flux_ratio": None,
    "theta_e_arcsec": None,
}


def fetch(params: config.BolognaSource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Bring the challenge's images and truth tables into one tar, from a folder, an archive or the first good mirror.

    Raises
    ------
    ValueError, ConnectionError, OSError
        There is no such data, it is damaged, or its checksum is another.
    """
    _survey(params.challenge, surveys)
    out.mkdir(parents=True, exist_ok=True)
    if params.path is None:
        file, sha256 = download.get(params.mirrors, params.sha256, Path(paths.DOWNLOAD), _MAX_BYTES)
        members = _from_archive(params, file, out)
        manifest = {"urls": params.mirrors, "sha256": sha256, "bytes": file.stat().st_size}
    elif Path(params.path).is_dir():
        members = _from_folder(params, Path(params.path), out)
        tar = out / "images.tar"
        manifest = {"path": Path(params.path).name, "sha256": _sha256(tar), "bytes": tar.stat().st_size}
    else:
        file = Path(params.path)
        manifest = {"path": file.name, "sha256": _checked(file, params.sha256), "bytes": file.stat().st_size}
        members = _from_archive(params, file, out)
    if not any(bologna_files.is_image(member.name, params.challenge) for member in members):
        raise ContractError(f"{params.path or params.mirrors[0]} must hold images of the {params.challenge} challenge.")
    archive.write_index(members, out / "index.parquet")
    known = {"challenge": params.challenge, "licence": _LICENCE, "verified": params.sha256 is not None}
    tables.write_json(manifest | known, out / "MANIFEST.json")
    if params.path is None:
        file.unlink()  # only now: until here the download need not be repeated


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
                "frame": "bologna" if place else "",
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
    """Images in nJy; pixels of value 100 are bad. There is no variance plane and no PSF."""
    name = f"bologna_{_challenge(raw)}"
    survey = _survey(_challenge(raw), surveys)
    good: list[_Stamp] = []
    refused = []
    for images in unit:
        try:
            good.append(_stamp(source, raw, images, survey, convert))
        except ValueError as error:
            refused.append((f"{source}.{images.number}", str(error)))
    alike = itertools.groupby(sorted(good, key=lambda s: s.alike), key=lambda s: s.alike)
    return Read([_cutouts(source, name, list(stamps)) for _, stamps in alike], refused)


KIND: Final = SourceKind(fetch, evidence, batches, read)


@dataclass(frozen=True)
class _Stamp:
    object_id: str
    bands: tuple[str, ...]
    flux: NDArray[np.float32]  # (band, y, x) nJy
    bad: NDArray[np.bool_]
    pixel_scale: float

    @property
    def alike(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        return self.flux.shape, self.bands


def _stamp(source: str, raw: Path, images: Images, survey: config.Survey, convert: config.Convert) -> _Stamp:
    if not images.members:
        raise ValueError("a label but no image")
    read_in = [bologna_files.image(archive.read(raw, member), survey, convert) for _, member in images.members]
    bands = tuple(band for band, _ in images.members)
    pixels = [image for image, _ in read_in]
    if len({image.shape for image in pixels}) > 1:
        raise ValueError(f"bands {', '.join(bands)} differ in shape: {', '.join(str(p.shape) for p in pixels)}")
    for (band, image), (other, twin) in itertools.combinations(zip(bands, pixels, strict=True), 2):
        if image.tobytes() == twin.tobytes():
            raise ValueError(f"bands {band} and {other} are byte-identical")
    cube = np.stack(pixels).astype(np.float64)  # (band, y, x)
    bad = (cube == MASKED) | ~np.isfinite(cube)
    flux = np.where(bad, 0, cube * 10 ** (0.4 * (units.AB_NANOJANSKY - survey.zero_point))).astype(np.float32)
    return _Stamp(f"{source}.{images.number}", bands, flux, bad, read_in[0][1])


def _cutouts(source: str, survey: str, stamps: list[_Stamp]) -> Cutouts:
    ids = [stamp.object_id for stamp in stamps]
    return Cutouts(
        object_id=ids,
        source=source,
        survey=survey,
        bands=stamps[0].bands,
        flux=np.stack([stamp.flux for stamp in stamps]),
        variance=None,
        bad=np.stack([stamp.bad for stamp in stamps]),
        psf=None,
        pixel_scale=np.array([stamp.pixel_scale for stamp in stamps]),
        metadata=pl.DataFrame({"object_id": ids}),
    )


def _contents(raw: Path) -> tuple[dict[int, Images], dict[int, bool]]:
    members, challenge = archive.read_index(raw / "index.parquet"), _challenge(raw)
    return bologna_files.objects(members, challenge), bologna_files.labels(raw, members, challenge)


def _challenge(raw: Path) -> str:
    return str(tables.read_json(raw / "MANIFEST.json")["challenge"])


def _survey(challenge: str, surveys: dict[str, config.Survey]) -> config.Survey:
    if f"bologna_{challenge}" not in surveys:
        raise ValueError(f"surveys.bologna_{challenge} must be in params.yaml, got none. Add its constants.")
    return surveys[f"bologna_{challenge}"]


def _from_archive(params: config.BolognaSource, file: Path, out: Path) -> list[archive.Member]:
    return archive.repack(file, out / "images.tar", lambda name: _wanted(name, params.challenge), _MAX_BYTES)


def _from_folder(params: config.BolognaSource, folder: Path, out: Path) -> list[archive.Member]:
    if params.sha256 is not None:
        raise ValueError("sha256 must be null for a folder, got one: it is the checksum of an archive.")
    files = [path.relative_to(folder) for path in folder.rglob("*.*") if not path.is_dir()]
    return archive.pack(folder, [f for f in files if _wanted(f.as_posix(), params.challenge)], out / "images.tar")


def _wanted(name: str, challenge: str) -> bool:
    return bologna_files.is_image(name, challenge) or bologna_files.is_truth(name, challenge)


def _checked(file: Path, sha256: str | None) -> str:
    if not file.exists():
        raise FileNotFoundError(f"{file} must be the challenge's folder or archive, got nothing there. Correct path.")
    found = _sha256(file)
    if sha256 not in (None, found):
        raise ValueError(f"{file} must have sha256 {sha256}, got {found}. Get it anew or correct sha256.")
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
