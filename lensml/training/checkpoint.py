"""model.ckpt and backbone.pt: plain types and tensors in stable bytes; a file that would run code is refused."""

import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar, get_origin, get_type_hints

import torch
from torch import Tensor

from lensml import models
from lensml.models.network import Network
from lensml.schema import SCHEMA_VERSION, ContractError


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and all that is needed to give it the same inputs again."""

    schema_version: str
    arch: str
    size: str
    bands: list[str]  # the channels, in order
    stamp_pixels: int
    pixel_scale_min: float  # arcsec
    features: list[str]
    metadata: int  # length of the metadata vector
    normalisation: dict[str, Any]  # data/shards/statistics.json
    data_hash: str  # sha256 of the training index
    psf_targets: dict[str, float]  # survey -> FWHM in arcsec that its stamps were matched to
    params: dict[str, Any]
    versions: dict[str, str]
    state_dict: dict[str, Tensor]


@dataclass(frozen=True)
class Backbone:
    """A pretrained network without its head."""

    schema_version: str
    arch: str
    size: str
    bands: list[str]
    stamp_pixels: int
    metadata: int
    objects: int  # that it was pretrained on; 0: the weights are as drawn
    targets: list[str]
    state_dict: dict[str, Tensor]


ZIP: Final = b"PK\x03\x04"
Kind = TypeVar("Kind", Checkpoint, Backbone)


def weights(network: Network, *, head: bool = True) -> dict[str, Tensor]:
    """A copy of the network's weights on the CPU, contiguous, so that equal weights are equal bytes."""
    state = network.state_dict()
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
        if head or not name.startswith("head.")
    }


def save(content: Checkpoint | Backbone, path: Path) -> None:
    """Write whole or not at all; the same content gives the same bytes, whatever the file is called."""
    values = {field.name: getattr(content, field.name) for field in fields(content)}
    write(values, path)


def write(values: Mapping[str, Any], path: Path) -> None:
    """torch.save by way of memory (the archive would hold the file's name), renamed at the end."""
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.writing")
    try:
        part.write_bytes(buffer.getbuffer())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a file of torch's; nothing but plain types and tensors is ever built from it.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ContractError
        The file is truncated, no torch file, or holds more than plain types.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist, got none. Run the stage that writes it")
    content = io.BytesIO(path.read_bytes())
    if not content.getvalue().startswith(ZIP):
        raise ContractError(f"{path} must be a zip archive of torch.save, got another format. Train again.")
    try:
        values = torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ContractError(
            f"{path} must hold tensors and plain types only, got something that would have to run code. "
            "Do not use it; train again."
        ) from None
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ContractError(f"{path} must be a whole file of torch.save, got {_first(error)}. Train again.") from None
    if not isinstance(values, dict):
        raise ContractError(f"{path} must hold a mapping, got a {type(values).__name__}. Train again.")
    return values


def load(path: Path) -> tuple[Network, Checkpoint]:
    """A trained network, ready to predict.

    Raises
    ------
    FileNotFoundError, ContractError
        The file is missing or breaks the contract in any way; the message says how.
    """
    checkpoint = _checked(Checkpoint, read(path), path)
    network = models.build(
        checkpoint.arch, checkpoint.size, checkpoint.bands, checkpoint.stamp_pixels, checkpoint.metadata
    )
    _into(network, checkpoint.state_dict, path, strict=True)
    return network.eval(), checkpoint


def load_backbone(network: Network, expected: Mapping[str, Any], path: Path) -> Backbone:
    """Put pretrained weights into a network; its head stays as it is.

    Parameters
    ----------
    expected : what the backbone must have been made for: any of its fields, by name

    Raises
    ------
    FileNotFoundError, ContractError
        The file is missing, broken, or was made for another network.
    """
    backbone = _checked(Backbone, read(path), path)
    for name, value in expected.items():
        _equal(path, name, getattr(backbone, name), value)
    _into(network, backbone.state_dict, path, strict=False)
    return backbone


def require(checkpoint: Checkpoint, path: Path, **expected: Any) -> None:
    """Hold a checkpoint against what it is to be used with (`bands=...`, `stamp_pixels=...`).

    Raises
    ------
    ContractError
        A field differs.
    """
    for name, value in expected.items():
        _equal(path, name, getattr(checkpoint, name), value)


def plain(section: Any) -> dict[str, Any]:
    """A section of params.yaml, or a dataclass, as plain types."""
    return section.model_dump() if hasattr(section, "model_dump") else asdict(section)


def _checked(kind: type[Kind], values: dict[str, Any], path: Path) -> Kind:
    if values.get("schema_version") != SCHEMA_VERSION:
        _equal(path, "schema_version", values.get("schema_version"), SCHEMA_VERSION)
    names = [field.name for field in fields(kind)]
    missing = [name for name in names if name not in values]
    if missing:
        raise ContractError(f"{path} must hold {', '.join(missing)}, got {', '.join(sorted(values))}. Train again.")
    for name, hint in get_type_hints(kind).items():
        wanted = get_origin(hint) or hint
        if type(values[name]) is not wanted:
            got = type(values[name]).__name__
            raise ContractError(f"{path}: {name} must be a {wanted.__name__}, got a {got}. Train again.")
    for name, known in (("arch", sorted(models.MODELS)), ("size", models.SIZES)):
        if values[name] not in known:
            raise ContractError(f"{path}: {name} must be one of {', '.join(known)}, got {values[name]!r}. Train again.")
    return kind(**{name: values[name] for name in names})


def _equal(path: Path, name: str, value: Any, expected: Any) -> None:
    if value != expected:
        raise ContractError(
            f"{path}: {name} must be {expected!r}, got {value!r}. Run `dvc repro` with these parameters."
        )


def _into(network: Network, state: dict[str, Tensor], path: Path, *, strict: bool) -> None:
    """Only the head may be missing, and only where the caller says so."""
    try:
        missing, unexpected = network.load_state_dict(state, strict=strict)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ContractError(f"{path} must hold the weights of {type(network).__name__}, got {_first(error)}") from None
    wrong = [name for name in missing if not name.startswith("head.")] + unexpected
    if wrong:
        raise ContractError(f"{path} must hold the weights of {type(network).__name__}, got others: {wrong[0]}")


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
