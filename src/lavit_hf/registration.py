# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Makes the Auto classes of transformers know LaVIT, at no cost until one is used.

Registering a class imports it, and torch with it, where `import transformers` imports neither. Transformers looks its
own classes up by name, in tables that are imported with the Auto classes, and so it finds ours: their names join the
tables as these are imported, and `transformers.models.lavit` is this package. `modeling` registers the models.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec


TABLES = "transformers.models.auto.auto_mappings"
CONFIGS = {
    "lavit": "LavitConfig",
    "lavit_visual_tokenizer": "LavitVisualTokenizerConfig",
    "lavit_feature_decoder": "LavitFeatureDecoderConfig",
}


def add_names(tables) -> None:
    """Adds LaVIT to transformers' tables of names."""
    tables.CONFIG_MAPPING_NAMES.update(CONFIGS)
    tables.SPECIAL_MODEL_TYPE_TO_MODULE_NAME.update(dict.fromkeys(CONFIGS, "lavit"))
    tables.PROCESSOR_MAPPING_NAMES["lavit"] = "LavitProcessor"
    tables.IMAGE_PROCESSOR_MAPPING_NAMES["lavit"] = {
        "torchvision": "LavitImageProcessor",
        "pil": "LavitImageProcessorPil",
    }


class TablesFinder(MetaPathFinder):
    """Waits for the import of transformers' tables, to add to them before mappings are made of them."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != TABLES:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        execute = spec.loader.exec_module

        def execute_and_add(module):
            execute(module)
            add_names(module)

        spec.loader.exec_module = execute_and_add
        return spec


def register_classes(package) -> None:
    """Adds LaVIT to mappings that were made of the tables already."""
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

    for model_type, name in CONFIGS.items():
        AutoConfig.register(model_type, getattr(package, name))
    backends = {"torchvision": package.LavitImageProcessor, "pil": package.LavitImageProcessorPil}
    AutoImageProcessor.register(package.LavitConfig, image_processor_classes=backends)
    AutoProcessor.register(package.LavitConfig, package.LavitProcessor)


def register(package) -> None:
    """Registers `package`, which has every class that is named here, with transformers."""
    if TABLES in sys.modules:
        register_classes(package)
    else:
        sys.modules["transformers.models.lavit"] = package
        sys.meta_path.insert(0, TablesFinder())
