# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The way of Emu (arXiv 2307.05222): the next visual vector is regressed, where LaVIT predicts a code. A vector that has
been drawn is the next input, and the feature decoder, whose codes are vectors of the same width, makes pixels of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn.functional import cosine_similarity, normalize
from transformers.cache_utils import DynamicCache

from lavit_hf import LavitForCausalLM, LavitImageDecoderPipeline
from lavit_hf.evaluation import Subject
from lavit_hf.inference import Images, decode_codes, decode_edits, prepare_prompts
from lavit_hf.modeling import LavitConfig, LavitVisualTokenizerOutput
from lavit_hf.modeling.expansion_lavit import LavitSequences
from lavit_hf.modeling.modeling_lavit import LavitCausalLMOutputWithPast
from lavit_hf.modeling.packing_lavit import needs_one_row, pack_sequences
from lavit_hf.training import LavitForCausalLMTrainer

from .adapters import make_mlp


LOSSES = ("cosine", "l2")


@dataclass(frozen=True)
class RegressionSettings:
    """
    How vectors are regressed.

    Args:
        loss (`"cosine"` or `"l2"`, *optional*, defaults to `"cosine"`):
            The loss of a vector: one minus the cosine, or the squared distance relative to the squared length of
            targets.
        weight (`float`, *optional*, defaults to 1.0): The weight of the loss of a vector against that of a token.
        normalize (`bool`, *optional*, defaults to `True`):
            Whether each dimension of the targets has mean 0 and standard deviation 1.
        noise (`float`, *optional*, defaults to 0.0):
            The length of the noise that is added to vectors that are inputs in training. Vectors have length 1.
        guidance_scale (`float`, *optional*):
            The strength of guidance in drawings. Default: that of the generation config, as for codes.
        end_threshold (`float`, *optional*, defaults to 0.5):
            A drawing ends where the probability of `[/IMG]`, against that of another vector, is at least this.

    Raises:
        ValueError: If the loss is unknown, or a number is out of its range.
    """

    loss: str = "cosine"
    weight: float = 1.0
    normalize: bool = True
    noise: float = 0.0
    guidance_scale: float | None = None
    end_threshold: float = 0.5

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        if min(self.weight, self.noise) < 0:
            raise ValueError(f"weight and noise must not be negative, got {self.weight} and {self.noise}.")
        if not 0 <= self.end_threshold <= 1:
            raise ValueError(f"end_threshold must be from 0 to 1, got {self.end_threshold}.")


@dataclass
class RegressionOutput(LavitCausalLMOutputWithPast):
    """
    Output of [`RegressionForCausalLM`].

    Args:
        vector_losses (`torch.FloatTensor` of shape `(num_vectors,)`, *optional*): The loss of each vector.
    """

    vector_losses: torch.FloatTensor | None = None


