# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Writes the results of the study into a page: tables, the differences that the claims of the paper are about, tokens
against quality, plots, and drawings side by side. Every number comes from the JSON files.

    PYTHONPATH=examples python -m study.report docs/study.md examples/study/results
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median

from lavit_hf.publishing.files import replacing_file

from . import differences
from .budgets import BASE, ROWS
from .claims import CLAIMS, COMPARISONS, Claim
from .dial_report import make_dial, tell_dial
from .differences import Difference, Results, Value, adjust, name_verdict, subtract
from .outcomes import Outcomes, load_outcomes
from .plots import draw_side_by_side, plot_curves, plot_dial
from .systems import OF_A_KIND
from .tables import MEASURES, NO_RESULTS, NOT_SHARES, make_rows, measure, show_difference, show_measure
from .tuning import JUDGED_BY


MADE_BY = "made by examples/study/report.py"
# The baselines of the table: results of another case or the commonest answer, and the image before an edit.
BASELINES = {"ignoring the input": ("unrelated", "majority"), "input unchanged": ("unedited",)}


def show_baseline(results: Results, task: str, metric: str, names: Sequence[str], is_share: bool = True) -> str:
    """Writes a baseline of LaVIT, or of the first row, the one that there is of several `names`."""
    first = BASE if BASE in results else next(iter(results))
    found = results[first][0]["evaluation"]["results"].get(task, {}).get(metric, {}).get("baselines", {})
    for name in names:
        if name in found:
            return f"{100 * found[name]:.1f}" if is_share else f"{found[name]:.2f}"
    return "-"


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
    heads = ("row", "tokens, read", "tokens, drawn", "PFLOP", "trained, M", "rate", "seeds", "minutes")
    costs = [[f"`{row}`", *_costs(found)] for row, found in results.items()]
    tables = [make_rows(("row", *MEASURES), scores), make_rows(heads, costs), _kinds_of_questions(results)]
    told = [_costs_of_images(results), _name_versions(results), _name_trainings(results)]
    unchanged = show_baseline(results, *MEASURES["edited objects"], BASELINES["input unchanged"])
    edited = [value.mean for found in results.values() if (value := measure(found, "edited objects")) is not None]
    if edited and unchanged != "-" and 100 * max(edited) < float(unchanged):
        told.append(
            f"Images that are left unchanged score {unchanged} in edited objects, and no row scores as high: after so "
            "short a training, all rows lose more than they edit, and differences between their edits say little."
        )
    if "regression" in results:
        told.append("Reconstructions of `regression` are those of vectors that are not quantized.")
    return "\n\n".join(filter(None, [*tables, *told]))


