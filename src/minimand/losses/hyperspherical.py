"""Classes as directions: a softmax over cosines to train with, nearest mean directions for classes met later."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minimand._checks import check_count, check_floating, check_indices
from minimand._numerics import unit, upcast
from minimand.hyper import HyperSpec, LogUniform
from minimand.losses.contrastive import check_pair_of_embeddings, contrast
from minimand.losses.loss import loss_function, narrowed, reduce, spec_of
from minimand.source import Source, from_paper

HYPERSPHERICAL = Source("Hyperspherical embedding for novel class classification", "Pereira et al.", 2021, "2102.03243")


@loss_function(
    HYPERSPHERICAL, target="embeddings", scale=HyperSpec(20.0, low=0.0, closed="neither", search=LogUniform(4.0, 64.0))
)
def normalised_softmax_loss(
    embeddings: Tensor, weight: Tensor, target: Tensor, scale: float | Tensor = 20.0, *, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of cosines: -ln softmax_k(scale * cos(z, w_k)) at the label; in nats.

    ``info_nce`` with class directions for keys and 1 / scale for temperature. With K classes it is never less than
    ln(1 + (K - 1) e^(-scale K / (K - 1))), which embeddings on the directions of a regular simplex attain: without a
    scale it could not come far below ln K.

    Args:
        embeddings: (N, d) of any length.
        weight: (K, d) class directions of any length, such as ``CosineHead.weight``.
        target: (N,) class indices in [0, K).
        scale: a number or 0-d tensor in (0, inf).
        reduction: "none" gives (N,), "mean" and "sum" a scalar.

    Raises:
        ValueError, TypeError: for shapes, types, devices, labels or a scale that do not fit.

    Source: Pereira et al. (2021), arXiv:2102.03243. That their scale was 20 could not be confirmed.

    >>> z, weight = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.0, 2.0]])
    >>> normalised_softmax_loss(z, weight, torch.tensor([0]), scale=1.0).exp()  # 1 + e^(0 - 1)
    tensor(1.3679)
    """
    embeddings, weight = check_pair_of_embeddings(embeddings, weight, "embeddings", "weight")
    target = check_indices("target", target, len(weight), "class", embeddings, "embeddings")
    vectors = upcast(embeddings)
    scale = spec_of(normalised_softmax_loss).hyper("scale", scale, like=vectors)
    loss = contrast(vectors, weight.to(vectors.dtype), target, 1 / scale)
    return narrowed(reduce(loss, reduction), embeddings.dtype)


@from_paper(HYPERSPHERICAL)
class CosineHead(nn.Module):
    """A last layer without bias whose logits are scale * cos(z, w_k): lengths say nothing, directions all.

    Cross-entropy on its logits is ``normalised_softmax_loss`` with its ``weight``.

    Args:
        embedding_dim: d.
        num_classes: K.
        scale: a number in (0, inf).

    Source: Pereira et al. (2021), arXiv:2102.03243.

    >>> head = CosineHead(2, 3, scale=5.0)
    >>> logits = head(torch.tensor([[1.0, 1.0], [10.0, 10.0]]))
    >>> logits.shape, bool((logits[0] - logits[1]).abs().max() < 1e-5)
    (torch.Size([2, 3]), True)
    """

    def __init__(self, embedding_dim: int, num_classes: int, scale: float = 20.0) -> None:
        super().__init__()
        spec_of(normalised_softmax_loss).check(scale=scale)
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(num_classes, embedding_dim))  # directions without preference

    def forward(self, embeddings: Tensor) -> Tensor:
        """The logits (N, K) of embeddings (N, d)."""
        return cosines(embeddings, self.weight, self.scale)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        num_classes, embedding_dim = self.weight.shape
        return f"embedding_dim={embedding_dim}, num_classes={num_classes}, scale={self.scale}"


@from_paper(HYPERSPHERICAL)
def class_directions(embeddings: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """The unit vectors c_k along the mean of each class's unit vectors, (K, d); 0 for a class without samples.

    Args:
        embeddings: (N, d) of any length, the support.
        target: (N,) class indices in [0, K).
        num_classes: K, at least 1.

    Raises:
        ValueError, TypeError: for shapes, types, devices or labels that do not fit.

    Source: Pereira et al. (2021), arXiv:2102.03243.

    >>> class_directions(torch.tensor([[9.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0, 1]), num_classes=2)
    tensor([[0.7071, 0.7071],
            [0.0000, 1.0000]])
    """
    embeddings = check_floating("embeddings", embeddings, ndim=2)
    check_count("num_classes", num_classes)
    target = check_indices("target", target, num_classes, "class", embeddings, "embeddings")
    vectors = unit(upcast(embeddings))
    member = torch.arange(num_classes, device=target.device)[:, None] == target
    count = member.sum(1, keepdim=True).clamp(min=1)  # the sum's direction is the mean's; the mean overflows no type
    return unit((member / count).to(vectors.dtype) @ vectors).to(embeddings.dtype)


@from_paper(HYPERSPHERICAL)
class NearestDirection(nn.Module):
    """Nearest class mean on the sphere: what tells classes apart that the encoder was not trained on.

    argmax_k cos(z, c_k), c_k the direction of class k in the support (``class_directions``).

    Args:
        embedding_dim: d.
        num_classes: K. A class of which the support has no sample is never predicted.

    Source: Pereira et al. (2021), arXiv:2102.03243.

    >>> nearest = NearestDirection(2, 2).fit(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    >>> nearest.predict(torch.tensor([[0.2, 5.0], [0.3, 0.1]]))
    tensor([1, 0])
    """

    directions: Tensor

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(num_classes, embedding_dim))

    def fit(self, support: Tensor, target: Tensor) -> NearestDirection:
        """Take the classes' directions from embeddings (N, d) and their class indices (N,)."""
        num_classes, width = self.directions.shape
        if support.shape[1:] != (width,):
            raise ValueError(f"support must have shape (N, {width}); got {tuple(support.shape)}")
        self.directions = class_directions(support.detach(), target, num_classes)
        return self

    def forward(self, embeddings: Tensor) -> Tensor:
        """The cosines (N, K) of embeddings (N, d) and the classes' directions."""
        return cosines(embeddings, self.directions)

    def predict(self, embeddings: Tensor) -> Tensor:
        """The class indices (N,) of embeddings (N, d)."""
        known = (self.directions != 0).any(1)
        return self(embeddings).masked_fill(~known, -torch.inf).argmax(1)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        num_classes, embedding_dim = self.directions.shape
        return f"embedding_dim={embedding_dim}, num_classes={num_classes}"


def cosines(embeddings: Tensor, directions: Tensor, scale: float = 1.0) -> Tensor:
    """scale * cos of embeddings (N, d) and directions (K, d), (N, K) in the embeddings' type."""
    embeddings, directions = check_pair_of_embeddings(embeddings, directions, "embeddings", "weight")
    vectors = upcast(embeddings)
    return (scale * unit(vectors) @ unit(directions.to(vectors.dtype)).mT).to(embeddings.dtype)
