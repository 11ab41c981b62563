"""Where pixels come from. One entry per `kind` of params.yaml: sources."""

from lensml.sources import bologna, cutouts
from lensml.sources.kind import SourceKind

SOURCES: dict[str, SourceKind] = {
    "bologna": bologna.KIND,
    "cutouts": cutouts.KIND,
}
