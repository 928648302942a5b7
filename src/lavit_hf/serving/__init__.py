# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A server for clients of OpenAI's API, which may be hostile."""
