"""stage=report: one page about a run, or about two side by side."""

from conf.schema import Config
from lab.base.files import check_writable, write_atomic
from lab.report.gather import gather, read_run, read_two_runs
from lab.stages.common import make_results_folder, output_folder, print_written, records_folder, results_folder


def run(config: Config) -> int:
    """Writes report.html where results go or, of two runs, compare.html into `data.output_dir`."""
    if config.data.runs is None:
        folder, target = records_folder(config), results_folder(config) / "report.html"
        runs = [read_run(folder, config, config.data.data_file, results_folder(config))]
    else:
        runs = read_two_runs(config.data.runs, config)
        target = output_folder(config) / "compare.html"
    check_writable(target.parent, target.name)
    from lab.report.page import render  # jinja2, only when a page is made

    gathered = gather(runs, config.report, config.seed, config.data.workers)
    page = render(gathered, resamples=config.evaluate.resamples, seed=config.seed)
    if config.data.runs is None:
        make_results_folder(config)
    write_atomic(target, page.encode("utf-8", "replace"))  # an id may hold half a character
    print_written([target])
    print(f"  {target.stat().st_size / 1e6:.1f} MB; open it in any browser, no network is needed")
    return 0
