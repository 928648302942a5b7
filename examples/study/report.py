# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Writes the results of the study into a page: the table, the differences that the claims of the paper are about, the
dial, plots, and drawings side by side. Every number comes from the JSON files.

    PYTHONPATH=examples python -m study.report docs/study.md examples/study/results
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from PIL import Image

from lavit_hf.publishing.files import replacing_file
from lavit_hf.visualization import Sample, draw_sheet

from .budgets import BASE, ROWS, check_budgets
from .json_files import read_json
from .plots import plot_curves, plot_dial


MADE_BY = "made by examples/study/report.py"
NO_RESULTS = "*There are no results yet: `make study` makes them.*"
# The measures of the table, by their headings: a task and a metric.
MEASURES = {
    "captions": ("captions", "everything"),
    "CIDEr": ("captions", "cider"),
    "questions": ("questions", "accuracy"),
    "drawing": ("drawing", "everything"),
    "edits": ("edits", "everything"),
    "own words": ("own_words", "right"),
    "reconstruction": ("reconstruction", "everything"),
    "PSNR": ("reconstruction", "psnr"),
}
NOT_SHARES = ("CIDEr", "PSNR")
READING = ("captions", "questions")
DRAWING = ("drawing", "edits")
# The claims of the paper, with the rows that LaVIT is compared with and the measures that tell.
CLAIMS = {
    "Supervising images and text alike beats supervising text alone.": (
        ("lavit_text_only", "adapter_linear", "adapter_mlp", "adapter_resampler"),
        READING,
    ),
    "Predicting discrete codes beats regressing the next visual vector.": (("regression",), READING + DRAWING),
    "A number of tokens that follows the content beats a fixed one.": (("fixed_all", "fixed_k"), READING + DRAWING),
    "Folding the dropped patches into the kept ones beats leaving them out.": (
        ("dynamic_dropped",),
        (*READING, *DRAWING, "reconstruction"),
    ),
    "Reading features of the merger beats reading codes.": (("discrete_input",), READING),
}


@dataclass(frozen=True)
class Value:
    """
    A value over the seeds of a row.

    Args:
        mean (`float`): The mean.
        spread (`float`, *optional*): Half of the range, None for a single seed.
    """

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Value":
        """Makes the value of the numbers of all seeds."""
        return cls(fmean(values), (max(values) - min(values)) / 2 if len(values) > 1 else None)

    def minus(self, other: "Value") -> "Value":
        """Returns the difference. Its spread is the sum of both, as far as the seeds of both allow."""
        spreads = (self.spread, other.spread)
        return Value(self.mean - other.mean, None if None in spreads else sum(spreads))

    def show(self, digits: int = 1, factor: float = 1.0, sign: str = "") -> str:
        """Writes the value, such as `71.2 ± 0.4`."""
        text = f"{factor * self.mean:{sign}.{digits}f}"
        return text if self.spread is None else f"{text} ± {factor * self.spread:.{digits}f}"


Results = Mapping[str, Sequence[dict]]


def load_results(folder: Path) -> dict[str, list[dict]]:
    """
    Loads the results of all rows, by row and in the order of seeds.

    Raises:
        ValueError: If rows were trained with different budgets.
    """
    found: dict[str, list[dict]] = {}
    for row in ROWS:
        paths = sorted(folder.glob(f"{row}-seed[0-9]*.json"))
        if paths:
            found[row] = [read_json(path) for path in paths]
    if BASE in found:
        for results in found.values():
            for result in results:
                check_budgets({BASE: found[BASE][0]["recipe"], result["row"]: result["recipe"]})
    return found


def measure(results: Sequence[dict], heading: str) -> Value | None:
    """Returns a measure over seeds, or None if the system lacks it."""
    task, metric = MEASURES[heading]
    tasks = [result["evaluation"]["results"].get(task, {}) for result in results]
    if not all(metric in found for found in tasks):
        return None
    return Value.of([found[metric]["value"] for found in tasks])


