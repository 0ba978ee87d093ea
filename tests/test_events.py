"""Event files, written byte by byte as their formats say, and frames, beside SpikingJelly's."""

import base64
import importlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import test_prophesee
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_snn.datasets import events as ev
from keras_snn.datasets.events import Events, readers


def recording(count=200, size=(34, 30), seed=0):
    rng = np.random.default_rng(seed)
    return Events(
        np.sort(rng.integers(0, 300_000, count)),
        rng.integers(0, size[1], count),
        rng.integers(0, size[0], count),
        rng.integers(0, 2, count),
    )


def same(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(np.asarray(one, int), np.asarray(other, int))


def nmnist_bytes(events):
    rows = []
    for t, x, y, p in zip(*events):
        rows.append(bytes([x, y, int(p) << 7 | int(t) >> 16, int(t) >> 8 & 255, int(t) & 255]))
    return b"".join(rows)


def test_nmnist(tmp_path):
    events, path = recording(), tmp_path / "0.bin"
    path.write_bytes(nmnist_bytes(events))
    same(ev.read_nmnist(path), events)


def test_nmnist_overflow_and_damage(tmp_path):
    path = tmp_path / "0.bin"
    path.write_bytes(bytes([1, 2, 128, 0, 5, 0, 240, 0, 0, 0, 3, 4, 0, 0, 7]))
    same(ev.read_nmnist(path), ([5, 8192 + 7], [1, 3], [2, 4], [1, 0]))
    path.write_bytes(bytes(13))
    with pytest.raises(ValueError, match=r"0.bin.*3 bytes, at byte 10"):
        ev.read_nmnist(path)
    with pytest.raises(FileNotFoundError, match="N-MNIST"):
        ev.read_nmnist(tmp_path / "none.bin")


def aedat3(events, kind=1, overflow=0, packing=b"RAW", valid=1):
    header = b"#!AER-DAT3.1\r\n#Format: " + packing + b"\r\n#!END-HEADER\r\n"
    count = len(events.t)
    packet = struct.pack("<hhiiiiii", kind, 0, 8, 4, overflow, count, count, count)
    words = [
        struct.pack("<Ii", int(x) << 17 | int(y) << 2 | int(p) << 1 | valid, int(t))
        for t, x, y, p in zip(*events)
    ]
    return header, packet + b"".join(words)


def test_aedat3(tmp_path):
    a, b = recording(50), recording(70, seed=1)
    path = tmp_path / "user.aedat"
    header, first = aedat3(a)
    _, other = aedat3(a, kind=2)
    _, second = aedat3(b, overflow=1)
    path.write_bytes(header + first + other + second)
    found = ev.read_aedat(path)
    same(found[:50], a)
    same(found[50:], b._replace(t=b.t + 2**31))
    cut = header + first[:-3]
    path.write_bytes(cut)
    with pytest.raises(ValueError, match=f"400 bytes, 397 are left, at byte {len(header) + 28}"):
        ev.read_aedat(path)
    path.write_bytes(header + first + second[:10])
    with pytest.raises(ValueError, match="10 of 28"):
        ev.read_aedat(path)
    path.write_bytes(header)
    assert len(ev.read_aedat(path).t) == 0


@pytest.mark.once
def test_aedat3_that_is_not_kept_whole(tmp_path):
    path, events = tmp_path / "user.aedat", recording(20)
    header, body = aedat3(events)
    path.write_bytes(header + aedat3(events, valid=0)[1] + body)
    same(ev.read_aedat(path), events)  # events that are marked invalid are none
    far = events._replace(x=events.x + 9000, y=events.y + 9000)  # columns and rows have 15 bits
    path.write_bytes(header + aedat3(far)[1])
    same(ev.read_aedat(path), far)
    for whole, match in (
        (b"".join(aedat3(events, packing=b"SerializedTS")), r"'SerializedTS'.*RAW is read"),
        (header + aedat3(events, overflow=-1)[1], "-1 overflows"),
        (header + aedat3(events._replace(t=events.t - 10**6))[1], "more than 31 bits"),
        (header.replace(b"3.1", b"3.0") + body, r"AEDAT 3\.0; versions 1, 2, 3\.1 and 4"),
        (header[:-1], "the header has no end"),
    ):
        path.write_bytes(whole)
        with pytest.raises(ValueError, match=rf"user\.aedat.*{match}"):
            ev.read_aedat(path)


def jaer(address, t, chip=None, version=2):
    """A recording of jAER: words of address and time behind lines of text."""
    lines = [b"#!AER-DAT%d.0" % version, b"# HardwareInterface: \xb5s"]
    lines += [] if chip is None else [b"# AEChip: eu.seebetter.ini.chips.davis." + chip]
    raw = np.zeros(len(t), [("a", ">u2" if version == 1 else ">u4"), ("t", ">u4")])
    raw["a"], raw["t"] = address, np.asarray(t) % 2**32
    return b"\r\n".join([*lines, raw.tobytes()])


CHIPS = {
    b"DAVIS240C": (180, 240),
    b"Davis346blue": (260, 346),
    b"Davis128": (128, 128),
    b"DAVIS208": (192, 208),
    b"DAVIS640": (480, 640),
}


@pytest.mark.once
@pytest.mark.parametrize("chip", CHIPS)
def test_aedat2_of_davis(tmp_path, chip, tonic):
    path, (height, width) = tmp_path / "davis.aedat", CHIPS[chip]
    events = recording(200, (height, width))
    row, column = height - 1 - events.y, width - 1 - events.x
    address = row << 22 | column << 12 | events.p << 11
    address[0] = 0x23A00000  # an event may begin with #, as the lines of the header do
    events.y[0], events.x[0], events.p[0] = height - 1 - 0x8E, width - 1 - 0x200, 0
    events = events if chip == b"DAVIS640" else events[1:]
    address = address if chip == b"DAVIS640" else address[1:]
    path.write_bytes(jaer(address, events.t, chip))
    same(ev.read_aedat(path), events)
    if chip == b"Davis346blue":
        shape, _, theirs = tonic.io.read_davis_346(path)
        assert shape == (width, height)
        same(ev.read_aedat(path), [theirs[k] for k in "txyp"])
    # Samples of frames, of the inertial sensor and triggers are no events.
    for bits in (1 << 31, 1 << 31 | 1 << 10, 1 << 10):
        mixed = np.where(np.arange(len(address)) % 3 == 0, address | bits, address)
        path.write_bytes(jaer(mixed, events.t, chip))
        same(ev.read_aedat(path), events[np.arange(len(address)) % 3 != 0])
    path.write_bytes(jaer([1023 << 12], [0], chip))
    with pytest.raises(ValueError, match=r"davis\.aedat.*outside of the size.*at byte"):
        ev.read_aedat(path)


@pytest.mark.once
def test_aedat1_and_2_of_other_chips(tmp_path):
    path, events = tmp_path / "a.aedat", recording(60, (128, 128))
    address = (127 - events.x) << 8 | (127 - events.y) << 1 | 1 - events.p
    for version in (1, 2):
        path.write_bytes(jaer(address, events.t, version=version))
        same(ev.read_aedat(path), events)
        mixed = np.where(np.arange(60) % 4 == 0, address | 1 << 15, address)  # triggers
        path.write_bytes(jaer(mixed, events.t, version=version))
        same(ev.read_aedat(path), events[np.arange(60) % 4 != 0])
        path.write_bytes(jaer(address, events.t, version=version)[:-3])
        with pytest.raises(ValueError, match=f"the last event has {2 * version + 1} of"):
            ev.read_aedat(path)
    path.write_bytes(jaer(address, events.t, b"DVS128"))
    same(ev.read_aedat(path), events)
    for chip in (b"DVS320", b"DavisRGBW640", b"Cochlea"):
        path.write_bytes(jaer(address, events.t, chip))
        with pytest.raises(ValueError, match=f"of the chip '.*{chip.decode()}'; .*DVS128.*DAVIS"):
            ev.read_aedat(path)
    path.write_bytes(jaer([3, 100 << 22, 5], [1, 2, 3]))
    with pytest.raises(ValueError, match=r"419430400 is none of a DVS128.*at byte 47"):
        ev.read_aedat(path)


@pytest.mark.once
def test_times_beyond_32_bits_and_out_of_order(tmp_path):
    path = tmp_path / "a.aedat"
    first, t = 2**32 - 50, 2**32 - 50 + np.arange(8) * 10
    path.write_bytes(jaer(2 * np.arange(8), t))
    np.testing.assert_array_equal(ev.read_aedat(path).t, t)
    path.write_bytes(jaer(2 * np.arange(8), t[[0, 1, 2, 4, 3, 6, 5, 7]]))
    with pytest.warns(UserWarning, match=r"a\.aedat: time goes back 2 times, by up to 10 micro"):
        found = ev.read_aedat(path)
    np.testing.assert_array_equal(found.t, first + np.arange(8) * 10)
    np.testing.assert_array_equal(127 - found.y, [0, 1, 2, 4, 3, 6, 5, 7])
    header, one = aedat3(Events(*np.array([[9, 2], [1, 2], [3, 4], [0, 1]])))
    path.write_bytes(header + one)
    with pytest.warns(UserWarning, match="time goes back"):
        same(ev.read_aedat(path), ([2, 9], [2, 1], [4, 3], [1, 0]))
    same(ev.read_aedat(path, 9, 10), ([9], [1], [3], [0]))


def test_aedat2(tmp_path, torchvision):
    events, path = recording(60, (128, 128)), tmp_path / "cat.aedat"
    header = b"#!AER-DAT2.0\r\n# a comment\r\n"
    words = b"".join(
        struct.pack(">II", (127 - int(x)) << 8 | (127 - int(y)) << 1 | 1 - int(p), int(t))
        for t, x, y, p in zip(*events)
    )
    path.write_bytes(header + words)
    same(ev.read_aedat(path), events)
    peer = pytest.importorskip("spikingjelly.datasets.cifar10_dvs", exc_type=ImportError)
    theirs = peer._load_origin_data(path)
    same(ev.read_aedat(path), [theirs[k] for k in "txyp"])
    path.write_bytes(header + words[:-5])
    with pytest.raises(ValueError, match=f"3 of 8 bytes, at byte {len(header) + 59 * 8}"):
        ev.read_aedat(path)


def flatbuffer(kind, fields, start):
    """A flatbuffer behind its size: `start` adds what fields refer to, and then adds them."""
    flatbuffers = pytest.importorskip("flatbuffers")
    builder = flatbuffers.Builder(64)
    values = start(builder)
    builder.StartObject(fields)
    for add, *value in values:
        getattr(builder, f"Prepend{add}Slot")(*value)
    builder.FinishSizePrefixed(builder.EndObject(), kind)
    return bytes(builder.Output())


def aedat4_header(compression=0, end=-1):
    def start(builder):
        info = builder.CreateString('<dv version="2.0"></dv>')
        return (
            ("Int32", 0, compression, 0),
            ("Int64", 1, end, -1),
            ("UOffsetTRelative", 2, info, 0),
        )

    return b"#!AER-DAT4.0\r\n" + flatbuffer(b"IOHE", 3, start)


def aedat4_packet(events, stream=0, kind=b"EVTS", compress=bytes):
    def start(builder):
        builder.StartVector(16, len(events.t), 8)
        for t, x, y, p in reversed(list(zip(*events))):
            builder.Prep(8, 16)
            builder.Pad(3)
            builder.PrependBool(bool(p))
            builder.PrependInt16(int(y))
            builder.PrependInt16(int(x))
            builder.PrependInt64(int(t))
        return [("UOffsetTRelative", 0, builder.EndVector(), 0)]

    content = compress(flatbuffer(kind, 1, start))
    return struct.pack("<ii", stream, len(content)) + content


# Compression of AEDAT 4, and the module that has it.
COMPRESSIONS = {0: None, 1: "lz4.frame", 2: "lz4.frame", 3: "zstandard", 4: "zstandard"}


def compressor(compression):
    name = COMPRESSIONS[compression]
    return bytes if name is None else pytest.importorskip(name).compress


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_aedat4(tmp_path, compression):
    events, path = recording(100), tmp_path / "a.aedat4"
    events = events._replace(t=events.t + 1_663_249_605_734_020)
    assert len(set(events.t)) == 100
    compress = compressor(compression)
    # Two streams of events, taken in turns, and a packet of another kind.
    odd = np.arange(100) % 2 == 1
    packets = [
        aedat4_packet(part, stream, kind, compress)
        for part, stream, kind in (
            (events[odd][:30], 0, b"EVTS"),
            (events[:5], 2, b"TRIG"),
            (events[~odd], 1, b"EVTS"),
            (events[:0], 0, b"EVTS"),
            (events[odd][30:], 0, b"EVTS"),
        )
    ]
    body = b"".join(packets)
    path.write_bytes(aedat4_header(compression) + body)
    found = ev.read_aedat(path)
    assert (np.diff(found.t) >= 0).all() and found.p.dtype == np.int64
    same(found, events)
    # A table of the packets behind them is not read.
    end = len(aedat4_header(compression, 1)) + len(body)
    path.write_bytes(aedat4_header(compression, end) + body + b"a table")
    same(ev.read_aedat(path), found)
    same(ev.read_aedat(path, found.t[20], found.t[70]), found[20:70])


@pytest.mark.parametrize("package", ["lz4", "zstandard"])
def test_aedat4_written_by_dv_processing(tmp_path, package):
    pytest.importorskip("flatbuffers")
    pytest.importorskip(package)
    path = tmp_path / "camera.aedat4"
    path.write_bytes(zlib.decompress(base64.b85decode(WRITTEN_BY_DV[package])))
    i = np.arange(12)
    t = 1_700_000_000_000_000 + 37 * i
    same(ev.read_aedat(path), (t, 5 * i, 40 - 3 * i, i % 3 == 0))


def test_damaged_aedat4(tmp_path):
    events, path, header = recording(20), tmp_path / "a.aedat4", aedat4_header()
    first, second = aedat4_packet(events[:10]), aedat4_packet(events[10:])
    middle = len(header) + len(first)

    def refused(data, match):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"a\.aedat4.*{match}"):
            ev.read_aedat(path)

    refused(header[:15], "header is cut or damaged.*at byte 14")
    refused(header[:-3], "header is cut or damaged.*at byte 14")
    refused(aedat4_header(7), "compression 7, at byte 14")
    far = aedat4_header(0, 5000) + first
    refused(far, f"end at byte 5000 of {len(far)}, at byte 14")
    refused(header + first + second[:5], f"5 of 8 bytes, at byte {middle}")
    size, place = len(second) - 8, f"at byte {middle + 8}"
    refused(header + first + second[:-3], f"{size} bytes, {size - 3} are left, {place}")
    refused(header + first + struct.pack("<ii", 0, -4), f"-4 bytes, 0 are left, {place}")
    wrong = bytearray(first + second)
    wrong[len(first) + 8] ^= 1  # the size in front of the flatbuffer
    refused(header + wrong, f"packet is damaged.*{place}")


