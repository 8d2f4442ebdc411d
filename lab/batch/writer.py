"""Threads that turn answers into files while the model goes on."""

import queue
import threading
import time
from collections.abc import Callable

from lab.base.errors import UserError

Task = Callable[[], None]


class Writer:
    """Runs tasks in so many threads, at most `ahead` waiting; `put` blocks beyond that, so that memory stays flat.

    Without threads `put` itself runs them: windows can be opened from the main thread only.

    A UserError in a task is one that ends the run (a full disk): it is raised by the next `put`, or at the end of the
    block, and the tasks still waiting are dropped.

        with Writer(threads=2, ahead=16) as writer:
            writer.put(lambda: save_record(path, record))
    """

    def __init__(self, threads: int, ahead: int) -> None:
        self._tasks: queue.Queue[Task | None] = queue.Queue(ahead)
        self._problem: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self.waited = 0.0  # seconds that `put` was held up

    def __enter__(self) -> "Writer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        if kind is not None:
            self._problem = self._problem or UserError("stopped")
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        if kind is None and self._problem is not None:
            raise self._problem

    def put(self, task: Task) -> None:
        began = time.perf_counter()
        if self._threads:
            self._tasks.put(task)
        else:
            task()
        self.waited += time.perf_counter() - began
        if self._problem is not None:
            raise self._problem

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._problem is None:
                try:
                    task()
                except BaseException as error:
                    self._problem = error
