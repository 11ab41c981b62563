"""What may never straddle two splits: objects of one parent, or of one place on the sky, and whoever they connect."""

import hashlib
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

_CELLS: Final = 4  # of this part of the radius; any number gives the same groups
Rows = NDArray[np.int64]
Points = NDArray[np.float64]


def group_ids(objects: pl.DataFrame, same_sky_arcsec: float) -> pl.Series:
    """The group of each object, named after its smallest object_id.

    Two objects are of one group when they have the same parent, when one is the other's parent (its object_id, with or
    without the source in front, of whichever source), when they stand within `same_sky_arcsec` in the same frame, or
    over others.

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
    component = _components(np.stack([begin, end], axis=1), size)[:count]
    names = pl.DataFrame({"object_id": objects["object_id"], "component": component})
    smallest = names.group_by("component").agg(pl.col("object_id").min())
    smallest = smallest.with_columns(pl.Series("group_id", [_name(key) for key in smallest["object_id"]], pl.String))
    return names.join(smallest.drop("object_id"), on="component", how="left", maintain_order="left")["group_id"]


def unit_vectors(ra: Points, dec: Points) -> Points:
    """(object, 3) from degrees: there is no wrap and no pole in these."""
    a, d = np.deg2rad(ra), np.deg2rad(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def chord(arcsec: float) -> float:
    """The straight distance of two unit vectors this far apart on the sphere."""
    return float(2 * np.sin(np.deg2rad(arcsec / 3600) / 2))


def same_sky_pairs(objects: pl.DataFrame, arcsec: float) -> tuple[Rows, Rows]:
    """Pairs of rows whose chains connect exactly the objects that are within `arcsec`, directly or over others."""
    begin, end = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    placed = objects.with_row_index("place").filter(pl.col("frame") != "")
    for part in placed.partition_by("frame", maintain_order=True):
        place = part["place"].to_numpy().astype(np.int64)
        points = unit_vectors(part["ra"].to_numpy(), part["dec"].to_numpy())
        first, second = _links(points, chord(arcsec))
        begin.append(place[first])
        end.append(place[second])
    return np.concatenate(begin), np.concatenate(end)


def _links(points: Points, reach: float) -> tuple[Rows, Rows]:
    """Chains among points, by cells: a pile of n (a sight-line used n times) has n links, not n squared."""
    side = reach / _CELLS
    _, first, cell, count = np.unique(
        np.floor(points / side).astype(np.int64), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    cell = cell.reshape(-1)
    pairs = cKDTree(points[first]).query_pairs(reach + 2 * side * 3**0.5, output_type="ndarray")
    apart = np.linalg.norm(points[first[pairs[:, 0]]] - points[first[pairs[:, 1]]], axis=1)
    near = pairs[apart <= reach]
    # The first points of two cells may be out of reach where others of theirs are not.
    joined = _components(near, first.size)
    open_pairs = pairs[(apart > reach) & (count[pairs].max(axis=1) > 1) & (joined[pairs[:, 0]] != joined[pairs[:, 1]])]
    members = np.split(np.argsort(cell, kind="stable"), np.cumsum(count)[:-1])
    found = [pair for pair in open_pairs if _touch(points, members[pair[0]], members[pair[1]], reach)]
    linked = np.concatenate([near, np.array(found, dtype=np.int64).reshape(-1, 2)])
    rows = np.arange(len(points))
    return np.concatenate([rows, first[linked[:, 0]]]), np.concatenate([first[cell], first[linked[:, 1]]])


def _touch(points: Points, some: Rows, others: Rows, reach: float) -> bool:
    return bool((cKDTree(points[others]).query(points[some])[0] <= reach).any())


def _components(pairs: Rows, size: int) -> Rows:
    ones = np.ones(len(pairs), dtype=np.bool_)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _parent_edges(objects: pl.DataFrame) -> tuple[Rows, Rows]:
    """Edges from objects to the names they go by or refer to; a name that two share joins them.

    A parent is another object of the child's own source if there is one of that name, else an object_id, else it is
    open: then it is whatever goes by it in any source, and every other child that names it so.
    """
    placed = objects.with_row_index("place").select("place", "object_id", "source", "parent")
    own = placed.select("place", pl.col("object_id").alias("name"))
    full = pl.concat_str("source", "parent", separator=".")
    child = placed.filter(pl.col("parent") != "").with_columns(full.alias("full"))
    ids = objects.select(pl.col("object_id").implode()).to_series()
    other, home = pl.col("object_id") != pl.col("full"), pl.col("full").is_in(ids)
    at_home = child.filter(other & home)
    exact = child.filter(~(other & home) & pl.col("parent").is_in(ids))
    loose = child.filter(~(other & home) & ~pl.col("parent").is_in(ids)).with_columns(_without_source("parent"))
    native = placed.select("place", _without_source("object_id").alias("name"))
    native = native.join(loose, left_on="name", right_on="parent", how="semi")
    named = [at_home["place", "full"], exact["place", "parent"], loose["place", "parent"]]
    named.append(loose.select("place", full.alias("full")))
    edges = pl.concat([own, native, *(part.rename({part.columns[1]: "name"}) for part in named)])
    nodes = edges["name"].rank("dense").cast(pl.Int64).to_numpy() + (objects.height - 1)
    return edges["place"].to_numpy().astype(np.int64), nodes.astype(np.int64)


def _without_source(column: str) -> pl.Expr:
    return pl.col(column).str.strip_prefix(pl.concat_str("source", pl.lit(".")))


def _name(object_id: str) -> str:
    return hashlib.blake2b(object_id.encode(), digest_size=8).hexdigest()
