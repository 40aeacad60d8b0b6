"""What an upload to S3 reads: texts as one file of bytes, and only for as long as it advances."""

import io
from unittest import mock

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.aws import s3
from kombu_hake.exceptions import BrokerUnavailable

KIB = 1024
sizes = st.integers(-1, 30)


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=4),
    st.lists(
        st.one_of(sizes, st.tuples(st.integers(-5, 40), st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])))
    ),
)
def test_texts_read_as_one_file_of_their_bytes(texts: list[str], steps: list[int | tuple[int, int]]) -> None:
    """Each step is a read of so many bytes, or a seek."""
    one, other = s3._TextFile(texts), io.BytesIO("".join(texts).encode())
    with mock.patch.object(s3, "_PIECE_BYTES", 5):
        for step in steps:
            if isinstance(step, int):
                assert one.read(step) == other.read(step)
            else:
                offset, whence = step
                at = {io.SEEK_SET: 0, io.SEEK_CUR: other.tell(), io.SEEK_END: len(other.getvalue())}[whence]
                assert one.seek(offset, whence) == other.seek(max(0, at + offset))
            assert one.tell() == other.tell()
        one.seek(0)
        assert one.read() == other.getvalue()


def test_an_upload_goes_on_while_it_advances() -> None:
    clock = FakeClock()
    pace = s3._Pace("s3://b/k", clock)
    for _ in range(1_000):
        clock.advance(8.0)
        pace(256 * KIB)
    pace(-256 * KIB * 1_000)  # the last part is sent again
    with pytest.raises(BrokerUnavailable, match="s3://b/k is too slow: 262,144 bytes in 8000 s"):
        pace(256 * KIB)


@pytest.mark.parametrize("sent", [0, 256 * KIB])
def test_an_upload_has_a_minute_and_a_second_for_each_32_kib(sent: int) -> None:
    clock = FakeClock()
    pace = s3._Pace("s3://b/k", clock)
    pace(sent)
    clock.advance(60.0 + (sent + 1) / (32 * KIB))
    pace(1)
    clock.advance(0.01)
    with pytest.raises(BrokerUnavailable):
        pace(1)
