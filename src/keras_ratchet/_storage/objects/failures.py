"""What goes wrong on a store: what comes back by itself, and what to tell the user of the rest."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from keras_ratchet._storage.objects.location import cache_root, scheme_of
from keras_ratchet.errors import ConfigError, SaveError

T = TypeVar("T")
EXTRAS = {
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gcs", "gcsfs"),
    "gcs": ("gcs", "gcsfs"),
    "az": ("azure", "adlfs"),
    "abfs": ("azure", "adlfs"),
    "abfss": ("azure", "adlfs"),
    "hf": ("hf", "huggingface_hub"),
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or an instance role",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`",
    "azure": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with a key",
    "hf": "HF_TOKEN or `hf auth login`",
}
_LASTING = (FileNotFoundError, PermissionError, FileExistsError, NotADirectoryError, ConfigError)
_LASTING_ERRNO = (errno.EINVAL, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_LASTING_NAMES = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "ClientAuthenticationError",
    "DefaultCredentialsError",
    "RepositoryNotFoundError",
    "LocalTokenNotFoundError",
    "ParamValidationError",
)
_LASTING_STATUS = (400, 401, 403, 404, 405, 409, 411, 412)


def passes(error: BaseException) -> bool:
    """Return whether the same call may succeed later: a network that is gone, a busy server."""
    if not isinstance(error, Exception):  # Ctrl-C, which tenacity hands on like an error
        return False
    if isinstance(error, _LASTING) or type(error).__name__ in _LASTING_NAMES:
        return False
    if isinstance(error, RuntimeError) and re.search("shutdown|fork", str(error)):
        return False  # the interpreter ends; or it is a child, which has no connection
    if isinstance(error, ValueError | TypeError | AttributeError | NotImplementedError):
        return False
    if getattr(error, "errno", None) in _LASTING_ERRNO:
        return False
    answer = getattr(error, "response", None)  # of huggingface_hub
    named = (
        getattr(of, name, None)
        for of in (error, answer)
        for name in ("status", "status_code", "code")
    )
    return next((s for s in named if isinstance(s, int)), None) not in _LASTING_STATUS


def is_about_credentials(error: BaseException) -> bool:
    """Return whether a store does not know who we are, or does not let us."""
    text = f"{type(error).__name__} {error}".lower()
    words = ("credential", "token", "authenticat", "signature", "accesskey", "access key", "anon")
    return isinstance(error, PermissionError) or any(word in text for word in words)


def keep_trying(
    action: Callable[[], T],
    patience_s: float,
    on_retry: Callable[[BaseException], None] = lambda error: None,
) -> T:
    """Do something on a store; after an error that may pass, wait a little and do it again.

    Args:
        action: What is done. Doing it twice does no harm.
        patience_s: For how many seconds.
        on_retry: Called with each error that is waited out.

    Raises:
        Exception: The last error, when patience has ended, or at once when it cannot pass.
    """
    import tenacity  # noqa: PLC0415  optional

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(passes),
        wait=tenacity.wait_exponential(multiplier=0.2, max=15.0) + tenacity.wait_random(0.0, 0.2),
        stop=tenacity.stop_after_delay(patience_s),
        sleep=time.sleep,
        before_sleep=lambda state: on_retry(_error_of(state)),
        reraise=True,
    )
    return retrying(action)


def _error_of(state: Any) -> BaseException:
    error: BaseException = state.outcome.exception()
    return error


def save_error(error: BaseException, url: str, what: str) -> SaveError:
    """Return the error that tells a user why nothing could be put on a store, and what to do."""
    number = getattr(error, "errno", None) or errno.EIO
    said = SaveError(
        number, f"could not {what} {url!r}: {describe(error, url)}", see="store-failed"
    )
    said.__cause__ = error
    return said


def describe(error: BaseException, url: str) -> str:
    """Return what a store said, and what can be done about it."""
    where = getattr(error, "filename", None)
    number = getattr(error, "errno", None)
    if isinstance(where, str) and where.startswith(cache_root()):
        why = os.strerror(number) if number else str(error)
        return f"the cache cannot be used: {where!r}: {why}. RATCHET_CACHE says where it is."
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}. Is the disk of the cache, {cache_root()!r} (RATCHET_CACHE), full?"
    extra = EXTRAS.get(scheme_of(url), ("", ""))[0]
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if is_about_credentials(error):
        hint = _CREDENTIALS.get(extra)
        how = f" Credentials come from {hint}, or from storage_options=." if hint else ""
        return (
            f"{type(error).__name__}: {text}. The store does not know you, or does not let you do "
            f"that: check your credentials, and the right to list, read, write and delete.{how}"
        )
    if isinstance(error, TypeError):
        return f"{type(error).__name__}: {text}. Are the names in storage_options= right?"
    if isinstance(error, FileNotFoundError):
        return f"{text}. Does the bucket (the container, the repository) exist? Create it first."
    if passes(error):
        return f"{type(error).__name__}: {text}. Is the network up, and the endpoint right?"
    return f"{type(error).__name__}: {text}"


def missing_library(url: str, error: BaseException) -> ConfigError:
    """Return the error for a scheme whose library is not installed or not known."""
    scheme = scheme_of(url)
    if scheme in EXTRAS:
        extra, library = EXTRAS[scheme]
        return ConfigError(
            f"{scheme}:// needs {library}: pip install 'keras-ratchet[{extra}]' ({error}). "
            f"Got: {url!r}.",
            see="missing-library",
        )
    return ConfigError(
        f"{scheme}:// is not a scheme that fsspec can open here ({error}). Got: {url!r}.",
        see="missing-library",
    )


def optional_import() -> Any:
    """Return fsspec.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import fsspec  # noqa: PLC0415  optional
        import tenacity  # noqa: F401, PLC0415  likewise
    except ImportError as error:
        raise ConfigError(
            "a URL needs fsspec: pip install 'keras-ratchet[store]', or [s3], [gcs], [azure], "
            "[hf].",
            see="missing-library",
        ) from error
    return fsspec


def check_scheme(url: str) -> None:
    """Raise a ConfigError if a URL's scheme cannot be opened here, or not be written to."""
    scheme = scheme_of(url)
    if scheme in ("http", "https"):
        raise ConfigError(f"{scheme}:// cannot be written to. Got: {url!r}.", see="store-url")
    fsspec = optional_import()
    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise missing_library(url, error) from error


def is_absent(error: BaseException) -> bool:
    """Return whether an error says that an object is not there."""
    return isinstance(error, FileNotFoundError) or getattr(error, "errno", None) == errno.ENOENT
