"""The command line: parse, call, print. Exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""

from symdisc.cli.main import app, main

__all__ = ["app", "main"]
