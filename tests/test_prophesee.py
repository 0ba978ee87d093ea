"""Files of Prophesee's cameras, written word by word as the formats say, and by faery 0.7.1."""

import base64
import struct

import numpy as np
import pytest

from keras_snn.datasets import events as ev

SIZE = (480, 640)
HEADERS = {
    "evt2": b"% camera_integrator_name Prophesee\n% evt 2.0\n% geometry 640x480\n% end\n",
    "evt3": b"% date 2024-01-01 12:00:00\n% format EVT3;height=480;width=640\n% end\n",
    "dat": b"% Data file containing CD events\n% Version 2\n% Width 640\n% Height 480\n",
}
pytestmark = pytest.mark.once


def recording(start=0, count=300, duration=300_000):
    rng = np.random.default_rng(0)
    return ev.Events(
        np.sort(rng.integers(start, start + duration, count)),
        rng.integers(0, SIZE[1], count),
        rng.integers(0, SIZE[0], count),
        rng.integers(0, 2, count),
    )


def same(found, wanted):
    np.testing.assert_array_equal(np.stack(found), np.stack(wanted))


def evt2(events):
    words, high = [], None
    for t, x, y, p in zip(*map(np.ndarray.tolist, events)):
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 28 | high % 2**28)
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    return struct.pack(f"<{len(words)}I", *words)


def words3(*words):
    """Words of EVT 3, each a type and a value."""
    return struct.pack(f"<{len(words)}H", *(kind << 12 | value for kind, value in words))


def evt3(events):
    words, last = [], {}

    def change(kind, value):
        if last.get(kind) != value:
            last[kind] = value
            words.append((kind, value % 4096))

    for t, x, y, p in zip(*map(np.ndarray.tolist, events)):
        if t >> 12 != last.get(8):
            last.pop(6, None)
        change(8, t >> 12)
        change(6, t & 4095)
        change(0, y)
        words.append((2, p << 11 | x))
    return words3(*words)


def dat(events, columns=14, polarity=28, kind=12):
    rows = [
        struct.pack("<II", t % 2**32, p << polarity | y << columns | x)
        for t, x, y, p in zip(*map(np.ndarray.tolist, events))
    ]
    return bytes([kind, 8]) + b"".join(rows)


WRITERS = {"evt2": evt2, "evt3": evt3, "dat": dat}
SUFFIXES = {"evt2": ".raw", "evt3": ".raw", "dat": ".dat"}
BITS = {"evt2": 34, "evt3": 24, "dat": 32}


@pytest.mark.parametrize("name", WRITERS)
def test_recordings(tmp_path, name):
    path = tmp_path / f"camera{SUFFIXES[name]}"
    # The second one's times overflow: only the bits of the first of them are known.
    for start in (5, 2 ** BITS[name] - 100_000):
        events = recording(start)
        path.write_bytes(HEADERS[name] + WRITERS[name](events))
        same(ev.read_prophesee(path), events)
    path.write_bytes(HEADERS[name] + (dat(recording(count=0)) if name == "dat" else b""))
    assert not len(ev.read_prophesee(path).t)


def test_vectors_and_words_without_events(tmp_path):
    path = tmp_path / "camera.raw"
    path.write_bytes(
        b"% evt 3.0\n% end\n"
        + words3(
            *((6, 1), (2, 9)),  # no event: the time is not known yet
            *((8, 1), (6, 5), (2, 3)),  # nor is this: the row is not
            *((0, 7), (3, 1 << 11 | 100), (4, 0b101000000011), (5, 0b10000001)),
            *((0xA, 0x101), (0xE, 3), (0xF, 5), (7, 1)),  # a trigger, others, and what continues
            *((0, 8 | 1 << 11), (3, 20), (5, 0xFF), (8, 1), (6, 9), (2, 1 << 11 | 33)),
            *((8, 2), (2, 34)),
        )
    )
    x = [100, 101, 109, 111, 112, 119, *range(20, 28), 33, 34]
    t = [4096 + 5] * 14 + [4096 + 9, 8192]
    same(ev.read_prophesee(path), (t, x, [7] * 6 + [8] * 10, [1] * 6 + [0] * 8 + [1, 0]))
    events = recording()
    mixed = b"".join(
        evt2(events[i : i + 1]) + struct.pack("<III", 0xA0000001, 0xE0000002, 0xF0000003)
        for i in range(len(events.t))
    )
    path.write_bytes(HEADERS["evt2"] + struct.pack("<I", 5) + mixed)  # no time in front
    same(ev.read_prophesee(path), events)


def test_kinds_of_dat(tmp_path):
    path, events = tmp_path / "obj_td.dat", recording()
    path.write_bytes(b"% Data file containing Event2D events\n" + dat(events, kind=0))
    same(ev.read_prophesee(path), events)
    small = events._replace(x=events.x % 304, y=events.y % 240)
    path.write_bytes(b"% Version 1\n" + dat(small, 9, 17))
    same(ev.read_prophesee(path), small)


