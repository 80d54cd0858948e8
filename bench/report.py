"""What the runs amount to: a table for people, JSON for programs."""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .run import CEILING, Row, Run
from .scenarios import Options, Scenario
from .stats import Summary, generator_bound, ratio
from .subjects import Subject

BOUND_VERDICT = "not measured (generator-bound)"


def rows_of(scenarios: Sequence[Scenario], runs: Sequence[Run]) -> list[Row]:
    """The rows of the table, in order."""
    return [
        Row(scenario, index, [run for run in runs if run.scenario == scenario.name])
        for scenario in scenarios
        for index in range(len(scenario.figures))
    ]


def verdict(row: Row, names: Sequence[str]) -> str:
    """What may be concluded from a row: empty, or why not all of it counts."""
    failed = [r for r in row.runs if r.failure]
    bound = [name for name in names if generator_bound(row.values(name), row.ceiling)]
    if failed:
        return f"failed: {failed[0].subject}: {failed[0].failure}"
    if bound:
        return f"{', '.join(bound)}: {BOUND_VERDICT}"
    return "; ".join(f"{name}: {row.reason(name)}" for name in names if row.reason(name))


def ratios(row: Row, names: Sequence[str]) -> list[float | None]:
    """The first subject against each other one; None where a side was not measured."""
    first, *others = (
        [] if generator_bound(row.values(name), row.ceiling) else row.values(name) for name in names
    )
    return [ratio(first, other) for other in others]


def number(value: float) -> str:
    """A figure with three significant digits; k and M are thousands and millions."""
    for factor, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= 10 * factor or (abs(value) >= factor and factor == 1e6):
            return _three_digits(value / factor) + suffix
    return _three_digits(value)


def _three_digits(value: float) -> str:
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f}"


def _cell(values: Sequence[float]) -> str:
    """Median, then least and most if there are several."""
    if not values:
        return "–"
    summary = Summary.of(values)
    if len(values) == 1:
        return number(summary.median)
    spread = f"{number(summary.least)} – {number(summary.most)}"
    return f"{number(summary.median)} [dim]({spread})[/dim]"


def print_table(
    console: Console, rows: Sequence[Row], subjects: Sequence[Subject], caption: str
) -> None:
    """Print one line per figure: medians with least and most, ratios, ceiling, verdict."""
    names = [subject.name for subject in subjects]
    table = Table(box=None, pad_edge=False, header_style="bold", caption=caption)
    table.caption_justify = "left"
    table.add_column("", no_wrap=True)
    table.add_column("", style="dim")
    for subject in subjects:
        heading = f"{subject.name}\n[dim]{subject.version}[/dim]"
        table.add_column(heading, justify="right", no_wrap=True)
    for other in names[1:]:
        table.add_column(f"{names[0]}\n/ {other}", justify="right")
    table.add_column("generator's\nceiling", justify="right", style="dim", no_wrap=True)
    table.add_column("", style="yellow")
    said = ""
    for row in rows:
        figure, ceiling = row.figure, row.ceiling
        above, said = said, verdict(row, names)
        table.add_row(
            figure.title,
            f"{figure.unit} {figure.arrow}",
            *(_cell(row.values(name)) for name in names),
            *("–" if value is None else f"{value:.2f}" for value in ratios(row, names)),
            number(Summary.of(ceiling).median) if ceiling else "",
            said if row.index == 0 or said != above else "",
        )
    console.print(table)


def filesystem(folder: Path) -> str:
    """The type of the file system that a folder is on; empty if the machine does not say."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except FileNotFoundError:
        return ""
    mounts = {point: kind for _, point, kind, *_ in map(str.split, lines)}
    here = folder.resolve()
    return next((mounts[str(p)] for p in (here, *here.parents) if str(p) in mounts), "")


def machine(data_dir: Path) -> dict[str, Any]:
    """Where and when the figures are from; ``data_dir`` is where our broker keeps its data."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "data": f"{data_dir.resolve()} ({filesystem(data_dir) or 'unknown file system'})",
        "load_average": os.getloadavg(),
    }


def write_json(
    path: Path,
    before: dict[str, Any],
    options: Options,
    subjects: Sequence[Subject],
    rows: Sequence[Row],
    runs: Sequence[Run],
) -> None:
    """Write every run's figures, and what they amount to. ``before`` is `machine`, before them."""
    names = [subject.name for subject in subjects]
    report = {
        "machine": before,
        "options": asdict(options),
        "subjects": [
            {"name": s.name, "product": s.product, "version": s.version} for s in subjects
        ],
        "rows": [_row_report(row, names) for row in rows],
        "runs": [asdict(run) for run in runs],
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def _row_report(row: Row, names: Sequence[str]) -> dict[str, Any]:
    figure = row.figure
    columns = {name: row.values(name) for name in [*names, CEILING]}
    return {
        "scenario": row.scenario.name,
        "figure": figure.title,
        "unit": figure.unit,
        "summaries": {k: asdict(Summary.of(v)) for k, v in columns.items() if v},
        "ratios": dict(zip(names[1:], ratios(row, names), strict=True)),
        "verdict": verdict(row, names),
    }
