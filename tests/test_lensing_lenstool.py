"""Lenstool's parameter files: a small one in English and in French, broken ones, and the real one of SMACS J0723."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensml.lensing import cluster, lenstool
from lensml.schema import ContractError
from tests.real_sample import REAL, needs_real

FOLDER = REAL / "smacs0723" / "ICLv2"
MODEL = b"""#Tue Nov 22 11:42:12 2022
runmode
	reference     3 110.8 -73.4
	end
grid
	number      128
	nlens   2
	end
image
	z_m_limit 1 4.0 0 2.174644  0.0  0.0
	z_m_limit 1 6 1 1.0 7.0 0.1
	z_m_limit 1 c8.2.0 0 11.5  0.0  0.0
	end
potential O1
	profile       81
	x_centre     -2.997328   # arcsec
	y_centre     1.5
	ellipticity     0.678
	angle_pos       546.3
	core_radius         18.9
	core_radius_kpc     100.0
	cut_radius_kpc     1500.0
	v_disp     987.3
	z_lens     0.3900
	end
limit O1
	x_centre 1 -5.0 5.0 0.01
	end

#potential 4
potential 7.0
	profile       81
	x_centre     8.75
	y_centre     0.14
	ellipticity     0
	angle_pos       26.1
	core_radius         0
	cut_radius         8.3
	v_disp     147
	mag		  19.3
	z_lens     0.39
	end
cosmology
	model       1
	H0        70.0
	omegaM    0.3
	omegaX    0.7
	omegaK    0.
	wX        -1.0
	wa        0.0
	end
