"""Run a rule over parameters that several processes hold together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minimand.optim.optimizer import RuleOptimizer
from minimand.optim.rule import Rule, VectorRule, events


class DistributedOptimizer(RuleOptimizer):
    """A rule as an optimizer of a model under ``DistributedDataParallel`` or ``fully_shard``.

    What acts by element is stepped where it lies: every process steps what it holds. What a rule takes whole, such as
    Muon its matrices, is stepped by one process, its owner, which alone holds its state; owners are chosen so that
    each has about as many multiplications. All end with the parameters that one process holding everything would have.

    - Under DDP every process has every matrix and its gradient. Each of W does 1 / W of the orthogonalising, holds
      1 / W of the matrices' states and sends its matrices to the others: a process receives (W - 1) / W of them
      a step. (``RuleOptimizer`` is right under DDP as well: all do everything, and nothing is sent.)
    - Under ``fully_shard`` each process holds some rows of every parameter. An owner gathers parameter and gradient,
      steps, and scatters the rows: three times the matrices' size goes over the network a step. A process then holds,
      besides its rows, 1 / W of the matrices whole and all of their states, NorMuon's row statistics among them, and
      while it steps their gradients.

    A parameter has a gradient in all processes or in none. ``state_dict`` is of what this process holds: each saves
    and loads its own, among as many processes.

    Args:
        params: as ``RuleOptimizer`` takes them; under ``fully_shard`` those of the model once it is sharded.
        rule: the update rule.
        process_group: the processes that hold plain parameters, all unless given. Sharded ones know theirs.
        options: those of ``RuleOptimizer``, and the rule's hypers.

    Raises:
        RuntimeError: no process group has been made.
        ValueError: parameters sharded otherwise than by rows over one dimension of a mesh, or sharded at all for a
            rule that takes a group as one vector; and what ``RuleOptimizer`` raises.

    >>> from minimand.optim import rules
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # as torchrun's processes do
    >>> weight = nn.Parameter(torch.diag(torch.tensor([3.0, 4.0])))
    >>> optimizer = DistributedOptimizer([weight], rules.Muon(), lr=1.0)
    >>> weight.square().sum().backward()  # the gradient is 2 diag(3, 4), which orthogonalise takes to (0.72, 1.12)
    >>> optimizer.step(); weight.data.diagonal()
    tensor([2.2771, 2.8808])
    >>> dist.destroy_process_group()
    """

    def __init__(
        self, params: Iterable[Any], rule: Rule, *, process_group: dist.ProcessGroup | None = None, **options: Any
    ) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("DistributedOptimizer needs torch.distributed.init_process_group first")
        self._processes = cast(dist.ProcessGroup, process_group or dist.group.WORLD)
        self._work: dict[dist.ProcessGroup, list[int]] = defaultdict(list)  # multiplications of each process
        self._matrices: dict[Tensor, _Matrix] = {}
        self._locals: list[dict[str, Any]] = []  # groups of stand-ins: plain tensors that this process steps
        super().__init__(params, rule, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, and choose owners of its matrices."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            found = [event for param in group["params"] for event in events(self.rule, {param: param}, group["matrix"])]
            for event in found:
                _check_layout(event.names[0], event.rule)
        except ValueError:
            self.param_groups.pop()
            raise
        whole = [event.names[0] for event in found if event.rule.event != "element" and not _joins(event.rule)]
        for param in sorted(whole, key=_multiplications, reverse=True):
            processes = param.device_mesh.get_group() if _is_sharded(param) else self._processes
            work = self._work[processes] = self._work[processes] or [0] * dist.get_world_size(processes)
            owner = work.index(min(work))
            work[owner] += _multiplications(param)
            self._matrices[param] = _Matrix(param, processes, owner)
        stand_ins = [nn.Parameter(_held(param), requires_grad=False) for param in group["params"]]
        self._locals.append({"params": stand_ins})

    def _step_group(self, group: dict[str, Any]) -> None:
        local = next(local for local, its in zip(self._locals, self.param_groups, strict=True) if its is group)
        local.update({name: value for name, value in group.items() if name != "params"})
        mine: dict[Tensor, nn.Parameter] = {}
        for param, stand_in in zip(group["params"], local["params"], strict=True):
            matrix, stand_in.grad = self._matrices.get(param), None
            if param.grad is None:
                continue
            value, grad = (_held(param), _held(param.grad)) if matrix is None else matrix.fetch(param.grad)
            if value is not None and value.numel() > 0:  # fewer rows than processes leave some with none
                stand_in.data, stand_in.grad = value, grad
                mine[param] = stand_in
        for param, stand_in in mine.items():
            self.state[stand_in] = self.state.pop(param, {})
        try:
            super()._step_group(local)
        finally:
            for param, stand_in in mine.items():
                self.state[param] = self.state.pop(stand_in)
        stepped = [self._matrices[p] for p in group["params"] if p in self._matrices and p.grad is not None]
        for work in [matrix.deliver() for matrix in stepped]:
            work.wait()
        for matrix in stepped:
            matrix.keep()


class _Matrix:
    """A parameter that one process, its owner, steps whole."""

    def __init__(self, param: Tensor, processes: dist.ProcessGroup, owner: int) -> None:
        self.param, self.processes = param, processes
        self.size = dist.get_world_size(processes)
        self.is_mine = dist.get_rank(processes) == owner
        self.owner = dist.get_global_rank(processes, owner)
        self.rows = -(-param.shape[0] // self.size)  # a process has: torch.chunk's share
        self.whole: Tensor | None = None  # kept at one address, so that the plan of a step stands
        self.part: Tensor | None = None

    def fetch(self, grad: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """The whole matrix and its gradient, for the owner."""
        if not _is_sharded(self.param):
            return (self.param.detach(), grad) if self.is_mine else (None, None)
        value, grad = self._gathered(self.param), self._gathered(grad)
        if not self.is_mine:
            return None, None
        self.whole = value if self.whole is None else self.whole.copy_(value)
        return self.whole, grad

    def deliver(self) -> dist.Work:
        """Send what the owner has stepped to where it belongs."""
        if not _is_sharded(self.param):
            sent = dist.broadcast(self.param.detach(), self.owner, group=self.processes, async_op=True)
            return cast(dist.Work, sent)
        self.part = self._padded(_held(self.param))
        parts = None
        if self.is_mine:
            whole = cast(Tensor, self.whole)
            parts = [self._padded(whole[i * self.rows : (i + 1) * self.rows]) for i in range(self.size)]
        return cast(dist.Work, dist.scatter(self.part, parts, self.owner, group=self.processes, async_op=True))

    def keep(self) -> None:
        """Take over the rows that have come."""
        if self.part is not None:
            held = _held(self.param)
            held.copy_(self.part[: held.shape[0]])
            self.part = None

    def _gathered(self, sharded: Tensor) -> Tensor:
        """All rows of a tensor, at the owner; elsewhere nothing of use."""
        part = self._padded(_held(sharded))
        parts = [torch.empty_like(part) for _ in range(self.size)] if self.is_mine else None
        dist.gather(part, parts, self.owner, group=self.processes)
        return part if parts is None else torch.cat(parts)[: sharded.shape[0]]

    def _padded(self, part: Tensor) -> Tensor:
        """A process's rows, filled up to as many as any has."""
        padded = part.new_zeros(self.rows, *part.shape[1:])
        padded[: part.shape[0]] = part
        return padded


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "placements")  # a DTensor, whose module takes a second to import


def _held(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return cast(Any, tensor).to_local().detach() if _is_sharded(tensor) else tensor.detach()


def _multiplications(param: Tensor) -> int:
    """In proportion to those of m x n matrices, m <= n, that are multiplied with their transpose: m^2 n."""
    rows = param.shape[0] if param.ndim else 1
    return param.numel() * min(rows, param.numel() // max(rows, 1))


def _check_layout(param: Tensor, rule: Rule) -> None:
    if not _is_sharded(param):
        return
    placements = cast(Any, param).placements
    if len(placements) != 1 or not placements[0].is_shard(0):
        raise ValueError(f"parameters must be sharded by rows over one dimension of a mesh; got {placements}")
    if _joins(rule):
        raise ValueError(f"{type(rule).__name__} takes a group as one vector, and parameters must not be sharded")


def _joins(rule: Rule) -> bool:
    return isinstance(rule, VectorRule) and rule.scope == "group"
