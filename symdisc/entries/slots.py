"""Which numbers in names count layers: those whose values change with the sizes. The others are part of the name (``feed.0``)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LETTERS", "Slots"]

LETTERS = "ijlmnpqrs"  # of indices; those that are size symbols are left out

JOINT = "\x00"  # stands where a number follows without a dot
ROUNDS = 6  # numbers behind numbers behind ...: no library nests deeper


@dataclass(frozen=True)
class Slots:
    """Module paths after which a counting number follows, their own counting numbers written ``#``."""

    prefixes: frozenset[tuple[str, ...]] = frozenset()
    letters: str = LETTERS

    @classmethod
    def of(cls, members: Sequence[Iterable[str]], symbols: Iterable[str] = ()) -> Slots:
        """From the parameter names of members of a family at several sizes."""
        letters = "".join(c for c in LETTERS if c not in set(symbols))
        split = [[_parts(n) for n in names] for names in members]
        slots = cls(letters=letters)
        for _ in range(ROUNDS):
            found: dict[tuple[str, ...], dict[int, set[str]]] = {}
            for k, names in enumerate(split):
                for parts in names:
                    for at in [i for i, part in enumerate(parts) if part.isdigit()]:
                        found.setdefault(tuple(slots._normal(parts[:at])), {}).setdefault(k, set()).add(parts[at])
            new = cls(frozenset(p for p, sets in found.items() if len({frozenset(s) for s in sets.values()}) > 1), letters)
            if new == slots:
                break
            slots = new
        return slots

    def _normal(self, parts: Sequence[str]) -> list[str]:
        out: list[str] = []
        for part in parts:
            out.append("#" if part.isdigit() and tuple(out) in self.prefixes else part)
        return out

    def pattern(self, name: str) -> str:
        """The name with its counting numbers as ``#``."""
        return _joined(self._normal(_parts(name)))

    def numbers(self, name: str) -> tuple[int, ...]:
        """The counting numbers of a name, in order."""
        parts = _parts(name)
        return tuple(int(p) for p, q in zip(parts, self._normal(parts), strict=True) if q == "#")

    def counted(self, name: str) -> dict[tuple[str, ...], int]:
        """The counting numbers of a name by the module path that they follow."""
        parts = _parts(name)
        normal = self._normal(parts)
        return {tuple(normal[:k]): int(part) for k, part in enumerate(parts) if normal[k] == "#"}

    def relative(self, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """(names with counting numbers as n, n+1, m, ... seen from the first number of each level, these first numbers)."""
        base: list[int] = []
        for name in names:
            base += self.numbers(name)[len(base):]
        return tuple(self._seen_from(name, base) for name in names), tuple(base)

    def _seen_from(self, name: str, base: Sequence[int]) -> str:
        parts, level = _parts(name), 0
        normal = self._normal(parts)
        for k, part in enumerate(parts):
            if normal[k] == "#":
                offset = int(part) - base[level]
                parts[k] = self.letters[level] + (f"{offset:+d}" if offset else "")
                level += 1
        return _joined(parts)

    @staticmethod
    def fixed(name: str, values: Mapping[str, int]) -> str:
        """A relative name with some indices put back to numbers."""
        def put(part: str) -> str:
            letter, offset = part[:1], part[1:]
            if letter in values and (not offset or (offset[0] in "+-" and offset[1:].isdigit())):
                return str(values[letter] + int(offset or 0))
            return part
        return _joined(map(put, _parts(name)))


def _parts(name: str) -> list[str]:
    """A name cut at its dots, and before the number of a recurrent layer (``weight_hh_l0``; with an index ``weight_hh_l[i]``)."""
    return re.sub(r"_l(?:\[([^]]*)\]|(\d+))(?=$|\.)", lambda m: f"_l{JOINT}.{m[1] or m[2]}", name).split(".")


def _joined(parts: Iterable[str]) -> str:
    text = ".".join(parts)
    return re.sub(rf"{JOINT}\.([^.]*)", lambda m: m[1] if m[1].isdigit() else f"[{m[1]}]", text)
