"""stage=visualize: record -> mask, box and figures; with `data.attention_dir`, of every record of a folder."""

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analyze import rank_heads, scores_of
from bbox import Localization, localize_record
from conf.schema import Config, LogicConfig
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.heads.choice import HeadChoice, check_owner
from lab.measure.overview import shape_if_any
from lab.records.files import load_record
from lab.records.record import Record
from lab.stages.common import check_results, make_results_folder, print_written, record_path, tell, with_example
from lab.stages.refining import (
    UNREFINED,
    Failure,
    Located,
    list_unrefined,
    print_sharp,
    refine_files,
    refiner_of,
    sharp,
    sharp_mask,
)
from lab.stages.results import FigureOptions, box_line, heads_table, picture_of, sinks_line, write_localization

if TYPE_CHECKING:
    from lab.refine.refined import Refined
    from lab.stages.over_folder import Together


def run(config: Config, choice: HeadChoice) -> int:
    """Localizes one saved record and draws it, or each record of a folder."""
    figures = FigureOptions.of(config)
    if config.data.attention_dir is not None:
        from lab.stages.over_folder import over_folder, records_of  # worker processes, which one record does without

        if config.show_plot:
            raise UserError("show_plot=true opens a window for one record: with data.attention_dir, leave it out")
        files = records_of(config)
        shape_if_any(files, choice)  # whose heads they are is told before all records are read
        work = partial(draw_file, logic=config.logic, choice=choice, figures=figures)
        names = {"errors_name": "visualize_errors.jsonl", "wrote": "masks, boxes and figures"}
        return over_folder(config, files, work, **names, together=together(config, choice, figures))
    config, note = with_example(config)
    refiner = refiner_of(config)
    path = record_path(config)
    check_results(config)
    record, result = locate(path, config.logic, choice, figures)
    check_owner(choice, record.made_by)
    tell(note)
    refined = sharp_mask(refiner, record, result, config.data.image_file)
    target = make_results_folder(config) / path.name
    written = write_localization(target, record, result, config.logic, figures, refined)
    print(heads_table(scores_of(record, result.heads, config.logic)) + sinks_line(record))
    print(f"\n{box_line(result)}")
    print_sharp(refined)
    print_written(written)
    return 0


def locate(path: Path, logic: LogicConfig, choice: HeadChoice, figures: FigureOptions) -> tuple[Record, Localization]:
    """The record of a file, and where its heads look."""
    record = load_record(path, logic)
    if record.image_size is None:  # records of old
        record = record.with_image_size(open_image(picture_of(record, figures.image_file)).size)
    return record, localize_record(record, rank_heads(record, logic), logic, choice)


def together(config: Config, choice: HeadChoice, figures: FigureOptions) -> "Together | None":
    """With logic.refine, the work on many files at once: SAM is loaded once, and sees each picture once."""
    refiner = refiner_of(config)
    if refiner is None:
        return None

    def read(path: Path) -> Located:
        record, result = locate(path, config.logic, choice, figures)
        return Located(path, record, result, picture_of(record, figures.image_file))

    def draw(files: Collection[Path], folder: Path) -> Iterator[tuple[Path, Failure | None]]:
        def write(one: Located, refined: "Refined") -> list[Path]:
            target = folder / one.path.name
            return write_localization(target, one.record, one.result, config.logic, figures, sharp(refiner, refined))

        for path, outcome in refine_files(files, read, refiner, write):
            yield path, None if isinstance(outcome, list) else outcome
        list_unrefined(folder / UNREFINED, [folder / path.name for path in files])

    return draw


def draw_file(path: Path, target: Path, logic: LogicConfig, choice: HeadChoice, figures: FigureOptions) -> None:
    """Localizes the record in a file and writes mask, box and figures beside `target`, a record's name."""
    record, result = locate(path, logic, choice, figures)
    write_localization(target, record, result, logic, figures)