finish
what stands here is not read
"""
FRENCH = {
    b"grid\n": b"grille\n", b"nlens": b"nlentille", b"potential": b"potentiel", b"profile": b"profil",
    b"ellipticity": b"ellipticite", b"cosmology": b"cosmologie", b"finish": b"fini",
}  # fmt: skip


def changed(old: bytes, new: bytes) -> bytes:
    assert MODEL.count(old) >= 1
    return MODEL.replace(old, new, 1)


def test_a_model_is_read() -> None:
    model = lenstool.parse(MODEL)
    assert (model.ra, model.dec, model.z_lens) == (110.8, -73.4, 0.39)
    assert model.redshifts == {"4": 2.174644, "c8.2": 11.5}
    first, second = model.potentials
    assert first[:6] == ("O1", -2.997328, 1.5, 0.678, 546.3, 18.9)
    assert first.cut_arcsec == pytest.approx(1500 / 5.2902, rel=1e-4)  # kpc per arcsec of flat LCDM at z = 0.39
    assert second == lenstool.Dpie("7.0", 8.75, 0.14, 0, 26.1, 0, 8.3, 147)
    assert (model.cosmology.H0.value, model.cosmology.Om0, model.cosmology.Ode0) == (70, 0.3, 0.7)


def test_french_is_english() -> None:
    french = MODEL
    for word, other in FRENCH.items():
        assert word in french
        french = french.replace(word, other)
    english, found = lenstool.parse(MODEL), lenstool.parse(french)
    assert found._replace(cosmology=None) == english._replace(cosmology=None)
    assert found.cosmology.is_equivalent(english.cosmology)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "must be text"),
        (b"", "must end with `finish`, got no more"),
        (MODEL[: MODEL.index(b"cosmology")], "must end with `finish`"),
        (MODEL[: MODEL.index(b"mag\t")], r"close its section 'potential 7\.0' \(line 31\)"),
        (changed(b"0.3900\n\tend\nlimit O1", b"0.3900\nlimit O1"), "x_centre must stand once, got 2 of them"),
        (changed(b"	end\nlimit O1\n	x_centre 1 -5.0 5.0 0.01\n	end\n", b""), "section 'potential O1' .line 14"),
        (changed(b"nlens   2", b"nlens   149"), "number of potentials, 2, got 149.*Give best.par"),
        (changed(b"cosmology\n", b"potfile0\n\tfilein 3 /etc/passwd\n\tend\ncosmology\n"), "potfile must not stand"),
        (changed(b"cosmology\n", b"cosmos\n"), "one section cosmology, got 0"),
        (changed(b"grid\n", b"grid\n\tend\ngrid\n"), "one section grid, got 2"),
        (changed(b"model       1", b"model 4"), r"model must be 1 .*got 4 \(line 4\d, cosmology\)"),
        (changed(b"H0        70.0", b"H0 0"), "H0 must be in .*got 0"),
        (changed(b"omegaM    0.3", b"omega 0.3"), "omegaM must stand once, got none"),
        (changed(b"reference     3 110.8 -73.4", b"reference 1 07:23:18 -73:27:17"), "reference must be in degrees"),
        (changed(b"reference     3 110.8", b"reference 3 360.8"), "reference must have ra in .*got 360.8"),
        (changed(b"reference     3 110.8 -73.4", b"reference 3 110.8 -90"), "reference must have dec in .*got -90"),
        (changed(b"reference     3 110.8", b"reference 3"), "reference must have 3 values"),
        (changed(b"profile       81", b"profile 12"), r"profile must be 81, the dPIE, got 12 \(line 15, potential O1"),
        (changed(b"x_centre     -2.997328", b"x_centre_wcs 110"), "x_centre must stand once, got none"),
        (changed(b"y_centre     1.5", b"y_centre 1.5\n\ty_centre 1.5"), "y_centre must stand once, got 2 of them"),
        (changed(b"-2.997328", b"__import__('os').system('true')"), r"x_centre must be within .* got __import__"),
        (changed(b"-2.997328", b"nan"), "got nan"),
        (changed(b"-2.997328", b"1e300"), "x_centre must be within"),
        (changed(b"ellipticity     0.678", b"ellipticity 1"), r"ellipticity must be in \[0, 0.999\], got 1 \(line 18"),
        (changed(b"ellipticity     0.678", b"ellipticity -0.1"), "ellipticity must be in"),
        (changed(b"core_radius         18.9", b"core_radius 18.9 3"), "core_radius must have 1 value, got 18.9 3"),
        (changed(b"core_radius         18.9", b"core_radius 400"), "core_radius must be in .0, cut_radius 283"),
        (changed(b"core_radius         18.9", b"core_radius -1"), "core_radius must be in"),
        (changed(b"cut_radius         8.3", b"cut_radius inf"), "cut_radius must be within 100000, got inf"),
        (changed(b"v_disp     987.3", b"v_disp -987.3"), "v_disp must be in"),
        (changed(b"v_disp     987.3", b"v_disp 987,3"), "v_disp must be in .* got 987,3"),
        (changed(b"z_lens     0.3900", b"z_lens 0"), "z_lens must be in"),
        (changed(b"z_lens     0.39\n", b"z_lens 0.4\n"), "z_lens must be 0.39 as before: one lens plane, got 0.4"),
        (changed(b"0 2.174644  0.0  0.0", b"0 free"), r"z_m_limit must be: .* got free \(line 10"),
        (changed(b"0 2.174644  0.0  0.0", b"0"), "z_m_limit must be: .* got nothing"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_by_line(content: bytes, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        lenstool.parse(content)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(MODEL) - 1), st.integers(0, 60), st.binary(max_size=12))
def test_whatever_is_done_to_a_file_is_read_or_refused(first: int, length: int, put: bytes) -> None:
    try:
        model = lenstool.parse(MODEL[:first] + put + MODEL[first + length :])
    except ContractError:
        return
    assert len(model.potentials) == 2
    assert np.isfinite(cluster.deflection(model, 3.0, 4.0)).all()


def test_no_file_a_folder_and_a_huge_one_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "best.par"):
        with pytest.raises(FileNotFoundError, match=re.escape(f"{path} must be a Lenstool parameter file, got none")):
            lenstool.read(path)
    huge = tmp_path / "best.par"
    with huge.open("wb") as file:
        file.truncate(2**24 + 1)  # a hole: no bytes on the disk
    with pytest.raises(ContractError, match="at most 16777216 bytes"):
        lenstool.read(huge)
    huge.write_bytes(changed(b"profile       81", b"profile 12"))
    with pytest.raises(ContractError, match=r"^best\.par: profile must be 81"):
        lenstool.read(huge)


@pytest.mark.parametrize(("name", "own"), [("4.1", "4"), ("4.0", "4"), ("4", "4"), ("c4.2.1", "c4.2"), (".1", ".1")])
def test_families_of_images(name: str, own: str) -> None:
    assert lenstool.family(name) == own


def test_offsets_go_the_short_way_round_the_sky() -> None:
    model = lenstool.parse(changed(b"3 110.8 -73.4", b"3 359.999 60"))
    x, y = lenstool.offsets(model, [0.001, 359.998], [60.0, 60.001])
    assert x == pytest.approx([-3.6, 1.8])  # 0.002 and -0.001 deg of right ascension at cos(dec) = 1/2
    assert y == pytest.approx([0, 3.6])


@needs_real
def test_the_real_model_agrees_with_what_else_its_authors_wrote() -> None:
    """Its catalogue of members in degrees, D_ls/D_s in its comments, radii in arcsec and in kpc."""
    text = (FOLDER / "best.par").read_text()
    model = lenstool.read(FOLDER / "best.par")
    assert len(model.potentials) == 149
    assert lenstool.kpc_per_arcsec(model.cosmology, model.z_lens) == pytest.approx(5.290, abs=5e-4)
    printed = [[float(n) for n in found] for found in re.findall(r"#(\S+) z:(\S+) dlsds:(\S+)", text)]
    assert len(printed) == len(model.redshifts) == 16
    for name, z, ratio in printed:
        assert model.redshifts[f"{name:g}"] == z
        assert cluster.distance_ratio(model, z) == pytest.approx(ratio, abs=5e-4)
    lines = [line.split() for line in (FOLDER / "galcat.cat").read_text().splitlines() if line[:1] not in ("", "#")]
    members = {words[0]: [float(word) for word in words[1:3]] for words in lines}
    matched = [p for p in model.potentials if p.name in members]
    assert len(matched) > 100
    x, y = lenstool.offsets(model, *np.array([members[p.name] for p in matched]).T)
    np.testing.assert_allclose(x, [p.x_arcsec for p in matched], atol=1e-3)
    np.testing.assert_allclose(y, [p.y_arcsec for p in matched], atol=1e-3)


@needs_real
def test_radii_in_kpc_alone_give_the_real_model_too() -> None:
    content = (FOLDER / "best.par").read_bytes()
    kpc_only = re.sub(rb"(?m)^\s+(core|cut)_radius\s.*$", b"", content)
    assert kpc_only.count(b"_radius") == content.count(b"_radius") // 2
    radii = [
        [radius for p in lenstool.parse(text).potentials for radius in (p.core_arcsec, p.cut_arcsec)]
        for text in (content, kpc_only)
    ]
    np.testing.assert_allclose(*radii, rtol=1e-4, atol=1e-6)


@needs_real
def test_the_real_input_is_refused_because_its_members_stand_elsewhere() -> None:
    with pytest.raises(ContractError, match=r"^input\.par: potfile must not stand in a model.*Give best\.par"):
        lenstool.read(FOLDER / "input.par")
