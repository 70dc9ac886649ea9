"""Short programs that show one thing each; run them with ``python -m symdisc.examples.NAME``."""