def _costs(found: Sequence[dict]) -> list[str]:
    """Returns the costs of a row: tokens per image, operations, trained weights, rate, seeds, and time."""
    drawn = differences.measure(found, "drawing", "num_codes")
    return [
        f"{fmean(result['image_tokens'] for result in found):.1f}",
        f"{drawn.mean:.1f}" if drawn else "-",
        f"{fmean(result['operations']['total'] for result in found) / 1e15:.2g}",
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


def _name_trainings(results: Results) -> str:
    """Returns the sentence about parts that some seeds have from another training, since their folder was lost."""
    trained: dict[tuple[str, str], dict[str, set[int]]] = {}
    for found in results.values():
        for result in found:
            for part in OF_A_KIND:
                if checksum := result["parts"].get(part):
                    kind = result["recipe"][part]
                    trained.setdefault((part, kind), {}).setdefault(checksum, set()).add(result["seed"])
    told = []
    for (part, kind), made in trained.items():
        if len(made) > 1:
            seeds = " and ".join(", ".join(map(str, sorted(seeds))) for seeds in made.values())
            told.append(f"the {part.replace('_', ' ')} `{kind}` (one for the seeds {seeds} each)")
    if not told:
        return "All rows and seeds of a kind of selection have the same visual tokenizer and pixel decoder."
    return f"These parts were trained anew between seeds: {', '.join(told)}. All others are the same for all seeds."


def _costs_of_images(results: Results) -> str:
    """Returns the sentence about the operations of the frozen visual tokenizer, which those of training leave out."""
    parts = results[next(iter(results))][0]["operations"]["visual_tokenizer_per_image"]
    shown = ", ".join(f"{part.replace('_', ' ')} {count / 1e9:.3g}" for part, count in parts.items())
    return f"The visual tokenizer of `{next(iter(results))}` takes, in GFLOP per image: {shown}."


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
    num_planned = len(claim.rivals) * len(claim.primary)
    for case, p_value in zip(primary, adjust([found[case] for case in primary], num_planned), strict=True):
        verdicts[case] = name_verdict(found[case], p_value)
    return {case: (difference, verdicts[case]) for case, difference in found.items()}


def show_noise(difference: Difference, heading: str) -> str:
    """Writes a difference with half of its 95% interval, and tells if that has the noise of the test set alone."""
    return show_difference(difference, heading) + " (test set alone)" * (not difference.has_seeds)


def make_differences(results: Results) -> str:
    """Makes a paragraph for each claim: the differences of its rows in points, with their 95% intervals."""
    parts = []
    for title, claims in (("The claims of the paper", CLAIMS), ("Further comparisons", COMPARISONS)):
        told = []
        for number, claim in enumerate(claims, 1):
            found = compare(results, claim)
            lines = [
                [f"`{rival}`", heading, show_noise(difference, heading), verdict]
                for (rival, heading), (difference, verdict) in found.items()
            ]
            if lines:
                table = make_rows((f"`{claim.own}` minus", "measure", "difference", "verdict"), lines)
                name = f"{number}. Claim: {claim.text}" if claims is CLAIMS else claim.text
                told.append("\n\n".join(filter(None, [f"**{name}**", table, claim.note])))
        if told:
            parts += [f"### {title}", *told]
    return "\n\n".join(parts) or NO_RESULTS


def make_answers(results: Results, dial: Mapping) -> str:
    """Makes a list of the claims of the paper and of the comparison with other designs, with what each comes to."""
    lines, verdicts = [], []
    for number, claim in enumerate(CLAIMS, 1):
        found = compare(results, claim)
        words = [
            f"{found[case][1].partition(',')[0]} against `{case[0]}`, {words}"
            for case, words in claim.told.items()
            if case in found and found[case][1]
        ]
        verdicts.append(f"Claim {number}: {'; '.join(words) or 'no verdict'}.")
        lines += [f"{number}. Claim: {claim.text} {claim.here}", *(_tell(results, claim) or ["    - no results yet"])]
    lines += tell_dial(dial) if dial else []
    for claim in COMPARISONS:
        if claim.told and (told := _tell(results, claim)):
            lines += [f"- Further: {claim.text} {claim.here}", *told]
    return "\n".join(([f"**{' '.join(verdicts)}**", ""] if results else []) + lines)


def _tell(results: Results, claim: Claim) -> list[str]:
    """Returns the lines of a claim: differences that it tells of, by another measure if theirs was not measured."""
    found, lines = compare(results, claim), {}
    for (rival, heading), words in claim.told.items():
        for name in [name for name in (heading, *claim.headings) if (rival, name) in found][:1]:
            difference, verdict = found[rival, name]
            shown = f"{show_noise(difference, name)}, {verdict or 'no verdict'}"
            lines.setdefault((rival, name), f"    - {name}, `{claim.own}` minus `{rival}`, {words}: {shown}")
    return list(lines.values())


def make_trials(sweep: Mapping, trials: Mapping) -> str:
    """Makes the tables of what was tuned: learning rates of all rows, and the settings that were tried of some."""
    parts = []
    if sweep:
        rates = sorted({float(rate) for entry in sweep.values() for rate in entry["held_out_losses"]})
        lines = []
        for row, entry in sweep.items():
            losses = {float(rate): loss for rate, loss in entry["held_out_losses"].items()}
            cells = ["-" if losses.get(rate) is None else f"{losses[rate]:.3f}" for rate in rates]
            lines.append([f"`{row}`", *cells, f"{entry['best']:g}"])
        parts.append(make_rows(["held-out loss", *(f"{rate:g}" for rate in rates), "best"], lines))
    for row, entry in trials.items():
        lines = []
        for one in entry["values"]:
            value = one["value"]
            name = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
            cells = [show_measure(Value((one[key]["value"],)), "") for key in (JUDGED_BY, "everything")]
            lines.append([f"**{name}**" if value == entry["best"] else name, *cells])
        heads = [f"`{row}`, {entry['made']['steps']} steps", f"{entry['task']}: F1 of objects", "everything"]
        parts.append(make_rows(heads, lines))
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


SECTIONS = ("answers", "table", "differences", "trials", "dial", "pictures")
PICTURES = ("curves", "dial", "drawings")


def render(text: str, outcomes: Outcomes, pictures: Mapping[str, str]) -> str:
    """
    Returns the text of a page with its sections made anew. `pictures` are those of `PICTURES` that there are, as paths
    relative to the page.
    """
    shown = {name: f"![{name}]({path})" for name, path in pictures.items()}
    contents = (
        make_answers(outcomes.results, outcomes.dial),
        make_table(outcomes.results),
        make_differences(outcomes.results),
        make_trials(outcomes.sweep, outcomes.trials),
        "\n\n".join(filter(None, [shown.pop("dial", ""), make_dial(outcomes.dial, outcomes.results)])),
        "\n\n".join(shown.values()) or NO_RESULTS,
    )
    for name, content in zip(SECTIONS, contents, strict=True):
        text = replace_section(text, name, content)
    return text


def empty_page() -> str:
    """Returns a page with the marks of all sections and nothing else."""
    marks = [f"<!-- {name}: {MADE_BY} -->\n\n<!-- end of {name} -->" for name in SECTIONS]
    return "\n\n".join(["# Study", *marks]) + "\n"


def find_pictures(page: Path) -> dict[str, str]:
    """Returns the paths of the pictures of a page, relative to it, by their names."""
    folder = page.with_suffix("")
    return {name: f"{folder.name}/{name}.png" for name in PICTURES if (folder / f"{name}.png").exists()}


def check_page(page: Path) -> None:
    """Raises a `ValueError` if there is a page that lacks the marks of a section."""
    text = page.read_text(encoding="utf-8") if page.exists() else empty_page()
    for name in SECTIONS:
        replace_section(text, name, "")


def write_page(page: Path, folder: Path) -> None:
    """
    Writes the sections and the pictures of a page from the JSON files in `folder`. Pictures that have no results any
    more are deleted.
    """
    outcomes = load_outcomes(folder)
    drawings = draw_side_by_side(outcomes.results, folder / "drawings")
    makers = {
        "curves": outcomes.results and partial(plot_curves, outcomes.results, MEASURES, list(ROWS)),
        "dial": outcomes.dial and partial(plot_dial, outcomes.dial, MEASURES),
        "drawings": drawings and drawings.save,
    }
    for name, make in makers.items():
        path = page.with_suffix("") / f"{name}.png"
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as hidden:
                make(hidden)
        else:
            path.unlink(missing_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    text = page.read_text(encoding="utf-8") if page.exists() else empty_page()
    with replacing_file(page) as hidden:
        hidden.write_text(render(text, outcomes, find_pictures(page)), encoding="utf-8")


def main(flags: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="page with the marks of all sections, to write into")
    parser.add_argument("results", type=Path, help="folder of the JSON files")
    args = parser.parse_args(flags)
    if not args.page.is_file():
        parser.error(f"page must be a file, got {args.page}.")
    if not any(args.results.glob("*.json")):
        parser.error(f"results must be a folder with the JSON files of a study, {args.results} has none.")
    write_page(args.page, args.results)


if __name__ == "__main__":
    main()