def test_out_of_order(tmp_path):
    path, events = tmp_path / "camera.dat", recording(count=4)
    path.write_bytes(HEADERS["dat"] + dat(events[[0, 2, 1, 3]]))
    with pytest.warns(UserWarning, match=r"camera\.dat: time goes back 1 times"):
        same(ev.read_prophesee(path), events)


def test_damaged(tmp_path):
    path, events = tmp_path / "camera.raw", recording(count=20)
    two, three, old = (HEADERS[name] for name in ("evt2", "evt3", "dat"))
    far = events._replace(x=events.x + 700)
    for whole, match in (
        (two + evt2(events)[:-3], rf"1 of 4 bytes, at byte {len(two + evt2(events)) - 4}"),
        (three + evt3(events)[:-1], rf"1 of 2 bytes, at byte {len(three + evt3(events)) - 2}"),
        (old + dat(events)[:-3], rf"5 of 8 bytes, at byte {len(old + dat(events)) - 8}"),
        (two + evt2(events) + bytes(3) + b"\x50", rf"0x5,.*at byte {len(two + evt2(events))}"),
        (three + b"\x00\x10", rf"0x1,.*at byte {len(three)}"),
        (old + dat(events, kind=14), rf"0 or 12 and 8 bytes, got 14 and 8, at byte {len(old)}"),
        (old, rf"got None and None, at byte {len(old)}"),
        (two + evt2(far), rf"outside of the size \(480, 640\)\., at byte {len(two)}"),
        (b"% evt 2.1\n% end\n" + bytes(8), r"names EVT 2 or 3.*'2\.1'"),
        (b"% Version 3\n" + dat(events), "version 3; 0, 1, 2 are read"),
        (b"% evt 3.0", "header has no end, at byte 0"),
        (b"GIF89a", r"names EVT 2 or 3.*at byte 0"),
        (b"", "at byte 0"),
    ):
        path.write_bytes(whole)
        with pytest.raises(ValueError, match=rf"camera\.raw.*{match}"):
            ev.read_prophesee(path)
    with pytest.raises(FileNotFoundError, match=r"none\.dat.*Prophesee"):
        ev.read_prophesee(tmp_path / "none.dat")


@pytest.mark.parametrize("name", ["evt3.raw", "evt2.raw", "dat2.dat", "dat1.dat"])
def test_written_by_faery(tmp_path, name):
    path, i = tmp_path / name, np.arange(12)
    path.write_bytes(base64.b85decode(WRITTEN_BY_FAERY[name]))
    same(ev.read_prophesee(path), (700_000 * i, 5 * i, 40 - 3 * i, i % 3 == 0))


# Twelve events of ten seconds; faery notes the time of the first in the header.
WRITTEN_BY_FAERY = {
    "evt3.raw": (
        "B_L&XbRaV>FbX9gW^ZzBVRRrxR#Y=PcWGpFXgxMGJ7{HTXJ~XiG&l++AZKN7ZDn+Fc_214cr-W)B_MP#ATcm7Ffc"
        "GMFbV*GC;$K`s(@f_B>)8=Re`{4A^-{?0D>TE9{>+1tAc=O8~_v`R)gSY82}j|0fazi762Y7tc0Ls696M1SA_s$5"
        "CAA30)}8=4FD}DtcJjE3IH-7SBD^O2LLx9"
    ),
    "evt2.raw": (
        "B_L&XbRaS=FbX9gW^ZzBVRRrxR#Y-OcWGpFXgxMGJ7{HTXJ~XiG&l++AZKN7ZDn+Fc_214cr-W)B_MP#ATcm7Ffc"
        "GMFbV(w0Dvd}01&w<0DvVZ00?tc0DvM;001n20DvEO02t<~0Dv5z005uW0Du|D00>zC0e}|p01y%@0e}-20SL@h0"
        "e}!d0RV-70e}r?0T@540e}jS0RZ^b0e}a%0SE"
    ),
    "dat2.dat": (
        "B_LL1a&u{KZXhxWB_LO6WOQgCHZ%$)AV_6tXJ~XFG&l++AXG3QF)%PNFfcGM3JeGU00000016Obt_lDJKnVcATon"
        "KcfCvB}3m^awzy}b3xhen@00#izXEgvBKn4In7C-<VfCUhs#7Y1ozytsQb5#H+00aPFAz%P4Km!oK&uRcNfC2y@e"
        "sushzySa"
    ),
    "dat1.dat": (
        "B_LL1a&u{KZXhuVB_LO6WOQgCHZ%$)AV_6tXJ~XFG&l++AXG3QF)%PNFfcGM3JeGU00000Pyzs8t_lDJN&o=BTon"
        "KcL;wIF3m^awJ^}!Mxhen@H~;|PXEgvBG5`QT7C-<VECK+a#7Y1oCIA2cb5#H+AOHYhAz%P48Ug^o&uRcN6aWAqe"
        "sush4gdf"
    ),
}