@pytest.mark.parametrize("compression", [1, 3])
def test_damaged_compression(tmp_path, compression):
    compress, path = compressor(compression), tmp_path / "a.aedat4"
    header = aedat4_header(compression)
    content = aedat4_packet(recording(20), compress=compress)[8:]
    for broken, match in ((content[:-6], "cut"), (b"nonsense" + content, "damaged")):
        path.write_bytes(header + struct.pack("<ii", 0, len(broken)) + broken)
        with pytest.raises(ValueError, match=rf"a\.aedat4.*{match}.*at byte {len(header) + 8}"):
            ev.read_aedat(path)


@pytest.mark.once
@pytest.mark.parametrize("compression", [1, 3])
def test_small_files_stay_small(tmp_path, compression):
    compress, path = compressor(compression), tmp_path / "a.aedat4"
    header, empty = aedat4_header(compression), aedat4_packet(recording(0))[8:]
    for kind, claimed, count, packets, match in (
        (b"EVTS", 1 << 27, 1 << 27, 1, "more than such a file may hold"),
        (b"EVTS", len(empty), 1 << 27, 1, "it says"),
        (b"EVTS", 1 << 23, 1 << 23, 8, "more than such a file may hold"),  # together they are
        (b"FRME", 1 << 27, 1 << 27, 1, None),
    ):
        content = bytearray(empty + bytes(count - len(empty)))
        struct.pack_into("<I4x4s", content, 0, claimed - 4, kind)
        packed = compress(bytes(content))
        del content
        path.write_bytes(header + packets * (struct.pack("<ii", 0, len(packed)) + packed))
        tracemalloc.start()
        try:
            if match is None:
                assert not len(ev.read_aedat(path).t)
            else:
                with pytest.raises(ValueError, match=match):
                    ev.read_aedat(path)
            assert tracemalloc.get_traced_memory()[1] < 100 << 20
        finally:
            tracemalloc.stop()


