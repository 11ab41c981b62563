"""Every path of the project, once; `{source}`, `{arch}` and `{split}` are filled in by the stage."""

PARAMS = "params.yaml"

RAW = "data/raw/{source}"
EVIDENCE = "data/labels/evidence.parquet"
LABELS = "data/labels/labels.parquet"
CONFLICTS = "data/labels/conflicts.parquet"
STAMPS = "data/stamps/{source}"
MATCHED = "data/matched/{source}"
SPLITS = "data/splits.parquet"
SHARDS = "data/shards/{split}"
STATISTICS = "data/shards/statistics.json"
BACKBONE = "data/backbones/{arch}"
MODEL = "data/models/{arch}"
FUSION = "data/fusion.json"
TEST_SCORES = "data/test_scores.parquet"
RESUME = "data/resume/{arch}"  # not an output: what a killed training goes on from
DOWNLOAD = "data/resume/download"  # not an output: what a broken download goes on from

LABEL_REPORT = "metrics/label_provenance.json"
CONVERT_REPORT = "metrics/convert/{source}.json"
PSF_REPORT = "metrics/psf_match/{source}.json"
SPLIT_REPORT = "metrics/split.json"
SHARD_REPORT = "metrics/shard.json"
PRETRAIN_LOG = "metrics/pretrain/{arch}"
TRAIN_LOG = "metrics/train/{arch}"
FUSE_REPORT = "metrics/fuse.json"
EVALUATION = "metrics/evaluate.json"  # the few figures that one compares runs by
STRATA = "metrics/strata.json"  # all of them: per survey, flux ratio, redshift, member
PLOTS = "metrics/plots"
