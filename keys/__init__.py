"""API keys on disk: who may enter, and what that key may spend.

The gateway asks a `Keyring` who a presented token is; a `KeyStore` keeps the ring in step with
the file. Everything that changes the file goes through `scripts/key_mgmt.py`.
"""

from keys.keyring import Keyring, Standing
from keys.principal import PRIORITIES, SCOPES, Limits, Principal, Refused

__all__ = ["PRIORITIES", "SCOPES", "Keyring", "Limits", "Principal", "Refused", "Standing"]
