# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Codes of hundreds of files, computed on two machines, for which two processes of `torchrun` stand here."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lavit_hf import LavitProcessor
from lavit_hf.data.loading import load_rows

from ..tiny import CODEBOOK_SIZE, IMAGE_SIZE, text_tokenizer, tiny_lavit
from .test_precompute_interrupted import free_port


NUM_FILES, ROWS_PER_FILE = 200, 2


@pytest.fixture
def work(tmp_path) -> Path:
    """A folder with a model, and the same rows in archives and in parquet files."""
    tiny_lavit().save_pretrained(tmp_path / "model")
    LavitProcessor.from_backbones(
        text=text_tokenizer(), codebook_size=CODEBOOK_SIZE, image_size=IMAGE_SIZE
    ).save_pretrained(tmp_path / "model")
    for folder in ("tars", "parquets"):
        (tmp_path / folder).mkdir()
    generator = np.random.default_rng(0)
    for number in range(NUM_FILES):
        rows = []
        with tarfile.open(tmp_path / "tars" / f"{number:04d}.tar", "w") as archive:
            for index in range(ROWS_PER_FILE * number, ROWS_PER_FILE * (number + 1)):
                png = io.BytesIO()
                Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(png, "PNG")
                rows.append({"png": png.getvalue(), "txt": f"number {index}"})
                for kind, content in (("png", png.getvalue()), ("txt", rows[-1]["txt"].encode())):
                    member = tarfile.TarInfo(f"{index:06d}.{kind}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquets" / f"{number:04d}.parquet")
    return tmp_path


def read(folder: Path) -> dict[str, list[int]]:
    return {row["txt"]: row["png_codes"] for row in load_rows(folder, "train")}


def test_two_hundred_files_on_two_machines(work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(work / "cache"))
    words = ["-m", "lavit_hf.cli", "precompute-codes"]
    settings = ["--model", "model", "--image-column", "png", "--rows-per-shard", "50", "--num-workers", "0"]
    subprocess.run([sys.executable, *words, "parquets", "one", *settings], check=True)
    archives = ["webdataset", "two", "--data-dir", "tars", "--streaming", *settings]
    # `accelerate launch` on CPUs needs MPI for several machines; `torchrun` does not.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launch += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    machines = [subprocess.Popen([*launch, "--node-rank", str(rank), *words, *archives]) for rank in range(2)]
    assert [machine.wait(timeout=300) for machine in machines] == [0, 0]
    assert len(list((work / "two" / "train").glob("*.parquet"))) == NUM_FILES * ROWS_PER_FILE / 50
    one, two = read(work / "one"), read(work / "two")
    assert len(one) == NUM_FILES * ROWS_PER_FILE
    assert one == two
    # One machine takes up what two have left.
    for name in ("000001", "000006"):
        (work / "two" / "train" / f"{name}.parquet").unlink()
    subprocess.run([sys.executable, *words, *archives], check=True)
    assert read(work / "two") == one
