"""A customer's vault for tests: a key service whose owner rotates keys, takes them away, and is out of reach at times."""

from __future__ import annotations

from sluicegate.errors import KeyNotFound
from sluicegate.services import WrappedKey, key_reference
from sluicegate.testing import MemoryKeys

URL = "folder:/contoso/keys"
ENCRYPTION = {
    "keySource": "Microsoft.KeyVault",
    "keyVaultProperties": {"keyVaultUri": URL, "keyName": "mine"},
}


class CustomersVault:
    """A ``KeyService`` as far as customers' keys need one.

    Attributes:
        failure: What every call raises, or None.
        calls: Which calls there were.
    """

    def __init__(self, *names):
        self.failure = None
        self.calls = []
        self.closed = False
        self._keys = {name: {} for name in names}
        for name in names:
            self.rotate(name)

    def rotate(self, name):
        """Give a key a new version, and return it."""
        versions = self._keys[name]
        version = f"v{len(versions) + 1}"
        versions[version] = MemoryKeys()
        return version

    def lose(self, name, version):
        """Take one version away for good."""
        del self._keys[name][version]

    async def wrap(self, reference, secret, *, create=True):
        assert not create
        self.calls.append("wrap")
        name, version = key_reference(reference)
        version = version or next(reversed(self._keys.get(name, {"": None})))
        wrapped = await self._version(name, version).wrap("key", secret)
        return WrappedKey(f"{name}/{version}", wrapped.algorithm, wrapped.key_id.encode() + b"|" + wrapped.ciphertext)

    async def unwrap(self, wrapped):
        self.calls.append("unwrap")
        inner, _, ciphertext = wrapped.ciphertext.partition(b"|")
        keys = self._version(*wrapped.key_id.split("/"))
        return await keys.unwrap(WrappedKey(inner.decode(), wrapped.algorithm, ciphertext))

    async def close(self):
        self.closed = True

    def _version(self, name, version):
        if self.failure is not None:
            raise self.failure
        if version not in self._keys.get(name, {}):
            raise KeyNotFound(f"{name}/{version}")
        return self._keys[name][version]
