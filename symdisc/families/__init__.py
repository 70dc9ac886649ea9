"""Named families of symmetries, found by propagation over the folded graph: dense groups, scalings, translations."""
