"""What may never straddle two splits: objects of one parent, or of one place on the sky, and whoever they connect."""

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


def group_ids(objects: pl.DataFrame, same_sky_arcsec: float) -> pl.Series:
    """The group of each object, named after its smallest object_id.

    Two objects are of one group when they have the same parent, when one is the other's parent (its object_id, with or
    without the source in front), when they stand within `same_sky_arcsec` in the same frame, or over others.

    Parameters
    ----------
    objects : object_id (unique), source, parent, frame, ra, dec (deg); positions count where frame is not empty
    same_sky_arcsec : great-circle distance up to which two positions are one

    Returns
    -------
    Series group_id, in the order of `objects`
    """
    count = objects.height
    if not count:
        return pl.Series("group_id", [], dtype=pl.String)
    rows, nodes = _parent_edges(objects)
    first, second = same_sky_pairs(objects, same_sky_arcsec)
    begin, end = np.concatenate([rows, first]), np.concatenate([nodes, second])
    size = max(count, int(end.max()) + 1 if end.size else 0)
    graph = coo_array((np.ones(begin.size, dtype=np.bool_), (begin, end)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][:count]
    names = pl.DataFrame({"object_id": objects["object_id"], "component": component})
    smallest = names.group_by("component").agg(pl.col("object_id").min())
    smallest = smallest.with_columns(pl.Series("group_id", [_name(key) for key in smallest["object_id"]], pl.String))
    return names.join(smallest.drop("object_id"), on="component", how="left", maintain_order="left")["group_id"]


def unit_vectors(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """(object, 3) from degrees: there is no wrap and no pole in these."""
    a, d = np.deg2rad(ra), np.deg2rad(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def chord(arcsec: float) -> float:
    """The straight distance of two unit vectors this far apart on the sphere."""
    return float(2 * np.sin(np.deg2rad(arcsec / 3600) / 2))


def same_sky_pairs(objects: pl.DataFrame, arcsec: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that are linked by position: chains of them connect exactly the objects within `arcsec` of each other.

    Objects at an identical position are chained to the first of them, so that a pile costs its size, not its square.
    """
    placed = objects.with_row_index("place").filter(pl.col("frame") != "")
    pile = placed.with_columns(pl.col("place").first().over("frame", "ra", "dec").alias("first"))
    begin, end = [pile["place"].to_numpy().astype(np.int64)], [pile["first"].to_numpy().astype(np.int64)]
    for part in pile.filter(pl.col("place") == pl.col("first")).partition_by("frame", maintain_order=True):
        place = part["place"].to_numpy().astype(np.int64)
        tree = cKDTree(unit_vectors(part["ra"].to_numpy(), part["dec"].to_numpy()))
        pairs = tree.query_pairs(chord(arcsec), output_type="ndarray")
        begin.append(place[pairs[:, 0]])
        end.append(place[pairs[:, 1]])
    return np.concatenate(begin), np.concatenate(end)


def _parent_edges(objects: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges from objects to the names they go by or refer to; a name that two share joins them.

    An object goes by its object_id, and refers to its parent as written and as written behind its own source.
    """
    placed = objects.with_row_index("place").select("place", "object_id", "source", "parent")
    child = placed.filter(pl.col("parent") != "")
    refers = [child.select("place", pl.col("parent").alias("name"))]
    refers += [child.select("place", pl.concat_str("source", "parent", separator=".").alias("name"))]
    referred = pl.concat(refers)
    own = placed.select("place", pl.col("object_id").alias("name")).join(referred, on="name", how="semi")
    edges = pl.concat([referred, own])
    nodes = edges["name"].rank("dense").cast(pl.Int64).to_numpy() + (objects.height - 1)
    return edges["place"].to_numpy().astype(np.int64), nodes.astype(np.int64)


def _name(object_id: str) -> str:
    return hashlib.blake2b(object_id.encode(), digest_size=8).hexdigest()
