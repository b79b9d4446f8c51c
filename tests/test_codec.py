"""Blocks as bytes: what goes in comes out, and nothing else than a block comes out."""

import json
import struct

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from troupe import codec
from troupe.codec import CodecError, decode, encode, schema_id
from troupe.episodes import Array, Episodes

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PREFIX = 56
SEAL = struct.Struct("<4sHHQ")
COUNTS = struct.Struct("<QIIIIIHHII")

names = st.text(st.characters(codec="utf-8"), max_size=20)


@st.composite
def blocks(draw: st.DrawFn) -> Episodes:
    lengths = draw(st.lists(st.integers(1, 6), max_size=6))
    steps, fragments = sum(lengths), len(lengths)

    def columns(rows: int) -> dict[str, Array]:
        shapes = st.tuples(
            st.sampled_from(sorted(codec.DTYPES)),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
        )
        wanted = draw(st.dictionaries(names, shapes, max_size=3))
        return {
            name: draw(hnp.arrays(dtype, (rows, *row))) for name, (dtype, row) in wanted.items()
        }

    return Episodes(
        policy=draw(names),
        actor=draw(names),
        incarnation=draw(st.integers(0, 2**32 - 1)),
        attempt=draw(st.integers(0, 2**32 - 1)),
        observation=columns(steps),
        action=columns(steps),
        reward=draw(hnp.arrays("<f4", steps)),
        log_prob=draw(hnp.arrays("<f4", steps)),
        version=draw(hnp.arrays("<u4", steps)),
        length=np.array(lengths, np.int32),
        seat=draw(hnp.arrays("|u1", fragments)),
        group=draw(hnp.arrays("<i8", fragments)),
        ending=draw(hnp.arrays("|u1", fragments, elements=st.integers(0, 2))),
        final=columns(fragments),
        initial=columns(fragments),
        context={
            name: draw(hnp.arrays(draw(st.sampled_from(sorted(codec.DTYPES))), st.integers(0, 9)))
            for name in draw(st.lists(names, max_size=3, unique=True))
        },
        about={name: c for name, c in columns(fragments).items() if name != "prompt"},
        turn=draw(st.integers(0, 2**32 - 1)),
        resume=draw(st.binary(max_size=40)),
    )


def small() -> Episodes:
    return Episodes(
        policy="landlord",
        actor="actor-3",
        incarnation=2,
        attempt=1,
        observation={"state": np.arange(12, dtype=np.uint8).reshape(3, 4)},
        action={"cards": np.arange(21, dtype=np.uint8).reshape(3, 7)},
        reward=np.array([0, 0, 1], np.float32),
        log_prob=np.zeros(3, np.float32),
        version=np.array([5, 5, 6], np.uint32),
        length=np.array([1, 2], np.int32),
        seat=np.array([0, 1], np.uint8),
        group=np.array([7, 7], np.int64),
        ending=np.array([0, 1], np.uint8),
        context={"token": np.arange(5, dtype=np.int32)},
        about={"prompt": np.array([[0, 5], [0, 5]], np.int32), "reward/exact": np.ones(2, "<f4")},
        turn=9,
        resume=b"how to go on",
    )


def same(a: Episodes, b: Episodes) -> None:
    for name in ("policy", "actor", "incarnation", "attempt", "turn", "resume"):
        assert getattr(a, name) == getattr(b, name)
    for section in ("observation", "action", "final", "initial", "context", "about"):
        assert list(getattr(a, section)) == list(getattr(b, section))
        for name, column in getattr(a, section).items():
            same_array(column, getattr(b, section)[name])
    for name in ("reward", "log_prob", "version", "length", "seat", "group", "ending"):
        same_array(getattr(a, name), getattr(b, name))


def same_array(a: Array, b: Array) -> None:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert a.tobytes() == b.tobytes()


def sealed(counts: tuple[int, ...], rest: bytes) -> bytes:
    """Bytes with a right checksum, whatever they say."""
    body = COUNTS.pack(*counts) + rest
    return SEAL.pack(b"TRPE", codec.FORMAT, 0, xxhash.xxh3_64_intdigest(body)) + body


@QUICK
@given(blocks())
def test_what_goes_in_comes_out(block: Episodes) -> None:
    data = encode(block)
    same(decode(data), block)
    assert schema_id(decode(data)) == schema_id(block)


@QUICK
@given(blocks(), st.data())
def test_any_changed_byte_is_found(block: Episodes, data: st.DataObject) -> None:
    whole = encode(block)
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CodecError):
        decode(whole)


