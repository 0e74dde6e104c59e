"""What the commands have in common: quoting of paths, errors in one line, exit codes."""

import argparse
import functools
import io
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import artart
from artart import ArtError
from artart.config.build import CONF_DIR, compose, did_you_mean, in_multirun, join_words, known_keys, options
from artart.config.words import MULTIRUN, to_hydra
from artart.io.allocator import keep_freed_memory
from artart.io.terminal import CLOSED_PIPE, TerminalHandler, first_line

log = logging.getLogger(__name__)

A_MOMENT = 2.0  # seconds


def command(config_name: str, sweeps: bool = False) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Decorate a function of the settings to make it a command: it then takes none and reads the command line.

    Its errors exit with one line, before Hydra adds lines of its own; in a multirun the sweep's table reports them.
    Arguments as for `cli`.
    """

    def decorate(main: Callable[[DictConfig], object]) -> Callable[[], None]:
        @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)
        @functools.wraps(main)
        def task(cfg: DictConfig) -> object:
            try:
                return main(cfg)
            except Exception as error:
                if in_multirun():
                    raise
                sys.exit(report_error(error))

        return functools.partial(cli, task, config_name, sweeps)

    return decorate


def cli(main: Callable[[], object], config_name: str, sweeps: bool = False) -> None:
    """Run a Hydra main as a command: file names need no quoting, errors take one line.

    Exit codes: 0; 1 for an error during work; 2 for a mistake in the call; 130 for Ctrl-C; 143 for SIGTERM.

    Args:
        main: the function under `hydra.main`.
        config_name: its configuration in conf/.
        sweeps: whether it supports -m.
    """
    _prepare_process()
    code: int | str | None = 0
    try:
        _run(main, config_name, sweeps)
        sys.stdout.flush()
    except SystemExit as stop:
        code = stop.code
    except OSError as error:  # of the standard output
        code = CLOSED_PIPE if isinstance(error, BrokenPipeError) else 1
        if code == 1:
            log.error("standard output: %s", error.strerror)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains at exit
    except KeyboardInterrupt:
        log.error("stopped by Ctrl-C")
        code = 128 + signal.SIGINT
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # at exit, a handler that raises prints a traceback
            signal.signal(number, signal.SIG_DFL)
    if code:
        sys.exit(code)


def _prepare_process() -> None:
    """Errors take one line, whatever reports them, and texts of any bytes can be printed."""
    argparse.ArgumentParser.print_usage = lambda *_: None  # type: ignore[method-assign]  # eight lines of it
    if hasattr(argparse.ArgumentParser, "_check_help"):  # Python 3.14 refuses Hydra's help for --shell-completion
        argparse.ArgumentParser._check_help = lambda *_: None
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its exceptions itself
    keep_freed_memory()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # files are finished or removed
    threading.excepthook = _on_error_of_thread
    logging.raiseExceptions = False  # a full disk must not add tracebacks of logging to the error
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(TerminalHandler())  # of errors before Hydra sets up its own
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names can hold bytes that are not UTF-8


def _run(main: Callable[[], object], config_name: str, sweeps: bool) -> None:
    words = sys.argv[1:]
    if "--version" in words:
        sys.stdout.write(f"artart {artart.__version__}\n")
        return
    try:
        if MULTIRUN & set(words) and not sweeps:
            raise ArtError("-m: this command has no sweeps; call it once for each setting")
        sys.argv[1:] = to_hydra(words, config_name)
        if sys.argv[1:2] == ["--help"] and not any(word.startswith("-") for word in sys.argv[2:]):
            sys.stdout.write(help_text(config_name, sys.argv[2:]))
        else:
            main()
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - Hydra raises anything; errors of `main` end in `command`
        sys.exit(_refuse(_sentence(error, config_name, sys.argv[1:], sweeps)))


def help_text(config_name: str, overrides: Sequence[str]) -> str:
    """What Hydra prints for --help, in a third of the time: Hydra reads the command line again for each group."""
    cfg = compose(config_name, overrides, return_hydra_config=True)
    template = Template(cfg.hydra.help.template)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    groups = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "hydra")
    lines = "".join(f"{group}: {', '.join(options(group))}\n" for group in groups)
    return template.substitute(APP_CONFIG_GROUPS=lines, CONFIG=OmegaConf.to_yaml(cfg)) + "\n"


def compose_config(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a command would have with these words, `key=value` each, for a call from Python.

    Raises ArtError, one line with key, value and remedy.
    """
    words = to_hydra(overrides, config_name)
    try:
        cfg = compose(config_name, words)
        OmegaConf.resolve(cfg.copy())  # raises if an interpolation has no value
        return cfg
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ArtError(_sentence(error, config_name, words)) from None


