"""stage=pipeline: picture and expression -> record, ranking, mask, box and figures."""

from analyze import rank_heads, scores_of
from bbox import localize_record
from conf.schema import Config
from lab.batch.storage import as_stored, at_precision
from lab.heads.choice import HeadChoice
from lab.records.folder import write_record
from lab.stages.collect import ask
from lab.stages.common import make_folder, print_written, with_example
from lab.stages.refining import print_sharp, refiner_of, sharp_mask
from lab.stages.results import (
    FigureOptions,
    box_line,
    heads_table,
    sinks_line,
    write_localization,
    write_ranking,
)


def run(config: Config, choice: HeadChoice) -> int:
    """Collects, analyses and visualizes one picture."""
    config, note = with_example(config)
    refiner = refiner_of(config)
    name, asked = ask(config, choice, note)
    record = at_precision(asked, config.data)  # so that a later reading finds the same
    ranking = rank_heads(record, config.logic)
    result = localize_record(record, ranking, config.logic, choice)
    sharp = sharp_mask(refiner, record, result, config.data.image_file)
    # From here on everything is known to be right.
    kept = as_stored(record, config.data, config.logic, choice)
    path = write_record(make_folder(config), name, kept, config.data.record_format)
    located = write_localization(path, record, result, config.logic, FigureOptions.of(config), sharp)
    written = [path, *write_ranking(path, ranking, record.left_out), *located]
    print(f'\n"{record.meta["query"]}" in {record.meta["image_file"]}\n')
    print(heads_table(scores_of(record, result.heads, config.logic)) + sinks_line(record))
    print(f"\n{box_line(result)}")
    print_sharp(sharp)
    print_written(written)
    return 0
