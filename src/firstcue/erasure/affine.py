"""A map that takes a few directions out of a representation: applied to data, put inside a model, or reported on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from firstcue.erasure._apply import as_rows, in_blocks, like, result_type, working_type


@dataclass(frozen=True, eq=False)
class AffineEraser:
    """The map x -> x - left right^T (x - mean), stored in O(d r).

    Example:
        >>> from firstcue import Moments, leace
        >>> x = torch.tensor([[1.0, 2.0], [1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> eraser = leace(Moments.of_groups(x, ["in", "in", "out", "out"]))
        >>> eraser(x).round(decimals=3) + 0.0
        tensor([[ 0.0000,  1.5000],
                [ 0.0000, -0.5000],
                [ 0.0000,  1.5000],
                [ 0.0000, -0.5000]])
    """

    left: Float64[Tensor, "d r"]
    """Directions that are edited; for means alone, at most the number of classes minus one."""

    right: Float64[Tensor, "d r"]
    """Directions that are read; left^T right is the identity."""

    mean: Float64[Tensor, " d"]
    """The one point that stays where it is."""

    distortion: float | None = None
    """Mean squared movement of the rows the eraser was fitted on, in units of x squared, by theory."""

    def __call__(self, x: Any, group: Any = None) -> Any:
        """Erase the concept from `x`, shape `(..., d)`; `group` is accepted and ignored, as no label is needed.

        Returns:
            As `x`: shape, type and library; integers become float32.

        Raises:
            ValueError: If the last axis has another length than the features fitted.
        """
        rows = as_rows(x, len(self.mean))
        edit = affine_edit(self.left, self.right, self.mean, rows)
        return like(edit(rows) if rows.requires_grad and torch.is_grad_enabled() else in_blocks(edit, rows), x)

    @property
    def rank(self) -> int:
        """Number of directions removed."""
        return self.left.shape[1]

    @property
    def projection(self) -> Float64[Tensor, "d d"]:
        """P = I - left right^T, the linear part."""
        return torch.eye(len(self.mean), dtype=self.left.dtype, device=self.left.device) - self.left @ self.right.mT

    def report(self, x: Any, z: Any) -> dict[str, float | None]:
        """What the eraser does to rows `x` with labels `z`; `optimum` is the movement of the best affine edit of these rows.

        See `firstcue.erasure.report.edit_report` for the keys.
        """
        from firstcue.erasure.leace import leace
        from firstcue.erasure.report import edit_report

        return edit_report(x, self(x), z, rank=self.rank, optimum=lambda by_class: leace(by_class).distortion)

    def to_module(self, dtype: torch.dtype = torch.float64) -> "EraserModule":
        """The same map as a module with buffers, to put inside a model."""
        return EraserModule(self, dtype)


class EraserModule(nn.Module):
    """An affine eraser as a layer: its buffers are saved, moved and cast with the model; gradients pass through."""

    left: Tensor
    right: Tensor
    mean: Tensor

    def __init__(self, eraser: AffineEraser, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        for name in ("left", "right", "mean"):
            self.register_buffer(name, getattr(eraser, name).to(dtype, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        """Erase the concept from `x`, shape `(..., d)`."""
        return affine_edit(self.left, self.right, self.mean, x)(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.left.shape[0]} features, rank {self.left.shape[1]}"


def affine_edit(left: Tensor, right: Tensor, mean: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The function rows -> rows - left right^T (rows - mean) for rows like `x`, computed in float32 or float64.

    Rows are centred before they are read: far from zero, a product with the raw rows would round away what it reads.
    """
    kind, out, device = working_type(x), result_type(x), x.device
    centre = mean.to(device, kind)
    fine = torch.promote_types(mean.dtype, kind)
    drift = (right.to(device, fine).mT @ (mean.to(device, fine) - centre)).to(kind)[:, None]
    # (right^T rows^T) rather than (rows right): BLAS is several times faster with the narrow factor first
    readers, writers = right.to(device, kind).mT.contiguous(), left.to(device, kind).mT

    def edit(rows: Tensor) -> Tensor:
        base = rows.to(kind)
        read = torch.addmm(drift, readers, (base - centre).mT, beta=-1)
        return torch.addmm(base, read.mT, writers, alpha=-1).to(out)

    return edit