def written(write, *args, **kwargs):
    """The bytes that a function writes to a file."""
    file = io.BytesIO()
    write(file, *args, **kwargs)
    return file.getvalue()


def io_of_mat(file, columns):
    importlib.import_module("scipy.io").savemat(file, columns, do_compression=True)


def whole_files():
    """Small files of every format, and what reads them."""
    events = recording(6)
    files = {
        "a.bin": (nmnist_bytes(events), ev.read_nmnist),
        "1.aedat": (jaer(np.arange(6), events.t, version=1), ev.read_aedat),
        "2.aedat": (jaer(np.arange(6) << 12, events.t, b"DAVIS346"), ev.read_aedat),
        "3.aedat": (b"".join(aedat3(events)), ev.read_aedat),
    }
    # Arrays: DVS-Lip's, ES-ImageNet's, and, with SciPy, ASL-DVS's.
    table = np.zeros(6, [("t", "i4"), ("x", "i1"), ("y", "i1"), ("p", "i1")])
    table["t"], table["x"] = events.t, events.x
    files["a.npy"] = written(np.save, table), ev.read_dvs_lip
    rows = np.array([[3, 4, 1], [5, 6, 8]], "u1")
    whole = written(np.savez_compressed, pos=rows, neg=rows[:1])
    files["a.npz"] = whole, lambda path: ev.read_es_imagenet(path, (254, 200))
    if importlib.util.find_spec("scipy"):
        columns = zip(("ts", "x", "y", "pol"), events)
        whole = written(io_of_mat, {name: part[:, None] for name, part in columns})
        files["a.mat"] = whole, ev.read_asl_dvs
    # Those of Prophesee's cameras, as in test_prophesee.py.
    for name, write in test_prophesee.WRITERS.items():
        whole = test_prophesee.HEADERS[name] + write(events)
        files[f"{name}{test_prophesee.SUFFIXES[name]}"] = whole, ev.read_prophesee
    for compression, name in COMPRESSIONS.items():
        if name is None or importlib.util.find_spec(name):
            packet = aedat4_packet(events, compress=compressor(compression))
            whole = aedat4_header(compression) + packet
            files[f"4-{compression}.aedat4"] = whole, ev.read_aedat
    return files


