"""stage=report: one page about a run, or about two side by side."""

from conf.schema import Config
from lab.base.files import write_atomic
from lab.base.paths import home
from lab.report.gather import gather, read_run, read_two_runs
from lab.stages.common import print_written, records_folder


def run(config: Config) -> int:
    """Writes report.html into the run's folder or, of two runs, compare.html into `data.output_dir`."""
    if config.data.runs is None:
        folder = records_folder(config)
        runs, target = [read_run(folder, config, config.data.data_file)], folder / "report.html"
    else:
        runs = read_two_runs(config.data.runs, config)
        target = home(config.data.output_dir) / "compare.html"
    from lab.report.page import render  # jinja2, only when a page is made

    gathered = gather(runs, config.report, config.seed)
    page = render(gathered, resamples=config.evaluate.resamples, seed=config.seed)
    write_atomic(target, page.encode("utf-8", "replace"))  # an id may hold half a character
    print_written([target])
    print(f"  {target.stat().st_size / 1e6:.1f} MB; open it in any browser, no network is needed")
    return 0
