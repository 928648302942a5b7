# The shapes model from nothing: `make shapes-model`. Each stage goes on where it was stopped.
PYTHON ?= .venv/bin/python
RECIPES = examples/recipes/shapes
RUNS = runs/shapes

.PHONY: shapes-model
shapes-model: $(RUNS)/model/evaluation.json

$(RUNS)/vision_tower/model.safetensors: $(RECIPES)/vision_tower.yaml
	$(PYTHON) examples/train_vision_tower.py $<

$(RUNS)/visual_tokenizer/README.md: $(RECIPES)/visual_tokenizer.yaml $(RUNS)/vision_tower/model.safetensors
	$(PYTHON) examples/train_visual_tokenizer.py $<

$(RUNS)/vae/README.md: $(RECIPES)/vae.yaml
	$(PYTHON) examples/train_vae.py $<

$(RUNS)/image_decoder/README.md: $(RECIPES)/image_decoder.yaml $(RUNS)/visual_tokenizer/README.md $(RUNS)/vae/README.md
	$(PYTHON) examples/train_image_decoder.py $<

$(RUNS)/lavit/README.md: $(RECIPES)/pretrain.yaml $(RUNS)/visual_tokenizer/README.md
	$(PYTHON) examples/pretrain.py $<

# One folder for both libraries, in half precision.
$(RUNS)/model/evaluation.json: $(RUNS)/lavit/README.md $(RUNS)/image_decoder/README.md
	$(PYTHON) examples/assemble.py $(RUNS)/lavit $(RUNS)/image_decoder $(RUNS)/model --dtype bfloat16
	.venv/bin/lavit-hf evaluate $(RUNS)/model --num-samples 1000 --output $@
