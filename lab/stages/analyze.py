"""stage=analyze: record -> ranking of its heads; with `data.attention_dir`, of every record of a folder."""

from functools import partial
from pathlib import Path

from analyze import rank_heads
from conf.schema import Config, LogicConfig
from lab.records.files import load_record
from lab.stages.common import check_results, make_results_folder, print_written, record_path, tell, with_example
from lab.stages.results import heads_table, sinks_line, write_ranking


def run(config: Config) -> int:
    """Ranks the heads of one record, or of each record of a folder."""
    if config.data.attention_dir is not None:
        from lab.stages.over_folder import over_folder, records_of  # worker processes, which one record does without

        work = partial(rank_file, logic=config.logic)
        files, wrote = records_of(config), "*_analysis.pkl and .json"
        return over_folder(config, files, work, errors_name="analysis_errors.jsonl", wrote=wrote)
    config, note = with_example(config)
    path = record_path(config)
    record = load_record(path, config.logic)
    check_results(config)
    tell(note)
    ranking = rank_heads(record, config.logic)
    written = write_ranking(make_results_folder(config) / path.name, ranking, record.left_out)
    print(heads_table(ranking[: max(10, config.logic.top_k)]) + sinks_line(record))
    print_written(written)
    return 0


def rank_file(path: Path, target: Path, logic: LogicConfig) -> None:
    """Ranks the record in a file and writes the ranking beside `target`, a record's name."""
    record = load_record(path, logic)
    write_ranking(target, rank_heads(record, logic), record.left_out)
