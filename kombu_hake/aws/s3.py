"""Texts as objects in S3: uploads by boto3's transfer manager, downloads in ranges.

Both move parts of some megabytes one after the other, in the thread of the caller: an interrupt ends them, no thread is
needed while an interpreter shuts down or a process forks, and no more than a part is held beside the text itself. Each
part is a request with the time-outs of any other, and is tried again by itself. An upload that advances may take as
long as a slow line needs, and one that does not fails (:class:`_Pace`).
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kombu_hake.amqp import MAX_PAYLOAD_BYTES
from kombu_hake.exceptions import BrokerUnavailable, MalformedMessage

__all__ = ["LONGEST_UPLOAD_S", "PART_BYTES", "ObjectClient"]

#: Of an upload or a download.
PART_BYTES = 8 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
#: An upload may take so long, and a second more for each so many bytes that were sent: a quarter of a Mbit/s.
_UPLOAD_S = 60.0
_SLOWEST_BYTES_PER_S = 32 * 1024
#: The longest that an upload sends; its last request, and the one that cleans up, have their time-outs.
LONGEST_UPLOAD_S = _UPLOAD_S + MAX_PAYLOAD_BYTES / _SLOWEST_BYTES_PER_S


class ObjectClient:
    """boto3's client of S3, with the operations that we call."""

    def __init__(self, client: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self.meta = client.meta
        self._client = client
        self._clock = clock

    def upload(self, *, Bucket: str, Key: str, Pieces: Sequence[str]) -> dict[str, Any]:
        """Write a text, in UTF-8. Raises what botocore does."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            use_threads=False,
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            preferred_transfer_client="classic",  # the other one has threads and time-outs of its own
        )
        extra = {"ContentType": "text/plain; charset=utf-8"}
        pace = _Pace(f"s3://{Bucket}/{Key}", self._clock)
        self._client.upload_fileobj(_TextFile(Pieces), Bucket, Key, Config=config, ExtraArgs=extra, Callback=pace)
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


class _Pace:
    """Ends an upload that advances too slowly. Called by the transfer manager with the bytes that a request takes.

    Where nothing is taken at all, the time-outs of the request end it.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._began = clock()
        self._sent = 0

    def __call__(self, count: int) -> None:
        """*count* is negative where a part is sent again.

        Raises:
            BrokerUnavailable: the upload is too slow; botocore wraps it.
        """
        self._sent += count
        took_s = self._clock() - self._began
        if count > 0 and took_s > _UPLOAD_S + self._sent / _SLOWEST_BYTES_PER_S:
            raise BrokerUnavailable(f"The upload of {self._url} is too slow: {self._sent:,} bytes in {took_s:.0f} s.")


class _TextFile(io.RawIOBase):
    """Texts as one file of their UTF-8 bytes, encoded piece by piece where they are ASCII, as our own messages are."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__()
        self._texts = [text if text.isascii() else text.encode() for text in texts]
        self._size = sum(map(len, self._texts))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        found = io.BytesIO()  # joining the pieces would take twice as much
        found.writelines(self._between(self._at, end))
        self._at = max(self._at, end)
        return found.getvalue()

    def _between(self, at: int, end: int) -> Iterator[bytes]:
        for text in self._texts:
            for start in range(max(0, at), min(end, len(text)), _PIECE_BYTES):
                piece = text[start : min(start + _PIECE_BYTES, end)]
                yield piece.encode("ascii") if isinstance(piece, str) else piece
            at, end = at - len(text), end - len(text)

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
