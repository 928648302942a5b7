# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""LoRA (Hu et al., arXiv 2106.09685) on LaVIT's language model, by the library peft."""

from dataclasses import dataclass, field

from peft import LoraConfig

from ..modeling import LavitForCausalLM
from ..modeling.freezing_lavit import VISUAL_PARTS


@dataclass
class LoraArguments:
    """The rank and scale of low-rank updates of the language model's layers, and what is trained beside them."""

    lora_rank: int = field(default=16, metadata={"help": "The rank of each update."})
    lora_alpha: float = field(default=32.0, metadata={"help": "Updates are scaled by lora_alpha / lora_rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "The dropout on the input of each update."})
    train_embeddings: bool = field(
        default=False, metadata={"help": "Train embeddings and head as well, which are as large as the vocabulary."}
    )
    train_adapter: bool = field(
        default=False, metadata={"help": "Train the visual adapter as well, through which images are read."}
    )


def lora_config(model: LavitForCausalLM, arguments: LoraArguments | None = None) -> LoraConfig:
    """
    Returns a configuration for `peft.get_peft_model(model, lora_config(model))`: every linear layer of the language
    model gets an update, whatever its architecture, and so do experts, which are parameters of three dimensions, but
    not their routers. The visual parts get none. Embeddings and head stay tied if they are. peft has no dropout for
    experts.

    Args:
        model ([`LavitForCausalLM`]): The model to train.
        arguments ([`LoraArguments`], *optional*): Rank and scale, and what is trained as a whole.
    """
    arguments = arguments or LoraArguments()
    whole = ["visual_adapter"] if arguments.train_adapter else []
    if arguments.train_embeddings:
        embeddings = model.get_input_embeddings()
        (name,) = {name.rpartition(".")[-1] for name, module in model.named_modules() if module is embeddings}
        whole += [name, "lm_head"]
    # Convolutions have three dimensions as well, and call them weights.
    experts = {
        ".".join(name.split(".")[-2:])
        for name, parameter in model.model.language_model.named_parameters()
        if parameter.ndim == 3 and not name.endswith(".weight")
    }
    return LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules="all-linear",
        target_parameters=sorted(experts) or None,
        exclude_modules=VISUAL_PARTS,  # `PeftModel.add_adapter` gives the model no chance to keep adapters out
        modules_to_save=whole or None,
        ensure_weight_tying=arguments.train_embeddings and bool(model.config.tie_word_embeddings),
        task_type="CAUSAL_LM",
    )
