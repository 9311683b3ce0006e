"""Which variables let one in, and that what they hold is not told."""

import os
from pathlib import Path

import pytest

from teacher_cache.errors import StorageError
from teacher_cache.storage.credentials import azure_settings, hide, is_given


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")) or name in ("IDENTITY_ENDPOINT", "MSI_ENDPOINT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "variable", "given"),
    [
        ("S3", "AWS_ACCESS_KEY_ID", True),
        ("S3", "AWS_SKIP_SIGNATURE", True),
        ("S3", "AWS_WEB_IDENTITY_TOKEN_FILE", True),
        ("S3", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", True),
        ("S3", "AWS_REGION", False),
        ("S3", "AWS_ENDPOINT_URL", False),
        ("S3", "AWS_PROFILE", False),  # read by AWS's own library
        ("GCS", "GOOGLE_APPLICATION_CREDENTIALS", True),
        ("GCS", "GOOGLE_SERVICE_ACCOUNT_KEY", True),
        ("GCS", "GOOGLE_BUCKET", False),
        ("GCS", "AWS_ACCESS_KEY_ID", False),
        ("Azure", "AZURE_STORAGE_ACCOUNT_KEY", True),
        ("Azure", "AZURE_STORAGE_SAS_KEY", True),
        ("Azure", "AZURE_CLIENT_ID", True),
        ("Azure", "MSI_ENDPOINT", True),
        ("Azure", "AZURE_STORAGE_KEY", True),
        ("Azure", "AZURE_STORAGE_CONNECTION_STRING", True),
        ("Azure", "AZURE_STORAGE_USE_EMULATOR", True),
        ("Azure", "AZURE_IDENTITY_ENDPOINT", True),
        ("Azure", "AZURE_EXTENSION_DIR", False),  # of Azure's own tool, on every runner of GitHub's
        ("Azure", "AZURE_STORAGE_ACCOUNT", False),
        ("Azure", "AZURE_STORAGE_ACCOUNT_NAME", False),
        ("Azure", "AZURE_STORAGE_ENDPOINT", False),
    ],
)
def test_what_lets_one_in(kind: str, variable: str, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_given(kind)
    monkeypatch.setenv(variable, "")
    assert not is_given(kind)
    monkeypatch.setenv(variable, "x")
    assert is_given(kind) == given


def test_a_login_of_googles_tool_is_found(tmp_path: Path) -> None:
    login = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    assert is_given("GCS")
    assert not is_given("S3")


AT_AZURE = "https://account.blob.core.windows.net"


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({}, {}),
        ({"ACCOUNT_NAME": "a", "ACCOUNT_KEY": "k"}, {}),  # obstore finds them
        ({"ACCOUNT": "a", "KEY": "k"}, {"account_name": "a", "account_key": "k"}),
        ({"ENDPOINT": "http://host/a/"}, {"endpoint": "http://host/a"}),
        (
            {"CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=k==;EndpointSuffix=host"},
            {"account_name": "a", "account_key": "k==", "endpoint": "http://a.blob.host"},
        ),
        (
            {"CONNECTION_STRING": "AccountName=a;AccountKey=k;BlobEndpoint=http://127.0.0.1:10000/a/;"},
            {"account_name": "a", "account_key": "k", "endpoint": "http://127.0.0.1:10000/a"},
        ),
        (
            {"CONNECTION_STRING": f"BlobEndpoint={AT_AZURE}/;SharedAccessSignature=sv=1&sig=s"},
            {"account_name": "account", "sas_key": "sv=1&sig=s", "endpoint": AT_AZURE},
        ),
        ({"CONNECTION_STRING": "UseDevelopmentStorage=true"}, {"use_emulator": "true"}),
        ({"CONNECTION_STRING": "AccountName=a;AccountKey=k", "ACCOUNT_NAME": "b", "SAS_TOKEN": "s"}, {}),
    ],
)
def test_what_azures_own_tools_take(
    given: dict[str, str], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
    assert azure_settings("az://container/folder") == settings
    keys = {name: value for name, value in settings.items() if name in ("account_key", "sas_key")}
    assert azure_settings("abfss://container@other.dfs.core.windows.net") == keys


def test_a_connection_string_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountKey=c2VjcmV0")
    with pytest.raises(StorageError, match=r"^AZURE_STORAGE_CONNECTION_STRING names no account: copy it from the"):
        azure_settings("az://container")


def test_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "FwoG+=/xyz")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=name;AccountKey=c2VjcmV0Mg==;")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_PATH", "/home/somebody/key.json")
    assert hide("GET https://host/x?sig=abc in 3 ms: no FwoG+=/xyz") == "GET ... in 3 ms: no ..."
    assert hide("of name: AccountName=name;AccountKey=c2VjcmV0Mg==; or c2VjcmV0Mg==") == "of name: ... or ..."
    assert hide("key c2VjcmV0 of /home/somebody/key.json") == "key ... of /home/somebody/key.json"
