"""The version of the service, as the installed distribution says."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["VERSION"]


def _installed() -> str:
    try:
        return version("llama-gateway")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "0+unknown"


VERSION = _installed()
