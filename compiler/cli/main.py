"""`mopt`: the command line. Commands import what they need when they run, so that help and checks stay fast."""

from __future__ import annotations

import sys
from typing import NoReturn

import click
import mopt
from mopt.cli import building, language, looking, storing


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(mopt.__version__, prog_name="mopt")
def cli() -> None:
    """Compress models by recipe: prune, quantise, convert, simplify, and see what every step did.

    \b
    Exit status: 0 done, 1 a `require` failed, 2 the recipe or the command line is wrong,
    3 a pass or a source failed, 4 a target is not available here, 70 a bug in mopt, 130 interrupted.
    """


for command in (*building.COMMANDS, *language.COMMANDS, *looking.COMMANDS, *storing.COMMANDS):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit with its status; no user's mistake ends in a traceback."""
    from mopt.cli.errors import report_unexpected, status_of

    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):  # click turns the one into the other
        print("interrupted; finished steps are kept: run the same command to go on", file=sys.stderr)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output left (`mopt show … | head`): nothing is wrong.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  (the last line of defence)
        known = status_of(error)
        sys.exit(known if known is not None else report_unexpected(error))
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
