# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Data that comes with the library."""
