# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Writes the results of the study into a page: tables, the differences that the claims of the paper are about, tokens
against quality, plots, and drawings side by side. Every number comes from the JSON files.

    PYTHONPATH=examples python -m study.report docs/study.md examples/study/results
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from lavit_hf.publishing.files import replacing_file

from . import differences
from .budgets import BASE, OWN, ROWS, check_budgets
from .claims import CLAIMS, COMPARISONS, Claim
from .differences import Difference, Results, Value, adjust, compare_cases, list_cases, name_verdict, subtract
from .json_files import compare_recipes, read_json
from .plots import draw_side_by_side, plot_curves, plot_dial
from .systems import compare_parts
from .tuning import JUDGED_BY


MADE_BY = "made by examples/study/report.py"
NO_RESULTS = "*There are no results yet: `make study` makes them.*"
# The measures of the table, by their headings: a task and a metric.
MEASURES = {
    "captions": ("captions", "objects"),
    "CIDEr": ("captions", "cider"),
    "questions": ("questions", "accuracy"),
    "drawing": ("drawing", "everything"),
    "drawn objects": ("drawing", "object_f1"),
    "edits": ("edits", "everything"),
    "edited objects": ("edits", "object_f1"),
    "reconstruction": ("reconstruction", "everything"),
    "PSNR": ("reconstruction", "psnr"),
}
# The baselines of the table: results of another case or the commonest answer, and the image before an edit.
BASELINES = {"ignoring the input": ("unrelated", "majority"), "input unchanged": ("unedited",)}
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


def show_baseline(results: Results, task: str, metric: str, names: Sequence[str], is_share: bool = True) -> str:
    """Writes a baseline of LaVIT, or of the first row, the one that there is of several `names`."""
    first = BASE if BASE in results else next(iter(results))
    found = results[first][0]["evaluation"]["results"].get(task, {}).get(metric, {}).get("baselines", {})
    for name in names:
        if name in found:
            return f"{100 * found[name]:.1f}" if is_share else f"{found[name]:.2f}"
    return "-"


def make_rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a table of Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def make_table(results: Results) -> str:
    """Makes the tables of all rows: what each one scores, what it costs, and its answers by the kind of question."""
    if not results:
        return NO_RESULTS
    scores = [
        [f"`{row}`", *(show_measure(measure(found, heading), heading) for heading in MEASURES)]
        for row, found in results.items()
    ]
    scores += [
        [label, *(show_baseline(results, *MEASURES[name], names, name not in NOT_SHARES) for name in MEASURES)]
        for label, names in BASELINES.items()
    ]
    heads = ("row", "tokens, read", "tokens, drawn", "PFLOP", "weights, M", "rate", "seeds", "minutes")
    costs = [[f"`{row}`", *_costs(found)] for row, found in results.items()]
    told = [*_costs_of_images(results), "", _name_versions(results)]
    tables = [make_rows(("row", *MEASURES), scores), make_rows(heads, costs), _kinds_of_questions(results)]
    return "\n\n".join([*filter(None, tables), "\n".join(told)])


def _costs(found: Sequence[dict]) -> list[str]:
    """Returns the costs of a row: tokens per image, operations, trained weights, rate, seeds, and time."""
    drawn = differences.measure(found, "drawing", "num_codes")
    return [
        f"{fmean(result['image_tokens'] for result in found):.1f}",
        f"{drawn.mean:.1f}" if drawn else "-",
        f"{fmean(result['operations']['total'] for result in found) / 1e15:.3g}",
        f"{found[0]['trained_parameters'] / 1e6:.2f}",
        f"{found[0]['recipe']['learning_rate']:g}",
        str(len(found)),
        f"{median(result['seconds']['training'] for result in found) / 60:.0f}",
    ]


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
    told = " Reconstructions of `regression` are those of vectors that are not quantized." * ("regression" in results)
    return [f"The visual tokenizer of `{next(iter(results))}` takes, in GFLOP per image: {shown}.{told}"]


def _kinds_of_questions(results: Results) -> str:
    """Returns the table of answers by the kind of the question, the means over seeds."""
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
        return ""
    heads = ["questions about", *(name.removeprefix("accuracy_").replace("_", " ") for name in names)]
    lines = []
    for row, found in results.items():
        answers = [result["evaluation"]["results"].get("questions", {}) for result in found]
        cells = [
            f"{100 * fmean(answer[name]['value'] for answer in answers):.1f}"
            if all(name in answer for answer in answers)
            else "-"
            for name in names
        ]
        lines.append([f"`{row}`", *cells])
    common = [show_baseline(results, "questions", name, ["majority"]) for name in names]
    return make_rows(heads, [*lines, ["commonest answer", *common]])


def compare(results: Results, claim: Claim) -> dict[tuple[str, str], tuple[Difference, str]]:
    """Returns the differences that a claim is about and their verdicts, by rival and heading of the measure."""
    found = {
        (rival, heading): difference
        for rival in claim.rivals
        for heading in claim.headings
        if claim.own in results
        and rival in results
        and (difference := subtract(results, claim.own, rival, *MEASURES[heading])) is not None
    }
    primary = [case for case in found if case[1] in claim.primary]
    verdicts = dict.fromkeys(found, "")
    for case, p_value in zip(primary, adjust([found[case] for case in primary]), strict=True):
        verdicts[case] = name_verdict(found[case], p_value)
    return {case: (difference, verdicts[case]) for case, difference in found.items()}


