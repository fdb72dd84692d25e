"""What S3 and the way to it can fail with, each in one line with a hint, and without a secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as boto

from tasks.core.errors import ObjectExists, ObjectMissing, StoreError, StoreUnavailable

_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (or AWS_PROFILE)"
_RIGHTS = (
    "give the role s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, s3:AbortMultipartUpload and "
    "s3:ListBucketMultipartUploads; with KG_STORE_BUCKET_OWNER set, check that account id"
)
_ENDPOINT = "check AWS_ENDPOINT_URL_S3, AWS_REGION and the network"
_LATER = "run it again later; where that changes nothing, check AWS_ENDPOINT_URL_S3: is it an S3 server?"
_ELSEWHERE = (
    "the bucket is in another region, or at another address",
    "set AWS_REGION to the bucket's; or does AWS_ENDPOINT_URL_S3 want https?",
)

# What passes by itself: worth another try of the whole step, later.
_PASSING = frozenset({"SlowDown", "ServiceUnavailable", "503", "InternalError", "500", "BadDigest", "NoSuchUpload"})

# Error code (or HTTP status, where an answer to HEAD has no body) -> what happened, and what to do.
_MEANINGS: dict[str, tuple[str, str]] = {
    "AccessDenied": ("access is denied", _RIGHTS),
    "403": ("access is denied", _RIGHTS),
    "AllAccessDisabled": ("access is denied", _RIGHTS),
    "InvalidAccessKeyId": ("the access key is unknown there", _CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", _CREDENTIALS),
    "ExpiredToken": ("the session token has expired", _CREDENTIALS),
    "InvalidToken": ("the session token is not accepted", _CREDENTIALS),
    "RequestTimeTooSkewed": ("this machine's clock is too far from the store's", "set the clock"),
    "SlowDown": ("the store asked to slow down, also after retries", "run it again later, or raise its request limits"),
    "ServiceUnavailable": ("the store is overloaded or down, also after retries", "run it again later"),
    "503": ("the store is overloaded or down, also after retries", "run it again later"),
    "InternalError": ("the store failed inside, also after retries", _LATER),
    "500": ("the store failed inside, also after retries", _LATER),
    "BadDigest": ("the bytes were changed on their way", "run it again; look at proxies in between"),
    "XAmzContentSHA256Mismatch": ("the bytes were changed on their way", "run it again; look at proxies in between"),
    "NoSuchUpload": ("the upload was aborted from elsewhere", "run it again; does a lifecycle rule end uploads early?"),
    "301": _ELSEWHERE,
    "PermanentRedirect": _ELSEWHERE,
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "set AWS_REGION to the bucket's"),
    "InvalidBucketName": ("the store takes no bucket of that name", "correct KG_STORE_URL"),
    "InvalidStorageClass": ("the store has no such storage class", "correct KG_STORE_STORAGE_CLASS"),
    "QuotaExceeded": ("the store is full", "prune backups, or raise its quota"),
    "XMinioStorageFull": ("the store is full", "prune backups, or raise its quota"),
}


@contextmanager
def s3_errors(doing: str, bucket: str) -> Iterator[None]:
    """Raise what botocore raises in the block as StoreError: could not <doing>: <cause>."""
    try:
        yield
    except boto.ClientError as error:
        raise _answered(error, doing, bucket) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
        raise StoreError(f"could not {doing}: there are no S3 credentials", hint=_CREDENTIALS) from error
    except (boto.ConnectTimeoutError, boto.ReadTimeoutError) as error:
        raise StoreUnavailable(f"could not {doing}: the endpoint did not answer in time", hint=_ENDPOINT) from error
    except boto.SSLError as error:
        raise StoreError(
            f"could not {doing}: the endpoint's certificate is not accepted", hint="set AWS_CA_BUNDLE to its authority"
        ) from error
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        said = f"could not {doing}: the endpoint cannot be reached or cut us off"
        raise StoreUnavailable(said, hint=_ENDPOINT) from error
    except ValueError as error:
        # boto3 says so of an AWS_ENDPOINT_URL_S3 without a scheme; the URL itself might hold a password.
        if "endpoint" not in str(error).lower():
            raise
        raise StoreError(f"could not {doing}: the endpoint's URL is malformed", hint=_ENDPOINT) from None
    except RecursionError as error:  # botocore's, where even its question for the region is redirected, with no region
        raise StoreError(f"could not {doing}: {_ELSEWHERE[0]}", hint=_ELSEWHERE[1]) from error
    except boto.BotoCoreError as error:
        raise _unasked(error, doing, bucket) from error


def check_listing(page: Mapping[str, Any], doing: str) -> None:
    """Raises StoreError where the page is none of S3's: what a web server says to everybody is no empty bucket."""
    if not {"Name", "Bucket", "IsTruncated", "KeyCount"} & page.keys():
        raise _no_s3(doing)


def _no_s3(doing: str) -> StoreError:
    return StoreError(f"could not {doing}: the endpoint answers as no S3 server does", hint=_ENDPOINT)


def _unasked(error: boto.BotoCoreError, doing: str, bucket: str) -> StoreError:
    if isinstance(error, boto.ProfileNotFound):
        return StoreError(f"could not {doing}: AWS_PROFILE names no known profile", hint=_CREDENTIALS)
    if isinstance(error, boto.ParamValidationError) and "bucket name" in str(error).lower():
        return StoreError(f"could not {doing}: {bucket!r} is no possible name of a bucket", hint="correct KG_STORE_URL")
    return StoreError(f"could not {doing}: {type(error).__name__}", hint=_ENDPOINT)


def _answered(error: boto.ClientError, doing: str, bucket: str) -> StoreError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        return StoreError(
            f"could not {doing}: there is no bucket {bucket}",
            hint="create it, or correct KG_STORE_URL; kg creates none",
        )
    if code in ("", "404") and not error.operation_name.startswith("Head"):  # S3 has words, but in answers to HEAD
        return _no_s3(doing)
    if code in ("NoSuchKey", "404", "NotFound"):
        return ObjectMissing(f"could not {doing}: it is not there")
    if code in ("PreconditionFailed", "ConditionalRequestConflict", "412"):
        return ObjectExists(f"could not {doing}: the key is taken")
    said, hint = _MEANINGS.get(code, (f"the store answered {code or 'with an error'}", _ENDPOINT))
    return (StoreUnavailable if code in _PASSING else StoreError)(f"could not {doing}: {said}", hint=hint)
