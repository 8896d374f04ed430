"""Makes the entry point of a stage: the `main` of its module."""

import dataclasses
import importlib
import signal
import sys
from collections.abc import Callable

from agd.runtime import claims
from agd.runtime.errors import UserError, machine_limit, one_line
from agd.runtime.output import any_encoding
from agd.runtime.signals import Terminated, stop_at_once
from agd.settings import families
from agd.settings.command_line import parse
from agd.settings.stages import STAGES


def entry_point(stage: str, family: str | None = None, model: str | None = None) -> Callable[[list[str] | None], None]:
    """Return the entry point of a stage: it parses the command line, then imports and runs the stage.

    family: of the models that the stage opens. Without one, a stage that has a command line per family names those.
    model: gives the default settings; `--model` overrides it.
    A user's mistake gives exit status 2 and one line. Nothing heavy is imported before the command line is checked.
    SIGTERM stops the stage like Ctrl-C: one line, no partial files, exit status 143 (128 + 15).
    """
    name = f"{families.PACKAGES[family]}.{stage}" if family else STAGES[stage].module

    def main(argv: list[str] | None = None) -> None:
        try:
            any_encoding()
            with stop_at_once():
                if STAGES[stage].by_family and family is None:
                    theirs = " or ".join(f"python -m {package}.{stage}" for package in families.PACKAGES.values())
                    raise UserError(f"it has a command line for each family of models; use {theirs}")
                files, settings = parse(stage, name, family, model, sys.argv[1:] if argv is None else argv)
                with claims.claimed(claims.place(stage, files)):
                    _run(stage, family, files, settings)
        except UserError as error:
            print(f"{name}: error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            sys.exit(130)
        except Terminated:
            print(f"{name}: stopped by SIGTERM; the same command goes on", file=sys.stderr)
            sys.exit(128 + signal.SIGTERM)
        except (MemoryError, RuntimeError) as error:
            if not (limit := machine_limit(error)):
                raise
            why = f" ({UserError(one_line(error))})" if str(error) else ""
            print(f"{name}: error: {limit}{why}; ask for less at once, or take a larger machine", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            said = UserError(f"{error.filename or 'input/output'}: {error.strerror or error}")
            print(f"{name}: error: {said}", file=sys.stderr)
            sys.exit(2)

    return main


def _run(stage: str, family: str | None, files, settings: dict) -> None:
    module = importlib.import_module(STAGES[stage].module)
    chosen = settings_of(module.Settings, settings)
    if STAGES[stage].needs_model:
        module.run(files, chosen, families.model_class(family))
    else:
        module.run(files, chosen)


def settings_of(kind: type, values: dict):
    """Return a stage's `Settings`.

    Settings that the model doesn't use are None; the family's own go to `family_settings`.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    own = {name: value for name, value in values.items() if name not in names}
    general = dict.fromkeys(names) | {name: value for name, value in values.items() if name in names}
    return kind(**general | ({"family_settings": own} if "family_settings" in names else {}))
