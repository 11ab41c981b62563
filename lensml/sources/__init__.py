"""Where pixels come from. One entry per `kind` of params.yaml: sources."""

from lensml.sources import bologna, cutouts, simulated
from lensml.sources.kind import SourceKind

SOURCES: dict[str, SourceKind] = {
    "simulated": simulated.KIND,
    "bologna": bologna.KIND,
    "cutouts": cutouts.KIND,
}
