"""Axis lengths as a growing system of equations between whole numbers.

An axis length is an *atom*. What operators do to axes teaches what an atom is: the same number as another one (two tensors
are added), a product (a view takes ``768`` apart into ``12 x 64``) or a sum (a fused projection is split into three). Atoms
that nothing takes apart are free, and only they may be given other values; an atom is *pinned* when something depends on its
very value (a kernel, a constant table, an operator that is not known).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

__all__ = ["Sizes", "Unexplained"]

FREE, PRODUCT, SUM = "free", "product", "sum"


class Unexplained(Exception):
    """A length that the equations at hand do not explain."""


class Sizes:
    """Atoms by number, their values in the traced network, and what each is made of."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._parent: list[int] = []
        self._made: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._pinned: set[int] = set()
        self.one = self.new(1)
        self._pinned.add(self.one)

    # --- atoms ----------------------------------------------------------------------------------------------------
    def new(self, value: int) -> int:
        """A free atom; every axis of length 1 is one atom, for it broadcasts and carries nothing."""
        if value == 1 and self.values:
            return self.one
        self.values.append(value)
        self._parent.append(len(self._parent))
        return len(self.values) - 1

    def root(self, a: int) -> int:
        while self._parent[a] != a:
            self._parent[a] = self._parent[self._parent[a]]
            a = self._parent[a]
        return a

    def value(self, a: int) -> int:
        """Length in the traced network."""
        return self.values[self.root(a)]

    def parts(self, a: int) -> tuple[str, tuple[int, ...]]:
        """("free", ()), ("product", factors) or ("sum", terms)."""
        return self._made.get(self.root(a), (FREE, ()))

    def leaves(self, a: int) -> list[int]:
        """The free atoms that ``a`` is made of, in order, repeats kept."""
        kind, parts = self.parts(a)
        return [self.root(a)] if kind == FREE else [leaf for p in parts for leaf in self.leaves(p)]

    def is_pinned(self, a: int) -> bool:
        return self.root(a) in self._pinned

    def pin(self, *atoms: int) -> None:
        """Keep the very values of ``atoms``."""
        for a in atoms:
            self._pinned.update(self.leaves(a))

    def evaluate(self, a: int, chosen: Mapping[int, int]) -> int:
        """Length of ``a`` when free atoms have the values ``chosen`` (by root; the traced ones where absent)."""
        kind, parts = self.parts(a)
        if kind == FREE:
            return chosen.get(self.root(a), self.value(a))
        numbers = [self.evaluate(p, chosen) for p in parts]
        total = 1 if kind == PRODUCT else 0
        for n in numbers:
            total = total * n if kind == PRODUCT else total + n
        return total

    # --- equations ------------------------------------------------------------------------------------------------
    def product(self, factors: Sequence[int]) -> int:
        """The atom ``prod(factors)``, ones left out."""
        kept = [f for f in factors if self.root(f) != self.one]
        if len(kept) < 2:
            return kept[0] if kept else self.one
        a = 1
        for f in kept:
            a *= self.value(f)
        return self._composed(PRODUCT, kept, a)

    def sum(self, terms: Sequence[int]) -> int:
        """The atom ``sum(terms)``."""
        kept = [t for t in terms if self.value(t)]
        return kept[0] if len(kept) == 1 else self._composed(SUM, kept, sum(self.value(t) for t in kept))

    def _composed(self, kind: str, parts: Sequence[int], value: int) -> int:
        a = self.new(value)
        if a != self.one:
            self._made[a] = (kind, tuple(parts))
        return a

    def unify(self, a: int, b: int) -> None:
        """``a`` and ``b`` are the same number; their parts are brought to agree. Raises Unexplained where they cannot."""
        a, b = self.root(a), self.root(b)
        if a == b:
            return
        if self.values[a] != self.values[b]:
            raise Unexplained(f"{self.values[a]} and {self.values[b]} cannot be one length")
        (kind_a, parts_a), (kind_b, parts_b) = self.parts(a), self.parts(b)
        if FREE in (kind_a, kind_b):
            low, high = (a, b) if kind_a == FREE else (b, a)
            if low in self.leaves(high):
                raise Unexplained(f"{self.values[a]} would be a part of itself")
            self._parent[low] = high
            if low in self._pinned:
                self.pin(high)
            return
        if kind_a == kind_b == PRODUCT:
            self._align_products(list(parts_a), list(parts_b))
        elif kind_a == kind_b == SUM:
            self._align_sums(a, b)
        else:
            self._sum_is_product(*((parts_a, parts_b) if kind_a == SUM else (parts_b, parts_a)))
            a, b = (b, a) if kind_a == PRODUCT else (a, b)  # the product says more about later views
        self._parent[a] = b

    def _align_products(self, left: list[int], right: list[int]) -> None:
        left, right = self._factors(left), self._factors(right)
        while left and right:
            l, r = left.pop(0), right.pop(0)
            vl, vr = self.value(l), self.value(r)
            if vl == vr:
                self.unify(l, r)
            elif vl % vr == 0 or vr % vl == 0:
                big, small, rest = (l, r, left) if vl > vr else (r, l, right)
                first, second = self.take_apart(big, self.value(small))
                self.unify(first, small)
                rest.insert(0, second)
            else:
                raise Unexplained(f"{vl} x ... and {vr} x ... are factored in ways that do not meet")

    def _align_sums(self, a: int, b: int) -> None:
        cuts = sorted({*self._cuts(a), *self._cuts(b)})
        for one in (a, b):
            for cut in cuts:
                self.cut(one, cut)
        for l, r in zip(self.terms(a), self.terms(b), strict=True):
            self.unify(l, r)

    def _sum_is_product(self, terms: Sequence[int], factors: Sequence[int]) -> None:
        """n x rest = rest + ... + rest, n times."""
        flat = self._factors(list(factors))
        if self.value(flat[0]) != len(terms) or len({self.value(t) for t in terms}) != 1:
            raise Unexplained(f"a sum of {len(terms)} parts is no product with first factor {self.value(flat[0])}")
        self.pin(flat[0])
        rest = self.product(flat[1:])
        for t in terms:
            self.unify(t, rest)

    def _factors(self, atoms: Sequence[int]) -> list[int]:
        """Products within products laid flat; sums and free atoms as they are."""
        out = []
        for a in atoms:
            kind, parts = self.parts(a)
            out += self._factors(parts) if kind == PRODUCT else [self.root(a)]
        return [a for a in out if a != self.one]

    def factors(self, a: int) -> list[int]:
        """The factors of ``a`` in order, ones left out."""
        return self._factors([a])

    def terms(self, a: int) -> list[int]:
        """The terms of ``a`` in order, sums within sums laid flat."""
        kind, parts = self.parts(a)
        return [t for p in parts for t in self.terms(p)] if kind == SUM else [self.root(a)]

    def _cuts(self, a: int) -> list[int]:
        at, out = 0, []
        for t in self.terms(a):
            at += self.value(t)
            out.append(at)
        return out

    def take_apart(self, a: int, first: int) -> tuple[int, int]:
        """``a`` as ``first x rest``: both atoms. Raises Unexplained where ``a`` is a sum of unequal parts."""
        kind, _ = self.parts(a)
        if kind == PRODUCT:
            head, *rest = self.factors(a)
            if self.value(head) == first:
                return head, self.product(rest)
            raise Unexplained(f"a product starting with {self.value(head)} does not start with {first}")
        if kind == SUM:
            terms = self.terms(a)
            equal = len({self.value(t) for t in terms}) == 1
            if not equal or len(terms) != first:
                raise Unexplained(f"a sum of {len(terms)} parts is not {first} times anything")
            for t in terms[1:]:
                self.unify(terms[0], t)
            count = self.new(first)
            self.pin(count)
            return count, terms[0]
        left, right = self.new(first), self.new(self.value(a) // first)
        self._made[self.root(a)] = (PRODUCT, (left, right))
        if self.root(a) in self._pinned:
            self.pin(left, right)
        return left, right

    def cut(self, a: int, at: int) -> None:
        """See to it that ``a`` is a sum with a cut at ``at``. Raises Unexplained inside a product."""
        if at in (0, self.value(a)) or at in self._cuts(a):
            return
        start = 0
        for t in self.terms(a):
            end = start + self.value(t)
            if start < at < end:
                if self.parts(t)[0] == PRODUCT:
                    raise Unexplained(f"{self.value(t)} is a product and is cut at {at - start}")
                left, right = self.new(at - start), self.new(end - at)
                self._made[t] = (SUM, (left, right))
                if t in self._pinned:
                    self.pin(left, right)
                return
            start = end

    def between(self, a: int, start: int, end: int) -> int:
        """The atom of the positions ``start`` to ``end - 1`` of an axis ``a``."""
        if (start, end) == (0, self.value(a)):
            return a
        if self.parts(a)[0] == PRODUCT:
            return self._whole_blocks(a, start, end)
        self.cut(a, start)
        self.cut(a, end)
        at, chosen = 0, []
        for t in self.terms(a):
            if start <= at and at + self.value(t) <= end:
                chosen.append(t)
            at += self.value(t)
        return self.sum(chosen)

    def _whole_blocks(self, a: int, start: int, end: int) -> int:
        head, *rest = self.factors(a)
        block = self.product(rest)
        if start % self.value(block) or end % self.value(block):
            raise Unexplained(f"{self.value(a)} is a product and is cut at {start} and {end}")
        self.pin(head)
        count = self.new((end - start) // self.value(block))
        self.pin(count)
        return self.product([count, block])

    def regroup(self, axes: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Axes of a view: the factors of ``axes`` in order, grouped so that their products are ``lengths``."""
        factors, out = self._factors(axes), []
        for length in lengths:
            group, need = [], length
            while need > 1:
                if not factors:
                    raise Unexplained(f"a view to {list(lengths)} has more entries than its input")
                head = factors.pop(0)
                size = self.value(head)
                if need % size == 0:
                    group.append(head)
                    need //= size
                elif gcd(need, size) == need:
                    first, second = self.take_apart(head, need)
                    group.append(first)
                    factors[:0] = self._factors([second])
                    need = 1
                else:
                    raise Unexplained(f"a view cuts {size} into {need} x ...")
            out.append(self.product(group))
        return out
