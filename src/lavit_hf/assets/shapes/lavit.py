"""The classes that load this model with `trust_remote_code`: those of lavit_hf, which has to be installed."""

from lavit_hf import *  # noqa: F403
