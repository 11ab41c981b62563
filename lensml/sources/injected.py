"""Lensed sources painted into the real stamps of another source: each host's lenses, and the host itself as their twin.

The hosts' files are brought as their own kind brings them. `fetch` draws which lens is made of each (truth.parquet);
`read` reads the hosts and paints them anew, so that no pixels stand on disk twice. A lens that the hosts' source knows,
or a candidate, is no host. That a twin is no lens means that nothing was painted into it.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from tqdm import tqdm

from lensml import config
from lensml.config_injected import InjectedSource, Painting
from lensml.imaging.cutouts import Cutouts
from lensml.ingest import bring
from lensml.ingest.kind import Read, SourceKind
from lensml.schema import EVIDENCE, ContractError, check
from lensml.sources import injected_painting as painting
from lensml.sources.injected_painting import Known, Seen
from lensml.store import tables
from lensml.store.parallel import in_order

HOSTS: Final = "hosts"  # their raw folder
TRUTH_FILE, REFUSED_FILE, MANIFEST = "truth.parquet", "refused.parquet", "MANIFEST.json"
LABEL_SOURCE: Final = "sim:injected"

_S, _F, _I = pl.String, pl.Float64, pl.Int64
TRUTH: Final[dict[str, Any]] = {
    "object_id": _S, "host": _S, "survey": _S, "label": _S, "member": _I, "attempt": _I,  # member 0 is the twin
    "parent": _S, "frame": _S, "ra": _F, "dec": _F, "flux_ratio": _F, "theta_e_arcsec": _F, "z_lens": _F,
    "z_source": _F, "source_magnitude": _F, "arc_snr": _F,
    "told_theta_e_arcsec": _F, "told_z": _F,  # of the host, by its own source; null unknown
}  # fmt: skip
REFUSED: Final[dict[str, Any]] = {"host": _S, "reason": _S}
Drawn = tuple[list[dict[str, Any]], list[tuple[str, str]]]  # rows of TRUTH, and of REFUSED


def kind(kinds: Mapping[str, SourceKind]) -> SourceKind:
    """The source kind, whose hosts are of any of these."""
    return SourceKind(partial(fetch, kinds), evidence, partial(batches, kinds), partial(read, kinds))


def fetch(
    kinds: Mapping[str, SourceKind], params: InjectedSource, surveys: dict[str, config.Survey], out: Path
) -> None:
    """Bring the hosts, and draw what is painted into each; the same whatever the number of jobs.

    Raises
    ------
    ContractError
        There are no hosts, none can be painted, or a band has no `electrons_per_nJy`.
    ValueError, ConnectionError, OSError
        As the hosts' own kind.
    """
    own, raw = kinds[params.hosts.kind], out / HOSTS
    out.mkdir(parents=True, exist_ok=True)
    own.fetch(params.hosts, surveys, raw)
    claims = own.evidence(HOSTS, raw)
    hosts = _hosts(claims)
    work = partial(_draw_unit, own, raw, hosts, surveys, params)
    units = _units(own, HOSTS, raw, params, params.batch_objects)
    found = list(tqdm(in_order(work, units, params.jobs), "injecting", len(units), unit=" batches", disable=None))
    rows = [row for part, _ in found for row in part]
    refused = [row for _, part in found for row in part]
    if not rows:
        words = "; ".join(f"{n} x {reason}" for reason, n in Counter(r for _, r in refused).most_common(3))
        raise ContractError(f"hosts must hold some that arcs can be painted into, got none of {len(hosts)}: {words}.")
    truth = pl.DataFrame(rows, schema=TRUTH)
    tables.write_parquet(truth, TRUTH, out / TRUTH_FILE)
    tables.write_parquet(pl.DataFrame(refused, schema=REFUSED, orient="row"), REFUSED, out / REFUSED_FILE)
    counts = {"hosts": claims["object_id"].n_unique(), "lenses_left_out": claims["object_id"].n_unique() - len(hosts)}
    _write_manifest(params, counts | {"refused": len(refused), "painted": truth["host"].n_unique()}, out)


def evidence(source: str, raw: Path) -> pl.DataFrame:
    """A claim per object: painted into, or not. All of a host name it, or its own parent, as theirs."""
    truth = tables.read_parquet(raw / TRUTH_FILE, TRUTH)
    found = truth.select(
        object_id=source + "." + pl.col("object_id"), source=pl.lit(source), survey="survey", label="label",
        label_source=pl.lit(LABEL_SOURCE), label_confidence=pl.lit(1.0), grade=pl.lit(""), parent="parent",
        frame="frame", ra="ra", dec="dec", kind=pl.when(pl.col("member") > 0).then(pl.lit("lens")).otherwise(
            pl.lit("twin")), flux_ratio="flux_ratio", theta_e_arcsec="theta_e_arcsec", z_lens="z_lens",
    )  # fmt: skip
    return check(found, EVIDENCE, f"evidence of {source}")


def batches(kinds: Mapping[str, SourceKind], source: str, raw: Path, convert: config.Convert) -> list[Any]:
    """The hosts' work units, of so many that with what is made of them they are a batch."""
    own, params = _told(kinds, raw)
    return _units(own, source, raw / HOSTS, params, max(1, convert.objects_per_batch // (1 + params.per_host)))


def read(
    kinds: Mapping[str, SourceKind],
    source: str,
    raw: Path,
    unit: Any,
    surveys: dict[str, config.Survey],
    convert: config.Convert,
) -> Read:
    """Hosts as their own kind reads them, with and without arcs; those that were refused with the reason.

    They are read as when the arcs were drawn (`convert` of the source's own parameters).
    """
    own, params = _told(kinds, raw)
    found = own.read(source, raw / HOSTS, unit, surveys, params.convert)
    truth = tables.read_parquet(raw / TRUTH_FILE, TRUTH)
    members = {str(host): part for (host,), part in truth.partition_by("host", as_dict=True).items()}
    reasons = dict(tables.read_parquet(raw / REFUSED_FILE, REFUSED).iter_rows())
    cutouts, unread = [], [name.removeprefix(f"{source}.") for name, _ in found.refused]
    for batch in found.cutouts:
        names = _natives(source, batch)
        unread += names
        cutouts += _painted(source, batch, names, members, surveys[batch.survey], params)
    refused = [(f"{source}.{name}-0", reasons[name]) for name in unread if name in reasons]
    return Read(cutouts, refused)


def _painted(
    source: str, batch: Cutouts, names: list[str], members: dict[str, pl.DataFrame], survey: config.Survey,
    params: Painting,
) -> list[Cutouts]:  # fmt: skip
    known = {name: _known(members[name].row(0, named=True)) for name in names if name in members}
    seen, _ = painting.look(batch, names, known, survey, params)
    rows = [(row, truth) for row in sorted(seen) for truth in members[names[row]].iter_rows(named=True)]
    if not rows:
        return []
    made = painting.multiplied(batch, [row for row, _ in rows], [f"{source}.{truth['object_id']}" for _, truth in rows])
    for k, (row, truth) in enumerate(rows):
        if truth["member"]:
            drawn = painting.draw(seen[row], truth["member"], truth["attempt"], params)
            variance = None if made.variance is None else made.variance[k]
            painting.paint(made.flux[k], variance, made.bad[k], seen[row], drawn)
    return [replace(made, source=source)]


def _draw_unit(
    own: SourceKind, raw: Path, hosts: dict[str, dict[str, Any]], surveys: dict[str, config.Survey],
    params: Painting, unit: Any,
) -> Drawn:  # fmt: skip
    """Which lens is made of each host of a work unit."""
    found = own.read(HOSTS, raw, unit, surveys, params.convert)
    rows, refused = [], [(name.removeprefix(f"{HOSTS}."), words) for name, words in found.refused]
    for batch in found.cutouts:
        names = _natives(HOSTS, batch)
        known = {name: _known(hosts[name]) for name in names if name in hosts}
        seen, reasons = painting.look(batch, names, known, surveys[batch.survey], params)
        refused += [(names[row], words) for row, words in reasons.items()]
        for host in seen.values():
            try:
                rows += _family(host, hosts[host.name], params)
            except ContractError as error:
                refused.append((host.name, str(error)))
    return rows, [(name, words) for name, words in refused if name in hosts]


def _family(seen: Seen, told: dict[str, Any], params: Painting) -> list[dict[str, Any]]:
    """Rows of TRUTH of a host: the twin, then its lenses."""
    same = {"host": seen.name, "survey": seen.survey, **told}
    rows = [same | {"object_id": f"{seen.name}-0", "label": "nonlens", "member": 0}]
    for member in range(1, params.per_host + 1):
        drawn = painting.draw_bright(seen, member, params)
        lens = drawn.lens
        true = {
            "flux_ratio": lens.flux_ratio, "theta_e_arcsec": lens.theta_e_arcsec, "z_lens": lens.z_lens,
            "z_source": lens.z_source, "source_magnitude": lens.source_magnitude, "arc_snr": drawn.snr,
        }  # fmt: skip
        number = {"member": member, "attempt": drawn.attempt}
        rows.append(same | {"object_id": f"{seen.name}-{member}", "label": "lens"} | number | true)
    return rows


def _hosts(claims: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """What TRUTH keeps of each host that no claim calls a lens or a candidate, by its name without the source."""
    if not claims.height:
        raise ContractError("hosts must hold at least one object, got none (injected). Name another folder.")
    lens = (pl.col("label") == "lens") | (pl.col("grade") != "")
    placed = pl.col("frame") != ""
    table = claims.sort("object_id", "label_source").group_by("object_id", maintain_order=True).agg(
        lens.any().alias("lens"), pl.col("parent").filter(pl.col("parent") != "").first().fill_null(""),
        *(pl.col(name).filter(placed).first() for name in ("frame", "ra", "dec")),
        pl.col("theta_e_arcsec").drop_nulls().first().alias("told_theta_e_arcsec"),
        pl.col("z_lens").drop_nulls().first().alias("told_z"),
    )  # fmt: skip
    name = pl.col("object_id").str.strip_prefix(f"{HOSTS}.")
    parent = pl.when(pl.col("parent") == "").then(name).otherwise(pl.col("parent").str.strip_prefix(f"{HOSTS}."))
    kept = table.filter(~pl.col("lens")).select(
        name.alias("name"), parent.alias("parent"), pl.col("frame").fill_null(""), "ra", "dec", "told_theta_e_arcsec",
        "told_z",
    )  # fmt: skip
    if not kept.height:
        raise ContractError(f"hosts must hold galaxies that are no lenses, got {table.height} lenses or candidates.")
    return {row.pop("name"): row for row in kept.iter_rows(named=True)}


def _known(told: Mapping[str, Any]) -> Known:
    return Known(*(np.nan if told[name] is None else told[name] for name in ("told_theta_e_arcsec", "told_z")))


def _natives(source: str, batch: Cutouts) -> list[str]:
    return [name.removeprefix(f"{source}.") for name in batch.object_id]


def _units(own: SourceKind, source: str, raw: Path, params: Painting, objects: int) -> list[Any]:
    return own.batches(source, raw, params.convert.model_copy(update={"objects_per_batch": objects}))


def _told(kinds: Mapping[str, SourceKind], raw: Path) -> tuple[SourceKind, Painting]:
    manifest = tables.read_json(raw / MANIFEST)
    return kinds[manifest["hosts_kind"]], Painting.model_validate_json(json.dumps(manifest["painting"]))


def _write_manifest(params: InjectedSource, counts: dict[str, int], out: Path) -> None:
    told = params.model_dump(mode="json", include=set(Painting.model_fields))
    files = {
        name: {"bytes": (out / name).stat().st_size, "sha256": bring.sha256(out / name)}
        for name in (TRUTH_FILE, REFUSED_FILE)
    }
    facts = {"kind": "injected", "hosts_kind": params.hosts.kind, "licence": f"of the hosts: {HOSTS}/{MANIFEST}"}
    tables.write_json(facts | counts | {"painting": told, "files": files}, out / MANIFEST)
