"""Explanation by simplification in the shape of Captum's attributions, and Captum's attributions on the page of a report."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_finite
from firstcue._extras import require_extra
from firstcue.forward import left_as_found, one_tensor, unwrap
from firstcue.simplicity.density import Density
from firstcue.simplicity.explain import explain_simplify
from firstcue.simplicity.explained import SimplifyResult


def simplification(forward_func: nn.Module | Callable[..., Any], density: Density, **settings: Any) -> Any:
    """A `captum.attr.Attribution` whose attributions are what simplification took away, |x - simplified|.

    Args:
        forward_func: The classifier, a module or any function of images.
        density: Gives the bits and their gradient.
        settings: As for `explain_simplify`: `kl_budget`, `steps`, `start`, `to_inputs` and others. Controls do not run unless
            `controls` asks for them.

    Returns:
        An object with `attribute(inputs, baselines=None, target=None, additional_forward_args=None)` of the inputs' shape,
        and `explain(...)` of the same arguments, which returns the whole `SimplifyResult`.

    Raises:
        MissingExtra: If Captum is not installed.

    Example:
        >>> import torch
        >>> from firstcue.simplicity.dct import DCTLaplace
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> method = simplification(model, DCTLaplace(), steps=2)
        >>> method.attribute(torch.rand(1, 1, 8, 8), target=1).shape
        torch.Size([1, 1, 8, 8])
    """
    base = require_extra("captum.attr", "captum", "an attribution for Captum").Attribution

    class Simplification(base):  # type: ignore[misc,valid-type]
        def explain(
            self, inputs: Any, baselines: Any = None, target: Any = None, additional_forward_args: Any = None
        ) -> SimplifyResult:
            """The whole explanation."""
            images = _one(inputs)
            if baselines is not None:
                raise ValueError(
                    "simplification compares with no baseline: it finds the simplest image itself. Leave `baselines` out."
                )
            arguments = additional_forward_args
            more = () if arguments is None else arguments if isinstance(arguments, tuple) else (arguments,)
            return explain_simplify(
                _called(self.forward_func, more), images, density, target, **{"controls": False, **settings}
            )

        def attribute(
            self, inputs: Any, baselines: Any = None, target: Any = None, additional_forward_args: Any = None
        ) -> Any:
            """`|x - simplified|`, of the shape of `inputs`."""
            found = self.explain(inputs, baselines, target, additional_forward_args).difference
            return (found,) if isinstance(inputs, tuple) else found

    return Simplification(forward_func)


def _one(inputs: Any) -> Tensor:
    if isinstance(inputs, tuple):
        if len(inputs) != 1:
            raise ValueError(f"images of one kind are simplified; got a tuple of {len(inputs)} inputs.")
        inputs = inputs[0]
    if not isinstance(inputs, Tensor):
        raise ValueError(f"`inputs` is a {type(inputs).__name__}; a tensor of images (n, c, h, w) is needed.")
    return inputs


def _called(forward: nn.Module | Callable[..., Any], more: tuple[Any, ...]) -> nn.Module:
    """The classifier as a module of images alone; one that is a module keeps its layers to be looked at."""
    if isinstance(forward, nn.Module) and not more:
        return forward
    return _With(forward, more)


class _With(nn.Module):
    def __init__(self, forward: nn.Module | Callable[..., Any], more: tuple[Any, ...]):
        super().__init__()
        self.function, self.more = forward, more

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.more)


SHOWN = 4
"""Images on the page."""


def attributed(
    report: Any,
    model: nn.Module,
    x: Any,
    *,
    explained: SimplifyResult | None = None,
    target: Any = None,
    steps: int = 50,
) -> Any:
    """The report with one more picture: where Captum's integrated gradients put the decisions, beside the images.

    It says which pixels the logit responds to on the way from a black image; the report's own pictures say what a decision
    needs. Neither proves a shortcut: that is what the report's interventions are for.

    Args:
        report: A report of the same model.
        model: The classifier, left as found.
        x: `(n, c, h, w)` images as the model takes them, c of 1 or 3; the first four are shown.
        explained: What `explain_simplify` found for the same images; its simplified ones are set beside.
        target: Class ids `(n,)`, or one for all; the model's own decisions when absent.
        steps: Points on the path from black.

    Returns:
        A copy of the report.

    Raises:
        MissingExtra: If Captum is not installed.
        ValueError: If `x` holds no images, or other images than `explained`.

    Source:
        Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks" (2017), https://arxiv.org/abs/1703.01365.

    Example:
        >>> from firstcue import Report
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> page = attributed(Report(verdict="no shortcut found"), model, torch.rand(2, 1, 8, 8))
        >>> page.pictures[0].title
        'Integrated gradients'
    """
    found = require_extra("captum.attr", "captum", "integrated gradients").IntegratedGradients
    from firstcue.report.figures import picture

    images = as_tensor(x)[:SHOWN].detach()
    require_finite(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise ValueError(
            f"`x` has shape {tuple(images.shape)}, {images.dtype}; images (n, 1 or 3, h, w) of floats are needed."
        )
    if explained is not None and explained.simplified[: len(images)].shape != images.shape:
        raise ValueError(
            f"`explained` holds images {tuple(explained.simplified.shape)} and `x` {tuple(images.shape)}; give the same ones."
        )
    inner = unwrap(model)
    with left_as_found(inner):
        logits = _logits(inner)
        wanted = logits(images).argmax(dim=1) if target is None else torch.as_tensor(target)[: len(images)]
        maps, gap = found(logits).attribute(
            images.clone(), target=wanted.to(images.device), n_steps=steps, return_convergence_delta=True
        )
    shown = picture(*_tiles(images, maps, explained, gap, wanted), columns=2 if explained is None else 3)
    return report.model_copy(update={"pictures": (*report.pictures, shown)})


def _logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model's logits with their gradient; one output f stands for the two logits [-f/2, f/2]."""

    def logits(x: Tensor) -> Tensor:
        outputs = one_tensor(model(x), len(x))
        outputs = outputs[:, None] if outputs.ndim == 1 else outputs.flatten(1)
        return outputs if outputs.shape[1] > 1 else torch.cat([-outputs / 2, outputs / 2], dim=1)

    return logits


def _tiles(
    images: Tensor, maps: Tensor, explained: SimplifyResult | None, gap: Tensor, target: Tensor
) -> tuple[list[Tensor], str, str, str]:
    """Pictures, title, caption and text alternative."""
    low, high = images.amin(), images.amax()
    strength = maps.detach().abs().sum(dim=1, keepdim=True)
    strength = strength / strength.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(strength.dtype).tiny)
    scale = max(1, 84 // images.shape[2])
    tiles, columns = [], ["original", "where integrated gradients are large (white; each image on its own scale)"]
    for i in range(len(images)):
        row = [(images[i] - low) / (high - low).clamp(min=1e-12), strength[i].expand_as(images[i])]
        if explained is not None:
            row.append((explained.simplified[i].to(images) - low) / (high - low).clamp(min=1e-12))
        tiles += [tile.cpu().repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2) for tile in row]
    if explained is not None:
        columns.append("the simplest image that is answered alike")
    classes = ", ".join(str(int(c)) for c in target.flatten())
    caption = (
        f"From left: {', '.join(columns)}. From above: of the logit of class {classes}, from a black image; the parts add up to "
        f"the logit's change within {float(gap.abs().max()):.2g}. A response of the logit, no proof of reliance."
    )
    return tiles, "Integrated gradients", caption, f"{len(images)} images, each beside {' and '.join(columns[1:])}"
