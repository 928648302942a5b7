# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Writes the results of the study into a page: the table, the differences that the claims of the paper are about, the
dial, plots, and drawings side by side. Every number comes from the JSON files.

    PYTHONPATH=examples python -m study.report docs/study.md examples/study/results
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from PIL import Image

from lavit_hf.publishing.files import replacing_file
from lavit_hf.visualization import Sample, draw_sheet

from . import differences
from .budgets import BASE, OWN, ROWS, check_budgets
from .claims import CLAIMS
from .differences import Results, Value, decide, subtract
from .json_files import compare_recipes, read_json
from .plots import plot_curves, plot_dial
from .systems import compare_parts
from .tuning import JUDGED_BY


MADE_BY = "made by examples/study/report.py"
NO_RESULTS = "*There are no results yet: `make study` makes them.*"
# The measures of the table, by their headings: a task and a metric.
MEASURES = {
    "captions": ("captions", "everything"),
    "CIDEr": ("captions", "cider"),
    "questions": ("questions", "accuracy"),
    "drawing": ("drawing", "everything"),
    "drawn objects": ("drawing", "each_object"),
    "edits": ("edits", "everything"),
    "edited objects": ("edits", "each_object"),
    "reconstruction": ("reconstruction", "everything"),
    "PSNR": ("reconstruction", "psnr"),
}
UNRELATED = "ignoring the input"
NOT_SHARES = ("CIDEr", "PSNR")


def load_results(folder: Path) -> dict[str, list[dict]]:
    """
    Loads the results of all rows, by row and in the order of seeds.

    Raises:
        ValueError: If rows were trained with different budgets, or rows of one seed with different parts.
    """
    known: list[dict] = []
    found: dict[str, list[dict]] = {}
    for row in ROWS:
        paths = sorted(folder.glob(f"{row}-seed[0-9]*.json"))
        if paths:
            found[row] = [read_json(path) for path in paths]
    for results in found.values():
        first = results[0]
        for result in results:  # seeds of a row have one recipe, and rows those of LaVIT but for what they are about
            compare_recipes(first["row"], first["recipe"], result["recipe"], set(OWN) - {"learning_rate"})
            for other in known:
                if other["seed"] == result["seed"]:
                    compare_parts(other["row"], other, result["recipe"], result["parts"])
            known.append(result)
            if BASE in found:
                check_budgets({BASE: found[BASE][0]["recipe"]} | {result["row"]: result["recipe"]})
    return found


def measure(results: Sequence[dict], heading: str) -> Value | None:
    """Returns a measure over seeds, or None if the system lacks it."""
    return differences.measure(results, *MEASURES[heading])


def show_measure(value: Value | None, heading: str) -> str:
    if value is None:
        return "-"
    return value.show(2) if heading in NOT_SHARES else value.show(1, 100)


def show_chance(results: Results, heading: str) -> str:
    """Writes the best of the baselines of LaVIT, or of the first row: other cases, or the commonest answer."""
    task, metric = MEASURES[heading]
    first = BASE if BASE in results else next(iter(results))
    found = results[first][0]["evaluation"]["results"].get(task, {}).get(metric, {})
    baselines = found.get("baselines", {})
    if not baselines:
        return "-"
    return f"{max(baselines.values()):.2f}" if heading in NOT_SHARES else f"{100 * max(baselines.values()):.1f}"


def make_table(results: Results) -> str:
    """Makes the table of all rows: what each one scores, and what it costs."""
    if not results:
        return NO_RESULTS
    costs = ("image tokens", "PFLOP", "weights, M", "rate", "seeds")
    heads = ["row", *MEASURES, *costs]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row, found in results.items():
        cells = [show_measure(measure(found, heading), heading) for heading in MEASURES]
        cells += [
            f"{fmean(result['image_tokens'] for result in found):.1f}",
            f"{fmean(result['operations']['total'] for result in found) / 1e15:.3g}",
            f"{found[0]['trained_parameters'] / 1e6:.2f}",
            f"{found[0]['recipe']['learning_rate']:g}",
            str(len(found)),
        ]
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    chance = [show_chance(results, heading) for heading in MEASURES] + ["-"] * len(costs)
    lines.append(f"| {UNRELATED} | {' | '.join(chance)} |")
    told = [*_costs_of_images(results), "", _name_versions(results)]
    return "\n".join([*lines, "", *_kinds_of_questions(results), "", *told])


