"""Event files, written byte by byte as their formats say, and frames, beside SpikingJelly's."""

import base64
import importlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_snn import events as ev
from keras_snn.events import Events


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


def aedat3(events, kind=1, overflow=0):
    header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"
    count = len(events.t)
    packet = struct.pack("<hhiiiiii", kind, 0, 8, 4, overflow, count, count, count)
    words = [
        struct.pack("<Ii", int(x) << 17 | int(y) << 2 | int(p) << 1 | 1, int(t))
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


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damaged_byte_is_an_error_or_another_recording(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.aedat4"
    whole = bytearray(aedat4_header() + aedat4_packet(recording(6)))
    place = data.draw(st.integers(14, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        events = ev.read_aedat(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(events, Events) and len({len(part) for part in events}) == 1


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
    joined, decoded = ev._joined, []
    monkeypatch.setattr(ev, "_joined", lambda parts: decoded.extend(parts) or joined(parts))
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


def test_shd(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "shd.h5"
    with h5py.File(path, "w") as file:
        kind = h5py.vlen_dtype(np.float32)
        spikes = file.create_group("spikes")
        times = spikes.create_dataset("times", (2,), dtype=kind)
        units = spikes.create_dataset("units", (2,), dtype=h5py.vlen_dtype(np.int32))
        times[0], units[0] = [0.001, 0.5], [3, 699]
        times[1], units[1] = [0.25], [7]
        file["labels"] = np.array([4, 19])
    found, labels = ev.read_shd(path)
    same(found[0], ([1000, 500_000], [3, 699], [0, 0], [1, 1]))
    assert list(labels) == [4, 19] and len(found) == 2 == len(list(found))
    same(found[-1], found[1:][0])
    with pytest.raises(IndexError):
        found[2]
    assert ev.time_frames(found[0], 10, (1, 700), 100_000).shape == (10, 1, 700, 2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        ev.read_shd(path)


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


def test_fixed_duration():
    events = Events(np.array([10, 15, 25, 31]), *np.zeros((3, 4), int))
    np.testing.assert_array_equal(ev.time_frames(events, 2, (1, 1), 10)[:, 0, 0, 0], [2, 1])


def test_frames_from_a_given_time():
    events = Events(np.array([10, 15, 25, 31]), *np.zeros((3, 4), int))
    for start, wanted in ((0, [0, 2, 1]), (20, [1, 1, 0]), (-5, [0, 1, 1])):
        found = ev.time_frames(events, 3, (1, 1), 10, start)[:, 0, 0, 0]
        np.testing.assert_array_equal(found, wanted)


def test_bad_frames():
    events = recording()
    with pytest.raises(ValueError, match="outside of the size"):
        ev.count_frames(events, 4, (20, 20))
    with pytest.raises(ValueError, match="frames"):
        ev.time_frames(events, 0, (34, 30))
    with pytest.raises(ValueError, match="count"):
        ev.random_steps(np.zeros((3, 2)), 4, np.random.default_rng(0))


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
