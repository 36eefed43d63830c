"""Where a model is: in a folder, in the hub's cache, or on the hub, which is asked once and quickly.

transformers itself asks again and again for each file, for minutes where no network answers, and calls a folder that is
not there a name that the hub does not allow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TIMEOUT = 10.0  # seconds to connect, and to wait for an answer
_LENGTH = 300  # characters of a foreign message

_log = logging.getLogger(__name__)


def cached(name: str) -> Path | None:
    """Return the configuration of a model of the hub in its cache on this machine, if it is there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(file) if isinstance(file, str) else None


def locate(name: str) -> dict[str, bool]:
    """Return what ``from_pretrained`` has to be told to load a model by its folder or its name on the hub.

    A model of the hub is looked for there; its copy in the cache serves where the hub does not answer. ``ValueError``
    says that there is no such folder, no such model, or no answer, and what to do.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    path = Path(name)
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise ValueError(f"model: {name} holds an adapter: name it as one (--adapter), beside the model that it is for")
    if path.is_dir():
        return {"local_files_only": True}
    if path.exists():
        raise ValueError(f"model: {name} is a file: name the folder that holds it, with its config.json")
    try:
        if not constants.HF_HUB_OFFLINE:
            _log.info("asking %s for %s", constants.ENDPOINT, name)
        HfApi(endpoint=constants.ENDPOINT).model_info(name, timeout=_TIMEOUT)
    except HFValidationError:
        raise ValueError(f"model: there is no folder {name}, and the hub has no models of such names") from None
    except GatedRepoError:
        raise ValueError(
            f"model: the hub gives {name} only to those who accepted its terms: accept them at "
            f"{constants.ENDPOINT}/{name}, and run hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"model: there is no folder {name}, and no model of this name on the hub; for a private one, run hf auth "
            "login"
        ) from None
    except Exception as error:  # whatever the network and the libraries on the way to it raise
        reason = "it may not be asked (HF_HUB_OFFLINE)" if isinstance(error, OfflineModeIsEnabled) else brief(error)
        if cached(name) is not None:
            _log.info("the hub does not answer (%s): %s is taken from its cache", reason, name)
            return {"local_files_only": True}
        raise ValueError(
            f"model: there is no folder {name}, and the hub does not answer: {reason}. Without a network, run hf "
            f"download {name} --local-dir FOLDER where there is one, and name the folder"
        ) from error
    return {}


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Name the model in whatever its loading raises, as a ``ValueError``: files are damaged in many ways."""
    try:
        yield
    except (MemoryError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"model: {name} cannot be loaded: {brief(error)}") from error


def brief(error: Exception) -> str:
    """The message of an error of another library in one line, without its lists of all that there is."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."