class RegressionForCausalLM(LavitForCausalLM):
    """
    A language model that draws by regressing vectors, the unit vectors that the visual tokenizer has before it
    quantizes them. Images that are read enter as in LaVIT. The codebook of its visual tokenizer has a single row: code
    0 says that another vector follows, so that the head decides by cross-entropy where an image ends.

    Args:
        config ([`LavitConfig`]): The configuration.
        args: Same as in [`LavitForCausalLM`].

    Attributes:
        regression ([`RegressionSettings`]): The settings.
    """

    def __init__(self, config: LavitConfig, *args):
        super().__init__(config, *args)
        size, code_dim = config.text_config.hidden_size, config.visual_tokenizer_config.code_dim
        self.vector_embedding = make_mlp(code_dim, size, size)
        self.vector_head = make_mlp(size, size, code_dim)
        self.register_buffer("target_mean", torch.zeros(code_dim))
        self.register_buffer("target_std", torch.ones(code_dim))
        self.regression = RegressionSettings()

    @torch.no_grad()
    def fit_targets(self, vectors: torch.Tensor) -> None:
        """Fits the mean and the standard deviation of targets to vectors (T, code_dim), if they are normalized."""
        if self.regression.normalize:
            std, mean = torch.std_mean(vectors.float(), dim=0)
            self.target_mean.copy_(mean)
            self.target_std.copy_(std.clamp(min=1e-3))

    def embed_vectors(self, sequences: LavitSequences) -> torch.Tensor:
        """Returns the inputs (B, L, hidden_size) of sequences, with vectors where images enter as codes."""
        embeds, vectors = sequences.inputs_embeds, sequences.image_tokens.vectors
        if self.training and self.regression.noise:
            noise = torch.randn_like(vectors) * self.regression.noise / vectors.shape[-1] ** 0.5
            vectors = normalize(vectors + noise, dim=-1)
        drawn = sequences.image_mask
        embedded = self.vector_embedding(vectors.to(embeds)).to(embeds)
        embedded = embeds.masked_scatter(drawn[..., None], embedded)
        if sequences.feature_mask is not None:
            drawn = drawn & ~sequences.feature_mask
        return torch.where(drawn[..., None], embedded, embeds)

    def forward(
        self,
        input_ids=None,
        pixel_values=None,
        attention_mask=None,
        labels=None,
        image_inputs=None,
        supervise_images=None,
        vision_features=None,
        pack=False,
        **kwargs,
    ) -> RegressionOutput:
        """
        Same arguments as [`LavitForCausalLM.forward`]. With images, sequences are expanded before the language model
        runs, and `loss` has that of vectors as well, so that it is a mean over all labels.

        Returns:
            [`RegressionOutput`]
        """
        if pixel_values is None and vision_features is None:
            return RegressionOutput(
                **super().forward(input_ids, attention_mask=attention_mask, labels=labels, pack=pack, **kwargs)
            )
        if self.config.codebook_size != 1:
            raise ValueError(f"Vectors need a codebook of one row, got {self.config.codebook_size}.")
        given = (attention_mask, labels, image_inputs, supervise_images)
        sequences = self.model.expand_images(input_ids, pixel_values, *given, vision_features=vision_features)
        targets = None
        if sequences.image_tokens is not None:
            targets = self.place_vectors(sequences)
            sequences.inputs_embeds = self.embed_vectors(sequences)
        if pack:
            # The ids are not needed any more. In their place, the numbers of positions tell where each one went.
            shape, device = sequences.input_ids.shape, sequences.input_ids.device
            sequences.input_ids = torch.arange(shape.numel(), device=device).view(shape)
            sequences = pack_sequences(self.config, sequences, needs_one_row(self.model.language_model))
            targets = None if targets is None else targets.flatten(0, 1)[sequences.input_ids]
            kwargs["use_cache"] = False
        outputs = super().forward(
            inputs_embeds=sequences.inputs_embeds,
            attention_mask=sequences.attention_mask,
            position_ids=sequences.position_ids,
            labels=sequences.labels,
            output_hidden_states=True,
            **kwargs,
        )
        losses = None
        if outputs.labels is not None and targets is not None:
            losses = self.compute_vector_losses(outputs.hidden_states[-1], outputs.labels, targets)
            num_labels = outputs.labels[:, 1:].ne(-100).sum().clamp(min=1)
            outputs.loss = outputs.loss + self.regression.weight * losses.sum() / num_labels
        values = {name: value for name, value in outputs.items() if name != "hidden_states"}
        return RegressionOutput(**values | {"sequences": sequences, "vector_losses": losses})

    def place_vectors(self, sequences: LavitSequences) -> torch.Tensor:
        """Returns vectors (B, L, code_dim) at the positions of images, and zeros elsewhere."""
        vectors, shape = sequences.image_tokens.vectors.float(), sequences.image_mask.shape
        placed = vectors.new_zeros(*shape, vectors.shape[-1])
        return placed.masked_scatter(sequences.image_mask[..., None], vectors)

    def compute_vector_losses(
        self, hidden_states: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """
        Computes the loss of each vector that is a label.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(B, L, hidden_size)`): The output of the language model.
            labels (`torch.LongTensor` of shape `(B, L)`): The labels, code 0 for vectors.
            targets (`torch.FloatTensor` of shape `(B, L, code_dim)`): The vectors at the positions of images.
        """
        is_vector = (labels == self.config.visual_token_offset)[:, 1:]
        targets = (targets[:, 1:][is_vector] - self.target_mean) / self.target_std
        predicted = self.vector_head(hidden_states[:, :-1][is_vector]).float()
        if self.regression.loss == "cosine":
            return 1 - cosine_similarity(predicted, targets, dim=-1)
        length = targets.shape[-1] if self.regression.normalize else 1
        return (predicted - targets).square().sum(dim=-1) / length

    def predict_vectors(self, hidden_states: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        """Returns unit vectors (B, code_dim) of states (2 B, hidden_size), the unconditional branches last."""
        predicted = self.vector_head(hidden_states).float()
        if self.regression.loss == "cosine":  # whose gradient leaves the length free
            length = predicted.shape[-1] ** 0.5 if self.regression.normalize else 1
            predicted = normalize(predicted, dim=-1) * length
        conditional, unconditional = predicted.chunk(2)
        guided = unconditional + guidance_scale * (conditional - unconditional)
        return normalize(guided * self.target_std + self.target_mean, dim=-1)

    @torch.no_grad()
    def draw_vectors(self, inputs: dict, guidance_scale: float = 1.0) -> list[torch.Tensor]:
        """
        Draws an image after each prompt. The unconditional branch of guidance attends from the open `[IMG]` on, as
        that of LaVIT does. An image ends where `[/IMG]` is likely enough, see `end_threshold`.

        Args:
            inputs (`dict`): Prompts of B drawings, as [`prepare_prompts`] returns them.
            guidance_scale (`float`, *optional*, defaults to 1.0): The strength of guidance, 1 for none.

        Returns:
            `list[torch.FloatTensor]`: The unit vectors (num_vectors, code_dim) of each image.
        """
        config = self.config
        if "pixel_values" in inputs:
            sequences = self.model.expand_images(**inputs, image_inputs="codes")
            embeds, mask = self.embed_vectors(sequences), sequences.attention_mask
        else:
            embeds, mask = self.get_input_embeddings()(inputs["input_ids"]), inputs["attention_mask"]
        start = torch.full_like(mask[:, :1], config.image_start_token_id)
        embeds = torch.cat([embeds, self.get_input_embeddings()(start)], dim=1).repeat(2, 1, 1)
        one = torch.ones_like(start)
        # The unconditional branches see nothing before their [IMG].
        mask = torch.cat([torch.cat([mask, one], dim=1), torch.cat([torch.zeros_like(mask), one], dim=1)])
        cache, drawn, is_open = DynamicCache(config=config.text_config), [], one[:, 0].bool()
        lengths = torch.zeros_like(one[:, 0])
        for step in range(config.num_patches):
            outputs = self.model(inputs_embeds=embeds, attention_mask=mask, cache=cache, use_cache=True)
            hidden_states = outputs.last_hidden_state[:, -1]
            if step:
                logits = self.lm_head(hidden_states[: len(start)]).float()
                ends = logits[:, config.image_end_token_id] - logits[:, config.visual_token_offset]
                is_open &= ends.sigmoid() < self.regression.end_threshold
            if not is_open.any():
                break
            lengths += is_open
            vectors = self.predict_vectors(hidden_states, guidance_scale)
            drawn.append(vectors)
            embeds = self.vector_embedding(vectors.to(embeds)).to(embeds)[:, None].repeat(2, 1, 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        stacked = torch.stack(drawn, dim=1)
        return [rows[:length] for rows, length in zip(stacked, lengths.tolist(), strict=True)]


class RegressionTrainer(LavitForCausalLMTrainer):
    """Trains a [`RegressionForCausalLM`]. The log has the mean loss of vectors, `loss_on_vectors`."""

    def measure(self, outputs) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        measured, losses = super().measure(outputs), outputs.get("vector_losses")
        if losses is not None:
            measured["loss_on_vectors"] = (losses.sum(), torch.tensor(len(losses), device=losses.device))
            if "loss" in measured:
                total, weight = measured["loss"]
                measured["loss"] = (total + self.model.regression.weight * losses.sum(), weight)
        return measured


@dataclass
class VectorTokens(LavitVisualTokenizerOutput):
    """The output of a visual tokenizer whose images are vectors, and not codes."""

    def split(self) -> tuple[torch.Tensor, ...]:
        """Returns the vectors of each image."""
        return self.vectors.split(self.num_codes.tolist())


@contextmanager
def codebook_of(pipeline: LavitImageDecoderPipeline, vectors: Sequence[torch.Tensor]) -> Iterator[list[list[int]]]:
    """
    A context in which the codebook of a pixel decoder has the vectors of images as its rows, so that all that it does
    with codes it does with vectors. Yields the codes of each image.
    """
    decoder = pipeline.feature_decoder
    before = decoder.codebook, decoder.config.codebook_size
    rows = torch.cat(list(vectors)).to(decoder.codebook)
    ends = torch.tensor([len(part) for part in vectors]).cumsum(0).tolist()
    decoder.codebook, decoder.config.codebook_size = rows, len(rows)
    try:
        yield [list(range(end - len(part), end)) for part, end in zip(vectors, ends, strict=True)]
    finally:
        decoder.codebook, decoder.config.codebook_size = before


class RegressionSubject(Subject):
    """A [`RegressionForCausalLM`] under evaluation, which draws and decodes vectors in place of codes."""

    def check_image_decoder(self) -> None:
        """Checks nothing, since the model has no codes."""

    def draw(self, texts: list[str], first: int, images: list[Image.Image] | None = None) -> list[Image.Image]:
        before: Images | None = images and [[image] for image in images]
        inputs = prepare_prompts(self.processor, texts, before, generation_mode="image").to(self.model.device)
        scale = self.model.regression.guidance_scale or self.drawing_settings().get("guidance_scale") or 1.0
        drawn = self.model.draw_vectors(dict(inputs), scale)
        self.drawn_codes.extend(map(len, drawn))
        seed, decoding = self.settings.seed + first, self.settings.image_decoding
        if not images:
            return self.decode([rows.tolist() for rows in drawn], first)
        source = list(self.encode(images).split())
        with codebook_of(self.pipeline, [*source, *drawn]) as codes:
            return decode_edits(self.pipeline, images, codes[: len(images)], codes[len(images) :], seed, **decoding)

    def encode(self, images: list[Image.Image]) -> VectorTokens:
        return VectorTokens(**super().encode(images))

    def decode(self, codes: list, first: int) -> list[Image.Image]:
        """Decodes images, each a list of vectors."""
        vectors = [torch.tensor(rows) for rows in codes]
        with codebook_of(self.pipeline, vectors) as rows:
            return decode_codes(self.pipeline, rows, self.settings.seed + first, **self.settings.image_decoding)
