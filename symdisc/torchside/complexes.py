"""Rotary factors as complex numbers: ``view_as_real(view_as_complex(x) * c)`` written out in real operators.

With x = (a, b) along the last axis and a factor c = u + iv that no parameter makes, the product is (a u - b v, b u + a v): the turn of a
plane that other models write with sines and cosines, and for which there are rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from symdisc.opgraph import Op, Ref

__all__ = ["written_out"]

HALF = {"complex64": "float32", "complex128": "float64", "complex32": "float16"}


def written_out(ops: Sequence[Op], shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]) -> tuple[Op, ...]:
    """The operators, each such product in real numbers, under the name of its ``view_as_real``; all others stay as they are.

    ``shapes`` and ``dtypes`` are those of the values that no operator makes.
    """
    by_name = {n: Op(n, "", (), (), shapes[n], dtypes[n]) for n in shapes} | {op.name: op for op in ops}
    found: list[Op] = []
    for op in ops:
        parts = _parts(op, by_name)
        found += [op] if parts is None else _real(op, *parts)
    return tuple(found)


def _parts(op: Op, by_name: dict[str, Op]) -> tuple[str, Op] | None:
    """(real pairs, complex factor) of a product that is taken back to real pairs."""
    product = by_name.get(op.inputs[0]) if op.packet == "aten.view_as_real" else None
    if product is None or product.packet != "aten.mul" or len(product.inputs) != 2:
        return None
    sides = [by_name.get(n) for n in product.inputs]
    pairs = [k for k, s in enumerate(sides) if s is not None and s.packet == "aten.view_as_complex"]
    if len(pairs) != 1:
        return None
    side, factor = sides[pairs[0]], sides[1 - pairs[0]]
    if side is None or factor is None or factor.dtype not in HALF:
        return None
    return side.inputs[0], factor


def _real(op: Op, pairs: str, factor: Op) -> Iterator[Op]:
    shape, half = (op.shape or ())[:-1], HALF[factor.dtype]

    def made(name: str, target: str, *args: object) -> Op:
        return Op(f"{op.name}_{name}", f"aten.{target}", args, (), shape, op.dtype, op.module)

    def ref(name: str) -> Ref:
        return Ref(f"{op.name}_{name}")

    yield made("a", "select.int", Ref(pairs), -1, 0)
    yield made("b", "select.int", Ref(pairs), -1, 1)
    for name, target in (("u", "aten.real.default"), ("v", "aten.imag.default")):
        yield Op(f"{op.name}_{name}", target, (Ref(factor.name),), (), factor.shape, half, op.module)
    for name, left, right in (("au", "a", "u"), ("bv", "b", "v"), ("bu", "b", "u"), ("av", "a", "v")):
        yield made(name, "mul.Tensor", ref(left), ref(right))
    yield made("x", "sub.Tensor", ref("au"), ref("bv"))
    yield made("y", "add.Tensor", ref("bu"), ref("av"))
    yield Op(op.name, "aten.stack.default", ((ref("x"), ref("y")), -1), (), op.shape, op.dtype, op.module)
