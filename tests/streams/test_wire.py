import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from actorwork.streams.transport.redis_py import InvalidResponse, NoScriptError, ResponseError
from actorwork.streams.transport.wire import (
    NOT_ENOUGH,
    Push,
    ReplyReader,
    new_reader,
    pack,
)

# ------------------------------------------------------------------------------------------- replies, and their bytes


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def aggregate(kind: bytes) -> Callable[[Sequence[bytes]], bytes]:
    return lambda items: b"%b%d\r\n%b" % (kind, len(items), b"".join(items))


def mapping(values: Mapping[bytes, bytes]) -> bytes:
    return b"%%%d\r\n%b" % (len(values), b"".join(key + value for key, value in values.items()))


words = st.text("abcXYZ 019", max_size=12).map(str.encode)
scalars = st.one_of(
    words.map(lambda word: b"+%b\r\n" % word),
    words.map(lambda word: b"-ERR %b\r\n" % word),
    st.sampled_from([b"-NOSCRIPT No matching script.\r\n", b"-READONLY replica\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n"]),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
    st.integers().map(lambda number: b"(%d\r\n" % number),
    st.floats(allow_nan=False).map(lambda number: b",%b\r\n" % repr(number).encode()),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n"]),
    st.binary(max_size=40).map(bulk),
    st.binary(max_size=20).map(lambda data: b"=%d\r\ntxt:%b\r\n" % (len(data) + 4, data)),
)
replies = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(aggregate(b"*")),
        st.lists(inner, max_size=4).map(aggregate(b"~")),
        # A key comes once, as from a server: hiredis loses count of nested values after a repeated one.
        st.dictionaries(st.binary(max_size=8).map(bulk), inner, max_size=3).map(mapping),
    ),
    max_leaves=12,
)
pushes = st.lists(scalars, min_size=1, max_size=3).map(lambda items: b">%d\r\n%b" % (len(items), b"".join(items)))


def comparable(value: Any) -> Any:
    """Give errors and pushes a value: exceptions are equal only to themselves."""
    if isinstance(value, Exception):
        return (type(value), str(value))
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        items = [comparable(item) for item in cast("list[Any]", value)]
        return ("push", items) if type(cast("object", value)) is Push else items
    return value


def read_all(reader: ReplyReader, pieces: Sequence[bytes]) -> list[Any]:
    found: list[Any] = []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.gets()) is not NOT_ENOUGH:
            found.append(comparable(reply))
    return found


# ---------------------------------------------------------------------------------------------------------------- tests


@given(st.lists(st.one_of(replies, pushes), min_size=1, max_size=3), st.data())
def test_it_does_not_matter_where_the_bytes_are_split(stream: list[bytes], choose: st.DataObject):
    data = b"".join(stream)
    expected = read_all(new_reader(), [data])
    assert len(expected) == len(stream)
    cuts = sorted(choose.draw(st.sets(st.integers(0, len(data)), max_size=8)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert read_all(new_reader(), pieces) == expected


def test_every_single_split_of_a_long_reply_gives_the_same():
    data = (
        b"%1\r\n$2\r\nst\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*4\r\n$1\r\nf\r\n$4\r\na\r\nb\r\n$1\r\ng\r\n$0\r\n\r\n*2\r\n+x\r\n_\r\n"
        b">2\r\n+message\r\n,1.5\r\n-NOSCRIPT no such script\r\n~2\r\n#t\r\n(123456789012345678901234567890\r\n"
    )
    expected = [
        {b"st": [[b"1-0", [b"f", b"a\r\nb", b"g", b""]], [b"x", None]]},
        ("push", [b"message", 1.5]),
        (NoScriptError, "no such script"),
        [True, b"123456789012345678901234567890"],
    ]
    assert read_all(new_reader(), [bytes([byte]) for byte in data]) == expected
    for cut in range(len(data) + 1):
        assert read_all(new_reader(), [data[:cut], data[cut:]]) == expected


@pytest.mark.parametrize("data", [b"?what\r\n", b"HTTP/1.1 400 Bad Request\r\n", b":one\r\n", b"$x\r\n"])
def test_what_is_no_resp3_is_refused(data: bytes):
    reader = new_reader()
    reader.feed(data)
    with pytest.raises(InvalidResponse):
        reader.gets()


def test_infinities_and_not_a_number_are_doubles():
    assert read_all(new_reader(), [b",inf\r\n,-inf\r\n"]) == [math.inf, -math.inf]
    assert math.isnan(read_all(new_reader(), [b",nan\r\n"])[0])


def test_an_error_reply_is_a_value_until_somebody_raises_it():
    (error,) = read_all(new_reader(), [b"-ERR no such key\r\n"])
    assert error == (ResponseError, "no such key")


def test_a_command_is_packed_with_the_length_of_each_part_in_bytes():
    assert pack(("SET", "grün", b"\x00\r\n", 7, 1.5)) == (
        b"*5\r\n$3\r\nSET\r\n$5\r\ngr\xc3\xbcn\r\n$3\r\n\x00\r\n\r\n$1\r\n7\r\n$3\r\n1.5\r\n"
    )


@pytest.mark.parametrize("part", [None, True, [1], {"a": 1}])
def test_what_has_no_bytes_cannot_be_part_of_a_command(part: object):
    with pytest.raises(TypeError, match="bytes"):
        pack(("SET", "key", part))