def show_measure(value: Value | None, heading: str, sign: str = "") -> str:
    if value is None:
        return "-"
    return value.show(2, sign=sign) if heading in NOT_SHARES else value.show(1, 100, sign)


def make_table(results: Results) -> str:
    """Makes the table of all rows: what each one scores, and what it costs."""
    if not results:
        return NO_RESULTS
    costs = ("image tokens", "PFLOP", "minutes", "weights, M", "rate", "seeds")
    heads = ["row", *MEASURES, *costs]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row, found in results.items():
        cells = [show_measure(measure(found, heading), heading) for heading in MEASURES]
        cells += [
            f"{fmean(result['image_tokens'] for result in found):.1f}",
            f"{fmean(result['operations']['total'] for result in found) / 1e15:.3g}",
            f"{fmean(result['seconds']['training'] for result in found) / 60:.1f}",
            f"{found[0]['trained_parameters'] / 1e6:.2f}",
            f"{found[0]['recipe']['learning_rate']:g}",
            str(len(found)),
        ]
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_kinds_of_questions(results)])


def _kinds_of_questions(results: Results) -> list[str]:
    """Returns the lines of the table of answers by the kind of the question."""
    names = sorted(
        {
            name
            for found in results.values()
            for result in found
            for name in result["evaluation"]["results"].get("questions", {})
            if name.startswith("accuracy_")
        }
    )
    if not names:
        return []
    heads = ["questions about", *(name.removeprefix("accuracy_").replace("_", " ") for name in names)]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row, found in results.items():
        answers = [result["evaluation"]["results"].get("questions", {}) for result in found]
        cells = [
            Value.of([answer[name]["value"] for answer in answers]).show(1, 100)
            if all(name in answer for answer in answers)
            else "-"
            for name in names
        ]
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return lines


def judge(difference: Value) -> str:
    """Says what a difference tells: whether it is larger than the spread over seeds."""
    if difference.spread is None:
        return "one seed, no spread"
    if abs(difference.mean) <= difference.spread:
        return "within the spread"
    return "holds" if difference.mean > 0 else "does not hold"


def make_differences(results: Results) -> str:
    """Makes a paragraph for each claim: the differences of LaVIT and its rivals in points, with their spread."""
    parts = []
    for claim, (rivals, headings) in CLAIMS.items():
        lines = []
        for rival in [rival for rival in rivals if BASE in results and rival in results]:
            for heading in headings:
                own, other = measure(results[BASE], heading), measure(results[rival], heading)
                if own is not None and other is not None:
                    difference = own.minus(other)
                    shown = show_measure(difference, heading, "+")
                    lines.append(f"| `{rival}` | {heading} | {shown} | {judge(difference)} |")
        if lines:
            head = "| LaVIT minus | measure | difference | this size says |\n| --- | --- | --- | --- |"
            parts.append("\n".join([f"**{claim}**", "", head, *lines]))
    return "\n\n".join(parts) or NO_RESULTS


