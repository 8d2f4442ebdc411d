"""stage=visualize: record -> mask, box and figures."""

from analyze import rank_heads, scores_of
from bbox import localize_record
from conf.schema import Config
from lab.base.files import check_writable
from lab.base.images import open_image
from lab.records.files import load_record
from lab.stages.common import choice_of, print_written, record_path
from lab.stages.results import FigureOptions, box_line, heads_table, picture_of, write_localization


def run(config: Config) -> int:
    """Localizes one saved record and draws it."""
    path, figures = record_path(config), FigureOptions.of(config)
    record = load_record(path, config.logic.grids)
    check_writable(path.parent)
    if record.image_size is None:  # records of old
        record = record.with_image_size(open_image(picture_of(record, figures.image_file)).size)
    result = localize_record(record, rank_heads(record, config.logic), config.logic, choice_of(config))
    print(heads_table(scores_of(record, result.heads, config.logic)))
    print(f"\n{box_line(result)}")
    print_written(write_localization(path, record, result, config.logic, figures))
    return 0
