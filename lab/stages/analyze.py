"""stage=analyze: record -> ranking of its heads; with `data.attention_dir`, of every record of a folder."""

from analyze import rank_heads
from conf.schema import Config
from lab.records.files import load_record
from lab.stages.common import print_written
from lab.stages.results import heads_table, write_ranking
from lab.stages.visualize import _record_path


def analyze(cfg: Config) -> int:
    """Record -> ranking of its heads; with `data.attention_dir`, of every record of a folder."""
    if cfg.data.attention_dir is not None:
        from lab.stages.analyze_folder import analyze_folder

        return analyze_folder(cfg)
    path = _record_path(cfg)
    record = load_record(path)
    ranking = rank_heads(record, cfg.logic)
    written = write_ranking(path, ranking)
    print(heads_table(ranking[: max(10, cfg.logic.top_k)]))
    print_written(written)
    return 0