@pytest.mark.once
@settings(max_examples=400, deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore:.*time goes back")
def test_damaged_files_are_errors_or_other_recordings(tmp_path_factory, data):
    files = whole_files()
    name = data.draw(st.sampled_from(list(files)))
    whole, read = files[name]
    whole = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole))) :]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(whole)
    try:
        events = read(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(events, Events) and len({len(part) for part in events}) == 1
        assert (np.diff(events.t) >= 0).all()


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    path, whole = tmp_path / "a.aedat4", aedat4_header(1) + aedat4_packet(recording(5))
    path.write_bytes(whole)
    find = importlib.import_module

    def without_lz4(name):
        if name.startswith("lz4"):
            raise ImportError(name)
        return find(name)

    monkeypatch.setattr(importlib, "import_module", without_lz4)
    with pytest.raises(ImportError, match=r"lz4.*keras-snn\[events\]"):
        ev.read_aedat(path)


def test_part_of_a_recording(tmp_path, monkeypatch):
    events = recording(300)
    header, _ = aedat3(events)
    path = tmp_path / "user.aedat"
    packets = [aedat3(events[i : i + 10])[1] for i in range(0, 300, 10)]
    path.write_bytes(header + b"".join(packets))
    start, end = int(events.t[104]), int(events.t[131])
    inside = (events.t >= start) & (events.t < end)
    same(ev.read_aedat(path, start, end), events[inside])
    same(ev.read_aedat(path, start), events[events.t >= start])
    same(ev.read_aedat(path, end=end), events[events.t < end])
    assert len(ev.read_aedat(path, 10**9, 2 * 10**9).t) == 0
    # Only the packets that it lies in are decoded.
    joined, decoded = readers.joined, []
    monkeypatch.setattr(readers, "joined", lambda parts: decoded.extend(parts) or joined(parts))
    ev.read_aedat(path, start, end)
    assert len(decoded) in (3, 4)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.aedat"
    path.write_bytes(b"#!AER-DAT5.0\r\n")
    with pytest.raises(ValueError, match=r"5.0.*3.1 and 4"):
        ev.read_aedat(path)
    path.write_bytes(b"GIF89a\n")
    with pytest.raises(ValueError, match="at byte 0"):
        ev.read_aedat(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="at byte 0"):
        ev.read_aedat(path)


def write_shd(path, times=([0.001, 0.5], [0.25]), units=([3, 699], [7]), labels=(4, 19)):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        spikes = file.create_group("spikes")
        for name, rows, kind in (("times", times, "f4"), ("units", units, "i4")):
            kind = h5py.vlen_dtype(np.asarray(rows[0]).dtype if name == "times" else kind)
            data = spikes.create_dataset(name, (len(rows),), dtype=kind)
            for i, row in enumerate(rows):
                data[i] = row
        file["labels"] = np.array(labels)


def test_shd(tmp_path):
    path = tmp_path / "shd.h5"
    write_shd(path)
    found, labels = ev.read_shd(path)
    same(found[0], ([1000, 500_000], [3, 699], [0, 0], [1, 1]))
    assert list(labels) == [4, 19] and len(found) == 2 == len(list(found))
    same(found[-1], found[1:][0])
    with pytest.raises(IndexError):
        found[2]
    assert ev.time_frames(found[0], 10, (1, 700), 100_000).shape == (10, 1, 700, 2)
    write_shd(path, ([0.5, 0.001], [0.25]))
    same(ev.read_shd(path)[0][0], ([1000, 500_000], [699, 3], [0, 0], [1, 1]))


@pytest.mark.once
def test_damaged_shd(tmp_path):
    path = tmp_path / "shd.h5"
    for changes, match in (
        ({"times": ([-0.001, 0.5], [0.25])}, "recording 0: times should be seconds from 0.*-0.001"),
        ({"times": ([0.1, np.nan], [0.25])}, "recording 0: times should be seconds.*nan"),
        ({"times": ([1000, 500_000], [250])}, "recording 0: times should be seconds.*int64"),
        ({"times": ([1000.0, 500_000.0], [250.0])}, "recording 0: times should be seconds.*500000"),
        ({"units": ([3, 700], [7])}, "recording 0: .*columns 3 to 700"),
        ({"units": ([3, -1], [7])}, "recording 0: .*columns -1 to 3"),
        ({"units": ([3, 4, 5], [7])}, "recording 0: .*one length"),
        ({"labels": (4, -1)}, "labels should be class numbers"),
        ({"labels": (4.5, 1.5)}, "labels should be class numbers"),
        ({"labels": (4, 1, 0)}, r"shapes \[\(3,\), \(2,\), \(2,\)\]"),
    ):
        write_shd(path, **changes)
        with pytest.raises(ValueError, match=rf"shd\.h5.*{match}"):
            ev.read_shd(path)[0][0]
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:  # 40 GB, says a file of some kilobytes
        for name in ("labels", "spikes/times", "spikes/units"):
            file.create_dataset(name, (5 * 10**9,), "i8", chunks=(1000,))
    with pytest.raises(ValueError, match=r"shd\.h5.*are not there"):
        ev.read_shd(path)
    write_shd(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole[: rng.integers(len(whole)) if rng.random() < 0.3 else None])
        for place in rng.integers(len(broken), size=20) if broken else ():
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            assert all(isinstance(events, Events) for events in ev.read_shd(path)[0])
        except ValueError as error:
            assert str(path) in str(error)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 5))
