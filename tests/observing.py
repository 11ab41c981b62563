"""A survey's section `observing` for tests; whole parts of it changed by name."""

from typing import Any

from lensml.config_camera import Observing

_SEEING = {
    "kind": "seeing", "fwhm_scatter": 0.12, "band_scatter": 0.06, "beta": [2.5, 4.0], "ellipticity_scatter": 0.02,
}  # fmt: skip


def artefact(share: float = 0.0, flagged: float = 1.0, low: float = 20.0, high: float = 200.0) -> dict[str, Any]:
    return {"share": share, "flagged": flagged, "peak_sigma": [low, high]}


def artefacts(**changes: Any) -> dict[str, Any]:
    kinds = {name: artefact() for name in ("cosmic_ray", "bad_column", "star", "ghost", "satellite")}
    return {"flag_sigma": 3.0, "star_arms": 4, "saturation_sigma": 1000.0, **kinds, **changes}


def observing(
    psf: dict[str, Any] | None = None, correlation: tuple[float, float] = (0.2, 0.4), **changes: Any
) -> Observing:
    """Two bands of one instrument, without artefacts, residue or scatter in depth unless asked for."""
    instrument = {
        "bands": ["g", "r"], "psf": psf or _SEEING, "electrons_per_nJy": 10.0, "read_noise_electrons": 9.0,
        "noise_correlation": list(correlation),
    }  # fmt: skip
    plain = {
        "instruments": [instrument], "psfs": 24, "psf_radius_fwhm": 3.5, "depth": [1.0, 1.0], "band_depth_scatter": 0.0,
        "residue_sigma": 0.0, "over_subtraction": [0.0, 0.0], "sky_mesh_arcsec": 10.0, "artefacts": artefacts(),
    }  # fmt: skip
    return Observing.model_validate(plain | changes)
