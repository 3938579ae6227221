"""Direct search around the best point so far, and attacks on a network that lead it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count, check_floating, check_range, check_same_device
from minimand.losses.constraints import L2Ball, LinfBall
from minimand.losses.inner import evaluating, inner_max
from minimand.optim.search.search import Search
from minimand.source import Source, from_paper

DIRECTIONAL_ATTACKS = Source(
    "Optimization by Directional Attacks: Solving Problems with Neural Network Surrogates",
    "Bouchet & Vidal",
    2025,
    "2510.01461",
)

Norm = Literal["linf", "l2"]
REACH = 2.5  # radii that all steps of an attack together go: enough to cross the ball and turn back
LEAST = 1e-5  # of a radius: what is nearer than this is one point
ATTACK_RADII = (1.2, 1.0, 0.8)  # all tried, over the attack's radius
ATTACK_STEP = 1.3  # by which the attack's radius grows on success and shrinks on failure
ATTACK_OPENS = 1.1  # by which the poll's radius grows where an attack succeeds
SAME = 1e-9  # a point that comes back this near is the one that was asked for


@from_paper(DIRECTIONAL_ATTACKS)
def directional_attack(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    u: Tensor,
    radius: float,
    *,
    norm: Norm = "linf",
    steps: int = 1,
    seed: int | None = None,
) -> Tensor:
    """Inputs near x whose outputs lie far along u: x + d, d -> argmax of <u, network(x + d) - network(x)> in a ball.

    Projected gradient ascent on the inputs. With u = grad f(network(x)) a small step of this kind raises f(network(x)).
    One step from x is exact where the network is affine, network(x) = A x + b: it gains radius ||A^T u||_1 in the
    cube and radius ||A^T u||_2 in the Euclidean ball.

    A network that is an ``nn.Module`` is in evaluation mode meanwhile; its parameters' gradients are left alone.

    Args:
        network: maps (N, ...) to outputs (N, ...).
        x: (N, ...) floating-point.
        u: of the outputs' shape, a direction for each; its length does not matter. Where it is 0, x stays.
        radius: of the ball around x, at least 0, in the units of x.
        norm: "linf" or "l2", of the ball.
        steps: at least 1, each a forward and a backward pass. One goes the whole radius, several 2.5 of it together.
        seed: of a random start in the ball, from where one step crosses it; None starts at x.

    Returns:
        (N, ...) in x's type, without gradient.

    Raises:
        ValueError, TypeError: for shapes, types or numbers that do not fit.

    Source: Bouchet and Vidal (2025), arXiv:2510.01461, section 3. Their code attacks a classifier built around
    the network, which is the same ascent.

    >>> matrix = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    >>> directional_attack(lambda x: x @ matrix.mT, torch.zeros(1, 2), torch.ones(1, 2), 0.5)
    tensor([[ 0.5000, -0.5000]])
    """
    check_choice("norm", norm, ("linf", "l2"))
    x, u = check_floating("x", x), check_floating("u", u)
    check_same_device(x=x, u=u)
    if u.ndim == 0 or u.shape[:1] != x.shape[:1]:
        raise ValueError(f"u must have shape ({len(x) if x.ndim else 1}, ...), one a row of x; got {tuple(u.shape)}")
    check_count("steps", steps)
    ball = (LinfBall if norm == "linf" else L2Ball)(radius)
    rows = u.detach().unsqueeze(-1).flatten(1)
    largest = rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows))
    rows = rows / torch.where(largest == 0, 1, largest)[:, None]

    def along(moved: Tensor) -> Tensor:
        outputs = network(moved)
        if outputs.shape != u.shape:
            raise ValueError(f"u must have the outputs' shape {tuple(outputs.shape)}; got {tuple(u.shape)}")
        return (outputs.unsqueeze(-1).flatten(1) * rows).sum(1)

    start = None if seed is None else ball.random(x.detach(), torch.Generator(x.device).manual_seed(seed))
    direct = start is None and steps == 1
    with evaluating(network):
        found = inner_max(along, x, ball, steps, radius * (1 if direct else REACH / steps), start=start)
    still = (largest == 0).reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(still, x.detach(), found)


def poll_directions(dim: int, generator: torch.Generator) -> Tensor:
    """A minimal positive basis (dim + 1, dim) drawn at random: the corners of a regular simplex around 0, turned.

    Every vector has a positive inner product with one of them, of at least 1 / dim of both lengths. The largest entry
    of each is 1.

    >>> poll_directions(1, torch.Generator().manual_seed(0)).sort(0).values
    tensor([[-1.],
            [ 1.]], dtype=torch.float64)
    """
    centered = torch.eye(dim + 1, dtype=torch.float64) - 1 / (dim + 1)  # corners, in the hyperplane of sum 0
    plane = torch.linalg.eigh(centered).eigenvectors[:, 1:]
    turn, sizes = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    corners = centered @ plane @ (turn * sizes.diagonal().sign())  # evenly over all turns
    return corners / corners.abs().amax(1, keepdim=True)


@from_paper(DIRECTIONAL_ATTACKS)
class CoveringDirectSearch(Search):
    """Search around the best point so far: one random point nearby, then a poll of dim + 1 directions.

    An iteration asks for a point drawn evenly from a ball around the best point (the covering step) and, if that is no
    better, for the best point plus ``radius`` times each of a random minimal positive basis, until one is better.
    A poll that succeeds doubles its radius, one that fails halves it. The poll converges where the function is
    smooth; points that cover a neighbourhood make its limit a local maximum wherever the function has jumps. Points
    outside the cube are moved to its surface. An infeasible point is never better: an extreme barrier.

    Asked for more points than a step has, it adds covering points.

    Args:
        dim: how many numbers a point has.
        seed: of all that is random.
        start: (dim,) the first point; the cube's centre unless given. Points that are told first take its place.
        radius: of the first poll and of all covering steps, in (0, 1]; each poll's largest entry.

    Attributes:
        radius: of the next poll. At 1e-5 polls end and covering goes on.
        iterations: how many have ended.

    Source: Bouchet and Vidal (2025), arXiv:2510.01461, section 4, after Audet, Bouchet and Bourdin (2024),
    arXiv:2401.07097. The theory wants covering points that become dense near the limit, as random ones do with
    probability 1. The authors' code draws their distance as (U r)^(1/n), which is even in the ball only where r = 1;
    r U^(1/n) is taken here. How else their text constructs covering points could not be confirmed.

    >>> search = CoveringDirectSearch(2, seed=0)
    >>> for _ in range(100):
    ...     points = search.ask()
    ...     search.tell(points, -(points - 0.3).square().sum(1))
    >>> bool(search.best.value > -1e-4)
    True
    """

    def __init__(self, dim: int, seed: int = 0, *, start: Tensor | None = None, radius: float = 0.25) -> None:
        super().__init__(dim, seed)
        if not 0 < radius <= 1:
            raise ValueError(f"radius must lie in (0, 1]; got {radius:g}")
        self.center = _checked_start(start, dim)
        self.radius, self.iterations = float(radius), 0
        self._ball = L2Ball(float(radius), 0.0, 1.0)
        self._generator = torch.Generator().manual_seed(seed)
        self._step: Literal["start", "cover", "poll"] = "start"
        self._queue: list[Tensor] = [self.center]
        self._open: list[Tensor] = []

    def ask(self, count: int = 1) -> Tensor:
        """``count`` points (count, dim) to evaluate next."""
        check_count("count", count)
        taken, self._queue = self._queue[:count], self._queue[count:]
        self._open += taken
        return torch.stack([*taken, *(self._covering() for _ in range(count - len(taken)))])

    def tell(self, points: Tensor, values: Tensor) -> None:
        """Take in the values (k,) of points (k, dim); see :meth:`Search.tell`."""
        before = self._best
        super().tell(points, values)
        for point in self.points[len(self.points) - len(points) :]:
            self._open = [other for other in self._open if not _same(point, other)]
        better = self._best is not before
        if better:
            self.center = self.best.point
        if better or not (self._queue or self._open):
            self._advance(better)

    def _advance(self, better: bool) -> None:
        """End the step, which found a better point or none, and begin the next."""
        self._open = []
        if self._step == "cover" and not better and self.radius > LEAST:
            self._step = "poll"
            moved = self.center + self.radius * poll_directions(self.dim, self._generator)
            self._queue = list(moved.clamp(0, 1))
            return
        if self._step == "poll":
            self.radius = min(1.0, 2 * self.radius) if better else max(LEAST, self.radius / 2)
        self.iterations += self._step != "start"
        self._step, self._queue = "cover", [self._covering()]

    def _covering(self) -> Tensor:
        """A point drawn evenly from the ball around the best one, in the cube."""
        return (self.center + self._ball.random(self.center[None], self._generator)[0]).clamp(0, 1)


@from_paper(DIRECTIONAL_ATTACKS)
class AttackSearch(Search):
    """Search for the maximum of f(network(x)): attacks on the network lead, covering direct search follows.

    An iteration attacks the network at the best point x along grad f(network(x)) and asks for the points at 1.2, 1 and
    0.8 of the attack's radius on the way. If the best of them is better, the attack's radius grows by 1.3 and the
    poll's by 1.1, else the attack's shrinks by 1.3. An iteration of :class:`CoveringDirectSearch` follows, whatever
    came of it.

    Args:
        network: maps points (N, dim) of the cube to outputs (N, ...), differentiable; called in x's float64.
        objective: f, maps outputs (N, ...) to values (N,), differentiable. What is told are its values.
        dim: how many numbers a point has.
        seed, start, radius: as for :class:`CoveringDirectSearch`; ``radius`` is the attack's first too.
        norm: of the attack.

    Attributes:
        attack_radius: of the next attack.
        gradients: how many backward passes through the network were made, each with its forward pass; a budget of
            evaluations must count them. The three points of an attack share one, and so do attacks that fail.
        direct: the direct search inside.

    Source: Bouchet and Vidal (2025), arXiv:2510.01461, section 4; the radii and their factors are those of the
    authors' code, which leaves an attack at the first of its points that is better; the best of three is taken here.
    Their largest attack radius is 1, the cube's side here.

    >>> search = AttackSearch(lambda x: 2 * x, lambda y: -(y - 0.6).square().sum(1), 20)
    >>> for _ in range(20):
    ...     points = search.ask()
    ...     search.tell(points, -(2 * points - 0.6).square().sum(1))
    >>> bool(search.best.value > -1e-2), search.gradients < 8
    (True, True)
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        objective: Callable[[Tensor], Tensor],
        dim: int,
        seed: int = 0,
        *,
        start: Tensor | None = None,
        radius: float = 0.25,
        norm: Norm = "linf",
    ) -> None:
        super().__init__(dim, seed)
        check_choice("norm", norm, ("linf", "l2"))
        self.network, self.objective = network, objective
        self.norm: Norm = norm
        self.direct = CoveringDirectSearch(dim, seed, start=start, radius=radius)
        self.attack_radius, self.gradients = float(radius), 0
        self._attacking, self._until = False, 0  # the direct search's iterations before the next attack
        self._before = torch.zeros(())  # the best value when the attack began
        self._way: tuple[Tensor, Tensor] | None = None  # the point last attacked, and the offset of radius 1
        self._queue: list[Tensor] = []
        self._open: list[Tensor] = []

    def ask(self, count: int = 1) -> Tensor:
        """``count`` points (count, dim) to evaluate next."""
        check_count("count", count)
        if not self._attacking and self.direct.iterations >= self._until and self._best is not None:
            self._attack()
        if not self._attacking:
            return self.direct.ask(count)
        taken, self._queue = self._queue[:count], self._queue[count:]
        self._open += taken
        return torch.stack([*taken, *(self.direct._covering() for _ in range(count - len(taken)))])

    def tell(self, points: Tensor, values: Tensor) -> None:
        """Take in the values (k,) of points (k, dim); see :meth:`Search.tell`."""
        super().tell(points, values)
        self.direct.tell(points, values)
        for point in self.points[len(self.points) - len(points) :]:
            self._open = [other for other in self._open if not _same(point, other)]
        if self._attacking and not (self._queue or self._open):
            better = bool(self.best.value > self._before)
            if better:
                self.direct.radius = min(1.0, ATTACK_OPENS * self.direct.radius)
            self._end(better)

    def _attack(self) -> None:
        """Queue the points of an attack at the best point; where f has no slope there is none."""
        point, value = self.best
        if self._way is None or not _same(point, self._way[0]):
            self._way = (point, self._offset(point))
            self.gradients += 1
        offset = self._way[1]
        if not bool(offset.isfinite().all()) or not bool(offset.any()):
            self._end(better=False)
            return
        self._attacking, self._before = True, value
        self._queue = [(point + share * self.attack_radius * offset).clamp(0, 1) for share in ATTACK_RADII]

    def _end(self, better: bool) -> None:
        factor = ATTACK_STEP if better else 1 / ATTACK_STEP
        self.attack_radius = min(1.0, max(LEAST, factor * self.attack_radius))
        self._attacking, self._until = False, self.direct.iterations + 1

    def _offset(self, point: Tensor) -> Tensor:
        """Where an attack of radius 1 on the network at ``point`` leads; one of another radius goes the same way."""
        x = point[None]
        with evaluating(self.network), torch.enable_grad():
            outputs = self.network(x).detach().requires_grad_()
            (u,) = torch.autograd.grad(self.objective(outputs).sum(), outputs)
        return (directional_attack(self.network, x, u, 1.0, norm=self.norm) - x)[0]


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= SAME).all())


def _checked_start(start: Tensor | None, dim: int) -> Tensor:
    if start is None:
        return torch.full((dim,), 0.5, dtype=torch.float64)
    start = check_floating("start", start).detach().double().cpu()
    if start.shape != (dim,):
        raise ValueError(f"start must have shape ({dim},); got {tuple(start.shape)}")
    check_range("start", start, 0.0, 1.0)
    return start
