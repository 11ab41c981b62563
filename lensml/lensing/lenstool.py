"""The mass model of a cluster, as Lenstool (Jullo et al. 2007, New J. Phys. 9, 447) writes it: `best.par`.

A file is sections of keywords, in English or in French; what follows a `#` is a comment. Positions are in arcsec from
the reference, x to the west and y to the north: x = -(ra - ra_0) cos(dec_0), y = dec - dec_0. Nothing in a file is run,
and no other file that it names is opened.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from astropy.cosmology import FLRW, w0waCDM
from numpy.typing import ArrayLike, NDArray

from lensml.schema import ContractError

_BYTES_MAX: Final = 2**24  # a model with a thousand potentials has a third of a megabyte
_Z_MAX: Final = 30.0
_DPIE: Final = 81  # Lenstool's number of the profile
_DEGREES: Final = 3  # Lenstool's number of a reference in degrees; 1 is sexagesimal, 0 none
_W0WA: Final = 1  # Lenstool's number of the cosmology whose dark energy has w = w0 + wa (1 - a)
_ARCMIN_ARCSEC: Final = 60.0
_DEG_ARCSEC: Final = 3600.0
_FAR_ARCSEC: Final = 1e5  # tens of degrees: no longer a cluster
_ENDS: Final = ("finish", "fini")
_ENGLISH: Final = {
    "champ": "field", "cosmologie": "cosmology", "ellipticite": "ellipticity", "grille": "grid", "nlentille": "nlens",
    "potentiel": "potential", "profil": "profile",
}  # fmt: skip


class Dpie(NamedTuple):
    """A dual pseudo-isothermal elliptical mass distribution, Lenstool's profile 81 (Eliasdottir et al. 2007, A.8)."""

    name: str
    x_arcsec: float  # of its centre
    y_arcsec: float
    ellipticity: float  # (a^2 - b^2) / (a^2 + b^2) of the mass
    angle_deg: float  # of the major axis, from x towards y
    core_arcsec: float
    cut_arcsec: float
    v_disp: float  # km/s, Lenstool's: the Einstein radius goes with 6 pi (v_disp / c)^2


class Model(NamedTuple):
    """A cluster: where (0, 0) is, in degrees, and what stands there."""

    ra: float
    dec: float
    cosmology: FLRW
    z_lens: float
    potentials: tuple[Dpie, ...]
    redshifts: dict[str, float]  # of families of images, where the model states one


class _Section(NamedTuple):
    name: str
    title: str
    line: int
    entries: list[tuple[int, list[str]]]  # line and words


def read(path: Path) -> Model:
    """The model of a parameter file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ContractError
        As `parse`; or it is larger than 16 MiB.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a Lenstool parameter file, got none. Name one, like best.par.")
    if (size := path.stat().st_size) > _BYTES_MAX:
        raise ContractError(f"{path} must have at most {_BYTES_MAX} bytes, got {size}. Name a parameter file.")
    try:
        return parse(path.read_bytes())
    except ContractError as error:
        raise ContractError(f"{path.name}: {error}") from None


def parse(content: bytes) -> Model:
    """The model that a parameter file states: every potential a dPIE at one redshift.

    Raises
    ------
    ContractError
        It is no text, is cut off, leaves potentials to another file, has another profile or several lens redshifts, or
        a value is missing, stands twice or is unphysical; the line is named.
    """
    sections = list(_sections(content))
    runmode, cosmology = _one(sections, "runmode"), _cosmology(_one(sections, "cosmology"))
    kind, ra, dec = _words(runmode, "reference", 3)
    if kind != str(_DEGREES):
        raise _fault("reference", f"be in degrees ({_DEGREES})", kind, runmode, "Give it as: reference 3 RA DEC")
    found = [section for section in sections if section.name == "potential"]
    _check_complete(sections, found)
    z_lens = [_number(section, "z_lens", f"be in (0, {_Z_MAX:g}]", lambda z: 0 < z <= _Z_MAX) for section in found]
    for section, z in zip(found, z_lens, strict=True):
        if z != z_lens[0]:
            raise _fault("z_lens", f"be {z_lens[0]:g} as before: one lens plane", f"{z:g}", section)
    return Model(
        _value("reference", ra, "have ra in [0, 360]", lambda value: 0 <= value <= 360, runmode),
        _value("reference", dec, "have dec in (-90, 90)", lambda value: -90 < value < 90, runmode),
        cosmology,
        z_lens[0],
        tuple(_potential(section, kpc_per_arcsec(cosmology, z_lens[0])) for section in found),
        dict(_redshifts(sections)),
    )


def family(name: str) -> str:
    """The family of an image: 4 of the image 4.1, c4.2 of c4.2.1; and of the name that a model gives it, 4.0 or 4."""
    return name.rpartition(".")[0] or name


def kpc_per_arcsec(cosmology: FLRW, z: float) -> float:
    """Proper length of an arcsec at a redshift."""
    return float(cosmology.kpc_proper_per_arcmin(z).value) / _ARCMIN_ARCSEC


def offsets(model: Model, ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions in degrees as x and y in arcsec from the reference, in Lenstool's way."""
    turn = (np.asarray(ra, np.float64) - model.ra + 180) % 360 - 180  # the short way round
    x = -turn * math.cos(math.radians(model.dec)) * _DEG_ARCSEC
    return x, (np.asarray(dec, np.float64) - model.dec) * _DEG_ARCSEC