def _on_error_of_thread(args: threading.ExceptHookArgs) -> None:
    """Ignore a full disk: the code that waits for the thread (TensorBoard's writer) reports it."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


def report_error(error: Exception) -> int:
    """Log an error, with a traceback only if it is a bug of artart; return the exit code."""
    match error:
        case ArtError() | OmegaConfBaseException():
            return _refuse(_sentence(error, "", sys.argv[1:]))
        case MemoryError():
            log.error("not enough memory (%s): a smaller image_size or fewer images need less", error)
        case FloatingPointError():
            log.error(str(error))
        case RuntimeError() if type(error).__name__ == "OutOfMemoryError":  # of torch, which is not imported here
            log.error("batch size: a batch does not fit into the GPU; halve it (%s)", first_line(error))
        case RuntimeError() if "DefaultCPUAllocator" in str(error):  # of torch
            log.error("not enough memory (%s): a smaller batch_size or image_size needs less", first_line(error))
        case OSError():
            log.error("%s: %s; files written before are intact", error.filename or "output", error.strerror or error)
        case _:
            log.exception("unexpected error; please report it")
    return 1


def _refuse(sentence: str) -> int:
    """Log a mistake in the call, from rank zero alone; return the exit code.

    It is written into the file whose content torchrun prints last, below tracebacks of its own.
    """
    if os.environ.get("RANK", "0") != "0" and "LOCAL_RANK" in os.environ:
        time.sleep(A_MOMENT)  # torchrun ends this process, once rank zero has reported what all have met
    log.error(sentence)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": {"message": sentence, "extraInfo": {"timestamp": int(time.time())}}}
        Path(file).write_text(json.dumps(content))
    return 2


def _sentence(error: Exception, config_name: str, words: Sequence[str], sweeps: bool = False) -> str:
    """An error of Hydra, OmegaConf or YAML in one line, with the remedy."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, ArtError):
        return text
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: no such option; choose {join_words(sorted(error.options or []))}"
    if match := re.match(r"Could not (?:override|delete from config)[^']*'([^']+)'", text):
        key = match[1]
        given = next((word for word in words if word.lstrip("+~").startswith(f"{key}=")), key)
        choices = [word for word in words if (CONF_DIR / word.partition("=")[0]).is_dir() and key not in word]
        remedy = did_you_mean(key, set(known_keys(config_name, choices)) - {key}) or "; --cfg job shows them all"
        if key.startswith("model.") and any(word.startswith("init_from=") for word in words):
            remedy = "; name the checkpoint's kind of network too: model=NAME"
        if key in ("schedule", "sampler"):
            remedy = "; it belongs to diffusion: add objective=diffusion"
        return f"{given}: no such key{remedy}"
    if match := re.match(r"Error merging override \+*(.*)", text):
        return f"{match[1]}: has the wrong type; --cfg job shows the setting"
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        sweep = "add -m for a sweep, or " if sweeps else ""
        return f"{match[1]}: several values: {sweep}write them as a list: [a,b]"
    if match := re.match(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"+{match[1]}: exists already; leave out the +"
    if isinstance(error, OverrideParseException):
        quotes = "\"key='value'\", \"key=['a b',...]\" or \"label={column: 'name', ...}\""
        return f"{error.override}: cannot be read as key=value; put names into quotes: {quotes}"
    if nulled := [word for word in words if word.endswith("=null") and (CONF_DIR / word[:-5]).is_dir()]:
        return f"{nulled[0]}: a group needs an option; choose {join_words(options(nulled[0][:-5]))}"
    if match := re.match(r"Interpolation key '(schedule|sampler)' not found", text):
        return f"{getattr(error, 'full_key', match[1])}: needs a {match[1]}; add objective=diffusion"
    if isinstance(error, YAMLError):
        return " ".join(text.split())
    return f"{getattr(error, 'full_key', None) or 'configuration'}: {text.splitlines()[0]}"
