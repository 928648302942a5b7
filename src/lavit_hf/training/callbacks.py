# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What training leaves behind beside weights: curves of its log, and pictures of what the model does as it goes."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from transformers import TrainerCallback


# Of the log's entries, what is no curve.
NO_CURVES = {"step", "epoch", "total_flos", "train_runtime", "train_loss"}


def plot_log(log_history: list[dict[str, float]], path: Path) -> None:
    """
    Draws each quantity of a Trainer's log over the steps, training and evaluation in one panel, to a picture file.

    Args:
        log_history (`list[dict[str, float]]`): `trainer.state.log_history`.
        path (`Path`): What to write.
    """
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, tuple[list, list]]] = {}
    for entry in log_history:
        for name, value in entry.items():
            panel, kind = (name.removeprefix("eval_"), "eval") if name.startswith("eval_") else (name, "train")
            if panel in NO_CURVES or panel.endswith(("per_second", "runtime")) or not isinstance(value, int | float):
                continue
            steps, values = curves.setdefault(panel, {}).setdefault(kind, ([], []))
            steps.append(entry["step"])
            values.append(value)
    if not curves:
        return
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.5 * columns, 3 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (panel, kinds) in zip(panels, curves.items(), strict=False):
        for kind, (steps, values) in kinds.items():
            axes.plot(steps, values, label=kind, marker="o" if kind == "eval" else None, markersize=3)
        seen = [value for _, values in kinds.values() for value in values]
        if "loss" in panel and 0 < 20 * min(seen) < max(seen):
            axes.set_yscale("log")
        axes.set_title(panel.replace("_", " "), fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
        if len(kinds) > 1:
            axes.legend(fontsize=8)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


class CurvesCallback(TrainerCallback):
    """Keeps `curves.png` in the output folder as the log grows."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            plot_log(state.log_history, Path(args.output_dir) / "curves.png")

    on_train_end = on_save


class SamplesCallback(TrainerCallback):
    """
    Writes what the model makes of the same few inputs to `samples/` in the output folder, whenever it is saved.

    Args:
        make_samples (`Callable[[], Image.Image]`): Makes one picture with the model as it is.
    """

    def __init__(self, make_samples: Callable[[], Image.Image]):
        self.make_samples = make_samples

    def on_save(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        was_training = model.training
        model.eval()
        self.make_samples().save(folder / f"step-{state.global_step:07d}.png")
        model.train(was_training)


__all__ = ["CurvesCallback", "SamplesCallback", "plot_log"]
