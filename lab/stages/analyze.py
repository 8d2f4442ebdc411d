"""stage=analyze: record -> ranking of its heads; with `data.attention_dir`, of every record of a folder."""

from analyze import rank_heads
from conf.schema import Config
from lab.base.files import check_writable
from lab.records.files import load_record
from lab.stages.common import print_written, record_path
from lab.stages.results import heads_table, write_ranking


def run(config: Config) -> int:
    """Ranks the heads of one record, or of each record of a folder."""
    if config.data.attention_dir is not None:
        from lab.stages.analyze_folder import analyze_folder  # worker processes, which one record does without

        return analyze_folder(config)
    path = record_path(config)
    record = load_record(path, config.logic.grids)
    check_writable(path.parent)
    ranking = rank_heads(record, config.logic)
    written = write_ranking(path, ranking)
    print(heads_table(ranking[: max(10, config.logic.top_k)]))
    print_written(written)
    return 0
