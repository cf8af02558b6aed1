"""API keys on disk: who may enter, and what that key may spend.

The gateway asks a `Keyring` who a presented token is; a `KeyStore` keeps the ring in step with
the file. Everything that changes the file goes through `scripts/key_mgmt.py`, but for the very
first key, which `create_first_key` makes on a fresh machine.
"""

from keys.editing import create_first_key
from keys.errors import KeysError, WriteFailed
from keys.files import write_private
from keys.keyring import Keyring, Standing
from keys.principal import PRIORITIES, SCOPES, Limits, Principal, Refused
from keys.store import KeyStore

__all__ = [
    "PRIORITIES",
    "SCOPES",
    "KeyStore",
    "Keyring",
    "KeysError",
    "Limits",
    "Principal",
    "Refused",
    "Standing",
    "WriteFailed",
    "create_first_key",
    "write_private",
]