def test_every_event_is_in_one_frame(count, frames, seed):
    events = recording(count, seed=seed)
    for cut in (ev.count_frames, ev.time_frames, ev.voxel_grid):
        found = cut(events, frames, (34, 30))
        assert found.shape == (frames, 34, 30, 2) and found.dtype == np.float32
        np.testing.assert_allclose(found.sum(), count, rtol=1e-5)
        places = np.zeros((34, 30, 2))
        np.add.at(places, (events.y, events.x, events.p), 1)
        np.testing.assert_allclose(found.sum(0), places, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 4, 7])
def test_frames_equal_spikingjellys(frames, torchvision):
    utils = pytest.importorskip("spikingjelly.datasets.utils", exc_type=ImportError)
    events = recording(203)
    theirs = dict(zip("txyp", events))
    for split, cut in (("number", ev.count_frames), ("time", ev.time_frames)):
        wanted = utils.integrate_events_by_fixed_frames_number(theirs, split, frames, 34, 30)
        np.testing.assert_array_equal(cut(events, frames, (34, 30)), wanted.transpose(0, 2, 3, 1))


@pytest.mark.once
def test_readers_and_frames_beside_tonics(tmp_path, tonic):
    path, size = tmp_path / "0.bin", (34, 30)
    events = recording(203)
    path.write_bytes(nmnist_bytes(events) + bytes([0, 240, 0, 0, 0, 3, 4, 132, 147, 224]))
    theirs = tonic.io.read_mnist_file(path, tonic.io.events_struct)
    same(ev.read_nmnist(path), [theirs[k] for k in "txyp"])
    theirs = theirs[:203]  # a structured array of int16, int64 and bool
    same(ev.as_events(theirs), events)
    to_frame = tonic.functional.to_frame_numpy
    sensor, last = (30, 34, 2), (0, 2, 3, 1)
    for steps in (1, 4, 7):
        # Of events by number, and by time, they leave out the rest.
        kept = events[: 203 // steps * steps]
        wanted = to_frame(theirs.copy(), sensor, n_event_bins=steps).transpose(last)
        np.testing.assert_array_equal(ev.count_frames(kept, steps, size), wanted)
        kept = events[events.t < events.t[0] + (events.t[-1] - events.t[0]) // steps * steps]
        wanted = to_frame(theirs.copy(), sensor, n_time_bins=steps).transpose(last)
        window = (events.t[-1] - events.t[0]) // steps
        np.testing.assert_array_equal(ev.time_frames(kept, steps, size, window), wanted)
        grid = ev.voxel_grid(theirs, steps + 1, size)[:-1]
        wanted = tonic.functional.to_voxel_grid_numpy(ev_signed(theirs), sensor, n_time_bins=steps)[
            :, 0
        ]
        np.testing.assert_allclose(grid[..., 1] - grid[..., 0], wanted, atol=1e-4)


def ev_signed(events):
    """Structured events whose polarities may be negative, as tonic's voxels make them."""
    return events.astype([(name, "i8") for name in events.dtype.names])


def test_fixed_duration():
    events = Events(np.array([10, 15, 25, 31]), *np.zeros((3, 4), int))
    np.testing.assert_array_equal(ev.time_frames(events, 2, (1, 1), 10)[:, 0, 0, 0], [2, 1])


def test_frames_from_a_given_time():
    events = Events(np.array([10, 15, 25, 31]), *np.zeros((3, 4), int))
    for start, wanted in ((0, [0, 2, 1]), (20, [1, 1, 0]), (-5, [0, 1, 1])):
        found = ev.time_frames(events, 3, (1, 1), 10, start)[:, 0, 0, 0]
        np.testing.assert_array_equal(found, wanted)


CUTS = {
    "count": lambda events: ev.count_frames(events, 3, (34, 30)),
    "time": lambda events: ev.time_frames(events, 3, (34, 30)),
    "duration": lambda events: ev.time_frames(events, 3, (34, 30), 9e4),
    "voxel": lambda events: ev.voxel_grid(events, 3, (34, 30)),
    "jitter": lambda events: ev.jitter(events, (34, 30), 2, np.random.default_rng(0)),
    "flip": lambda events: ev.flip(events, 30),
    "drop": lambda events: ev.drop_events(events, 0.3, np.random.default_rng(0)),
}


@pytest.mark.once
@pytest.mark.parametrize("name", CUTS)
def test_events_in_any_form(name):
    cut, events = CUTS[name], recording()
    assert len(set(events.t)) == 200
    wanted, order = cut(events), np.random.default_rng(1).permutation(200)
    mixed = events[order]
    forms = {
        "in any order": mixed,
        "-1 and 1": events._replace(p=2 * events.p - 1),
        "booleans": events._replace(p=events.p > 0),
        "whole floats": Events(*(part.astype("float32") for part in events)),
        "unsigned": Events(
            events.t.astype("u8"), *(part.astype("u1") for part in tuple(events)[1:])
        ),
        "lists": Events(*(part.tolist() for part in events)),
        "a dictionary": dict(zip("pyxt", tuple(events)[::-1])),
    }
    for names in ("xytp", ("p", "ts", "y", "x"), ("timestamp", "x", "y", "polarity")):
        array = np.zeros(200, [(field, "i4") for field in names])
        for field in names:
            array[field] = getattr(mixed, "t" if field.startswith("t") else field[0])
        forms[str(names)] = array
    for form, given_events in forms.items():
        found = cut(given_events)
        np.testing.assert_array_equal(np.stack(found), np.stack(wanted), form)


EVIL = {
    "three polarities": ({"p": [0, 1, 2]}, ValueError, r"Polarities.*\[0, 1, 2\]"),
    "mixed polarities": ({"p": [0, 1, -1]}, ValueError, r"\[-1, 0, 1\]"),
    "fractional polarity": ({"p": [0, 1, 0.5]}, ValueError, "`p`.*got 0.5, event 2"),
    "seconds": ({"t": [0.0, 0.25, 0.5]}, ValueError, "`t`.*microseconds.*0.25, event 1"),
    "no time": ({"t": [0, np.nan, 5]}, ValueError, "`t`.*nan, event 1"),
    "endless time": ({"t": [0, 1, np.inf]}, ValueError, "`t`.*inf"),
    "a huge time": ({"t": np.array([0, 1, 2**63], "u8")}, ValueError, "`t`.*9223372036854775808"),
    "half a pixel": ({"x": [0, 1.5, 2]}, ValueError, "`x`.*pixels.*1.5"),
    "a word": ({"y": ["a", "b", "c"]}, ValueError, "`y`.*array of <U1"),
    "a matrix": ({"y": np.zeros((3, 2))}, ValueError, r"`y`.*shape \(3, 2\)"),
    "another length": ({"y": [0, 1]}, ValueError, "one length.*'y': 2"),
    "beyond": ({"x": [0, 1, 30]}, ValueError, "columns 0 to 30.*outside of the size"),
    "before": ({"x": [0, 1, -1]}, ValueError, "columns -1 to 1.*outside of the size"),
}


@pytest.mark.once
@pytest.mark.parametrize("case", EVIL)
def test_what_are_no_events_is_refused(case):
    changes, kind, match = EVIL[case]
    events = Events(*np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 0]]))._replace(**changes)
    for name, cut in CUTS.items():
        if case not in ("beyond", "before") or name != "drop":
            with pytest.raises(kind, match=match):
                cut(events)


