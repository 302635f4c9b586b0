"""How a server behaves towards those who ask, whatever it serves: tokens, limits, TLS, logs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainstem.errors import MainstemError
from mainstem.serve import logs, tokens
from mainstem.serve.requests import Limits
from mainstem.serve.tokens import Tokens


@dataclass(frozen=True)
class Manners:
    """`repository`: the folder whose model folders may be loaded by name while the server runs. `say` hears one line a request;
    `inputs`: whether those lines hold what was asked."""

    tokens: Tokens = field(default_factory=Tokens)
    limits: Limits = field(default_factory=Limits)
    repository: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    say: logs.Say | None = None
    inputs: bool = False

    @property
    def scheme(self) -> str:
        """Of the addresses that it answers at."""
        return "https" if self.certificate else "http"

    def transport(self) -> dict[str, Any]:
        """What uvicorn is told of TLS and logs. Raises MainstemError for files that are no certificate and key."""
        told: dict[str, Any] = {"log_config": logs.CONFIG} if self.say else {}
        if not self.certificate:
            return told
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
            raise MainstemError(
                f"this is no certificate with its key: {reason}",
                where=str(self.certificate),
                do="Give PEM files with --certificate and --key.",
            ) from None
        return {**told, "ssl_certfile": str(self.certificate), "ssl_keyfile": str(self.key) if self.key else None}


def of(
    token: str = "",
    tokens_file: Path | None = None,
    limits: Limits | None = None,
    repository: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    log: str = "",
    inputs: bool = False,
) -> Manners:
    """From what the command line takes. Raises MainstemError for what makes no sense together."""
    if token and tokens_file:
        raise MainstemError("--token and --tokens are two ways to say the same", do="Give one of them.")
    if key and not certificate:
        raise MainstemError("a key without its certificate", do="Give both with --certificate and --key.")
    if log not in ("", "json"):
        raise MainstemError(f"there is no form of log '{log}'", do="Known: json.")
    if inputs and not log:
        raise MainstemError("--log-inputs without a log to write them to", do="Give --log json as well.")
    if repository and not repository.is_dir():
        raise MainstemError("there is no such folder", where=str(repository), do="Give the folder that models may be loaded from.")
    known = tokens.read(tokens_file) if tokens_file else tokens.single(token)
    return Manners(known, limits or Limits(), repository, certificate, key, logs.say if log else None, inputs)
