# `make shapes-model` trains the small model that ships with the library from nothing. A stage that was stopped resumes.
PYTHON ?= .venv/bin/python
LAVIT ?= .venv/bin/lavit-hf
RECIPES = examples/recipes/shapes
RUNS = runs/shapes
PRECOMPUTE = $(LAVIT) precompute-codes shapes $(RUNS)/codes --model $(RUNS)/visual_tokenizer \
	--image-column image --image-column edited_image

.PHONY: shapes-model
shapes-model: $(RUNS)/model/README.md
ifeq ($(MAKECMDGOALS),shapes-model)
$(info The whole training takes about ten hours on two cores. After an interruption, the same command resumes it.)
endif

$(RUNS)/vision_tower/README.md: $(RECIPES)/vision_tower.yaml
	$(PYTHON) examples/train_vision_tower.py $<

$(RUNS)/visual_tokenizer/README.md: $(RECIPES)/visual_tokenizer.yaml $(RUNS)/vision_tower/README.md
	$(PYTHON) examples/train_visual_tokenizer.py $<

$(RUNS)/vae/README.md: $(RECIPES)/vae.yaml
	$(PYTHON) examples/train_vae.py $<

$(RUNS)/codes/complete: $(RUNS)/visual_tokenizer/README.md
	$(PRECOMPUTE) --num-rows 100000
	$(PRECOMPUTE) --num-rows 1000 --split validation
	touch $@

$(RUNS)/image_decoder/README.md: $(RECIPES)/image_decoder.yaml $(RUNS)/codes/complete $(RUNS)/vae/README.md
	$(PYTHON) examples/train_image_decoder.py $<

$(RUNS)/lavit/README.md: $(RECIPES)/pretrain.yaml $(RUNS)/codes/complete
	$(PYTHON) examples/pretrain.py $<

# Assembles one folder for transformers and diffusers in float16, and evaluates it on 1000 scenes of the test split.
$(RUNS)/model/README.md: $(RUNS)/lavit/README.md $(RUNS)/image_decoder/README.md model_cards/shapes.md model_cards/shapes_domain.json
	$(PYTHON) examples/assemble.py $(RUNS)/lavit $(RUNS)/image_decoder $(RUNS)/model --dtype float16 \
		--without_code --domain model_cards/shapes_domain.json --dataset shapes --title "LaVIT of shapes" --license apache-2.0 --description model_cards/shapes.md

# Compares LaVIT with other systems, see docs/study.md. What is there is not run again; what was stopped is resumed.
.PHONY: study
study:
	$(PYTHON) examples/study/run.py --sweep --trials

# Runs the common test suites of transformers on LaVIT's classes, after `pip install -e ".[dev,conformance]"`.
.PHONY: conformance
conformance:
	HF_HUB_OFFLINE=1 $(PYTHON) -m pytest tests/conformance

# Measures what only a GPU can tell, for 8.5 minutes at most. Parts that are complete are not measured again.
.PHONY: gpu-figures
gpu-figures:
	$(PYTHON) benchmarks/gpu.py

# Brings the figures of benchmarks/results into docs/numbers.md.
.PHONY: numbers
numbers:
	$(PYTHON) benchmarks/write_numbers.py
