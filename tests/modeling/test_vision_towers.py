# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every vision model of transformers makes a visual tokenizer, or is refused in words before anything is trained."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    BeitConfig,
    BlipVisionConfig,
    BlipVisionModel,
    PreTrainedConfig,
    Siglip2VisionConfig,
    SwinConfig,
    VideoMAEConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_IMAGE_MAPPING_NAMES,
)
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from lavit_hf import LavitForCausalLM, LavitVisualTokenizer, LavitVisualTokenizerForPreTraining
from lavit_hf.modeling.arguments_lavit import check_vision_config

from ..tiny import CODEBOOK_SIZE, IMAGE_SIZE, NUM_PATCHES, VISION, loosen
from .test_tokenizer import make_config


# Values for all of these that a configuration has.
SMALL = VISION | {"head_dim": 8, "mlp_dim": 64, "num_key_value_heads": 4, "out_hidden_size": 32, "window_size": 2}
PATCH_SIZE = VISION["patch_size"]
GRID = IMAGE_SIZE // PATCH_SIZE
FIT = {
    "clip_vision_model",
    "siglip_vision_model",
    "dinov2",
    "dinov3_vit",
    "vit",
    "blip_2_vision_model",
    "beit",
    "deit",
}
FIT |= {"aimv2_vision_model", "ijepa", "idefics3_vision", "smolvlm_vision", "radio", "mlcd", "vit_msn", "sapiens2"}
NEED_OTHER_SIZES = {"lw_detr_vit"}


def vision_configs() -> dict[str, PreTrainedConfig]:
    """A configuration of each model that takes images, alone or with a tower of several, by its type."""
    found = {}
    for model_type, config_class in CONFIG_MAPPING.items():
        try:
            config = config_class()
        except (ImportError, TypeError, ValueError, StrictDataclassError):
            continue  # It needs an argument, or a library that is not there.
        listed = model_type in (*MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, *MODEL_FOR_IMAGE_MAPPING_NAMES)
        if listed or "vision" in model_type or any(hasattr(config, name) for name in ("image_size", "vision_config")):
            found[model_type] = config
    return found


