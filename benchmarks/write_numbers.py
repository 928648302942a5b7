# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Writes the tables of docs/numbers.md, and one of docs/precompute-codes.md, from the files of results.

    python benchmarks/write_numbers.py

Tables stand between marks, `<!-- figures: NAME -->` and `<!-- end of figures -->`. NAME is that of the script, whose
files are `benchmarks/results/NAME.MACHINE.json` or `NAME.MACHINE.DTYPE.json`. Where there are several files, their
rows stand together, each with its machine and dtype. NAME `evaluation` is the evaluation that ships with the small
model, and `plan` is the time that codes of many images take. The text around the marks is written by hand, and has no
measured figures.
"""

import argparse
import json
import math
import re
from pathlib import Path

from figures import RESULTS, ROOT, Figure


PAGE = ROOT / "docs" / "numbers.md"
PLAN_PAGE = ROOT / "docs" / "precompute-codes.md"
EVALUATION = ROOT / "src" / "lavit_hf" / "assets" / "shapes" / "evaluation.json"
MARKED = re.compile(r"(?<=<!-- figures: )(\S+)( -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)
# The plan of docs/precompute-codes.md: an H100 has 989 TFLOP/s of dense bfloat16, by its data sheet.
PLAN_IMAGES, PLAN_GPUS = 100_000_000, 8
IMAGE_FLOPS, PEAK_FLOPS, PEAK_SHARE = 0.61e12, 989e12, 0.4
# Each figure of the small model: its name on the page, its task and metric, and its baseline in words.
SMALL_MODEL = (
    ("captions: shape and color of every object right", "captions.objects", "unrelated: the caption of another image"),
    ("questions: right", "questions.accuracy", "majority: the commonest answer of the kind"),
    (
        "questions on the relation of two objects: right",
        "questions.accuracy_relation",
        "majority: the commonest answer",
    ),
    ("drawings: shape and color of every object right", "drawing.objects", "unrelated: another drawing"),
    ("drawings: stated places right", "drawing.places", "unrelated: another drawing"),
    ("edits: everything right", "edits.everything", "unedited: the image before the edit"),
    ("edits: the background is as before", "edits.background", "unrelated: the background of another image"),
    ("prompts, questions and edits in a user's own words: right", "own_words.right", ""),
    (
        "image to tokens to image: shape and color of every object right",
        "reconstruction.objects",
        "unrelated: another image",
    ),
    ("patches kept", "tokens.kept_fraction", ""),
    ("rank correlation of tokens with the number of objects", "tokens.objects_spearman", ""),
)


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def number(value: float) -> str:
    """Writes three digits, or a whole number with all of its digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def list_versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def name_of(content: dict) -> str:
    """Returns the machine and the dtype by which the rows of several files are told apart."""
    machine = content["machine"]
    return ", ".join(filter(None, (machine["gpu"] or machine["processor"], content["dtype"])))


def source_of(content: dict) -> str:
    """Says how, when and where figures were measured."""
    machine = content["machine"]
    where = [name for name in (machine["gpu"], machine["processor"]) if name]
    where += [f"cores: {machine['cores']}, threads: {machine['threads']}", list_versions(machine["versions"])]
    return f"- `{content['command']}`. {content['setting']}. {content['date']}: {'; '.join(where)}.\n"


def compare(measured: dict[str, list[Figure]]) -> str:
    """Makes a table of figures by machine: a row for each name and machine, and a column for each unit."""
    figures = [figure for each in measured.values() for figure in each]
    units = list(dict.fromkeys(figure.unit for figure in figures))
    baselines = {unit: {figure.baseline for figure in figures if figure.unit == unit} - {None} for unit in units}
    several = len(measured) > 1
    headings = ["", *["measured on"] * several]
    for unit in units:
        against = "ratio" if len(baselines[unit]) > 1 else f"against {next(iter(baselines[unit]), '')}"
        headings += [unit, *[against] * bool(baselines[unit])]
    rows = []
    for name in dict.fromkeys(figure.name for figure in figures):
        for machine, each in measured.items():
            found = {figure.unit: figure for figure in each if figure.name == name}
            cells = [name, *[machine] * several]
            for unit in units:
                figure = found.get(unit)
                cells.append(number(figure.value) if figure else "")
                if baselines[unit]:
                    against = f" against {figure.baseline}" if figure and len(baselines[unit]) > 1 else ""
                    has_ratio = figure is not None and figure.ratio is not None
                    cells.append(f"{figure.ratio:.2f}{against}" if has_ratio else "")
            if found:
                rows.append(cells)
    return table(headings, rows)