def _name_versions(results: Results) -> str:
    """Returns the sentence about the devices and versions of all results."""
    made = [result for found in results.values() for result in found]
    devices = " and ".join(sorted({result["device"] for result in made}))
    names = sorted({name for result in made for name in result["versions"]})
    versions = [f"{name} {' and '.join(sorted({result['versions'][name] for result in made}))}" for name in names]
    return f"All rows were made on {devices}, with {', '.join(versions)}."


def _costs_of_images(results: Results) -> list[str]:
    """Returns the sentence about the operations of the frozen visual tokenizer, which those of training leave out."""
    parts = results[next(iter(results))][0]["operations"]["visual_tokenizer_per_image"]
    shown = ", ".join(f"{part.replace('_', ' ')} {count / 1e9:.3g}" for part, count in parts.items())
    told = "Reconstructions of `regression` are those of vectors that are not quantized."
    return [f"The visual tokenizer of `{next(iter(results))}` takes, in GFLOP per image: {shown}. {told}"]


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
            Value(tuple(answer[name]["value"] for answer in answers)).show(1, 100)
            if all(name in answer for answer in answers)
            else "-"
            for name in names
        ]
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return lines


def make_differences(results: Results) -> str:
    """Makes a paragraph for each claim: the differences of its rows in points, with their 95% intervals."""
    parts = []
    for claim in CLAIMS:
        cases = [(rival, heading) for rival in claim.rivals for heading in claim.headings if rival in results]
        found = {
            case: subtract(results, claim.own, case[0], *MEASURES[case[1]]) for case in cases if claim.own in results
        }
        found = {case: difference for case, difference in found.items() if difference is not None}
        decided = claim.rivals if claim.decided is None else claim.decided
        primary = [case for case in found if case[1] in claim.primary and case[0] in decided]
        verdicts = dict(zip(primary, decide([found[case] for case in primary]), strict=True))
        lines = []
        for (rival, heading), difference in found.items():
            factor = 1 if heading in NOT_SHARES else 100
            half = ", one seed" if difference.half is None else f" ± {factor * difference.half:.1f}"
            verdict = verdicts.get((rival, heading), "")
            lines.append(f"| `{rival}` | {heading} | {factor * difference.mean:+.1f}{half} | {verdict} |")
        if lines:
            head = f"| `{claim.own}` minus | measure | difference | the claim |\n| --- | --- | --- | --- |"
            note = ["", claim.note] if claim.note else []
            parts.append("\n".join([f"**{claim.text}**", "", head, *lines, *note]))
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
            found = point["values"].get(task, {}).get(metric)
            cells.append(show_measure(found and Value((found["value"],)), heading) + show_interval(found))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def show_interval(found: Mapping | None) -> str:
    """Writes the 95% interval of a share, in percent."""
    if not found or found["interval"] is None:
        return ""
    low, high = found["interval"]
    return f" ({100 * low:.0f} to {100 * high:.0f})"


def make_trials(sweep: Mapping, trials: Mapping) -> str:
    """Makes the tables of what was tuned: learning rates of all rows, and the settings that were tried of rivals."""
    parts = []
    if sweep:
        rates = sorted({float(rate) for entry in sweep.values() for rate in entry["held_out_losses"]})
        heads = ["held-out loss", *(f"{rate:g}" for rate in rates), "best"]
        lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        for row, entry in sweep.items():
            losses = {float(rate): loss for rate, loss in entry["held_out_losses"].items()}
            cells = ["-" if losses.get(rate) is None else f"{losses[rate]:.3f}" for rate in rates]
            lines.append(f"| `{row}` | {' | '.join(cells)} | {entry['best']:g} |")
        parts.append("\n".join(lines))
    for row, entry in trials.items():
        lines = [
            f"| `{row}`, {entry['made']['steps']} steps | {entry['task']}: each object | everything |",
            "| --- | --- | --- |",
        ]
        for one in entry["values"]:
            value = one["value"]
            name = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
            cells = [show_measure(Value((one[key]["value"],)), "") for key in (JUDGED_BY, "everything")]
            lines.append(f"| {f'**{name}**' if value == entry['best'] else name} | {' | '.join(cells)} |")
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

    def path(row: str, index: int) -> Path:
        return folder / f"{row}-seed0-{index}.png"

    rows = [row for row, found in results.items() if found[0]["drawings"] and path(row, 0).exists()]
    if not rows:
        return None
    prompts = results[rows[0]][0]["drawings"]
    samples = [
        Sample(tuple(Image.open(path(row, index)) for row in rows), (prompt,)) for index, prompt in enumerate(prompts)
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
