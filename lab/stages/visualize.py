"""stage=visualize: record -> mask, box and figures."""

from pathlib import Path

from analyze import rank_heads, scores_of
from conf.schema import Config
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.records.files import load_record
from lab.records.folder import find_record
from lab.stages.common import _record_name, model_folder, print_written
from lab.stages.results import _picture_of, box_line, heads_table, localize_record, write_localization


def visualize(cfg: Config) -> int:
    """Record -> mask, box and figure."""
    path = _record_path(cfg)
    record = load_record(path)
    if record.image_size is None:  # records of old
        record = record.with_image_size(open_image(_picture_of(record, cfg)).size)
    result = localize_record(record, rank_heads(record, cfg.logic), cfg)
    print(heads_table(scores_of(record, result.heads, cfg.logic)))
    print(f"\n{box_line(result)}")
    print_written(write_localization(cfg, path, record, result))
    return 0


def _record_path(cfg: Config) -> Path:
    """The saved record that analyze and visualize read."""
    if cfg.data.attention_file is not None:
        return Path(cfg.data.attention_file)
    folder, name = model_folder(cfg), _record_name(cfg)
    path = find_record(folder, name)
    if path is None:
        raise UserError(
            f"no record {folder / name}.pkl: set data.attention_file=path/to/record.pkl, or make it with stage=collect"
        )
    return path
