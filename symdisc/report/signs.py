"""LaTeX commands that our formulas use, and the unicode sign and class of each."""

from __future__ import annotations

__all__ = ["ACCENTS", "COMMANDS", "FUNCTIONS", "GREEK", "IGNORED", "PLAIN", "SPACES", "STYLES"]


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


STYLES = frozenset("texttt text mathrm mathbf mathbb mathcal operatorname textbf textit boldsymbol".split())
ACCENTS = frozenset("dot ddot hat tilde bar overline widehat widetilde".split())
FUNCTIONS = frozenset("exp log ln sin cos tan tanh cosh det dim ker max min sup inf arg lim arctan sgn Pr".split())
SPACES = {"\\,": "\u2009", "\\;": " ", "\\:": " ", "\\!": "", "\\ ": " ", "\\quad": "  ", "\\qquad": "    ", "~": " "}
# layout only: our printers choose sizes and breaks themselves
IGNORED = frozenset(
    f"\\{name}" for name in "displaystyle textstyle scriptstyle limits nolimits big Big bigl bigr allowbreak".split()
)
GREEK = _pairs(
    "alpha α beta β gamma γ delta δ epsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π rho ρ "
    "sigma σ tau τ upsilon υ phi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ "
    "Pi Π Sigma Σ Phi Φ Psi Ψ Omega Ω"
)
_SIGNS = {
    "binary": _pairs(
        "cdot · times × otimes ⊗ oplus ⊕ odot ⊙ circ ∘ pm ± ltimes ⋉ rtimes ⋊ wedge ∧ setminus ∖ cup ∪ cap ∩"
    ),
    "relation": _pairs(
        "mapsto ↦ to → rightarrow → leftarrow ← leq ≤ le ≤ geq ≥ ge ≥ neq ≠ ne ≠ in ∈ subset ⊂ subseteq ⊆ approx ≈ "
        "equiv ≡ sim ∼ simeq ≃ cong ≅ perp ⊥ mid | colon : Rightarrow ⇒ iff ⇔ propto ∝"
    ),
    "big": _pairs("sum ∑ prod ∏ int ∫ bigoplus ⨁ bigotimes ⨂ bigcup ⋃"),
    "letter": _pairs(
        "top ⊤ infty ∞ nabla ∇ partial ∂ ell ℓ forall ∀ exists ∃ dots … ldots … cdots ⋯ vdots ⋮ prime ′ Vert ‖ vert | "
        "| ‖ emptyset ∅ dagger † varepsilon ε vartheta ϑ varphi φ % % _ _ & & # # $ $"
    ),
    "open": _pairs("langle ⟨ { { lbrace { lfloor ⌊ lceil ⌈ lVert ‖ lvert |"),
    "close": _pairs("rangle ⟩ } } rbrace } rfloor ⌋ rceil ⌉ rVert ‖ rvert |"),
}
COMMANDS = {f"\\{name}": (char, kind) for kind, signs in _SIGNS.items() for name, char in signs.items()}
COMMANDS |= {f"\\{name}": (char, "letter") for name, char in GREEK.items()}
PLAIN = {
    **dict.fromkeys("+-*/", "binary"),
    **dict.fromkeys("=<>:", "relation"),
    **dict.fromkeys(",;.", "punctuation"),
    **dict.fromkeys("([", "open"),
    **dict.fromkeys(")]", "close"),
}