def _sections(content: bytes) -> Iterator[_Section]:
    """The sections up to the word that ends the file; what stands after it is not read."""
    section: _Section | None = None
    for number, words in _lines(content):
        if section is None and words[0] in _ENDS:
            return
        if section is None:
            section = _Section(_english(words[0]), " ".join(words)[:80], number, [])
        elif words[0] == "end":
            yield section
            section = None
        elif words[0] in _ENDS or section.name == _english(words[0]) == "potential":
            break
        else:
            section.entries.append((number, [_english(words[0]), *words[1:]]))
    rule = "end with `finish`" if section is None else f"close its section {section.title!r} (line {section.line})"
    raise ContractError(f"a parameter file must {rule}, got no more. It is cut off: copy it again.")


def _lines(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Numbers and words of the lines that say something."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ContractError("a parameter file must be text, got other bytes. Name one, like best.par.") from None
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.partition("#")[0].split():
            yield number, words


def _english(word: str) -> str:
    return _ENGLISH.get(word, word)


def _one(sections: list[_Section], name: str) -> _Section:
    found = [section for section in sections if section.name == name]
    if len(found) != 1:
        raise ContractError(f"a parameter file must have one section {name}, got {len(found)}. Correct it.")
    return found[0]


def _check_complete(sections: list[_Section], potentials: list[_Section]) -> None:
    """Every potential stands in the file itself."""
    remedy = "Give best.par, which lists every potential"
    for section in sections:
        if section.name.startswith("potfile"):
            raise _fault("potfile", "not stand in a model", "one", section, remedy)
    grid = _one(sections, "grid")
    count = _number(grid, "nlens", "be the number of potentials, at least 1", lambda n: n >= 1)
    if count != len(potentials):
        raise _fault("nlens", f"be the number of potentials, {len(potentials)}", f"{count:g}", grid, remedy)


def _cosmology(section: _Section) -> FLRW:
    _number(section, "model", f"be {_W0WA} (w0, wa)", lambda value: value == _W0WA)
    h0 = _number(section, "H0", "be in [10, 1000]", lambda value: 10 <= value <= 1000)
    matter = _number(section, "omegaM", "be in [0, 2]", lambda value: 0 <= value <= 2)
    dark = _number(section, "omegaX", "be in [0, 2]", lambda value: 0 <= value <= 2)
    w0, wa = (_number(section, key, "be in [-3, 3]", lambda value: -3 <= value <= 3) for key in ("wX", "wa"))
    return w0waCDM(H0=h0, Om0=matter, Ode0=dark, w0=w0, wa=wa)  # without radiation, as Lenstool


def _potential(section: _Section, kpc: float) -> Dpie:
    _number(section, "profile", f"be {_DPIE}, the dPIE", lambda value: value == _DPIE)
    core, cut = _radius(section, "core_radius", kpc), _radius(section, "cut_radius", kpc)
    if not 0 <= core < cut:
        raise _fault("core_radius", f"be in [0, cut_radius {cut:g} arcsec)", f"{core:g}", section)
    return Dpie(
        section.title.partition(" ")[2],
        _number(section, "x_centre", *_within(_FAR_ARCSEC)),
        _number(section, "y_centre", *_within(_FAR_ARCSEC)),
        _number(section, "ellipticity", "be in [0, 0.999]", lambda value: 0 <= value <= 0.999),
        _number(section, "angle_pos"),
        core,
        cut,
        _number(section, "v_disp", "be in [0, c)", lambda value: 0 <= value < 299_792),
    )


def _radius(section: _Section, key: str, kpc: float) -> float:
    """In arcsec, where the file has it so; else from kpc."""
    if any(words[0] == key for _, words in section.entries):
        return _number(section, key, *_within(_FAR_ARCSEC))
    return _number(section, f"{key}_kpc", *_within(_FAR_ARCSEC * kpc)) / kpc


def _within(limit: float) -> tuple[str, Callable[[float], bool]]:
    return f"be within {limit:g}", lambda value: abs(value) <= limit


def _redshifts(sections: list[_Section]) -> Iterator[tuple[str, float]]:
    """Of the families whose redshift is stated: z_m_limit INDEX FAMILY 0 Z; any other number than 0 is a range."""
    for section in sections:
        for line, words in section.entries:
            if section.name == "image" and words[0] == "z_m_limit" and words[3:4] == ["0"]:
                rule, at = f"be: z_m_limit INDEX FAMILY 0 Z, Z in (0, {_Z_MAX:g}]", f"line {line}"
                z = _value("z_m_limit", "".join(words[4:5]), rule, lambda value: 0 < value <= _Z_MAX, section, at)
                yield family(words[2]), z


def _words(section: _Section, key: str, count: int) -> list[str]:
    """What stands after a keyword."""
    found = [(line, words[1:]) for line, words in section.entries if words[0] == key]
    if len(found) != 1:
        got = f"{len(found)} of them" if found else "none"
        raise _fault(key, "stand once", got, section)
    if len(found[0][1]) != count:
        got = " ".join(found[0][1])[:80] or "nothing"
        raise _fault(key, f"have {count} value{'s'[: count > 1]}", got, section, at=f"line {found[0][0]}")
    return found[0][1]


def _number(
    section: _Section, key: str, rule: str = "be a number", holds: Callable[[float], bool] = math.isfinite
) -> float:
    (word,) = _words(section, key, 1)
    line = next(line for line, words in section.entries if words[0] == key)
    return _value(key, word, rule, holds, section, f"line {line}")


def _value(
    key: str, word: str, rule: str, holds: Callable[[float], bool], section: _Section, at: str | None = None
) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and holds(value)):
        raise _fault(key, rule, word[:80] or "nothing", section, at=at)
    return value


def _fault(
    key: str, rule: str, got: str, section: _Section, remedy: str = "Correct it", at: str | None = None
) -> ContractError:
    where = at or f"from line {section.line}"
    return ContractError(f"{key} must {rule}, got {got} ({where}, {section.title}). {remedy}.")
