"""How a policy is served: addresses, batching, who may connect, and what nobody may exceed."""

import ipaddress
import json
import ssl
from dataclasses import dataclass, field, fields
from pathlib import Path

from visuomotor_client.limits import SafetyLimits

from visuomotor.codec import decode

__all__ = ["Limits", "ServeConfig", "read_api_keys", "read_safety_limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client, or all of them together, can take.

    message_bytes        of one frame; a longer one closes its connection (code 1009)
    requests_per_second  of one connection; beyond it, and a burst of the same number, requests wait
    connections          at a time; further ones are answered with HTTP 503
    waiting              requests that may wait for the policy; further ones get an error
    request_seconds      from a request to its answer, else it gets an error
    send_seconds         for a client to read its answer, else its connection is cut
    idle_seconds         without a message until a connection is closed
    """

    message_bytes: int = 64 * 2**20
    requests_per_second: float = 1000.0
    connections: int = 256
    waiting: int = 1024
    request_seconds: float = 60.0
    send_seconds: float = 10.0
    idle_seconds: float = 3600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"The limit {name} is {value}; give a positive number.")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Addresses, batching and access of a server.

    openpi_port, vla_eval_port   a port each, 0 takes a free one, None leaves that protocol out
    max_batch_size, max_wait     a forward pass starts when so many requests wait, when every client waits that was
                                 active in the last two seconds, or `max_wait` seconds after the first of them,
                                 whichever comes first
    execute      vla-eval: actions of a chunk that are given out before the policy looks again
    seed         of the noise: the n-th request of a connection (openpi) or an episode (vla-eval) then always gets the
                 same; None draws afresh
    instruction  for requests that have none
    safety       what a safety filter in front of every robot does with a command beyond the limits: "clamp", "reject"
                 or "shadow" (only counts); the embodiment's own limits always hold, `safety_limits` adds others
    api_keys     one of them must be shown, "Authorization: Api-Key KEY" or as the password in the address; empty:
                 nobody is asked
    certificate, private_key   PEM files for TLS
    insecure     allow other addresses than loopback without API keys and TLS
    """

    host: str = "127.0.0.1"
    openpi_port: int | None = 8000
    vla_eval_port: int | None = 8001
    max_batch_size: int = 32
    max_wait: float = 0.005
    execute: int = 8
    seed: int | None = None
    instruction: str | None = None
    safety: str = "clamp"
    safety_limits: SafetyLimits = field(default_factory=SafetyLimits)
    api_keys: frozenset[str] = frozenset()
    certificate: Path | None = None
    private_key: Path | None = None
    insecure: bool = False
    stop_seconds: float = 10.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        ports = [port for port in (self.openpi_port, self.vla_eval_port) if port is not None]
        if not ports:
            raise ValueError("No protocol is left to serve; give openpi_port or vla_eval_port.")
        if len(set(ports)) < len(ports) and ports[0] != 0:
            raise ValueError(f"Both protocols were given port {ports[0]}; give them different ones.")
        if self.max_batch_size < 1 or self.execute < 1 or self.max_wait < 0:
            raise ValueError(
                f"max_batch_size ({self.max_batch_size}) and execute ({self.execute}) are at least 1, max_wait "
                f"({self.max_wait} s) at least 0."
            )
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("TLS needs both files, the certificate and its private key.")
        if any(len(key) < 16 for key in self.api_keys):
            raise ValueError("An API key is shorter than 16 characters; make one with: openssl rand -hex 32")
        open_to_others = not _is_loopback(self.host) and not self.insecure
        if open_to_others and not (self.api_keys and self.certificate is not None):
            raise ValueError(
                f"{self.host} can be reached from other computers: give API keys and a TLS certificate, or say "
                f"insecure if the network is your own."
            )

    def tls(self) -> ssl.SSLContext | None:
        """The server's side of TLS, None without a certificate. OSError or ValueError if the files are no good."""
        if self.certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except ssl.SSLError as error:
            raise ValueError(f"{self.certificate} and {self.private_key} are no certificate and its key.") from error
        return context


def read_api_keys(path: Path) -> frozenset[str]:
    """The keys in a file, one in each line; blank lines and those with # are left out. ValueError if there is none."""
    lines = (line.strip() for line in path.read_text().splitlines())
    keys = frozenset(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"{path} holds no API key; write one into each line.")
    return keys


def read_safety_limits(path: Path) -> SafetyLimits:
    """Limits from a JSON file. ValueError where it is none, or names a limit that does not exist."""
    try:
        return decode(SafetyLimits, json.loads(path.read_text()))
    except ValueError as error:
        names = ", ".join(field.name for field in fields(SafetyLimits))
        raise ValueError(f"{path} holds no safety limits ({error}); they are {names}.") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
