"""Networks whose widths are typed into their source, built narrower: every layer made inside has fewer channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["narrow"]

COLOURS = 3  # channels of an image, never divided


@contextmanager
def narrow(to: int | Mapping[int, int]) -> Iterator[None]:
    """Within the context, convolutions, linear layers and norms are made with channel counts divided by ``to``, or looked up in it.

    Where branches are joined, the small counts must add up as the large ones do; counts of classes are divided as well.
    """
    counts = ("in_channels", "out_channels", "in_features", "out_features", "num_features", "groups")

    def less(n: Any) -> Any:
        if not isinstance(n, int) or n <= COLOURS:
            return n
        return max(n // to, 1) if isinstance(to, int) else to.get(n, n)

    before: dict[Any, Any] = {kind: kind.__init__ for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d)}
    positional = {nn.Conv2d: 2, nn.Linear: 2, nn.BatchNorm2d: 1}

    def narrower(kind: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            n = positional[kind]
            before[kind](self, *map(less, args[:n]), *args[n:], **{k: less(v) if k in counts else v for k, v in kwargs.items()})

        return init

    after = {kind: narrower(kind) for kind in before} if to != 1 else {}
    try:
        for kind, init in after.items():
            kind.__init__ = init
        yield
    finally:
        for kind, init in before.items():
            kind.__init__ = init
