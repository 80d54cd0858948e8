"""The command line: what to measure, and how the result is shown."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .checks import Mismatch
from .client import BrokerError
from .report import filesystem, machine, print_table, rows_of, write_json
from .run import Run, count_runs, run_all
from .scenarios import SCENARIOS, Options, Scenario
from .subjects import OwnBroker, RunningBroker, Subject, parse_target

USAGE = 64
"""Exit status for a command that cannot be understood (sysexits.h)."""
BUSY_LOAD = 0.5
"""With a load average over this before it starts, a benchmark measures something else, too."""
FILE_COLUMNS = 140
DESCRIPTION = "Measure AMQP 0-9-1 brokers: ours, started anew for each run, and others by URL."


class UsageError(Exception):
    """The command line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m bench", description=DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--list", action="store_true", help="list the scenarios and leave")
    add("--scenario", nargs="+", action="extend", metavar="NAME", help="measure these only")
    add("--quick", action="store_true", help="one short run of each, in under a minute")
    add("--repeat", type=int, metavar="N", help="runs of each scenario and broker (default 5)")
    add("--seconds", type=float, metavar="S", help="measured time of a run (default 5)")
    add("--window", type=int, metavar="N", help="messages in flight, at most (default 5000)")
    add(
        "--url",
        action="append",
        default=[],
        metavar="[NAME=]URL[,URL]",
        help="a running broker, too",
    )
    add("--only-urls", action="store_true", help="leave our own broker out")
    add("--pid", action="append", default=[], metavar="NAME=PID", help="for memory figures")
    add("--data-dir", type=Path, default=Path(), metavar="DIR", help="a real disk, for ours (here)")
    add("--json", type=Path, metavar="FILE", help="write every run's figures")
    return parser


def _chosen(names: Sequence[str] | None) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names or ():
        if name not in known:
            raise UsageError(f"there is no scenario {name!r}; --list shows them")
    return [scenario for scenario in SCENARIOS if names is None or scenario.name in names]


def _options(arguments: argparse.Namespace) -> tuple[Options, int]:
    """Options and number of repeats."""
    options, repeat = Options(), 5
    if arguments.quick:
        options, repeat = Options(seconds=0.4, warm_up_s=0.2, size=0.1), 1
    seconds = options.seconds if arguments.seconds is None else arguments.seconds
    window = options.window if arguments.window is None else arguments.window
    repeat = repeat if arguments.repeat is None else arguments.repeat
    if seconds <= 0 or window < 1 or repeat < 1:
        raise UsageError("--seconds, --window and --repeat must be positive")
    return Options(seconds, options.warm_up_s, window, options.size), repeat


def _parse_pid(text: str) -> tuple[str, int]:
    name, _, pid = text.rpartition("=")
    if not name or not pid.isdecimal():
        raise ValueError(f"--pid {text!r} is not NAME=PID")
    return name, int(pid)


def _subjects(arguments: argparse.Namespace) -> list[Subject]:
    """The brokers to measure. Raises `UsageError`, and `BrokerError` if one does not answer."""
    try:
        targets = [parse_target(text) for text in arguments.url]
        pids = dict(_parse_pid(text) for text in arguments.pid)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not arguments.data_dir.is_dir():
        raise UsageError(f"--data-dir {arguments.data_dir} is no folder")
    if arguments.only_urls and not targets:
        raise UsageError("--only-urls needs a --url")
    others = [RunningBroker(url, name, holder) for name, url, holder in targets]
    for other in others:
        other.pid = pids.pop(other.name, None)
    if pids:
        raise UsageError(f"--pid names no broker that is measured: {', '.join(pids)}")
    subjects: list[Subject] = (
        [*others] if arguments.only_urls else [OwnBroker(arguments.data_dir), *others]
    )
    names = [subject.name for subject in subjects]
    if len(set(names)) < len(names):
        raise UsageError(f"two brokers have one name: {', '.join(names)}; use --url NAME=URL")
    return subjects


def _caption(options: Options, repeat: int, before: dict[str, Any], on_disk: bool) -> str:
    parts = [
        f"median (least – most) of {repeat} × {options.seconds:g} s",
        f"at most {options.window} messages in flight",
        f"counts × {options.size:g}" if options.size != 1 else "",
        f"{before['cpus']} CPUs, load {before['load_average'][0]:.2f} before",
        f"Python {before['python']}",
        f"durable rows of ours in {before['data']}" if on_disk else "",
    ]
    return "; ".join(filter(None, parts))


def _warn(console: Console, data_dir: Path | None) -> None:
    """Say what makes the figures worthless; ``data_dir`` is None if nothing is kept there."""
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        console.print(
            f"The machine is busy (load average {load:.2f}): these figures mean little.",
            style="yellow",
        )
    if data_dir is not None and filesystem(data_dir) == "tmpfs":
        console.print(
            f"{data_dir.resolve()} is no disk: choose one with --data-dir.", style="yellow"
        )


def _run_with_progress(
    console: Console,
    scenarios: Sequence[Scenario],
    subjects: Sequence[Subject],
    options: Options,
    repeat: int,
) -> list[Run]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # Redrawing twice a second takes nothing from the loop that is measured.
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        task = progress.add_task("", total=count_runs(scenarios, subjects, repeat))
        runs = []
        for run in run_all(
            scenarios,
            subjects,
            options,
            repeat,
            lambda text: progress.update(task, description=text),
        ):
            runs.append(run)
            progress.advance(task)
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status: 0, 1 if something failed, 64 for bad usage."""
    errors = Console(stderr=True)
    try:
        arguments = _parser().parse_args(argv)
        scenarios = _chosen(arguments.scenario)
        if arguments.list:
            for scenario in scenarios:
                print(f"{scenario.name:18} {'; '.join(f.title for f in scenario.figures)}")
            return 0
        options, repeat = _options(arguments)
        subjects = _subjects(arguments)
        on_disk = not arguments.only_urls and any(scenario.durable for scenario in scenarios)
        _warn(errors, arguments.data_dir if on_disk else None)
        before = machine(arguments.data_dir)
        runs = _run_with_progress(errors, scenarios, subjects, options, repeat)
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return USAGE
    except (BrokerError, Mismatch) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    rows = rows_of(scenarios, runs)
    # What is written to a file is not folded to the width of a terminal.
    output = Console(width=None if sys.stdout.isatty() else FILE_COLUMNS)
    print_table(output, rows, subjects, _caption(options, repeat, before, on_disk))
    if arguments.json:
        write_json(arguments.json, before, options, subjects, rows, runs)
    return 1 if any(run.failure for run in runs) else 0
