"""All that knows Hydra: where conf/ lies, checking before any work, building objects, and errors in one line."""

import difflib
import functools
import inspect
import logging
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from artart import ArtError

log = logging.getLogger(__name__)

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
CONF_DIR = HERE / "conf" if (HERE / "conf" / "train.yaml").is_file() else HERE.parent / "conf"  # a wheel, or a checkout


class Limit(NamedTuple):
    """What a number may be."""

    kind: type[int] | type[float]
    lowest: float
    highest: float = float("inf")
    open: bool = False  # whether the limits themselves are left out
    optional: bool = False  # whether null is a value

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, (int, self.kind)):
            return False
        return self.lowest < value < self.highest if self.open else self.lowest <= value <= self.highest

    def __str__(self) -> str:
        kind = "a whole number" if self.kind is int else "a number"
        lowest = f"above {self.lowest:g}" if self.open else f"at least {self.lowest:g}"
        highest = "" if self.highest == float("inf") else f" and {'below' if self.open else 'at most'} {self.highest:g}"
        return f"{kind}, {lowest}{highest}{', or null' if self.optional else ''}"


LIMITS = {
    "image_size": Limit(int, 8),
    "seed": Limit(int, 0, 2**32 - 1),
    "batch_size": Limit(int, 1),
    "data.batch_size": Limit(int, 1),
    "data.val_fraction": Limit(float, 0, 0.9),
    "data.max_rejected_fraction": Limit(float, 0, 1),
    "data.num_workers": Limit(int, 1, optional=True),
    "data.num_demo_pictures": Limit(int, 4),
    "optimizer.lr": Limit(float, 0, open=True),
    "trainer.max_epochs": Limit(int, 1),
    "trainer.log_every_n_steps": Limit(int, 1),
    "trainer.check_val_every_n_epoch": Limit(int, 1),
    "callbacks.grid.every_n_epochs": Limit(int, 1),
    "callbacks.grid.num_images": Limit(int, 1),
    "callbacks.checkpoints.every_n_epochs": Limit(int, 1),
}
CHOICES = {"score_mode": ("min", "max"), "mode": ("reconstruct",), "device": ("auto", "cpu", "cuda", "mps")}


class PathKey(NamedTuple):
    """What a path may be."""

    words: tuple[str, ...] = ()  # values that are no paths
    folder: bool = False  # must be a folder that exists
    file: bool = False  # must be a file that exists


PATHS = {
    "data.root": PathKey(folder=True),
    "loss.perceptual.weights": PathKey(("auto", "imagenet", "random"), file=True),
    "resume": PathKey(("auto",), file=True),
    "run_dir": PathKey(),
    "checkpoint": PathKey(file=True),
    "input": PathKey(file=True, folder=True),
    "out": PathKey(),
}


