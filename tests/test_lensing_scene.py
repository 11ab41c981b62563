"""The language of scenes (oracle: the scenes themselves, one by one)."""

import numpy as np
import pytest
import torch

from lensml.lensing import scene
from lensml.lensing.scene import Parameters, Pixels, Point, Scene, Sersic, Shear, Sie

SHEAR = Shear(0.03, -0.02, 0.0, 0.0)


def _disc(flux: float) -> Sersic:
    return Sersic((flux, 2 * flux), 0.5, 1.0, 0.1, 0.0, 0.0, 0.0)


def _pixels(side: int) -> Pixels:
    return Pixels((1.0, 1.0), np.ones((side, side)), 0.1, 0.0, 0.0, 0.0)


SCENES = [
    Scene((SHEAR,), (_disc(1.0), _disc(2.0)), (_pixels(3), _pixels(4))),
    Scene((), (), ()),
    Scene((SHEAR, SHEAR), (_disc(3.0), Point((7.0, 8.0), 0.1, 0.2)), (_pixels(4),)),
    Scene((Sie(1.0, 0.1, 0.0, 0.0, 0.0, 0.0), SHEAR), (_disc(4.0),), ()),
]


def _rows(parameters: Parameters) -> list[list[tuple[str, float]]]:
    """What each object has: kind and first field of every profile, sorted."""
    found: list[list[tuple[str, float]]] = [[] for _ in range(parameters.objects)]
    for table in (*parameters.mass, *parameters.lens_light, *parameters.source_light):
        for owner, value in zip(table.owner.tolist(), table.profile[0], strict=True):
            found[owner].append((type(table.profile).__name__, float(value.flatten()[0])))
    return [sorted(rows) for rows in found]


def _alone(scenes: list[Scene]) -> list[list[tuple[str, float]]]:
    return [_rows(scene.collate([s], torch.float64))[0] for s in scenes]


def test_tables_hold_what_the_scenes_hold() -> None:
    parameters = scene.collate(SCENES, torch.float64)
    assert _rows(parameters) == _alone(SCENES)
    assert len(parameters.source_light) == 2, "images of two shapes stand in two tables"
    assert parameters.lens_light[0].profile.flux.tolist() == [[1, 2], [2, 4], [3, 6], [4, 8]]
    assert all((t.owner.diff() >= 0).all() for tables in parameters[1:] for t in tables)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tables_have_the_precision_asked_for(dtype: torch.dtype) -> None:
    tables = scene.collate(SCENES, dtype).source_light
    assert {v.dtype for table in tables for v in table.profile} == {dtype}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_parts_are_the_scenes_one_after_the_other(size: int) -> None:
    parts = scene.split(scene.collate(SCENES, torch.float64), size)
    assert [p.objects for p in parts] == [len(SCENES[i : i + size]) for i in range(0, len(SCENES), size)]
    assert [rows for part in parts for rows in _rows(part)] == _alone(SCENES)


def test_objects_are_taken_in_any_order_and_more_than_once() -> None:
    chosen = [3, 0, 0, 1, 2, 0]
    taken = scene.take(scene.collate(SCENES, torch.float64), torch.tensor(chosen))
    assert _rows(taken) == _alone([SCENES[i] for i in chosen])
    assert all((t.owner.diff() >= 0).all() for tables in taken[1:] for t in tables)


def test_what_is_taken_keeps_its_gradient() -> None:
    parameters = scene.collate(SCENES, torch.float64)
    flux = parameters.lens_light[0].profile.flux.requires_grad_()
    taken = scene.take(parameters, torch.tensor([0, 0, 2]))
    taken.lens_light[0].profile.flux.sum().backward()
    assert flux.grad is not None
    assert flux.grad[:, 0].tolist() == [2, 2, 1, 0]
