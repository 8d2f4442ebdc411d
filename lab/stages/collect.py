"""stage=collect: picture and expression -> record."""

from conf.schema import Config
from lab.base.errors import UserError
from lab.base.files import check_writable
from lab.base.images import open_image
from lab.batch.storage import as_stored
from lab.heads.choice import HeadChoice
from lab.records.folder import write_record
from lab.records.record import Record
from lab.stages import common
from lab.stages.common import (
    asked,
    image_path,
    make_folder,
    model_folder,
    new_record_name,
    print_written,
    tell,
    wants_generic,
    with_example,
)


def run(config: Config, choice: HeadChoice) -> int:
    """Asks the model about one picture and writes the record."""
    config, note = with_example(config)
    name, record = ask(config, choice, note)
    kept = as_stored(record, config.data, config.logic, choice)
    print_written([write_record(make_folder(config), name, kept, config.data.record_format)])
    return 0


def ask(config: Config, choice: HeadChoice, note: str = "") -> tuple[str, Record]:
    """The record's name and the record; whatever can be refused is refused before the model is loaded, the rest before
    the note, of `with_example`, is told.
    """
    if config.data.attention_file is not None or config.data.attention_dir is not None:
        read = "data.attention_file and data.attention_dir name records to read"
        raise UserError(
            f"{read}, but stage={config.stage} makes one: run stage=analyze or visualize, or leave them out"
        )
    image_file = image_path(config)
    image, query = open_image(image_file), asked(config)
    name, renamed = new_record_name(config)
    check_writable(model_folder(config), "config.yaml", f"{name}.{config.data.record_format}")
    loaded = common.model_with_heads(config, choice)
    tell(note, renamed)
    generic = wants_generic(config)
    from collector import collect  # which imports torch

    record = collect(loaded, image, query, config.model, image_file=str(image_file), generic=generic)
    return name, record.under(config.logic)
