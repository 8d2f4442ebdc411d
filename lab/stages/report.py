"""stage=report: one page about a run, or about two side by side."""

import logging

from omegaconf.errors import OmegaConfBaseException

from conf.schema import BoxConvention, Config, Refine, as_dict, of_saved
from lab.base.files import check_writable, write_atomic
from lab.heads.choice import HeadChoice, head_choice
from lab.heads.reading import tell_unreadable
from lab.report.contents import Gathered, Run
from lab.report.folder import RunFolder, not_of_this_version, read_folder, saved_settings
from lab.report.gather import check_common, gather, known_samples, two_folders
from lab.report.samples import Rules
from lab.stages.common import (
    check_results,
    make_results_folder,
    output_folder,
    print_written,
    records_folder,
    results_folder,
)

log = logging.getLogger(__name__)


def run(config: Config, choice: HeadChoice) -> int:
    """Writes report.html where results go or, of two runs, compare.html into `data.output_dir`.

    Returns 1 if a file of a run cannot be read.
    """
    if config.data.runs is None:
        results = results_folder(config)
        folder, target = read_folder(records_folder(config), results), results / "report.html"
        runs = [run_of(folder, config, choice, config.data.data_file)]
    else:
        folders, target = two_folders(config.data.runs), output_folder(config) / "compare.html"
        runs = [run_of(folder, *_as_made(folder, config, choice), config.data.data_file) for folder in folders]
        check_common(*folders)
    if config.data.runs is None:
        check_results(config, target.name)
    else:
        check_writable(target.parent, target.name)
    from lab.report.page import render  # jinja2, only when a page is made

    gathered = gather(runs, config.report, config.seed, config.data.workers)
    unreadable = _tell_unreadable(gathered)
    page = render(gathered, resamples=config.evaluate.resamples, seed=config.seed)
    if config.data.runs is None:
        make_results_folder(config)
    write_atomic(target, page.encode("utf-8", "replace"))  # an id may hold half a character
    print_written([target])
    print(f"  {target.stat().st_size / 1e6:.1f} MB; open it in any browser, no network is needed")
    return 1 if unreadable else 0


def _tell_unreadable(gathered: Gathered) -> bool:
    """Whether files of a run cannot be read, which is told. Raises UserError if none of a run can."""
    found = [gathered.unreadable(place) for place in range(len(gathered.runs))]
    for run, why in zip(gathered.runs, found, strict=True):
        files = {**run.folder.rankings, **run.folder.records}
        read = [sample.id for sample in gathered.samples if sample.id in files]
        tell_unreadable({files[name]: why[name] for name in why}, len(read))
    return any(found)


def run_of(folder: RunFolder, config: Config, choice: HeadChoice, data_file: str | None) -> Run:
    """The run in a folder, whose records are read as a configuration says."""
    sharp = config.logic.refine != Refine.none
    rules = Rules(config.logic, choice, config.metrics.box == BoxConvention.inclusive, sharp)
    return Run(folder, rules, as_dict(config), known_samples(folder, data_file))


def _as_made(folder: RunFolder, config: Config, choice: HeadChoice) -> tuple[Config, HeadChoice]:
    """The configuration that the run was made with, and its heads; those of this command if its folder tells none."""
    if (found := saved_settings(folder)) is None:
        log.warning("%s has no config.yaml: its records are read with this command's configuration", folder.results)
        return config, choice
    path, settings = found
    try:
        saved = of_saved(settings)
    except (OmegaConfBaseException, ValueError) as error:
        raise not_of_this_version(path, error) from None
    return saved, head_choice(saved.logic, saved.model)
