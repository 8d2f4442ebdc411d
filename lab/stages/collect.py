"""stage=collect: picture and expression -> record."""

from conf.schema import Config
from lab.base.errors import UserError
from lab.base.files import check_writable
from lab.base.images import open_image
from lab.batch.storage import as_stored
from lab.datasets.sample import with_period
from lab.records.folder import write_record
from lab.records.record import Record
from lab.stages import common
from lab.stages.common import (
    choice_of,
    image_path,
    make_folder,
    model_folder,
    print_written,
    record_name,
    wants_generic,
)


def run(config: Config) -> int:
    """Asks the model about one picture and writes the record."""
    name, record = ask(config)
    kept = as_stored(record, config.data, config.logic, choice_of(config))
    print_written([write_record(make_folder(config), name, kept, config.data.record_format)])
    return 0


def ask(config: Config) -> tuple[str, Record]:
    """The record's name and the record; whatever can be refused is refused before the model is loaded."""
    image_file, query = image_path(config), config.data.query
    if query is None or not query.strip():
        raise UserError('data.query is empty: say what to look for, for example data.query="the bird on the left"')
    name, image = record_name(config), open_image(image_file)
    check_writable(model_folder(config))
    from collector import collect  # torch and transformers take seconds: wrong input is told before

    asked = with_period(query) if config.data.final_period else query
    loaded = common.load_model(config)
    generic = wants_generic(config)
    record = collect(loaded, image, asked, config.model, image_file=str(image_file), generic=generic)
    return name, record.counting(config.logic.grids)
