"""Texts as objects in S3: uploads by boto3's transfer manager, downloads in ranges.

Both move parts of some megabytes one after the other, in the thread of the caller: an interrupt ends them, no thread is
needed while an interpreter shuts down or a process forks, and no more than a part is held beside the text itself. Each
part is a request with the time-outs of any other, and is tried again by itself.
"""

from __future__ import annotations

import io
from typing import Any

from kombu_hake.exceptions import BrokerUnavailable, MalformedMessage

__all__ = ["PART_BYTES", "ObjectClient"]

#: Of an upload or a download.
PART_BYTES = 8 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024


class ObjectClient:
    """boto3's client of S3, with the operations that we call."""

    def __init__(self, client: Any) -> None:
        self.meta = client.meta
        self._client = client

    def upload(self, *, Bucket: str, Key: str, Text: str) -> dict[str, Any]:
        """Write a text, in UTF-8. Raises what botocore does."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            use_threads=False,
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            preferred_transfer_client="classic",  # the other one has threads and time-outs of its own
        )
        extra = {"ContentType": "text/plain; charset=utf-8"}
        self._client.upload_fileobj(_TextFile(Text), Bucket, Key, Config=config, ExtraArgs=extra)
        return {}

    def download(self, *, Bucket: str, Key: str, MaxBytes: int) -> dict[str, Any]:
        """Read an object.

        Returns:
            Its bytes as ``Data``.
        Raises:
            MalformedMessage: it has more than *MaxBytes*; nothing of it was read.
            BrokerUnavailable: it changed while it was read, or less arrived than S3 said.
            Exception: what botocore raises.
        """
        data = bytearray()
        at, end = 0, PART_BYTES
        more: dict[str, str] = {}
        while at < end:
            last = min(at + PART_BYTES, end) - 1
            answer = self._client.get_object(Bucket=Bucket, Key=Key, Range=f"bytes={at}-{last}", **more)
            with answer["Body"] as body:
                if not at:
                    end = _total(answer)
                    if end > MaxBytes:
                        raise MalformedMessage(f"its payload in S3 has {end:,} bytes, not {MaxBytes:,} as it says")
                    data = bytearray(end)
                    more = {"IfMatch": answer["ETag"]} if answer.get("ETag") else {}
                elif not str(answer.get("ContentRange")).startswith(f"bytes {at}-"):
                    raise BrokerUnavailable(f"S3 sent another part of s3://{Bucket}/{Key} than the one from byte {at}.")
                part_ends = min(last + 1, end)
                while at < part_ends and (piece := body.read(min(_PIECE_BYTES, part_ends - at))):
                    data[at : at + len(piece)] = piece
                    at += len(piece)
            if at < part_ends:
                raise BrokerUnavailable(f"S3 sent less of s3://{Bucket}/{Key} than it said.")
        return {"Data": data}

    def delete_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Delete an object; one that does not exist is no error. Raises what botocore does."""
        answer: dict[str, Any] = self._client.delete_object(Bucket=Bucket, Key=Key)
        return answer

    def find_bucket(self, *, Bucket: str, Prefix: str) -> dict[str, Any]:
        """Look for a bucket, and for an object in it.

        Returns:
            ``Exists``; and of a bucket that exists its ``Region``, if S3 tells, and the ``Key`` of some object below
            the prefix, None for none.
        Raises:
            Exception: what botocore raises.
        """
        try:
            answer = self._client.list_objects_v2(Bucket=Bucket, Prefix=Prefix, MaxKeys=1)
        except self._client.exceptions.NoSuchBucket:
            return {"Exists": False}
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        key = next((one["Key"] for one in answer.get("Contents") or ()), None)
        return {"Exists": True, "Region": headers.get("x-amz-bucket-region"), "Key": key}

    def read_byte(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Read the first byte of an object, which shows that it may be read. Raises what botocore does."""
        with self._client.get_object(Bucket=Bucket, Key=Key, Range="bytes=0-0")["Body"] as body:
            return {"Data": body.read(1)}

    def lifecycle_rules(self, *, Bucket: str) -> dict[str, Any]:
        """The lifecycle ``Rules`` of a bucket, as S3 has them. Raises what botocore does."""
        try:
            answer = self._client.get_bucket_lifecycle_configuration(Bucket=Bucket)
        except self._client.exceptions.ClientError as exc:
            if exc.response.get("Error", {}).get("Code") == "NoSuchLifecycleConfiguration":
                return {"Rules": []}
            raise
        return {"Rules": answer.get("Rules") or []}


def _total(answer: dict[str, Any]) -> int:
    """The bytes of the whole object, by the answer to a request for its first part."""
    size = str(answer.get("ContentRange") or "").rpartition("/")[2]
    return int(size) if size.isdecimal() else int(answer["ContentLength"])


class _TextFile(io.RawIOBase):
    """A text as a file of its UTF-8 bytes, encoded piece by piece where it is ASCII, as our own messages are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text: str | bytes = text if text.isascii() else text.encode()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._text)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = len(self._text) if size is None or size < 0 else min(self._at + size, len(self._text))
        piece = self._text[self._at : end]
        self._at = max(self._at, end)
        return piece.encode("ascii") if isinstance(piece, str) else piece

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