@pytest.mark.once
def test_other_types_are_no_events():
    for events, match in (
        (np.zeros((5, 4)), "got ndarray"),
        (np.zeros(5, [("x", "i4"), ("t", "i4")]), r"fields \['x', 't'\]"),
        (np.zeros(5, [(name, "i4") for name in (*"xytp", "ts")]), "fields"),
        ((1, 2, 3, 4), "got tuple"),
        (None, "got NoneType"),
    ):
        with pytest.raises(TypeError, match=match):
            ev.count_frames(events, 2, (2, 2))


@pytest.mark.once
def test_bad_frames():
    events = recording()
    with pytest.raises(ValueError, match="outside of the size"):
        ev.count_frames(events, 4, (20, 20))
    for cut in (ev.count_frames, ev.time_frames, ev.voxel_grid):
        for steps in (0, -1, 2.0):
            with pytest.raises(ValueError, match=r"`(frames|bins)`.*at least 1"):
                cut(events, steps, (34, 30))
        for size in ((34,), (34, 0), (34.0, 30), 34):
            with pytest.raises(ValueError, match="`size`"):
                cut(events, 3, size)
    for duration in (0, -5, np.nan, np.inf, "10"):
        with pytest.raises(ValueError, match="`duration` should be a finite number above 0"):
            ev.time_frames(events, 3, (34, 30), duration)
    with pytest.raises(ValueError, match="`start` should be a finite number, got nan"):
        ev.time_frames(events, 3, (34, 30), 5, np.nan)
    for count in (0, 4, 1.5):
        with pytest.raises(ValueError, match="count"):
            ev.random_steps(np.zeros((3, 2)), count, np.random.default_rng(0))
    for rate in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="rate"):
            ev.drop_events(events, rate, np.random.default_rng(0))
    for pixels in (-1, 0.5, (1, 2, 3)):
        with pytest.raises(ValueError, match="pixels"):
            ev.jitter(events, (34, 30), pixels, np.random.default_rng(0))


