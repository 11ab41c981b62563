"""Tables and mappings on disk: checked against their contract, written whole or not at all, in stable bytes."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from lensml import schema


def write_parquet(table: pl.DataFrame, contract: Mapping[str, pl.DataType | type[pl.DataType]], path: Path) -> None:
    """Write the contract's columns, in its order.

    Raises
    ------
    ContractError
        A column is missing or has another type.
    """
    checked = schema.check(table, dict(contract), str(path)).rechunk()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.writing")
    try:
        content = io.BytesIO()  # polars tells a full disk as an error of its own; Python's write as an OSError
        checked.write_parquet(content, compression="zstd", statistics=False, row_group_size=65536)
        part.write_bytes(content.getbuffer())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_parquet(path: Path, contract: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """Read a table and hold it against its contract.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ContractError
        It is no Parquet file, or breaks the contract.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist, got none. Run the stage that writes it")
    try:
        table = pl.read_parquet(path, memory_map=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise schema.ContractError(
            f"{path} must be Parquet, got {str(error).splitlines()[0]}. Write it again."
        ) from None
    return schema.check(table, dict(contract), str(path))


def write_json(mapping: Mapping[str, Any], path: Path) -> None:
    """Write a mapping with sorted keys.

    Raises
    ------
    ValueError
        A number is not finite.
    """
    try:
        text = json.dumps(mapping, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"{path} must hold finite numbers only, got: {error}.") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.writing")
    try:
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ContractError
        It is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist, got none. Run the stage that writes it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise schema.ContractError(f"{path} must be JSON, got: {error}. Write it again.") from None
    if not isinstance(value, dict):
        raise schema.ContractError(f"{path} must be a JSON object, got a {type(value).__name__}. Write it again.")
    return value
