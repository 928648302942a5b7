# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets: loading, precomputed codes, and the scenes that come with the library."""
