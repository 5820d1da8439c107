"""`vivim-run ARCHIVE/ OUT/ --recursive`: what it is told, and what it says. A layer over vivim_runtime.archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivim_runtime.archive import RESULTS, Archive, Executor, Outcome, run_archive, run_here
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import UsageError
from vivim_runtime.files import sha256_file
from vivim_runtime.offline import RunOptions

__all__ = ["archive_command", "executor"]

_console = terminal(stderr=True)


def executor(on: str, workers: int) -> Executor:
    """Where the sources of an archive are processed: "" here, "ray" or "ray://host:port" on a cluster of Ray.

    Raises:
        UsageError: it is none of these.
        MissingExtraError: Ray is not installed.
    """
    if not on:
        if workers:
            raise UsageError(f"--workers {workers} are Ray's; add --on ray")
        return run_here
    if on != "ray" and not on.startswith("ray://"):
        raise UsageError(f"--on is {on}; expected ray (this machine), or ray://HOST:PORT")
    from vivim_runtime.cluster import RayExecutor

    return RayExecutor(workers, "" if on == "ray" else on)


def archive_command(
    root: str,
    outputs: Sequence[str],
    model: Path,
    options: RunOptions,
    execute: Executor,
    quiet: bool,
    device: str,
    threads: int,
) -> int:
    """Process an archive and return the exit code: 2 where a source failed."""
    if len(outputs) != 1:
        raise UsageError(f"--recursive takes one folder for the results; there are {len(outputs)}")
    archive = Archive(Path(root), Path(outputs[0]), model, sha256_file(model), options, device, threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console, transient=True, disable=quiet) as progress:
        task = progress.add_task("sources", total=None)

        def tell(outcome: Outcome, count: int) -> None:
            progress.update(task, advance=1, total=count)
            if outcome.state == "failed":
                progress.print(f"failed: {outcome.name}: {outcome.error}", soft_wrap=True)

        outcomes = run_archive(archive, execute, tell)
    counts = Counter(outcome.state for outcome in outcomes)
    if not quiet:
        said = ", ".join(
            f"{counts[state]} {state}" for state in ("done", "kept", "no picture", "failed") if counts[state]
        )
        frames = sum(outcome.frames for outcome in outcomes)
        _console.print(f"{len(outcomes)} sources: {said}; {frames} frames; {archive.out / RESULTS}", soft_wrap=True)
    return 2 if counts["failed"] else 0