def show_results(contents: list[dict]) -> str:
    """Shows the results of one script on each kind of machine."""
    titles = list(dict.fromkeys(title for content in contents for title in content["parts"]))
    text = "".join(map(source_of, contents))
    for title in titles:
        measured: dict[str, list[Figure]] = {}
        for content in contents:
            if title in content["parts"]:
                name = name_of(content)
                if name in measured:
                    raise ValueError(f"Two files of {content['command']!r} have figures of {name}: delete one.")
                measured[name] = [Figure(**values) for values in content["parts"][title]]
        text += f"\n{title}:\n" * (len(titles) > 1) + f"\n{compare(measured)}"
    return text


def show_evaluation(content: dict) -> str:
    """Shows what the small model can do."""

    def write(value: float, metric: dict) -> str:
        is_share = "interval" in metric or (metric is content["results"]["tokens"]["kept_fraction"])
        return f"{100 * value:.1f}%" if is_share else f"{value:.2f}"

    rows = []
    for label, place, baseline in SMALL_MODEL:
        task, _, name = place.partition(".")
        metric = content["results"][task][name]
        kind, _, words = baseline.partition(": ")
        cell = f"{words}: {write(metric['baselines'][kind], metric)}" if kind else ""
        rows.append([label, write(metric["value"], metric), cell])
    protocol = content["protocol"]
    minutes = sum(content["seconds"].values()) / 60
    said = f"- `lavit-hf evaluate`. {protocol['num_samples']} scenes, {protocol['dtype']}, {protocol['device']}, "
    said += f"{minutes:.0f} minutes: {list_versions(protocol['versions'])}.\n"
    return f"{said}\n{table(['', 'measured', 'baseline'], rows)}"


def show_plan(contents: list[dict]) -> str:
    """Shows the time that the codes of many images take, by the rate at which a core reads and prepares images."""
    content = next(content for content in contents if "files" in content["parts"])
    gpu_rate = PEAK_SHARE * PEAK_FLOPS / IMAGE_FLOPS
    rows = []
    for figure in (Figure(**values) for values in content["parts"]["files"]):
        hours = f"{number(PLAN_IMAGES / figure.value / 3600)} hours of a core"
        cores = f"{math.ceil(PLAN_GPUS * gpu_rate / figure.value)} cores"
        rows.append([figure.name, f"{number(figure.value)} images/s of a core, measured", hours, cores])
    estimate = f"{number(gpu_rate)} images/s of an H100, an estimate: {PEAK_SHARE:.0%} of its dense bfloat16 peak"
    hours = PLAN_IMAGES / gpu_rate / 3600
    name = f"the visual tokenizer of the release, {IMAGE_FLOPS / 1e12:g} TFLOP for an image"
    rows.append([name, estimate, f"{number(hours)} hours of a GPU", f"{number(hours / PLAN_GPUS)} hours"])
    headings = ["part", "rate", f"{PLAN_IMAGES // 10**6} million images", f"for {PLAN_GPUS} GPUs"]
    return f"{source_of(content)}\n{table(headings, rows)}"


def load_results(folder: Path) -> dict[str, list[dict]]:
    """Returns the contents of the files of results by the name of their script."""
    contents: dict[str, list[dict]] = {}
    for path in sorted(folder.glob("*.json")):
        contents.setdefault(path.name.split(".")[0], []).append(json.loads(path.read_text(encoding="utf-8")))
    return contents


def check_marks(page: str, results: Path = RESULTS) -> None:
    """
    Checks that each file of results has its mark in the page.

    Raises:
        ValueError: If one has none.
    """
    if unmarked := load_results(results).keys() - {name for name, _ in MARKED.findall(page)}:
        raise ValueError(f"the page has no mark for the results of {', '.join(sorted(unmarked))}")


def fill(page: str, results: Path = RESULTS, evaluation: Path = EVALUATION) -> str:
    """Returns the page with the tables of the files."""
    contents = load_results(results)

    def show(found: re.Match) -> str:
        name = found[1]
        if name == "evaluation":
            text = show_evaluation(json.loads(evaluation.read_text(encoding="utf-8")))
        elif name == "plan":
            text = show_plan(contents["precompute_codes"])
        else:
            text = show_results(contents[name]) if name in contents else "Not measured yet.\n"
        return f"{name}{found[2]}\n{text}\n"

    return MARKED.sub(show, page)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    check_marks(PAGE.read_text(encoding="utf-8"))
    for path in (PAGE, PLAN_PAGE):
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
