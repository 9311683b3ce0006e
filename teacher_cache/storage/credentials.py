"""Credentials of object stores: they come from the environment, as each cloud's own tools take them, and stay there."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from teacher_cache.errors import StorageError

CREDENTIALS = {  # of each kind of store: what is said where there are none
    "S3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (needs boto3), or, for a public bucket, "
    "AWS_SKIP_SIGNATURE=true",
    "GCS": "GOOGLE_APPLICATION_CREDENTIALS, or, for a public bucket, GOOGLE_SKIP_SIGNATURE=true",
    "Azure": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, "
    "AZURE_STORAGE_SAS_TOKEN or, for a public container, AZURE_SKIP_SIGNATURE=true",
    "HTTP": "the place, which must be open to all",
}
METADATA = "169.254.169.254"  # which gives those of a machine in a cloud; elsewhere nobody answers there
_GIVEN = {
    "S3": r"AWS_(ACCESS_KEY_ID|SKIP_SIGNATURE|WEB_IDENTITY_TOKEN_FILE|CONTAINER_CREDENTIALS_\w+|METADATA_ENDPOINT)",
    "GCS": r"GOOGLE_(APPLICATION_CREDENTIALS|SERVICE_ACCOUNT\w*|SKIP_SIGNATURE|BEARER_TOKEN)",
    "Azure": r"AZURE_STORAGE_(((ACCOUNT|ACCESS|MASTER)_)?KEY|SAS_(KEY|TOKEN)|TOKEN|CONNECTION_STRING|USE_EMULATOR)"
    r"|AZURE_((STORAGE_)?CLIENT_(ID|SECRET)|FEDERATED_TOKEN_FILE|USE_AZURE_CLI|SKIP_SIGNATURE|CREDENTIAL_TYPE"
    r"|OBJECT_ID|MSI_RESOURCE_ID|FABRIC_\w+)|(AZURE_)?(IDENTITY|MSI)_ENDPOINT",
}
_SENT = {  # in headers; files of secrets, and Google's keys in JSON, may be of several lines
    "S3": r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|\w*TOKEN|\w*REGION)",
    "GCS": r"GOOGLE_\w*TOKEN",
    "Azure": r"AZURE_\w*(NAME|ACCOUNT|KEY|TOKEN|ID|SECRET|STRING)",
}
_NO_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_GOOGLE_LOGIN = ".config/gcloud/application_default_credentials.json"  # `gcloud auth application-default login`
_SECRET = re.compile(r"(AWS|GOOGLE|AZURE)_.*(KEY|SECRET|TOKEN|PASSWORD|CONNECTION_STRING)(?!.*(FILE|PATH))")
_PART = re.compile(r"(?:AccountKey|sig)=([^;&]+)")  # of a connection string or a signed address, secret by itself


def is_given(kind: str) -> bool:
    """Whether the environment, or a file of a cloud's tool, says how to be let in, or that nothing is to be said."""
    if kind == "GCS" and (Path.home() / _GOOGLE_LOGIN).is_file():
        return True
    return any(value and re.fullmatch(_GIVEN[kind], name) for name, value in os.environ.items())


def check_sendable(kind: str) -> None:
    """StorageError that names the variable, and not what it holds, where the environment gives what no header takes:
    a secret that is mounted as a file often ends in a newline."""
    for name, value in sorted(os.environ.items()):
        if re.fullmatch(_SENT[kind], name) and (found := _NO_HEADER.search(value)):
            what = f"a {'newline' if found[0] in chr(10) + chr(13) else 'control character'}"
            where = "at its end" if not value[found.start() :].strip() else "in it"
            raise StorageError(f"{name} has {what} {where}, which cannot be sent: set it without")


def aws_profile() -> Callable[[], Any] | None:
    """What gives the credentials that AWS's own tools would use: profiles, single sign-on, a machine's role. None where
    boto3 is not installed, or knows of none; StorageError for a profile that is not there."""
    try:
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return None
    try:
        return Boto3CredentialProvider()
    except ValueError:
        return None
    except BotoCoreError as error:
        raise StorageError(f"{error}: check AWS_PROFILE, and what `aws configure list` says") from None


def azure_settings(place: str) -> dict[str, str]:
    """What obstore does not find in the environment by itself: the variables of Azure's own tool and the parts of a
    connection string, where there are none of obstore's; an endpoint without a slash at its end, behind which nothing
    is found. Of a place that names its account, CONTAINER@ACCOUNT, only keys and signatures. StorageError for a
    connection string that names no account."""
    given = {name: value for name, value in os.environ.items() if value and name.startswith("AZURE_")}
    text = given.get("AZURE_STORAGE_CONNECTION_STRING", "")
    parts = dict(part.split("=", 1) for part in text.strip().split(";") if "=" in part)
    endpoint = parts.get("BlobEndpoint", "")
    first_label = re.match(r"https?://([^./:]+)\.", endpoint)  # where a signature is given, no name is
    account = given.get("AZURE_STORAGE_ACCOUNT") or parts.get("AccountName") or (first_label and first_label[1])
    if text and not account and "UseDevelopmentStorage" not in parts:
        raise StorageError("AZURE_STORAGE_CONNECTION_STRING names no account: copy it from the portal, whole")
    if not endpoint and "EndpointSuffix" in parts:
        endpoint = f"{parts.get('DefaultEndpointsProtocol', 'https')}://{account}.blob.{parts['EndpointSuffix']}"
    endpoint = given.get("AZURE_STORAGE_ENDPOINT") or given.get("AZURE_ENDPOINT") or endpoint
    found: dict[str, str | None] = {}
    if "@" not in place:
        found = {"use_emulator": parts.get("UseDevelopmentStorage"), "endpoint": endpoint.rstrip("/")}
        if "AZURE_STORAGE_ACCOUNT_NAME" not in given:
            found["account_name"] = account
    if not any(re.fullmatch(r"AZURE_STORAGE_(\w+_KEY|SAS_TOKEN)", name) for name in given):
        found["account_key"] = given.get("AZURE_STORAGE_KEY") or parts.get("AccountKey")
        found["sas_key"] = parts.get("SharedAccessSignature")
    return {name: value for name, value in found.items() if value}


def hide(text: str) -> str:
    """A text without addresses, which may be signed, and without what the environment keeps secret."""
    text = re.sub(r"\w+://\S+", "...", text)
    secrets = {value for name, value in os.environ.items() if _SECRET.match(name)}
    secrets.update(*map(_PART.findall, secrets.copy()))
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "...") if len(secret) > 3 else text
    return text
