"""S3 in memory, with the operations of ``kombu_hake/aws/s3.py``; part of :class:`fakes.FakeClients`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fake_aws import AwsError

__all__ = ["FakeS3"]


class FakeS3:
    """The objects of some buckets."""

    def __init__(self) -> None:
        self.buckets: set[str] = set()
        #: (bucket, key) to the bytes of the object.
        self.objects: dict[tuple[str, str], bytes] = {}
        #: Every object that was ever written.
        self.written: list[str] = []
        #: Bucket to its lifecycle rules, as S3 has them.
        self.rules: dict[str, list[dict[str, Any]]] = {}
        self.region = ""

    def keys(self, bucket: str) -> list[str]:
        """The keys of a bucket, sorted."""
        return sorted(key for owner, key in self.objects if owner == bucket)

    def upload(self, *, Bucket: str, Key: str, Pieces: Sequence[str]) -> dict[str, Any]:
        self._check(Bucket)
        self.objects[Bucket, Key] = "".join(Pieces).encode()
        self.written.append(Key)
        return {}

    def download(self, *, Bucket: str, Key: str, MaxBytes: int) -> dict[str, Any]:
        self._check(Bucket)
        found = self.objects.get((Bucket, Key))
        if found is None:
            raise AwsError("NoSuchKey", "The specified key does not exist.", 404)
        assert len(found) <= MaxBytes
        return {"Data": bytearray(found)}

    def delete_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        self._check(Bucket)
        self.objects.pop((Bucket, Key), None)
        return {}

    def find_bucket(self, *, Bucket: str, Prefix: str) -> dict[str, Any]:
        if Bucket not in self.buckets:
            return {"Exists": False}
        return {
            "Exists": True, "Region": self.region or None,
            "Key": next((key for key in self.keys(Bucket) if key.startswith(Prefix)), None),
        }  # fmt: skip

    def read_byte(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Data": bytes(self.download(Bucket=Bucket, Key=Key, MaxBytes=1 << 40)["Data"][:1])}

    def lifecycle_rules(self, *, Bucket: str) -> dict[str, Any]:
        self._check(Bucket)
        return {"Rules": self.rules.get(Bucket, [])}

    def _check(self, bucket: str) -> None:
        if bucket not in self.buckets:
            raise AwsError("NoSuchBucket", "The specified bucket does not exist", 404)
