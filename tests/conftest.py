"""Test-wide setup: eight emulated CPU devices and strict JAX."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time goes into compiling. What one process of this session has compiled,
# the others (test workers, and the commands that tests start) read back.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="eenet_jax_")
    atexit.register(
        shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
    )
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

import pathlib  # noqa: E402
import runpy  # noqa: E402
import sys  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402
from absl.testing import flagsaver  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles networks quickly, for they run for milliseconds; fits run longer.

    A module whose fits are small says ``QUICK_COMPILES = True``. Commands that a test
    starts do as it does.
    """
    networks = item.path.parent.name in ("backbones", "costs", "runtime", "training")
    quick = networks or getattr(item.module, "QUICK_COMPILES", False)
    jax.config.update("jax_disable_most_optimizations", quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))


@pytest.fixture
def key() -> jax.Array:
    """A fresh typed PRNG key."""
    return jax.random.key(0)


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Runs "train" or "evaluate" with flags here; returns status, stdout and stderr.

    Its flags are taken away again afterwards.
    """
    from eenet_jax import errors

    def run(command: str, *given: str) -> tuple[int, str, str]:
        before = set(flags.FLAGS)
        try:
            main = runpy.run_path(str(ROOT / f"{command}.py"))["main"]
            monkeypatch.setattr(sys, "argv", [f"{command}.py", *given])
            with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
                errors.run(main)
        finally:
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
        return stopped.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def write_run():
    """Writes a run, of two exits by default, with an untrained checkpoint."""
    from configs import default
    from eenet_jax import checkpoint, config, distributed
    from eenet_jax.training import loop
    from eenet_jax.training.plan import build_plan

    def write(workdir: pathlib.Path, seed=0, width=4, exits=(1,)) -> None:
        c = default.get_config()
        c.model.name, c.model.exits, c.seed = "cifar_resnet", exits, seed
        c.model.options = {"depth": 8, "width": width}
        c.train.batch_size, c.train.epochs = 96, 1
        plan = build_plan(c, config.load_data(c), distributed.data_mesh())
        loop.claim_workdir(c, workdir)
        with checkpoint.open_checkpoints(workdir) as saved:
            checkpoint.save(saved, 1, plan.init(jax.random.key(0)), 0.1)

    return write


@pytest.fixture
def root() -> pathlib.Path:
    """The project's root directory."""
    return ROOT


@pytest.fixture
def shared() -> pathlib.Path:
    """The folder of data and golden vectors that is kept beside the project."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("the folder ../shared with real data and goldens is not here")
    return path
