"""Where pixels come from. One entry per `kind` of params.yaml: sources."""

from lensml.sources.kind import SourceKind

SOURCES: dict[str, SourceKind] = {}
