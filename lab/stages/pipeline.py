"""stage=pipeline: picture and expression -> record, ranking, mask, box and figures."""

from analyze import rank_heads, scores_of
from conf.schema import Config
from lab.batch.storage import as_stored, at_precision
from lab.records.folder import write_record
from lab.stages.common import _ask, make_folder, print_written
from lab.stages.results import box_line, heads_table, localize_record, write_localization, write_ranking


def pipeline(cfg: Config) -> int:
    """Image and query -> record, ranking, mask, box and figure."""
    name, asked = _ask(cfg)
    record = at_precision(asked, cfg.data)  # so that a later reading finds the same
    ranking = rank_heads(record, cfg.logic)
    result = localize_record(record, ranking, cfg)
    path = write_record(
        make_folder(cfg), name, as_stored(record, cfg), cfg
    )  # from here on everything is known to be right
    written = [path, *write_ranking(path, ranking), *write_localization(cfg, path, record, result)]
    print(f'\n"{record.meta["query"]}" in {record.meta["image_file"]}\n')
    print(heads_table(scores_of(record, result.heads, cfg.logic)))
    print(f"\n{box_line(result)}")
    print_written(written)
    return 0
