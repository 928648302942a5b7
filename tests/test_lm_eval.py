# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""lm-eval's own command line on the model that ships, without a change: what it computes is what the model says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, List, Value

from lavit_hf import demo_checkpoint
from lavit_hf.data.shapes.loading import make_row
from lavit_hf.evaluation import evaluate

from .guides import blocks_of


pytest.importorskip("lm_eval", reason="lm-eval is not installed")

NUM_ROWS, MAX_NEW_TOKENS = 9, 8  # in batches of two
QUESTION = "Question: {} Answer:"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    rows = []
    for index in range(NUM_ROWS):
        row = make_row(index, "test")
        chosen = index % len(row["questions"])
        rows.append({"image": row["image"], "question": row["questions"][chosen], "answer": row["answers"][chosen]})
    return rows


@pytest.fixture(scope="module")
def choices(rows) -> list[str]:
    return sorted({row["answer"] for row in rows})


@pytest.fixture(scope="module")
def folder(demo, rows, choices, tmp_path_factory) -> Path:
    """A model that carries its code, and tasks on a local dataset."""
    folder = tmp_path_factory.mktemp("lm_eval")
    demo[0].save_pretrained(folder / "model", processor=demo[1])
    texts = {"question": Value("string"), "answer": Value("string"), "choices": List(Value("string"))}
    data = Dataset.from_list([row | {"choices": choices} for row in rows], Features({"image": Image()} | texts))
    data.to_parquet(folder / "data" / "test.parquet")
    question = QUESTION.format("{{question}}")
    answers = {
        "output_type": "generate_until",
        "doc_to_target": " {{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": MAX_NEW_TOKENS},
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
    }
    choosing = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "answer"}
    tasks = {
        "lavit_images": answers | {"doc_to_text": "<image>" + question, "doc_to_image": ["image"]},
        "lavit_texts": answers | {"doc_to_text": question},
        "lavit_choices": choosing | {"doc_to_text": question, "metric_list": [{"metric": "acc"}]},
    }
    (folder / "tasks").mkdir()
    for name, task in tasks.items():
        task |= {
            "task": name,
            "dataset_path": "parquet",
            "dataset_kwargs": {
                "data_files": {"test": str(folder / "data" / "test.parquet")},
                "cache_dir": str(folder / "cache"),
            },
            "test_split": "test",
        }
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder


def arguments(folder: Path, path: Path, output: Path, model: str, *tasks: str) -> list[str]:
    options = {
        "--model": model,
        "--model_args": f"pretrained={path}",
        "--include_path": folder / "tasks",
        "--tasks": ",".join(tasks),
        "--device": "cpu",
        "--batch_size": 2,
        "--output_path": output,
    }
    return [str(part) for option in options.items() for part in option] + ["--log_samples"]


def read_results(output: Path) -> tuple[dict, dict]:
    """The figures of each task, and what the model has answered to each row of it."""
    [results] = output.rglob("results_*.json")
    results = json.loads(results.read_text())["results"]
    samples = {}
    for task in results:
        [path] = output.rglob(f"samples_{task}_*.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        samples[task] = [line["resps"] for line in sorted(lines, key=lambda line: line["doc_id"])]
    return results, samples


def generated_by_hand(model, processor, rows: list[dict], with_images: bool) -> list[str]:
    """Computes the results of each row alone."""
    texts = []
    for row in rows:
        prompt = QUESTION.format(row["question"])
        inputs = (
            processor(text=f"<image>{prompt}", images=row["image"], return_tensors="pt")
            if with_images
            else processor(text=prompt, return_tensors="pt")
        )
        ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, return_full_text=False)
        texts.append(processor.decode(ids[0], skip_special_tokens=True).split("\n")[0])
    return texts


@torch.no_grad()
def log_likelihood(model, tokenizer, question: str, answer: str) -> tuple[float, bool]:
    """Computes by hand the log-likelihood of an answer, and whether each of its tokens is the likeliest."""
    prompt = tokenizer(QUESTION.format(question)).input_ids
    ids = torch.tensor([tokenizer(QUESTION.format(question) + f" {answer}").input_ids])
    targets = ids[0, len(prompt) :]
    scores = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    likeliest = bool((scores.argmax(-1) == targets).all())
    return scores.gather(1, targets[:, None]).sum().item(), likeliest


@pytest.mark.parametrize("shipped", [True, False])
def test_images_without_an_import_of_lavit_hf(shipped, demo, folder, rows, tmp_path):
    """The command line as it is: on the model that ships, and on a folder that carries its code."""
    path = demo_checkpoint() if shipped else folder / "model"
    command = [sys.executable, "-m", "lm_eval", *arguments(folder, path, tmp_path, "hf-multimodal", "lavit_images")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--trust_remote_code"], env=os.environ | offline, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results, samples = read_results(tmp_path)
    model, processor, _ = demo
    expected = generated_by_hand(model, processor, rows, with_images=True)
    assert samples["lavit_images"] == [[[text]] for text in expected]
    columns = {"questions": "question", "answers": "answer"}
    report = evaluate(
        model, processor, None, str(folder / "data"), split="test", tasks=["questions"], columns=columns, batch_size=2
    )
    accuracy = report.results["questions"]["accuracy"]
    assert accuracy.count == NUM_ROWS
    assert 0 < accuracy.value == pytest.approx(results["lavit_images"]["exact_match,none"])


def test_text_where_lavit_hf_is_imported(demo, folder, rows, choices, tmp_path, monkeypatch):
    """The guide's `python -c`, in this process."""
    [program] = re.findall(r'python -c "(import lavit_hf; .*?)"', "".join(blocks_of("evaluation", "bash")))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # which lm-eval would leave set
    monkeypatch.setattr(
        "sys.argv", ["lm_eval", *arguments(folder, folder / "model", tmp_path, "hf", "lavit_choices", "lavit_texts")]
    )
    exec(program, {})
    results, samples = read_results(tmp_path)
    model, processor, _ = demo
    assert samples["lavit_texts"] == [
        [[text]] for text in generated_by_hand(model, processor, rows, with_images=False)
    ]
    hits = []
    for row, answers in zip(rows, samples["lavit_choices"], strict=True):
        expected = [log_likelihood(model, processor.tokenizer, row["question"], choice) for choice in choices]
        for [(score, likeliest)], (expected_score, expected_likeliest) in zip(answers, expected, strict=True):
            assert float(score) == pytest.approx(expected_score, abs=1e-3)
            assert str(likeliest) == str(expected_likeliest)
        hits.append(choices[max(range(len(choices)), key=lambda index: expected[index][0])] == row["answer"])
    assert results["lavit_choices"]["acc,none"] == pytest.approx(sum(hits) / len(hits))