def test_every_changed_byte_and_every_cut_of_one_block_is_found() -> None:
    whole = bytes(encode(small()))
    for at in range(len(whole)):
        with pytest.raises(CodecError):
            decode(whole[:at])
        for flip in (1, 128, 255):
            with pytest.raises(CodecError):
                decode(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    with pytest.raises(CodecError):
        decode(whole + b"\0")


@QUICK
@given(st.binary(max_size=300))
def test_noise_is_not_a_block(noise: bytes) -> None:
    with pytest.raises(CodecError):
        decode(noise)


@settings(QUICK, max_examples=300)
@given(st.data())
def test_lies_under_a_right_checksum_end_in_a_codec_error_or_a_sound_block(
    data: st.DataObject,
) -> None:
    """Whoever can seal a block can lie in it; it must neither crash us nor make us allocate."""
    whole = bytes(encode(small()))
    counts = list(COUNTS.unpack_from(whole, SEAL.size))
    rest = bytearray(whole[PREFIX:])
    if data.draw(st.booleans()):
        widths = [64, 32, 32, 32, 32, 32, 16, 16, 32, 32]
        field = data.draw(st.integers(0, len(counts) - 1))
        counts[field] = data.draw(st.integers(0, 2 ** widths[field] - 1))
    for _ in range(data.draw(st.integers(0, 3))):
        rest[data.draw(st.integers(0, len(rest) - 1))] = data.draw(st.integers(0, 255))
    try:
        block = decode(sealed(tuple(counts), bytes(rest)))
    except CodecError:
        return
    same(decode(encode(block)), block)


@pytest.mark.parametrize(
    "column",
    [
        ["observation", "x", "|O", [1]],
        ["observation", "x", "<U4", [1]],
        ["observation", "x", "|u1", [-1]],
        ["observation", "x", "|u1", [2**29, 2**29]],
        ["observation", "x", "|u1", [0, 2**40, 2**40]],
        ["observation", "x", "|u1", [1] * 40],
        ["observation", "x", "|u1", "1"],
        ["observation", "state", "|u1", []],
        ["nowhere", "x", "|u1", []],
        ["step", "reward", "<f8", []],
        ["step", "extra", "<f4", []],
        ["context", "x", "<i4", []],
        ["about", "x", "<i4", [2**20]],
        ["about", "prompt", "<i4", [2]],
        ["observation"],
        {},
        7,
    ],
)
def test_schemas_that_lie_are_refused(column: object) -> None:
    whole = bytes(encode(small()))
    counts = codec._Counts(*COUNTS.unpack_from(whole, SEAL.size))
    start = PREFIX + counts.policy + counts.actor
    schema = json.loads(whole[start : start + counts.schema])
    text = json.dumps([*schema, column]).encode()
    rest = whole[PREFIX:start] + text + whole[start + counts.schema :]
    told = counts._replace(schema=len(text), total=PREFIX + len(rest))
    with pytest.raises(CodecError):
        decode(sealed(told, rest))


def test_columns_are_read_only_views_of_the_bytes() -> None:
    data = np.frombuffer(bytes(encode(small())), np.uint8)
    block = decode(data.data)
    assert all(
        np.shares_memory(array, data) and not array.flags.writeable
        for array in (block.reward, block.group, block.observation["state"])
    )


def test_strided_and_big_endian_columns_travel() -> None:
    block = small()
    steps = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    odd = Episodes(
        **{
            **{name: getattr(block, name) for name in Episodes.__dataclass_fields__},
            "observation": {"state": steps, "big": np.arange(3, dtype=">i4")},
        }
    )
    back = decode(encode(odd))
    assert back.observation["state"].tolist() == steps.tolist()
    assert back.observation["big"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reward": np.zeros(4, np.float32)}, "rows"),
        ({"reward": np.zeros(3, np.float64)}, "step columns"),
        ({"length": np.array([3, 0], np.int32)}, "0 steps"),
        ({"length": np.array([3, 3], np.int32)}, "6 steps"),
        ({"ending": np.array([0, 3], np.uint8)}, "ending 3"),
        ({"observation": {"x": np.zeros((3, 2), object)}}, "cannot travel"),
        ({"observation": {"x": np.array(3)}}, "single value"),
        ({"context": {"token": np.zeros((5, 1), np.int32)}}, "not flat"),
        ({"context": {}}, "no int32 ranges"),
        ({"context": {"token": np.zeros(4, np.int32)}}, "not within the 4 tokens"),
        ({"about": {"prompt": np.array([[0, 5], [3, 3]], np.int32)}}, "not within"),
        ({"about": {"prompt": np.array([[-1, 5], [0, 5]], np.int32)}}, "not within"),
        ({"about": {"prompt": np.zeros((2, 3), np.int32)}}, "no int32 ranges"),
        ({"about": {"x": np.zeros(3)}}, "3 rows for 2"),
        ({"policy": "p" * 300}, "256 bytes"),
        ({"attempt": 2**32}, "does not fit"),
        ({"turn": 2**32}, "does not fit"),
        ({"resume": bytes(codec.MAX_RESUME + 1)}, "to resume from"),
    ],
)
def test_blocks_that_contradict_themselves_are_not_written(
    change: dict[str, object], says: str
) -> None:
    fields = {name: getattr(small(), name) for name in Episodes.__dataclass_fields__}
    with pytest.raises(CodecError, match=says):
        encode(Episodes(**{**fields, **change}))


def test_the_size_asked_for_is_the_size_read() -> None:
    whole = encode(small())
    assert decode(whole, max_bytes=len(whole)).steps == 3
    with pytest.raises(CodecError, match="at most"):
        decode(whole, max_bytes=len(whole) - 1)
    assert small().nbytes < len(whole)
