# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The page of numbers has what the files of results have, and each benchmark writes a file that the page can show."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from .guides import PAGES, ROOT


sys.path.append(str(ROOT / "benchmarks"))

import figures  # noqa: E402
import write_numbers  # noqa: E402


FILES = sorted(figures.RESULTS.glob("*.json"))
PAGE = PAGES["numbers"].read_text(encoding="utf-8")
TINY_TEXT = "--hidden-size 64 --layers 1"
# Arguments with which each script measures something small.
TOY = {
    "convert": "--shards 1 --shard-mb 128",
    "decoding": f"{TINY_TEXT} --num-codes 2 --runs 1 --ways bfloat16 bfloat16-static float32 int8"
    f"{' bfloat16-compiled' if shutil.which('g++') else ''}",
    "expanded_inputs": f"{TINY_TEXT} --batch-size 1 --text-length 4 --runs 1 --vision-layers 1 --merger-layers 1",
    "generation": f"{TINY_TEXT} --num-codes 2 --runs 1 --dtype float32 --plot PLOT",
    "loading": "--codebook-size 16 --text-size 32 --runs 1",
    "packing": f"{TINY_TEXT} --batch-size 4 --num-batches 2 --runs 1",
    "precompute_codes": "--hidden-size 32 --vision-layers 1 --merger-layers 1 --image-size 32 --image-file-size 64 48 "
    "--num-images 4 --batch-sizes 1 --num-workers 0 --repeats 1 --num-rows 4 --rows-per-shard 4 --processes 1 2 "
    "--plot PLOT",
    "precomputed_features": "--batch-size 1 --runs 1 --vision-layers 1 --merger-layers 1",
    "quantization": "--hidden-size 320 --layers 1 --num-codes 2 --half 35MB",
    "tokenizer": "--batch-size 1 --runs 1 --vision-layers 1 --merger-layers 1",
    "training": "--stages vision_tower --steps 16 --rows 16 --batch-size 2",
}
NO_SCRIPTS = {"figures", "gpu_setup", "memory", "timing", "write_numbers"}


def marked(name: str) -> str:
    return f"<!-- figures: {name} -->\n<!-- end of figures -->\n"


@pytest.fixture
def results(tmp_path) -> Path:
    return shutil.copytree(figures.RESULTS, tmp_path / "results")


def test_page_and_files_agree():
    for page in (PAGE, PAGES["precompute-codes"].read_text(encoding="utf-8")):
        assert write_numbers.fill(page) == page, "run `make numbers`"
    write_numbers.check_marks(PAGE)


