"""Folders in the `cutouts` contract, made of real survey files that lie beside the checkout and are never in it."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
from astropy.io import fits

REAL = Path(__file__).parents[1].parent / "shared" / "real"

ACS_F814W_ZERO_POINT = 25.94  # of the COSMOS coadds, e-/s
COSMOS_EXPOSURE_S = 2000.0
DES_BANDS = ("g", "r", "i")
KIDS_SCALES = {"KiDS": 0.2, "SDSS": 0.339}  # arcsec; the files have no WCS

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real survey files beside the checkout (shared/real)")

Planes = list[tuple[str, np.ndarray, dict[str, Any]]]  # EXTNAME, pixels, cards


def des_lrg(folder: Path) -> Path:
    """Five luminous red galaxies, gri. All headers say FILTER i: the order of the extensions is the truth."""
    root, rows = REAL / "des-lrg", []
    for path in sorted((root / "lens").glob("DES_*.fits")):
        name, planes = path.stem, Planes()
        psf_path = root / "lensPSF" / f"DES_PSF{name.removeprefix('DES_')}.fits"
        with fits.open(path) as images, fits.open(psf_path) as psfs:
            for band, image, psf in zip(DES_BANDS, images, psfs, strict=True):
                keep = ("MAGZERO", "BUNIT", "FILTER", "BAND", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
                cards = {card: image.header[card] for card in keep}
                planes += [(f"{band}_SCI", image.data, cards), (f"{band}_PSF", psf.data, {})]
        _write(folder, name, planes)
        rows.append({"object_id": name, "survey": "des", "label": "nonlens", "label_source": "obs:des_lrg"})
    return _catalogue(folder, rows)


def kids_sdss(folder: Path) -> Path:
    """Five galaxies in maggies, each in KiDS r and SDSS r: one parent. No header; PSFs sum to 0.9 to 1.7."""
    root, rows = REAL / "kids-sdss", []
    for survey, scale in KIDS_SCALES.items():
        for path in sorted((root / survey).glob("*fitim.fits")):
            galaxy = path.name.removesuffix("fitim.fits")
            kinds = {"SCI": "fitim", "RMS": "sigma", "MASK": "mskim", "PSF": "psfim"}
            data = {kind: fits.getdata(root / survey / f"{galaxy}{file}.fits") for kind, file in kinds.items()}
            cards = {"SCI": {"MAGZERO": 0.0, "CD1_1": -scale / 3600, "CD2_2": scale / 3600}}
            _write(folder, name := f"{galaxy}_{survey}", [(f"r_{k}", d, cards.get(k, {})) for k, d in data.items()])
            row = {"object_id": name, "survey": survey.lower(), "label": "nonlens", "label_source": "obs:gama"}
            rows.append(row | {"parent": galaxy})
    return _catalogue(folder, rows)


def hst_dinos(folder: Path, bands: tuple[str, ...] = ("F814W",)) -> Path:
    """Systems of SLACS, BELLS and SL2S that have all of `bands`: e-/s on rotated frames; candidates are `unknown`."""
    root, rows = REAL / "hst-dinos", []
    zero_points = pl.read_csv(root / "tables" / "DINOSi_PHOTZPT_values.csv").rows_by_key(["System", "Band"], named=True)
    for truth in pl.read_csv(root / "labels.csv").iter_rows(named=True):
        name = truth["object"]
        if not all((root / name / f"image_{name}_{band}.h5").exists() for band in bands):
            continue
        planes = Planes()
        for band in bands:
            listed = zero_points.get((name, band))  # 10 systems are not: their headers are silent
            cards = {card: listed[0][card] for card in ("PHOTFLAM", "PHOTPLAM")} if listed else {}
            planes += _dinos_planes(root / name, name, band, cards)
        _write(folder, name, planes)
        confirmed = truth["label"] == "lens"
        rows.append(
            {
                "object_id": name,
                "survey": "hst",
                "label": "lens" if confirmed else "unknown",
                "label_source": "obs:dinos",
                "label_confidence": 1.0 if confirmed else 0.0,
                "parent": name,
                "z_spec": truth["z_lens"] if (truth["z_lens"] or -1) > 0 else None,
                "theta_e_arcsec": truth["theta_E_arcsec"],
            }
        )
    return _catalogue(folder, rows)


def hst_cosmos(folder: Path) -> Path:
    """40 galaxies with PSFs of 65 x 51 pixels and 10 brighter ones without; each stamp has its own shape."""
    root, rows = REAL / "hst-cosmos", []
    with fits.open(root / "galaxies.fits") as images, fits.open(root / "psfs.fits") as psfs:
        for number, entry in enumerate(fits.getdata(root / "catalogue.fits"), start=1):
            row = _cosmos(folder, entry, images[number].data, psfs[number].data)
            rows.append(row)
    bright = root / "brighter"
    shapes = {int(e["IDENT"]): e for e in fits.getdata(bright / "real_galaxy_catalog_23.5_fits.fits")}
    with fits.open(bright / "real_galaxy_images_23.5_n1.fits") as images:
        for entry in fits.getdata(bright / "real_galaxy_catalog_23.5.fits"):
            row = _cosmos(folder, entry, images[int(entry["GAL_HDU"])].data, None)
            rows.append(row | {"z_phot": float(shapes[int(entry["IDENT"])]["zphot"])})
    return _catalogue(folder, rows)


FOLDERS = {"des-lrg": des_lrg, "kids-sdss": kids_sdss, "hst-dinos": hst_dinos, "hst-cosmos": hst_cosmos}


def _dinos_planes(root: Path, name: str, band: str, photometry: dict[str, float]) -> Planes:
    with h5py.File(root / f"image_{name}_{band}.h5") as file:
        image, seconds, sky = (file[key][()] for key in ("image_data", "exposure_time", "background_rms"))
        degrees = file["transform_pix2angle"][()] / 3600
    with h5py.File(root / f"psf_{name}_{band}.h5") as file:
        psf = file["kernel_point_source"][()]
    frame = {f"CD{i + 1}_{j + 1}": float(degrees[i, j]) for i in (0, 1) for j in (0, 1)}
    variance = (sky**2 + np.maximum(image, 0) / seconds).astype(np.float32)
    planes = [(f"{band}_SCI", image, photometry | frame), (f"{band}_VAR", variance, {}), (f"{band}_PSF", psf, {})]
    mask = root / f"mask_{name}_{band}.h5"
    if mask.exists():
        with h5py.File(mask) as file:
            planes.append((f"{band}_MASK", file["mask"][()].astype(np.uint8), {}))
    return planes


def _cosmos(folder: Path, entry: Any, image: np.ndarray, psf: np.ndarray | None) -> dict[str, Any]:
    scale = float(entry["PIXEL_SCALE"]) / 3600
    cards = {"MAGZERO": ACS_F814W_ZERO_POINT, "BUNIT": "electrons/s", "CD1_1": -scale, "CD2_2": scale}
    variance = float(entry["NOISE_VARIANCE"]) + np.maximum(image, 0) / COSMOS_EXPOSURE_S
    planes = [("F814W_SCI", image, cards), ("F814W_VAR", variance.astype(np.float32), {})]
    _write(folder, name := f"cosmos-{entry['IDENT']}", planes + ([("F814W_PSF", psf, {})] if psf is not None else []))
    place = {"ra": float(entry["RA"]), "dec": float(entry["DEC"])}
    return {"object_id": name, "survey": "hst", "label": "nonlens", "label_source": "obs:cosmos"} | place


def _write(folder: Path, name: str, planes: Planes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    units = [fits.ImageHDU(np.ascontiguousarray(data), fits.Header(cards), name=what) for what, data, cards in planes]
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(folder / f"{name}.fits")


def _catalogue(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pl.from_dicts(rows, infer_schema_length=None).write_csv(folder / "catalogue.csv")
    return folder
