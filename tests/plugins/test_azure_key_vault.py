"""What needs no vault; the rest is in ``tests/key_vault``."""

import subprocess
import sys

import pytest

from plugins import azure_key_vault
from sluicegate.errors import StartupError


@pytest.mark.parametrize(
    "url",
    [
        "https://contoso.vault.azure.net",
        "https://contoso.vault.azure.net/",
        "https://Contoso.vault.azure.net:443/",
        "https://kv-4s7-prod.vault.usgovcloudapi.net",
        "https://contoso.vault.azure.cn",
    ],
)
def test_opens_vaults_of_every_azure_cloud(url):
    assert azure_key_vault.open_keys(url, None) is not None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "folder:/data",
        "http://contoso.vault.azure.net",
        "https://contoso.vault.azure.net.evil.example/",
        "https://evil.example/contoso.vault.azure.net",
        "https://evil.example/?contoso.vault.azure.net",
        "https://contoso.vault.azure.net@evil.example/",
        "https://contoso.vault.azure.net:8443/",
        "https://contoso.blob.core.windows.net",
        "https://vault.azure.net",
        "https://a.b.vault.azure.net",
        "https://contoso.vault.azure.net\n",
    ],
)
def test_other_urls_are_not_this_plugins(url):
    assert azure_key_vault.open_keys(url, None) is None


@pytest.mark.parametrize("path", ["keys/mine", "keys/mine/0123456789abcdef0123456789abcdef", "?a=b", "#a", "//"])
def test_a_url_that_names_more_than_a_vault_is_refused(path):
    with pytest.raises(StartupError, match=r"must be the vault alone, https://contoso\.vault\.azure\.net"):
        azure_key_vault.open_keys(f"https://contoso.vault.azure.net/{path}", None)


@pytest.mark.parametrize("url", ["https://contoso.managedhsm.azure.net", "https://contoso.managedhsm.azure.cn/keys/a"])
def test_a_managed_hsm_is_refused_with_the_reason(url):
    with pytest.raises(StartupError, match="is a Managed HSM, whose keys the SDK does not use safely"):
        azure_key_vault.open_keys(url, None)


def test_importing_and_opening_load_no_part_of_the_sdk():
    script = (
        "import sys\n"
        "from plugins import azure_key_vault\n"
        "assert azure_key_vault.open_keys('https://contoso.vault.azure.net', None)\n"
        "print(sorted(name for name in sys.modules if name.startswith(('azure.', 'aiohttp', 'msal'))))\n"
    )

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"
