"""stage=collect: picture and expression -> record."""

from conf.schema import Config
from lab.batch.storage import as_stored
from lab.records.folder import write_record
from lab.stages.common import _ask, make_folder, print_written


def collect(cfg: Config) -> int:
    """Image and query -> record."""
    name, record = _ask(cfg)
    print_written([write_record(make_folder(cfg), name, as_stored(record, cfg), cfg)])
    return 0
