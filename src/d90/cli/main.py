"""The command line: gathers the commands, and turns what goes wrong into one line and an exit status.

Exit status 0 on success; 2 for what the user got wrong, in one line; 1 for a failed run or machine; 130 when
interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Annotated, Any

import typer

from d90._version import __version__
from d90.cli import (
    advise,
    certify,
    compare,
    convert,
    demo,
    export,
    generalization,
    generate,
    hub,
    latency,
    lists,
    measure,
    preflight,
    pretrain,
    reproduce,
    series,
    tunes,
    verify,
    weight_change,
)
from d90.cli.device import on_device
from d90.cli.interrupt import Interrupted, catch_signals, interruptible
from d90.cli.options import restore_terminal
from d90.errors import D90Error, RunFailed, printable

__all__ = ["app", "main"]

# the usage error of the click that typer brings or uses: its own copy since 0.2x, the package before
_UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="How few parameters a fine-tune really needs: measure it, train in exactly that many, store it in under a kilobyte.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS = (
    *(
        demo.demo,
        advise.advise,
        measure.measure,
        tunes.train,
        tunes.predict,
        generate.generate,
        tunes.evaluate,
        compare.compare,
        certify.certify,
        verify.verify,
        weight_change.analyze,
        latency.latency,
        preflight.preflight,
        measure.report,
        generalization.gap,
        export.export,
    ),
    *(pretrain.pretrain, series.trajectory, series.family, series.lowdata, reproduce.run),
    *(hub.push, hub.pull, hub.merge, convert.convert),
    *(tunes.inspect, lists.tasks, lists.methods),
)
WITH_DEVICE = {
    *(
        advise.advise,
        measure.measure,
        tunes.train,
        tunes.predict,
        generate.generate,
        tunes.evaluate,
        compare.compare,
        generalization.gap,
        pretrain.pretrain,
    ),
    *(series.trajectory, series.family, series.lowdata, reproduce.run, convert.convert),
}  # certificates stay on the processor, where equal seeds give equal bits
for command in COMMANDS:
    app.command()(interruptible(on_device(command) if command in WITH_DEVICE else command))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"d90 {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; an error is one line on standard error."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    catch_signals()
    try:
        sys.exit(_run(sys.argv[1:]))
    except D90Error as error:
        _fail(str(error), 2)
    except _UsageError as error:
        _fail(f"{error.format_message()} Run 'd90 --help', or 'd90 COMMAND --help'.", 2)
    except RunFailed as error:
        _fail(str(error), 1)
    except Interrupted as error:
        _fail(str(error), 130)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted before anything was done", 130)
    except (MemoryError, RuntimeError) as error:
        from d90.training.failures import out_of_memory

        if not out_of_memory(error):
            raise
        _fail(
            "memory was exhausted; a smaller --batch-size or --max-length needs less. Trials stored before are safe", 1
        )
    except OSError as error:
        if error.errno == errno.EPIPE or isinstance(error, BrokenPipeError):
            _leave_pipe()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _fail(f"{error.strerror}: {error.filename or 'while writing'}; trials stored before are safe", 1)


def _run(arguments: list[str]) -> int:
    """The exit status of a command that ended by itself; whatever ends it, the terminal is as it was."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("d90", arguments) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return int(stop.exit_code)
    finally:
        restore_terminal()
    return 0


def _leave_pipe() -> None:
    """Whoever read our output has gone, as `| head` does: end quietly, as other tools do."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _fail(message: str, status: int) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"d90: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    sys.exit(status)
