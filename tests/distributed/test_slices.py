"""Weights that are split over processes: ModelParallel on jax and on torch, two processes."""

import shutil

import keras
import numpy as np
from support import processes

import keras_ratchet as kr

SCRIPT = processes.TESTS / "support" / "split.py"


def launch(where, mesh, epochs, *more, world_size=2, devices=4, engine="jax"):
    """Start the script on a mesh."""
    each = f"--xla_force_host_platform_device_count={devices // world_size}"
    return processes.start(
        engine,
        SCRIPT,
        [where, mesh, epochs, *more],
        world_size=world_size,
        env={"XLA_FLAGS": each, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
        limit_s=300,
    )


def finish(where, mesh, epochs, **options):
    """Run the script to its end; return its result, the same on all ranks, and rank 0's output."""
    with launch(where, mesh, epochs, **options) as ranks:
        ended = ranks.end()
    assert {one.code for one in ended} == {0}, processes.report(ended)
    results = {line for one in ended for line in one.output.splitlines() if "RESULT" in line}
    assert len(results) == 1, processes.report(ended)
    return results.pop().split(), ended[0].output


def values(where, mesh):
    """Return what a run ended with, by path."""
    with np.load(where / f"{mesh}.npz") as found:
        return {name.replace("|", "/"): found[name] for name in found.files}


def assert_equal(ours, others):
    assert ours.keys() == others.keys()
    assert [n for n in ours if ours[n].tobytes() != others[n].tobytes()] == []


def snapshots(where):
    return sorted((where / "backup").glob("epoch-*"))


def test_a_snapshot_of_one_mesh_is_read_by_any_other_and_files_are_plain(tmp_path):
    first = tmp_path / "1x4"
    result, _ = finish(first, "1x4", 1)
    assert int(result[-1]) > 0
    trained = values(first, "1x4")
    newest = snapshots(first)[-1]
    sizes = [(newest / f"slices-0000{rank}.safetensors").stat().st_size for rank in (0, 1)]
    whole = sum(trained[name].nbytes for name in trained if "kernel" in name or "bias" in name)
    assert all(whole / 2 <= size < whole + 20_000 for size in sizes)  # headers; best weights, too
    for mesh, world_size in (("2x2", 2), ("none", 1)):
        other = tmp_path / mesh
        shutil.copytree(first, other)
        finish(other, mesh, 1, world_size=world_size)  # the run is finished: only restored
        assert_equal(values(other, mesh), trained)
    model = keras.models.load_model(first / "last.keras")
    loaded = [*model.variables, *model.optimizer.variables]
    for ours, (path, value) in zip(loaded, trained.items(), strict=True):
        if "seed" not in path:  # Keras's files do not hold these
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), value, path)
    weights = keras.models.clone_model(model)
    weights.load_weights(first / "last.weights.h5")
    for ours, others in zip(weights.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, others)


def test_a_snapshot_of_one_process_is_read_by_a_mesh(tmp_path):
    finish(tmp_path, "none", 1, world_size=1)
    result, _ = finish(tmp_path, "1x2", 1, devices=2)
    assert int(result[-1]) > 0
    assert_equal(values(tmp_path, "1x2"), values(tmp_path, "none"))


def test_slices_of_torch_are_those_of_keras_3_16_and_one_process_reads_them(tmp_path):
    result, _ = finish(tmp_path, "1x2", 1, engine="torch-fit")
    assert int(result[-1]) > 0
    newest = snapshots(tmp_path)[-1]
    assert (newest / "slices-00001.safetensors").stat().st_size > 1000
    finish(tmp_path, "none", 1, world_size=1, engine="torch-fit")
    assert_equal(values(tmp_path, "none"), values(tmp_path, "1x2"))


def test_a_rank_killed_in_a_save_and_a_damaged_slice_cost_the_batches_since_the_one_before(
    tmp_path,
):
    reference, _ = finish(tmp_path / "whole", "1x2", 2, devices=2)
    where = tmp_path / "killed"
    with launch(where, "1x2", 2, "die:3", devices=2) as ranks:
        assert ranks.end_of(1).code == -9
        assert ranks.wait_for(0, "left the run"), ranks.output(0)
    kept = snapshots(where)
    assert len(kept) == 2  # the third was not committed
    assert all(kr.verify(path) for path in kept)
    damaged = kept[-1] / "slices-00001.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert "slices-00001.safetensors" in kr.verify(kept[-1]).problem
    result, output = finish(where, "1x2", 2, devices=2)
    assert f"is damaged: the bytes of {damaged.name}" in output
    assert f"resuming from {kept[0]}" in output
    assert result == reference
    assert not list((where / "backup").glob(".draft-*"))
