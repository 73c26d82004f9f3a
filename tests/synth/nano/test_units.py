import struct
from pathlib import Path

import numpy as np
import torch

from synth.nano.clusters import kmeans, nearest
from synth.nano.units import Units, read_ctranslate2


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def test_reads_ctranslate2(tmp_path: Path):
    """The format: version, spec, revision, count; then name, rank, shape, type, size, bytes."""
    wanted = {
        "encoder/a": np.arange(6, dtype="f2").reshape(2, 3),
        "encoder/b": np.array([1.5, -2.0], "f4"),
    }
    raw = struct.pack("<I", 6) + _string("WhisperSpec") + struct.pack("<II", 3, len(wanted))
    for name, value in wanted.items():
        raw += _string(name) + struct.pack("<B", value.ndim)
        raw += struct.pack(f"<{value.ndim}I", *value.shape)
        raw += struct.pack("<BI", {"f2": 4, "f4": 0}[value.dtype.str[1:]], value.nbytes)
        raw += value.tobytes()
    (tmp_path / "model.bin").write_bytes(raw)
    found = read_ctranslate2(tmp_path / "model.bin")
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_kmeans_finds_clusters_and_is_seeded():
    torch.manual_seed(0)
    centres = torch.randn(6, 5) * 10
    points = centres.repeat(80, 1) + 0.05 * torch.randn(480, 5)
    torch.manual_seed(1)
    first = kmeans(points, 40)
    torch.manual_seed(1)
    torch.testing.assert_close(kmeans(points, 40), first, rtol=0, atol=0)
    assert float((points - first[nearest(points, first)]).abs().max()) < 1


def test_units_name_the_nearest_centroid(tmp_path: Path):
    units = Units(torch.zeros(40, 3), torch.eye(3)[:, :2], torch.tensor([[0.0, 0], [5, 0], [0, 5]]))
    units.save(tmp_path / "units.npz")
    states = torch.tensor([[4.0, 1, 9], [0.2, 0.1, -9], [1, 6, 0]])
    assert Units.load(tmp_path / "units.npz")(states).tolist() == [1, 0, 2]
