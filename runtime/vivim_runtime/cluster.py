"""An archive on a Ray cluster, or on the cores of this machine: Ray schedules, and begins again what died.

Every node must see the archive, the model and the folder of results under the same paths, as on a shared disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vivim_runtime.archive import Job, Outcome, process
from vivim_runtime.errors import MissingExtraError
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import Session

__all__ = ["RayExecutor", "process_anywhere"]

# So often a source is begun again whose worker died; one that kills its worker each time is a failure of its own.
_RETRIES = 3

# The session of a worker's process, and what it was opened with: opening one takes seconds, a still picture less.
_opened: dict[tuple[str, str, int], Session] = {}


def process_anywhere(job: Job) -> Outcome:
    """`vivim_runtime.archive.process` in a worker, which keeps its session for the next job."""
    archive = job.archive
    key = (archive.model_sha256, archive.device, archive.threads)
    if key not in _opened:
        _opened.clear()
        _opened[key] = open_session(archive.model, archive.device, archive.threads).__enter__()
    return process(job, _opened[key])


class RayExecutor:
    """Runs jobs as tasks of Ray.

    Args:
        workers: at the same time on this machine; 0 is one a core, or as many as the cluster has.
        address: of a cluster ("auto", "ray://host:10001"); "" starts Ray on this machine, and stops it at the end.
        gpus: share of a GPU that a task reserves.
    """

    def __init__(self, workers: int = 0, address: str = "", gpus: float = 0.0) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingExtraError("--on ray", "cluster") from None
        self._ray: Any = ray
        self._workers, self._address, self._gpus = workers, address, gpus

    def __call__(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        ray = self._ray
        if self._address:
            ray.init(address=self._address, log_to_driver=False)
        else:
            ray.init(num_cpus=self._workers or None, log_to_driver=False, include_dashboard=False)
        try:
            task = ray.remote(max_retries=_RETRIES, num_cpus=1, num_gpus=self._gpus)(process_anywhere)
            waiting = {task.remote(job): job for job in jobs}
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(ready)
                try:
                    yield ray.get(ready)
                except ray.exceptions.RayError as error:  # it died every time
                    yield Outcome(job.name, "failed", error=" ".join(str(error).split())[:400])
        finally:
            ray.shutdown()
