"""Two processes learn what one learns."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lensml.training import processes
from tests import fitting

ROOT = Path(__file__).parents[1]
STARTED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def trained(folder: Path, **hardware: Any) -> Path:
    """In a process of its own, which starts the others."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in STARTED}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fitting", str(folder), json.dumps(hardware)],
        cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_have_the_loss_curve_and_the_weights_of_one(tmp_path: Path) -> None:
    two = trained(tmp_path / "two", devices=2)
    (tmp_path / "one").mkdir()
    fitting.main(str(tmp_path / "one"), "{}")
    names = sorted(path.stem for path in (two / "log/plots/metrics").glob("*.tsv"))
    assert {"train_loss", "val_loss", "val_auprc"} <= set(names)
    for name in names:
        np.testing.assert_allclose(
            fitting.rows(two / "log", name), fitting.rows(tmp_path / "one/log", name), rtol=1e-5, atol=1e-7
        )
    one, other = (torch.load(made / "model.ckpt", weights_only=True) for made in (tmp_path / "one", two))
    np.testing.assert_allclose(other["logits"], one["logits"], rtol=0, atol=1e-3)
    assert not (two / "resume").exists()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("how", ["fp16", "bf16", "powersgd"])
def test_gradients_travel_in_fewer_bits(how: str, group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a linear layer the gradient is its input; PowerSGD sends the first steps whole."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1000, 1, bias=False))
    values = torch.linspace(0.1, 3, 1000)[None]
    trainer = SimpleNamespace(strategy=SimpleNamespace(model=model))
    monkeypatch.setattr(processes, "world", lambda: 2)
    processes.Compression(how).on_train_start(trainer, None)  # type: ignore[arg-type]
    model(values).sum().backward()
    bits = {"fp16": torch.float16, "bf16": torch.bfloat16, "powersgd": torch.float32}[how]
    assert torch.equal(model.module.weight.grad, values.to(bits).float())
    assert how == "powersgd" or not torch.equal(model.module.weight.grad, values)


def test_none_is_no_hook_and_one_process_needs_none() -> None:
    assert processes.compressing("none") == (None, None)
    assert processes.world() == 1
    values = torch.ones(2, 3)
    assert torch.equal(processes.summed(values), values)
    assert processes.gathered(values) is values
