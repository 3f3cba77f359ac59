"""Programs of `torch.export` as models: every linear operator of the graph becomes a layer that can be watched and replaced."""

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

_TRAINING_FLAG = {"aten.dropout.default": 2, "aten.batch_norm.default": 5, "aten.instance_norm.default": 5}


def is_program(value: Any) -> bool:
    """Whether a value is an `ExportedProgram`."""
    return isinstance(value, torch.export.ExportedProgram)


def program_module(program: torch.export.ExportedProgram) -> nn.Module:
    """An exported program as a module that gives the same answers, with an `nn.Linear` for every linear operator.

    Layers have the names they had before the export, and `state_dict` its keys. Files are not read here: `torch.export.load`
    unpickles, so call it yourself on files that you trust.

    Args:
        program: Exported in evaluation mode, with a first axis of any size.

    Returns:
        A plain `torch.fx.GraphModule`.

    Raises:
        ValueError: If the program was exported for one batch size, or in training mode.

    Example:
        >>> rows = torch.export.Dim("rows")
        >>> program = torch.export.export(nn.Sequential(nn.Linear(3, 2)), (torch.zeros(4, 3),), dynamic_shapes=({0: rows},))
        >>> program_module(program).get_submodule("0")
        Linear(in_features=3, out_features=2, bias=True)
    """
    made = program.module()
    if not isinstance(made, GraphModule):
        raise ValueError(f"the program unpacks to a {type(made).__name__}, not to a graph; export the model again.")
    _require_any_batch(made)
    _require_evaluating(made)
    plain = GraphModule(made, made.graph)  # without the refusal of `eval()` that unpacked programs have
    for node in list(plain.graph.nodes):
        found = _linear(node)
        if found is not None:
            _replace(plain, node, *found)
    plain.graph.eliminate_dead_code()
    plain.recompile()
    return plain


def _require_any_batch(made: GraphModule) -> None:
    inputs = [node for node in made.graph.nodes if node.op == "placeholder"]
    shapes = [value.shape for node in inputs if isinstance(value := node.meta.get("val"), torch.Tensor)]
    if shapes and shapes[0] and isinstance(shapes[0][0], int):
        raise ValueError(
            f"the program was exported for exactly {shapes[0][0]} rows. Export it again with any number of them: "
            f"torch.export.export(model.eval(), (x,), dynamic_shapes=({{0: torch.export.Dim('rows')}},)) with an x of at "
            f"least two rows."
        )


def _require_evaluating(made: GraphModule) -> None:
    for node in made.graph.nodes:
        place = _TRAINING_FLAG.get(str(node.target))
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise ValueError(
                f"the program was exported in training mode ({node.target} is random or learns in it); call model.eval() "
                f"before torch.export.export."
            )


def _linear(node: Node) -> tuple[Node, Node, Node | None] | None:
    """What goes into a linear operator, its weight and its bias, if weight and bias are parameters."""
    name, args = str(node.target), list[Any](node.args)
    if name == "aten.linear.default":
        x, weight, bias = (*args, None)[:3]
    elif name == "aten.addmm.default" and not node.kwargs:
        bias, x, turned = args
        weight = turned.args[0] if _is_transpose(turned) else None
    else:
        return None
    return (x, weight, bias) if _is_parameter(weight) and (bias is None or _is_parameter(bias)) else None


def _is_transpose(node: Any) -> bool:
    name = str(node.target) if isinstance(node, Node) else ""
    return name == "aten.t.default" or (name == "aten.permute.default" and list(node.args[1]) == [1, 0])


def _is_parameter(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def _replace(module: GraphModule, node: Node, x: Node, weight: Node, bias: Node | None) -> None:
    """Call a layer in place of the operator; it has the very parameters, under the name they had."""
    owner, _, last = str(weight.target).rpartition(".")
    if not owner or last != "weight" or (bias is not None and str(bias.target) != f"{owner}.bias"):
        return
    if not isinstance(module.get_submodule(owner), nn.Linear):
        matrix = module.get_parameter(str(weight.target))
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta")
        layer.weight = matrix
        if bias is not None:
            layer.bias = module.get_parameter(str(bias.target))
        module.set_submodule(owner, layer)
    with module.graph.inserting_before(node):
        called = module.graph.call_module(owner, (x,))
    called.meta = dict(node.meta)
    node.replace_all_uses_with(called)
    module.graph.erase_node(node)