def test_variation():
    events, rng = recording(), np.random.default_rng(0)
    same(ev.flip(ev.flip(events, 30), 30), events)
    assert len(ev.drop_events(events, 0.5, rng).t) in range(70, 130)
    same(ev.drop_events(events, 0.0, rng), events)
    moved = ev.jitter(events, (34, 30), 5, rng)
    assert 0 < len(moved.t) <= len(events.t) and moved.x.max() < 30 and moved.y.min() >= 0
    flat = Events(np.arange(700), np.arange(700), *np.zeros((2, 700), int))
    moved = [ev.jitter(flat, (1, 700), (0, 2), rng) for _ in range(60)]
    shifts = {int((m.x - m.t)[0]) for m in moved}
    assert shifts == {-2, -1, 0, 1, 2}
    frames = np.arange(16)
    chosen = ev.random_steps(frames, 12, rng)
    assert len(set(chosen)) == 12 and (np.diff(chosen) > 0).all()


# Files of iniVation's dv-processing 2.0.4: twelve events in two streams, and a trigger.
WRITTEN_BY_DV = {
    "lz4": (
        "c-rMwO-~b16g|)aWdd~&f{+*-A0=TS^h2U1w#|%yQl((9@dH<5JCunqubFvmf-6?CafixM<C;I<j$dG6;@bZ}aF2"
        "J!7D_uxV_Yb{<WBFrciy?@-FusPqnEYWrHL6WH#HgSmA-WWLjW?1bF=V<gaHK6gAjQ@8(9z8)9xRudxTFGDoVw$9"
        "g|xrmY9sOw4~5TTD)K=mcDMJ7%z*AwZfTF(#2|uMXT@8Dzp(EYXZjVp&ncp!d9Le8!49O>m}Q8-1tlp8zmxegl$?"
        "ymY!dpN=9AePd9VhESi?SmgR-=nz2CP8#%Jv;?p#5>yK<x7<P+<i)B$N3qL}mVpzgCg~r`7V>o%+ED4{3O_v?P*O"
        "h`UbZ<rBUbx8?STh9*Z?2ez-AFq7F!#WhpsqBgUm0Ujv!R+ku^sb;@wgV!v;<3E^DU0gwkIdHP2Ff^8!y}Wrqt)X"
        "I{Kb5>K?ML9UI^4au9DyK>Q4~Cl{-yviwus8UMe!GtrcQ#2M;N`Y9IaWAhg_Xl^NU=eHU((Ncr{!Ir7{$!MXHmQW"
        "pU$$~69q^f&c<Q}kHddg((KM&}nD?pH*1S0dk|LVw4L~>`wy^Fz^jO`ALd1QBG#3e8p{U6C2#xQwb$s56-3Kr1rB"
        "R-0L1^weP`o>@4Dqz!c0us&b$k@D&u9`59eEC@2Jx|^IFVqFdcvamwT=EEB%lI&WiymQCQ?NOKUT?u2?e64pgfzL"
        "Ilk^xMbL&dLefeaJ+Epk-DncYS6v2D6bsXj7i0qv!ckoM9?(Lj*%TMkrvN;+1_;h%9Sd$a(rZ9bNop=LOnL}v5fC"
        "Ge)py)xkCyF2(!!tKQyCH`2fi8^F>A|wvoD04g#uXLYwGxL_1hxnP6`MQSvD)vZsg3g"
    ),
    "zstandard": (
        "c-m7|baV~Ub#V+a(KF!X`ohk@Ai==E;OXz-$^Zsj3?d9H3_J`RKo$c7GZ6Ctu>mJU_ApSrO-h+US!z*nW`3Tnl98"
        "T)k{y=<5ZL79r=%+6CFZ8uD&?1!c;=<$D=8EtmSor}=|lPYP^IX~4KNfMAS(qcPb?`ZQpirNv{g#Z&n+lQEe6@Iq"
        ")<{>05qVuq$o2lUCAygIK;(9AEXqg?);+6^vt}(9N+wu(wtO3p#A8E_~z&3I|Idw62pr!OHzx7G|<1aq@c6}n}Ml"
        "isd**E1dIV`aY-#sF3Kz@!QwOL(&Cc*T!oaxl0>kKLO$3!Jt9o?OaWS-nU<Magl?#7SV%Bd1CZh-6I(nQ=x3ruCl"
        "<SlGpkY~U{+@4l_=SnnP9UGi?&D<Z6+4PXv;4xO2!EKWN<uU^`kz>lSt_iosSd-h8O{0IGoaFen|#FQ-)OXG#pvU"
        "(+DE~jD}P41XAhg!1`torqGZePj|9Xs1Z>ql!|Ev#<tN<DYN4O*X5-^tg%)9ufm2@W(Fr$LD>x}EqS=#$nk7u;d;"
        "e%A+KETh@v>N%hP+&@7|Vk?eA<@(SH2h&I5;{S#GAp3OQ}PVf5B(IS=!+AJ1QCzVb1a;ycRN&mzE}z?zYK%=b|zH"
        "(RrH!UutO4SN>w7KnEk8W#qXo$-0R>6tJi(Bcr7<pHrw3}2XifLs9}24#5$1~y>pg9S)307*z2B;P?!LWPTsfuBL"
        "10i=D32!jlRucIylFPO{B;LLlBRcNxW1{0_;12fx!k%_?u$Pocq2#hL78wS;MMraF%186@713M6d0V6BaMzBFQ_A"
        ")aBwTUP$&|J%Czpik_s$aP)lNfE(ukAOhJX7cMW&7<}6Q<<e%;7p8$$vzH{gog~wS&Y-<x*P{A5P(`maiK{ni|eN"
        "?PHJ1o_b6@eO}$=XL}O_AGby`@iQoJKe28JnIpPjw}Vmv&m4)S%gc&bKSXIt^R(^WI@#9<0M3Ze1^"
    ),
}