def check(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, paths made absolute (in cfg too), after a look for mistakes: all at once.

    What needs no imports is told first; then keys and values are held against the signature of each `_target_`.

    Raises:
        ArtError: one line per mistake, with key, value and remedy.
    """
    _refuse_empty(cfg)
    _make_paths_absolute(cfg)
    probe = cfg.copy()
    if "run_dir" in probe:
        probe.run_dir = probe.run_dir or "outputs/runs"  # a new folder gets its name later
    config = plain(probe)
    for look in (_wrong_values, _wrong_arguments):
        if problems := list(look(config)):
            raise ArtError("\n".join(problems))
    return plain(cfg)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Plain dicts and lists, every interpolation resolved."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _refuse_empty(cfg: DictConfig) -> None:
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ArtError("\n".join(f"{key}: needs a value: {key}=..." for key in missing))


def _make_paths_absolute(cfg: DictConfig) -> None:
    for key, kind in PATHS.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and value not in kind.words:
            OmegaConf.update(cfg, key, str(Path(str(value)).expanduser().absolute()))


def _select(config: Mapping[str, Any], key: str) -> Any:
    """config["a"]["b"] for "a.b"; KeyError where there is none."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[part]
    return value


def _wrong_values(config: Mapping[str, Any]) -> Iterator[str]:
    """Numbers out of range, words that are no choice, paths that lead nowhere."""
    for key, value in _present(config, LIMITS):
        if not LIMITS[key].allows(value):
            yield f"{key}={_shown(value)}: must be {LIMITS[key]}"
    for key, value in _present(config, CHOICES):
        if value not in CHOICES[key]:
            yield f"{key}={_shown(value)}: must be {_list(CHOICES[key])}"
    for key, value in _present(config, PATHS):
        kind = PATHS[key]
        if value is None or value in kind.words or not (kind.folder or kind.file):
            continue
        path = Path(value)
        if not ((kind.folder and path.is_dir()) or (kind.file and path.is_file())):
            wanted = _list((*kind.words, *["a file that exists"] * kind.file, *["a folder that exists"] * kind.folder))
            yield f"{key}={value}: must be {wanted}"


def _present(config: Mapping[str, Any], keys: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    for key in keys:
        try:
            yield key, _select(config, key)
        except KeyError:
            continue


def _wrong_arguments(node: Any, key: str = "") -> Iterator[str]:
    """Keys and values that the `_target_` above them does not take."""
    if isinstance(node, list):
        for item in node:
            yield from _wrong_arguments(item, key)
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield from _wrong_call(node, key)
        elif not key:
            yield from _unknown_root_keys(node)
        for name, value in node.items():
            yield from _wrong_arguments(value, f"{key}.{name}" if key else str(name))


def _unknown_root_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """Root keys that train.yaml does not have; an experiment file can bring them in without Hydra noticing."""
    known = set(_known_keys("train")) | set(_known_keys("generate"))
    for key in config:
        if key not in known:
            yield f"{key}: no such key{_did_you_mean(key, known)}"


def _wrong_call(node: Mapping[str, Any], key: str) -> Iterator[str]:
    try:
        target = locate(node["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        yield f"{key}._target_={node['_target_']}: cannot be imported ({error})"
        return
    parameters = inspect.signature(target).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = _hints(target)
    for name, value in node.items():
        if name.startswith("_") and name.endswith("_"):
            continue
        if name in parameters and name in hints:
            yield from _wrong_type(f"{key}.{name}", value, hints[name])
        elif name not in parameters and not takes_any:
            remedy = _did_you_mean(name, parameters, prefix=f"{key}.") or f"; it takes {_list(list(parameters), 'and')}"
            yield f"{key}.{name}={_shown(value)}: {node['_target_']} has no such argument{remedy}"


def locate(name: str) -> Callable[..., Any]:
    """The object with a full name such as `torch.optim.Adam`."""
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError("needs a full name, package.module.Class")
    target = getattr(import_module(module), attribute)
    if not callable(target):
        raise ValueError("is not a class or function")
    return target


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the arguments; none where they cannot be resolved."""
    try:
        return typing.get_type_hints(inspect.unwrap(target.__init__) if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}


def _wrong_type(key: str, value: Any, hint: Any) -> Iterator[str]:
    from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

    if isinstance(value, Mapping) and "_target_" in value:
        return  # will be an object by then
    candidates = [value, tuple(value)] if isinstance(value, list) else [value]  # YAML has no tuples
    for candidate in candidates:
        try:
            check_type(
                candidate,
                hint,
                forward_ref_policy=ForwardRefPolicy.IGNORE,
                collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
            )
            return
        except TypeCheckError:
            continue
    yield f"{key}={_shown(value)}: must be {_readable(hint)}"


def _readable(hint: Any) -> str:
    """An annotation as words: no module paths, null for None."""
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text).replace("NoneType", "null").replace("None", "null")
    if match := re.fullmatch(r"(?:Optional|Union)\[(.*)\]", text):
        text = match[1]
    return text.replace("Literal", "one of ")


def _shown(value: object) -> str:
    """A value as the command line writes it."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _list(words: typing.Sequence[str], last: str = "or") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def _did_you_mean(key: str, known: typing.Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.7)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _known_keys(config_name: str) -> list[str]:
    """Every key of the default configuration, dotted, inner and outer."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(config_name)
    return list(_flat_keys(cfg))


def _flat_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in cfg:
        yield f"{prefix}{key}"
        if (
            not OmegaConf.is_missing(cfg, key)
            and isinstance(node := cfg._get_node(key), DictConfig)
            and not node._is_none()
        ):
            yield from _flat_keys(node, f"{prefix}{key}.")


def build(config: Mapping[str, Any], key: str, **more: Any) -> Any:
    """The object that config[key] describes, made from plain data; `more` are arguments that a file cannot hold.

    Raises:
        ArtError: if it cannot be made, with the reason.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(config[key], _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise ArtError(reason if isinstance(cause, ValueError) else f"{key}: {reason}") from error


def build_all(config: Mapping[str, Any], key: str) -> list[Any]:
    """The objects of a group whose members are named; a member that is null is left out."""
    return [thing for thing in (build(config, key) or {}).values() if thing is not None]


def in_sweep() -> bool:
    """Whether this is one job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def cli(main: Callable[[], object], config_name: str) -> None:
    """Run a Hydra main as a command: file names need no quoting, mistakes are told in a line each.

    Exit codes: 0, 1 for what went wrong on the way, 2 for a mistake in the call, 130 for Ctrl-C.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on
    logging.raiseExceptions = False  # a log on a full disk must not hide the sentence that says so
    sys.argv[1:] = [_quoted(argument) for argument in sys.argv[1:]]
    try:
        main()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        log.error(_sentence(error, config_name))
        sys.exit(2)
    except KeyboardInterrupt:
        log.error("stopped by Ctrl-C")
        sys.exit(130)


def told(main: Callable[[DictConfig], T]) -> Callable[[DictConfig], T]:
    """For the function under `hydra.main`: its errors end the process with a sentence, before Hydra adds its own lines.

    In a multirun they are left to the sweep's table.
    """

    @functools.wraps(main)
    def wrapper(cfg: DictConfig) -> T:
        try:
            return main(cfg)
        except Exception as error:
            if in_sweep():
                raise
            sys.exit(_tell(error))

    return wrapper


def _tell(error: Exception) -> int:
    """Log an error, with a trace only if it is nobody's mistake but ours; return the exit code."""
    match error:
        case ArtError():
            log.error(str(error))
            return 2
        case OmegaConfBaseException():
            log.error(_sentence(error, ""))
            return 2
        case FloatingPointError():
            log.error(str(error))
        case OSError():
            log.error("%s: %s; what was written before is intact", error.filename or "a file", error.strerror or error)
        case _:
            log.exception("artart met an error that it does not know; please report it")
    return 1


def _quoted(argument: str) -> str:
    """key=value with quotes around a path that Hydra's grammar would misread: blanks, commas, quotes, accents."""
    key, equals, value = argument.partition("=")
    if (
        not equals
        or key.lstrip("+") not in PATHS
        or re.fullmatch(r"[\w./~:\-]*", value, re.ASCII)
        or value[:1] in "'\""
    ):
        return argument
    if "," in value and not Path(value).expanduser().exists() and {"-m", "--multirun"} & set(sys.argv):
        return argument  # a sweep over several paths
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value).replace("${", "\\${")
    return f"{key}='{escaped}'"


def _sentence(error: Exception, config_name: str) -> str:
    """What Hydra, OmegaConf or YAML found, in a line with the remedy."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.partition("/")
        return f"{group}={option}: no such option; choose {_list(sorted(error.options or []))}"
    if match := re.match(r"Could not (?:override|delete from config)[^']*'([^']+)'", text):
        key = match[1]
        given = next((argument for argument in sys.argv[1:] if argument.lstrip("+~").startswith(f"{key}=")), key)
        remedy = _did_you_mean(key, _known_keys(config_name)) or "; --cfg job shows them all"
        return f"{given}: no such key{remedy}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; put the value into quotes: \"key='value'\""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: needs a value: {error.full_key}=..."
    if isinstance(error, YAMLError):
        return " ".join(text.split())
    return f"{getattr(error, 'full_key', None) or 'configuration'}: {text.splitlines()[0]}"
