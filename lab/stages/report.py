"""stage=report: one page about a run, or about two side by side."""

from pathlib import Path

from conf.schema import Config
from lab.base.files import write_atomic
from lab.base.paths import find
from lab.report.gather import _run, _two_runs, gather
from lab.stages.common import model_folder, print_written


def run_report(cfg: Config) -> int:
    """Writes report.html into the run's folder or, of two runs, compare.html into `data.output_dir`.

    Returns the exit code.
    """
    if cfg.data.runs is None:
        folder = find(cfg.data.attention_dir) if cfg.data.attention_dir is not None else model_folder(cfg)
        runs, target = [_run(folder, cfg, cfg)], folder / "report.html"
    else:
        runs, target = _two_runs(cfg), Path(cfg.data.output_dir) / "compare.html"
    from lab.report.page import render

    write_atomic(target, render(gather(runs, cfg), cfg).encode("utf-8", "replace"))  # an id may hold half a character
    print_written([target])
    print(f"  {target.stat().st_size / 1e6:.1f} MB; open it in any browser, no network is needed")
    return 0
