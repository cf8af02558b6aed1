"""Where an engine listens. Values only: who dials or binds them lives elsewhere."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket; *path* stays under about 100 bytes, the kernel's limit is 107."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP endpoint, in practice on loopback; *host* is a literal address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


Address = UnixAddress | TcpAddress
