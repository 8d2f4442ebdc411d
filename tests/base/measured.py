"""Runs the pipeline and writes down what it took once loaded: `python -m tests.base.measured FILE ARGUMENTS...`."""

import re
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    import pipeline

    told, began = Path(sys.argv.pop(1)), time.process_time()
    code: object = 0
    try:
        code = pipeline.main()
    except SystemExit as end:
        code = end.code
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    told.write_text(f"{time.process_time() - began} {int(peak[1]) * 1000 if peak else 0}")
    sys.exit(code)  # type: ignore[arg-type]