def show_difference(difference: Difference, heading: str) -> str:
    """Writes a difference with half of its 95% interval."""
    digits, factor = (2, 1) if heading in NOT_SHARES else (1, 100)
    text = f"{factor * difference.mean:+.{digits}f}"
    if difference.half is None:
        return f"{text}, no interval"
    return f"{text} ± {factor * difference.half:.{digits}f}{'' if difference.has_seeds else ' (test set alone)'}"


def make_differences(results: Results) -> str:
    """Makes a paragraph for each claim: the differences of its rows in points, with their 95% intervals."""
    parts = []
    for title, claims in (("The claims of the paper", CLAIMS), ("Further comparisons", COMPARISONS)):
        told = []
        for number, claim in enumerate(claims, 1):
            found = compare(results, claim)
            lines = [
                [f"`{rival}`", heading, show_difference(difference, heading), verdict]
                for (rival, heading), (difference, verdict) in found.items()
            ]
            if lines:
                table = make_rows((f"`{claim.own}` minus", "measure", "difference", "verdict"), lines)
                name = f"{number}. {claim.text}" if claims is CLAIMS else claim.text
                told.append("\n\n".join(filter(None, [f"**{name}**", table, claim.note])))
        if told:
            parts += [f"### {title}", *told]
    return "\n\n".join(parts) or NO_RESULTS


def make_answers(results: Results) -> str:
    """Makes a list of the claims of the paper, with what each one comes to here."""
    lines = []
    for number, claim in enumerate(CLAIMS, 1):
        told = [
            f"    - Against `{rival}`, {claim.told[rival]}: {show_difference(difference, heading)}, "
            f"{verdict or 'no verdict'}"
            for (rival, heading), (difference, verdict) in compare(results, claim).items()
            if heading == "questions" and rival in claim.told
        ]
        lines += [f"{number}. {claim.text} {claim.here}", *(told or ["    - no results yet"])]
    return "\n".join(lines)


def make_dial(dial: Mapping) -> str:
    """
    Makes the tables of tokens against quality: a line for each mean number of tokens, and differences between
    selections of one visual tokenizer.
    """
    if not dial:
        return NO_RESULTS
    headings = ["reconstruction", "PSNR", "captions", "questions"]
    size = f"Each point is measured on {dial['num_rows']} scenes of the test set."
    cases = [(point, curve) for curve in dial["curves"] for point in curve["points"]]
    lines = [
        [
            f"{point['tokens']:.1f}",
            curve["tokenizer"],
            curve["selection"],
            *(
                show_measure(differences.measure([_result(point)], *MEASURES[heading]), heading)
                for heading in headings
            ),
        ]
        for point, curve in sorted(cases, key=lambda case: case[0]["budget"])
    ]
    tables = [size, make_rows(["tokens", "tokenizer", "selection", *headings], lines)]
    by_place = {(curve["tokenizer"], curve["selection"], point["budget"]): point for point, curve in cases}
    lines = []
    for tokenizer, selection, budget in by_place:
        fixed = by_place.get((tokenizer, "fixed", budget))
        if selection == "adaptive" and fixed is not None:
            pairs = [
                _paired_cases(by_place[tokenizer, selection, budget], fixed, *MEASURES[name]) for name in headings
            ]
            shown = [
                show_difference(compare_cases(*pair), heading).removesuffix(" (test set alone)") if pair else "-"
                for pair, heading in zip(pairs, headings, strict=True)
            ]
            lines.append([str(budget), tokenizer, *shown])
    if lines:
        tables.append(make_rows(["tokens", "tokenizer: adaptive minus fixed", *headings], lines))
    return "\n\n".join(tables)


def _result(point: Mapping) -> dict:
    """Returns a point of a curve in the form of the results of a row."""
    return {"evaluation": {"results": point["values"]}}


def _paired_cases(first: Mapping, second: Mapping, task: str, metric: str) -> list[list[float]] | None:
    """Returns the values of a measure for each row of the test set at two points, or None if they were not kept."""
    found = [list_cases(point, task, metric) for point in (first, second)]
    return found if all(found) else None


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
            f"| `{row}`, {entry['made']['steps']} steps | {entry['task']}: F1 of objects | everything |",
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
        "answers": make_answers(results),
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
    names = ("answers", "table", "differences", "trials", "dial", "pictures")
    marks = [f"<!-- {name}: {MADE_BY} -->\n\n<!-- end of {name} -->" for name in names]
    return "\n\n".join(["# Study", *marks]) + "\n"


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
        plot_curves(results, MEASURES, list(ROWS), pictures / "curves.png")
    if dial:
        plot_dial(dial, MEASURES, pictures / "dial.png")
    if (sheet := draw_side_by_side(results, folder / "drawings")) is not None:
        sheet.save(pictures / "drawings.png")
    text = page.read_text(encoding="utf-8") if page.exists() else empty_page()
    with replacing_file(page) as hidden:
        hidden.write_text(render(text, folder, find_pictures(page)), encoding="utf-8")


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