def test_the_plan_follows_the_measured_rates(tmp_path):
    """A core that prepares half as many images takes twice the hours, and twice as many cores feed the GPUs."""
    path, *_ = figures.RESULTS.glob("precompute_codes.*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    for rate, hours, cores in ((1000.0, 27.8, 6), (500.0, 55.6, 11)):
        content["parts"]["files"] = [{"name": "reading", "value": rate, "unit": "images/s of a thread"}]
        (tmp_path / path.name).write_text(json.dumps(content), encoding="utf-8")
        page = write_numbers.fill(marked("plan"), tmp_path)
        row = f"| reading | {rate:.0f} images/s of a core, measured | {hours} hours of a core | {cores} cores |"
        assert row in page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_change_of_a_file_changes_the_page(path, tmp_path):
    def show(content: dict) -> str:
        (tmp_path / path.name).write_text(json.dumps(content), encoding="utf-8")
        return write_numbers.fill(marked(path.name.split(".")[0]), tmp_path)

    content = json.loads(path.read_text(encoding="utf-8"))
    shown = show(content)
    for part in content["parts"].values():
        for figure in part:
            value = figure["value"]
            figure["value"] = 2 * value + 1
            assert show(content) != shown, figure
            figure["value"] = value
    for key in ("command", "date", "setting"):
        assert "another one" in show(content | {key: "another one"})
    assert "another one" in show(content | {"machine": content["machine"] | {"processor": "another one"}})


def test_the_small_model_has_the_figures_of_its_evaluation(tmp_path):
    content = json.loads(write_numbers.EVALUATION.read_text(encoding="utf-8"))
    for _, place, baseline in write_numbers.SMALL_MODEL:
        task, name = place.split(".")
        metric = content["results"][task][name]
        places = [(metric, "value")] + [(metric.get("baselines"), baseline.partition(":")[0])] * bool(baseline)
        for found, key in places:
            value, found[key] = found[key], found[key] / 2 + 0.01
            (tmp_path / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
            assert write_numbers.fill(PAGE, evaluation=tmp_path / "evaluation.json") != PAGE, (place, key)
            found[key] = value


def test_no_measured_figure_stands_outside_of_the_marks():
    prose = write_numbers.MARKED.sub("", PAGE)
    assert "## Drawing" in prose
    measured = re.compile(r"\b\d[\d.]* ?(?:%|(?:ms|s|seconds|min|minutes|[kMG]B|\w+/s|times)\b)")
    assert measured.search("takes 0.28 s")
    assert not measured.findall(prose)


def test_machines_stand_together():
    """Rows of two machines follow one another, each named; a figure that one lacks is an empty cell."""
    one = [figures.Figure("step", 2.0, "ms"), figures.Figure("step", 40.0, "MB", "bound", 0.5)]
    other = [figures.Figure("step", 3.0, "ms"), figures.Figure("batch", 1234.5, "ms")]
    assert write_numbers.compare({"AVX2": one, "AVX512": other}).splitlines()[2:] == [
        "| step | AVX2 | 2 | 40 | 0.50 |",
        "| step | AVX512 | 3 |  |  |",
        "| batch | AVX512 | 1234 |  |  |",
    ]
    assert write_numbers.compare({"AVX2": one}).splitlines()[0] == "|  | ms | MB | against bound |"


def test_a_ratio_names_its_baseline_where_there_are_several():
    each = [figures.Figure(name, 1.0, "s", name, 3.0) for name in ("plain", "dense")]
    assert "| 1 | 3.00 against plain |" in write_numbers.compare({"": each})


def test_results_without_a_mark_are_refused(results):
    shutil.copy(FILES[0], results / "other.bf16.json")
    with pytest.raises(ValueError, match="no mark for the results of other"):
        write_numbers.check_marks(PAGE, results)


def test_a_file_is_replaced_at_once(tmp_path):
    path = tmp_path / "new" / "file.json"
    figures.write(path, {"value": 1})
    before = path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        figures.write(path, {"first": 1, "second": object()})
    assert path.read_text(encoding="utf-8") == before
    assert list(path.parent.iterdir()) == [path]


def test_the_command_is_as_typed(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    words = ["/usr/bin/python3", str(ROOT / "benchmarks" / "gpu.py"), "--output", "x.json", "--dtype", "a b"]
    monkeypatch.setattr(sys, "orig_argv", words)
    assert figures.typed_command() == "python benchmarks/gpu.py --dtype 'a b'"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "tests.parity", "--output=x.json"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert figures.typed_command() == "OMP_NUM_THREADS=1 python -m tests.parity"


def test_a_file_is_named_by_machine_and_dtype(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/loading.py"])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(figures.platform, "machine", lambda: "x86_64")
    for is_faster, faster in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(figures, "prefers_bfloat16", lambda device, is_faster=is_faster: is_faster)
        assert figures.describe_machine()["processor"] == f"x86_64, AVX512, faster in {faster}"
        name = f"loading.x86_64-avx512-faster-in-{faster}"
        assert figures.default_output() == figures.RESULTS / f"{name}.json"
        assert figures.default_output(dtype="float32") == figures.RESULTS / f"{name}.float32.json"


def test_figures_of_two_files_are_all_shown(results):
    """Files of another dtype stand together, and a second file of the same machine and dtype is refused."""
    [path] = results.glob("packing.*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    (results / "packing.other.json").write_text(json.dumps(content | {"dtype": "bfloat16"}), encoding="utf-8")
    page = write_numbers.fill(PAGE, results)
    processor = content["machine"]["processor"]
    assert f"| packed | {processor}, bfloat16 |" in page
    assert f"| packed | {processor}, float32 |" in page
    (results / "packing.again.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="Two files of .*packing.py.* have figures of x86_64, .*: delete one"):
        write_numbers.fill(PAGE, results)


def test_every_script_runs_here():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - NO_SCRIPTS
    assert scripts == {*TOY, "gpu"}, "gpu.py is run by test_gpu_figures.py"
    marks = {found[0] for found in write_numbers.MARKED.findall(PAGE)}
    assert marks == scripts | {"evaluation", "parity"}


@pytest.mark.parametrize("name", TOY)
def test_a_script_writes_what_the_page_shows(name, tmp_path, monkeypatch, capfd):
    output, plot = tmp_path / f"{name}.toy.json", tmp_path / "growth.png"
    command = [f"benchmarks/{name}.py", *TOY[name].replace("PLOT", str(plot)).split()]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(output)])
    monkeypatch.setattr(sys, "orig_argv", ["python", *sys.argv])
    assert not importlib.import_module(name).main()
    assert plot.exists() == ("PLOT" in TOY[name])
    content = json.loads(output.read_text(encoding="utf-8"))
    measured = [figures.Figure(**values) for part in content["parts"].values() for values in part]
    assert len({(figure.name, figure.unit) for figure in measured}) == len(measured) > 0
    for figure in measured:
        # A step is the difference of two times, which is near 0 at toy size.
        assert figure.value >= 0 or figure.unit == "ms per step", figure
        assert (figure.ratio is None) == (figure.baseline is None), figure
    assert name == "training" or any(figure.baseline for figure in measured)
    page = write_numbers.fill(marked(name), tmp_path)
    assert f"python {' '.join(command)}`" in page
    assert content["machine"]["versions"]["torch"] in page
    for figure in measured:
        [row, *_] = [line for line in page.splitlines() if line.startswith(f"| {figure.name} |")]
        assert f"| {write_numbers.number(figure.value)} |" in row, figure
    printed = capfd.readouterr().out
    assert all(figure.unit.split()[0] in printed for figure in measured)
    assert str(output) in printed.replace("\n", "")
