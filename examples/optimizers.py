# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Optimizers for any `Trainer`: learning rates for parts of the model, and Muon for the matrices of hidden layers.

    trainer = Trainer(model, args, optimizer_cls_and_kwargs=(OptimizerFactory, {"args": args, "use_muon": True}), ...)
"""

from functools import partial
from itertools import product

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import TrainingArguments

from lavit_hf.training import prefers_bfloat16


class OptimizerFactory:
    """Makes an optimizer for a model, when `Trainer` calls it."""

    def __call__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        learning_rates: dict[str, float] | None = None,
        use_muon: bool = False,
    ) -> Optimizer:
        """
        Args:
            model (`nn.Module`): The model to train.
            args (`TrainingArguments`): Learning rate, weight decay (of matrices alone) and the settings of AdamW.
            learning_rates (`dict[str, float]`, *optional*):
                Learning rates of parts of the model, by the beginning of their parameters' names. The longest one
                that matches decides. All other parameters have `args.learning_rate`.
            use_muon (`bool`, *optional*, defaults to `False`):
                Whether Muon moves the matrices of hidden linear layers, and AdamW everything else. Muon needs whole
                matrices: not with FSDP, nor with ZeRO stage 3.

        Raises:
            ValueError: If the model lacks a part in `learning_rates`, or with `use_muon` no hidden linear layer is
                trained.
        """
        rates = find_rates(model, args.learning_rate, learning_rates or {})
        hidden = hidden_matrices(model) if use_muon else set()
        if use_muon and not hidden:
            raise ValueError(
                "use_muon must be False, got True: no hidden linear layer (torch.nn.Linear) of the model is trained."
            )
        groups = []
        for rate, is_hidden, decays in product(sorted(set(rates.values())), (False, True), (False, True)):
            parameters = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and (rates[name], parameter in hidden, parameter.ndim > 1) == (rate, is_hidden, decays)
            ]
            decay = args.weight_decay if decays else 0.0
            group = {"params": parameters, "lr": rate, "weight_decay": decay, "use_muon": is_hidden}
            groups += [group] if parameters else []
        settings = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
        return MuonWithAdamW(groups, **settings) if use_muon else AdamW(groups, **settings)


def find_rates(model: nn.Module, learning_rate: float, learning_rates: dict[str, float]) -> dict[str, float]:
    """Returns the learning rate of each parameter, by name."""
    rates = {name: learning_rate for name, _ in model.named_parameters()}
    for prefix in sorted(learning_rates, key=len):
        names = [name for name in rates if f"{name}.".startswith(f"{prefix}.")]
        if not names:
            raise ValueError(f"No parameter's name starts with {prefix!r}.")
        rates |= dict.fromkeys(names, learning_rates[prefix])
    return rates


def hidden_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Returns the trained weights of all linear layers except the head, which is like the embeddings."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return {layer.weight for layer in layers if layer.weight.requires_grad}


class Float32Muon(Muon):
    """
    `torch.optim.Muon` with an orthogonalization in float32. That of torch is in bfloat16, which processors without
    units for it compute about twenty times slower. Its steps are those of `adjust_lr_fn="match_rms_adamw"`.

    Args:
        args: Same as in `torch.optim.Muon`.
    """

    @torch.no_grad()
    def step(self, closure=None) -> float | None:
        """Performs a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if (gradient := matrix.grad) is None:
                    continue
                state, momentum = self.state[matrix], group["momentum"]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
                update = gradient.lerp(mean, momentum) if group["nesterov"] else mean
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = group["lr"] * 0.2 * max(matrix.shape) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.to(matrix), alpha=-rate)
        return loss


def orthogonalize(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """
    Moves the singular values of a matrix towards 1 by Newton-Schulz iterations in float32 (Jordan et al., 2024).

    Args:
        matrix (`torch.Tensor` of shape `(m, n)`): The matrix.
        coefficients (`tuple[float, float, float]`): The coefficients of the matrix and of its odd powers.
        steps (`int`): The number of iterations.
        eps (`float`): The least norm by which the matrix is divided.

    Returns:
        `torch.FloatTensor` of shape `(m, n)`: The matrix with singular values near 1.
    """
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).float()
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


class MuonWithAdamW(Optimizer):
    """
    `torch.optim.Muon` and `torch.optim.AdamW` as one optimizer. The steps of Muon are as large as those of AdamW (Liu
    et al., arXiv 2502.16982, section 2.2), so that both take the same learning rates.

    Args:
        groups (`list[dict]`): Parameter groups, each with `use_muon`, which says whether it has hidden matrices.
        lr (`float`), betas (`tuple[float, float]`), eps (`float`): The settings of AdamW.
        momentum (`float`, *optional*, defaults to 0.95): The momentum of Muon.
    """

    def __init__(self, groups: list[dict], momentum: float = 0.95, **settings):
        by_kind: list[list[dict]] = [[], []]
        for group in groups:
            by_kind[group["use_muon"]].append(group)
        is_slow = by_kind[True][0]["params"][0].device.type == "cpu" and not prefers_bfloat16("cpu")
        muon_class = Float32Muon if is_slow else partial(Muon, adjust_lr_fn="match_rms_adamw")
        muon = muon_class(by_kind[True], lr=settings["lr"], momentum=momentum)
        # Without another matrix or vector, there is no AdamW.
        self.optimizers: list[Optimizer] = [AdamW(by_kind[False], **settings), muon] if by_kind[False] else [muon]
        super().__init__([group for optimizer in self.optimizers for group in optimizer.param_groups], {})

    @torch.no_grad()
    def step(self, closure=None) -> float | None:
        """Performs a step of both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict:
        """Returns the states of both optimizers."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads the states of both optimizers, as `state_dict` returned them."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        # The optimizers have new groups now. A scheduler sets the learning rates of those in this list.
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
