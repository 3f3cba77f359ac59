"""Models of other libraries as torch modules of logits."""

from typing import Any

from torch import nn

from firstcue.integrations.estimators import estimator_module, is_estimator
from firstcue.integrations.exported import is_program, program_module


def as_module(model: Any) -> nn.Module:
    """A model of another library as a module of logits; a module is returned as it is.

    Args:
        model: An `nn.Module`, a fitted scikit-learn classifier, a fitted skorch net, or a program of `torch.export`.

    Raises:
        ValueError: If it is none of these, or not fitted.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> as_module(layer) is layer
        True
    """
    if isinstance(model, nn.Module):
        return model
    if is_program(model):
        return program_module(model)
    if hasattr(model, "initialize") and hasattr(model, "module"):
        return _inside_skorch(model)
    if is_estimator(model):
        return estimator_module(model)
    raise ValueError(
        f"`model` is a {type(model).__name__}; a torch.nn.Module that returns logits is needed, or a fitted scikit-learn "
        f"classifier, a fitted skorch net or a program of torch.export. For other models hand their embeddings to "
        f"audit_embeddings."
    )


def _inside_skorch(net: Any) -> nn.Module:
    module = getattr(net, "module_", None)
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"the {type(net).__name__} has no module yet; call its fit(X, y), or initialize() and load_params()."
        )
    return module