def build_small(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    names = {name for base in config_class.__mro__ for name in getattr(base, "__annotations__", ())}
    names |= config_class.attribute_map.keys()
    return config_class(**{name: value for name, value in SMALL.items() if name in names})


@torch.no_grad()
def check_features(tokenizer: LavitVisualTokenizer) -> None:
    """Codes that are the same again and alone, from one feature per patch, in raster order."""
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    features = tokenizer.encode_vision(images)
    assert features.shape == (2, NUM_PATCHES, tokenizer.config.hidden_size)
    codes = tokenizer(images).split()
    assert all(torch.equal(*pair) for pair in zip(codes, tokenizer(images).split(), strict=True))
    torch.testing.assert_close(tokenizer.encode_vision(images[:1]), features[:1], atol=1e-4, rtol=1e-3)
    assert torch.equal(tokenizer(images[1:]).codes, codes[1])
    # One image per patch, in which this patch alone is another.
    changed = images[:1].repeat(NUM_PATCHES, 1, 1, 1)
    for patch in range(NUM_PATCHES):
        row, column = (PATCH_SIZE * place for place in divmod(patch, GRID))
        changed[patch, :, row : row + PATCH_SIZE, column : column + PATCH_SIZE] += 3
    most = (tokenizer.encode_vision(changed) - features[:1]).norm(dim=-1).argmax(dim=-1)
    assert most.tolist() == list(range(NUM_PATCHES))


def test_every_vision_model_works_or_is_refused():
    works, refused, wrong = set(), set(), {}
    for model_type, config in vision_configs().items():
        tower_config = getattr(config, "vision_config", config)
        try:
            check_vision_config(tower_config)
        except ValueError:
            # Whatever its sizes. It must be refused at once, since this model may be large.
            with pytest.raises(ValueError, match="vision_config must describe a vision transformer with an integer"):
                LavitVisualTokenizerForPreTraining.from_vision_tower(config)
            refused.add(model_type)
            continue
        if tower_config is not config or model_type in NEED_OTHER_SIZES:
            continue  # A tower of several has a model type of its own.
        torch.manual_seed(0)
        try:
            config = build_small(type(config))
            model = LavitVisualTokenizerForPreTraining.from_vision_tower(
                config, codebook_size=CODEBOOK_SIZE, num_merger_layers=1
            )
            check_features(loosen(model.visual_tokenizer, std=0.1).eval())
            works.add(model_type)
        except ValueError as error:
            refused.add(model_type)
            if not str(error).startswith("vision_config must") or type(config).__name__ not in str(error):
                wrong[model_type] = error
        except Exception as error:
            wrong[model_type] = error
    assert not wrong
    assert len(works) + len(refused) > 200
    assert works >= FIT
    assert refused >= {"vit_mae", "swin", "siglip2_vision_model", "pixtral", "sam_vision_model", "blip_vision_model"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ViTMAEConfig(**VISION), "ViTMAEConfig: it draws random numbers at inference"),
        (ViTMAEConfig(**VISION, mask_ratio=0.0), "ViTMAEConfig: it draws random numbers at inference"),
        (SwinConfig(), "SwinConfig with num_attention_heads="),
        (Siglip2VisionConfig(), "Siglip2VisionConfig with image_size=None"),
        (ViTConfig(**VISION | {"image_size": [32, 48]}), r"ViTConfig with image_size=\[32, 48\]"),
        (
            VideoMAEConfig(**VISION),
            r"VideoMAEConfig: it does not make hidden states of images of shape \(B",
        ),
        (BlipVisionConfig(**VISION), "of which AutoModel makes a model, got BlipVisionConfig"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(config, message):
    with pytest.raises(ValueError, match=message):
        LavitVisualTokenizerForPreTraining.from_vision_tower(config)
    with pytest.raises(ValueError, match=message):
        LavitForCausalLM.from_backbones(config, "no text model is looked for before")


def test_a_tower_that_would_be_saved_and_not_loaded_is_refused():
    for tower in (ViTMAEModel(ViTMAEConfig(**VISION)), BlipVisionModel(BlipVisionConfig(**VISION))):
        with pytest.raises(ValueError, match="vision_config must"):
            LavitVisualTokenizerForPreTraining.from_vision_tower(tower)
    with pytest.raises(ValueError, match="must be a ViTModel, .* got ViTForImageClassification"):
        LavitVisualTokenizerForPreTraining.from_vision_tower(ViTForImageClassification(ViTConfig(**VISION)))


def test_a_named_tower_is_refused_before_its_weights_are_loaded(tmp_path):
    SwinConfig().save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ValueError, match="SwinConfig with num_attention_heads="):
        LavitVisualTokenizerForPreTraining.from_vision_tower(str(tmp_path))


def test_a_new_tokenizer_checks_its_tower():
    config = make_config()
    config.vision_config = ViTMAEConfig(**VISION)
    with pytest.raises(ValueError, match="draws random numbers"):
        LavitVisualTokenizer(config)


@torch.no_grad()
def test_the_check_of_a_tower_leaves_nothing_behind():
    """BEiT keeps a table of relative positions, by the number of patches, which all its models share."""
    size = 3 * PATCH_SIZE  # which no other test has
    config = BeitConfig(**VISION | {"image_size": size}, use_relative_position_bias=True)
    LavitVisualTokenizerForPreTraining.from_vision_tower(config, codebook_size=8, num_merger_layers=1)
    table = BeitRelativePositionBias.generate_relative_position_index((3, 3))
    assert table.device.type == "cpu"
    assert table.min() == 0
    assert table.max() == (2 * 3 - 1) ** 2 + 2
