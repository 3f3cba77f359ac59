"""Look inside a model: activations of named layers, and the head with its features."""

from firstcue.forward import left_as_found, predict, unwrap
from firstcue.heads import Head, features_and_outputs, find_head, with_head

__all__ = ["Head", "features_and_outputs", "find_head", "left_as_found", "predict", "unwrap", "with_head"]
