"""The door of the command line: every error leaves as one line on stderr and an exit code, never as a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import typer

from symdisc import __version__
from symdisc.cli import asking, coverage, ensembles, formulas, models, shows, studies, teleports
from symdisc.cli.terminal import errors
from symdisc.errors import SymdiscError

__all__ = ["app", "main"]

DONE, FAILED, BAD, STOPPED, TERMINATED = 0, 1, 2, 130, 143

_Usage: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException, whichever package typer takes it from

app = typer.Typer(name="symdisc", add_completion=False, rich_markup_mode=None,
                  help="Parameter symmetries of neural networks: derived, proved, certified, and applied to real weights.",
                  epilog="A SOURCE is package.module:factory, file.py:factory, a Hugging Face config file or folder, or zoo:NAME.")
models.register(app)
formulas.register(app)
shows.register(app)
asking.register(app)
ensembles.register(app)
studies.register(app)
teleports.register(app)
coverage.register(app)


@app.callback(invoke_without_command=True)
def _top(context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        typer.echo(f"symdisc {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. ``SYMDISC_DEBUG=1`` lets tracebacks through."""
    _asked_to_end.clear()
    before = _on_terminate(_terminate)
    try:
        result = app(args=None if arguments is None else list(arguments), prog_name="symdisc", standalone_mode=False)
        code = result if isinstance(result, int) else DONE
        return _stopped() if code == STOPPED else code  # typer turns Ctrl-C into this code
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _stopped()
    except BrokenPipeError:
        # the reader of our output has gone; python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except _Usage as error:
        return _say(f"{error.format_message()} (symdisc COMMAND --help shows the usage)", BAD)  # type: ignore[attr-defined]
    except SymdiscError as error:
        return _say(str(error), BAD, error)
    except MemoryError as error:
        return _say("not enough memory for this model; give its config (it is read without weights) or a smaller model", BAD, error)
    except OSError as error:
        if error.filename is None:
            return _failed(error)
        return _say(f"{error.filename} cannot be used: {error.strerror}; name another file or folder", BAD, error)
    except Exception as error:
        return _failed(error)
    finally:
        _on_terminate(before)


def _failed(error: Exception) -> int:
    return _say(f"symdisc itself failed ({type(error).__name__}: {error}); please report it, SYMDISC_DEBUG=1 shows where", BAD, error)


def _say(text: str, code: int, error: BaseException | None = None) -> int:
    if error is not None and os.environ.get("SYMDISC_DEBUG"):
        raise error
    errors().print("error: " + " ".join(text.split()), markup=False, highlight=False, soft_wrap=True)
    return code


def _stopped() -> int:
    return _say("stopped; nothing half written is left", TERMINATED if _asked_to_end else STOPPED)


_asked_to_end: list[int] = []


def _terminate(number: int, frame: FrameType | None) -> None:
    _asked_to_end.append(number)
    raise KeyboardInterrupt  # unwinds, so that part files are removed


def _on_terminate(handler: object) -> object:
    try:
        return signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
    except ValueError:  # not in the main thread
        return None
