# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`python -m lavit_hf.cli`, which `accelerate launch -m` and `torchrun -m` can start in several processes."""

from . import main


main()
