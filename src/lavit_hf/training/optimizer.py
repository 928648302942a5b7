# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Muon for the matrices of hidden layers and AdamW for everything else, as one optimizer with one learning rate."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """
    Takes an AdamW's place: `torch.optim.Muon` moves the weights of hidden linear layers, in steps as large as AdamW's
    (Liu et al., arXiv 2502.16982, section 2.2) and thus at its learning rates, and the AdamW everything else.

    Muon needs whole matrices: not with FSDP, nor with ZeRO stage 3.

    Args:
        optimizer (`AdamW`): Its parameter groups are taken over, with their learning rates and weight decays.
        hidden (`list[nn.Parameter]`): Matrices that are Muon's, see [`hidden_matrices`].
        momentum (`float`, *optional*, defaults to 0.95): Of Muon.

    Raises:
        ValueError: `hidden` is empty, or none of it is among the parameters of `optimizer`.
    """

    def __init__(self, optimizer: AdamW, hidden: list[nn.Parameter], momentum: float = 0.95):
        hidden_ids = {id(parameter) for parameter in hidden}
        groups = []
        for group in optimizer.param_groups:
            for use_muon in (False, True):
                params = [p for p in group["params"] if (id(p) in hidden_ids) == use_muon]
                if params:
                    groups.append({**group, "params": params, "use_muon": use_muon})
        if not any(group["use_muon"] for group in groups):
            raise ValueError(
                f"hidden must hold matrices that the optimizer moves, got {len(hidden)}, none of which is among its "
                "parameters. Without hidden matrices, AdamW alone does."
            )
        self._adamw = optimizer
        self._muon = Muon([g for g in groups if g["use_muon"]], momentum=momentum, adjust_lr_fn="match_rms_adamw")
        super().__init__(groups, optimizer.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer, use_muon in ((self._muon, True), (self._adamw, False)):
            # Loading a checkpoint makes new groups and a new state.
            optimizer.param_groups = [group for group in self.param_groups if group["use_muon"] == use_muon]
            optimizer.state = self.state
            optimizer.step()
        return loss


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained weights of a model's linear layers but its head's, which stands beside its embeddings."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return [layer.weight for layer in layers if layer.weight.requires_grad]


__all__ = ["MuonWithAdamW", "hidden_matrices"]