def make_dial(dial: Mapping) -> str:
    """Makes the table of the dial, with a line for each mean number of tokens."""
    if not dial:
        return NO_RESULTS
    headings = ["reconstruction", "PSNR", "captions", "questions"]
    heads = ["tokens", "tokenizer", "selection", *headings]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    cases = [(point, curve) for curve in dial["curves"] for point in curve["points"]]
    for point, curve in sorted(cases, key=lambda case: case[0]["budget"]):
        cells = [f"{point['tokens']:.1f}", curve["tokenizer"], curve["selection"]]
        for heading in headings:
            task, metric = MEASURES[heading]
            value = point["values"].get(task, {}).get(metric)
            cells.append(show_measure(None if value is None else Value(value, None), heading))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def make_trials(sweep: Mapping, trials: Mapping) -> str:
    """Makes the tables of what was tuned: learning rates of all rows, and the settings that were tried of rivals."""
    parts = []
    if sweep:
        rates = sorted({float(rate) for entry in sweep.values() for rate in entry["held_out_losses"]})
        heads = ["held-out loss", *(f"{rate:g}" for rate in rates), "best"]
        lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        for row, entry in sweep.items():
            losses = {float(rate): loss for rate, loss in entry["held_out_losses"].items()}
            cells = [f"{losses[rate]:.3f}" if rate in losses else "-" for rate in rates]
            lines.append(f"| `{row}` | {' | '.join(cells)} | {entry['best']:g} |")
        parts.append("\n".join(lines))
    for row, entry in trials.items():
        lines = [f"| `{row}`, {entry['steps']} steps | {entry['task']}: objects | everything |", "| --- | --- | --- |"]
        for name, values in entry["values"].items():
            shown = f"**{name}**" if name == entry["best"] else name
            lines.append(f"| {shown} | {100 * values['objects']:.1f} | {100 * values['everything']:.1f} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or NO_RESULTS


def replace_section(text: str, name: str, content: str) -> str:
    """
    Replaces what stands between the marks of a section.

    Raises:
        ValueError: If the marks are not there once each.
    """
    start, end = f"<!-- {name}: {MADE_BY} -->", f"<!-- end of {name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"The page must have {start!r} and {end!r} once each.")
    before, rest = text.split(start)
    return f"{before}{start}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def render(text: str, folder: Path, pictures: Sequence[str] = ()) -> str:
    """
    Returns the text of a page with its sections made anew from the JSON files in `folder`. `pictures` are paths
    relative to the page.
    """
    results = load_results(folder)
    sweep, trials, dial = (read_json(folder / f"{name}.json") for name in ("sweep", "trials", "dial"))
    shown = "\n\n".join(f"![{Path(path).stem}]({path})" for path in pictures) or NO_RESULTS
    sections = {
        "table": make_table(results),
        "differences": make_differences(results),
        "trials": make_trials(sweep, trials),
        "dial": make_dial(dial),
        "pictures": shown,
    }
    for name, content in sections.items():
        text = replace_section(text, name, content)
    return text


def empty_page() -> str:
    """Returns a page with the marks of all sections and nothing else."""
    names = ("table", "differences", "trials", "dial", "pictures")
    marks = [f"<!-- {name}: {MADE_BY} -->\n\n<!-- end of {name} -->" for name in names]
    return "\n\n".join(["# Study", *marks]) + "\n"


def draw_side_by_side(results: Results, folder: Path) -> Image.Image | None:
    """Draws what each system makes of the same prompts, with a line of images for each prompt."""
    rows = [row for row, found in results.items() if found[0]["drawings"]]
    if not rows:
        return None
    prompts = results[rows[0]][0]["drawings"]
    samples = [
        Sample(
            tuple(Image.open(folder / f"{row}-seed{results[row][0]['seed']}-{index}.png") for row in rows), (prompt,)
        )
        for index, prompt in enumerate(prompts)
    ]
    return draw_sheet(samples, side=96, columns=1, titles=rows)


def find_pictures(page: Path) -> list[str]:
    """Returns the paths of the pictures of a page, relative to it."""
    folder = page.with_suffix("")
    names = ("curves", "dial", "drawings")
    return [f"{folder.name}/{name}.png" for name in names if (folder / f"{name}.png").exists()]


def write_page(page: Path, folder: Path) -> None:
    """Writes the sections and the pictures of a page from the JSON files in `folder`."""
    results, dial = load_results(folder), read_json(folder / "dial.json")
    pictures = page.with_suffix("")
    if results or dial:
        pictures.mkdir(parents=True, exist_ok=True)
    if results:
        plot_curves(results, MEASURES, pictures / "curves.png")
    if dial:
        plot_dial(dial, MEASURES, pictures / "dial.png")
    if (sheet := draw_side_by_side(results, folder / "drawings")) is not None:
        sheet.save(pictures / "drawings.png")
    text = page.read_text(encoding="utf-8") if page.exists() else empty_page()
    with replacing_file(page) as hidden:
        hidden.write_text(render(text, folder, find_pictures(page)), encoding="utf-8")


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
