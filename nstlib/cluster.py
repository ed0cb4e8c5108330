"""The pictures of a gallery, or the tiles of a picture, painted by workers of a Dask cluster."""

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from nstlib import CannotGoOn, UserError, images
from nstlib.paths import why

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("nst")

PATIENCE, SILENCE = 10, 30  # seconds: for an answer; without a result until it is asked why
AHEAD = 3  # tiles that are sent for each thread of a worker, so that it need not wait for the next

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def connect(address: str) -> Iterator["Client"]:
    """A client of the scheduler at this address, which closes where its context ends.

    Raises UserError without dask.distributed, a scheduler, or at least one worker.
    """
    try:
        import dask.config
        import distributed
    except ImportError as error:
        raise UserError("--dask needs dask.distributed: pip install distributed") from error
    # Pictures are sent whole, whatever Dask thinks of their size.
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})
    for name in ("distributed", "distributed.client"):  # what goes wrong is told in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        # Before a client is made, which waits without end for what accepts and is no scheduler.
        if asyncio.run(_identity(address))["type"] != "Scheduler":
            raise ValueError("a worker, say")
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except Exception as error:  # OSError, or ValueError and others for what is no address
        raise UserError(
            f"no Dask scheduler answers at {address}: check --dask, or start one (dask scheduler)"
        ) from error
    try:
        client.wait_for_workers(1, timeout=10)
    except Exception as error:
        client.close()
        raise UserError(
            f"the Dask scheduler at {address} has no workers: start some "
            f"(dask worker {address} --nthreads 1)"
        ) from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # of a scheduler that is lost
            client.close()


async def _identity(address: str) -> dict:
    """What a scheduler says of itself; raises TimeoutError and others where none answers."""
    import distributed

    scheduler: Any = distributed.rpc(address)
    try:
        return await asyncio.wait_for(scheduler.identity(), PATIENCE)
    finally:
        await scheduler.close_rpc()


def _workers(client: "Client") -> dict[str, dict]:
    """What the scheduler says of its workers; raises errors of many kinds when it is gone or does
    not answer."""
    scheduler: Any = client.scheduler  # of which distributed's types know nothing
    found: Any = client.sync(scheduler.identity, callback_timeout=PATIENCE)
    return found["workers"]


def _missing(client: "Client") -> str | None:
    """What a cluster lacks to go on with its work."""
    try:
        return None if _workers(client) else "the Dask cluster has no workers"
    except Exception:
        return "the Dask scheduler does not answer"


def paint_cells(client: "Client", cells, settings, paint: Callable, interrupts, bar) -> Iterator:
    """Like gallery.paint_cells, in the order in which the cells come from the workers.

    Sources travel as pixels, at the size at which they are used, so that workers need no access to
    the files. They are tasks of their own: the scheduler holds each picture once, and can give it
    out again when a worker that had it is lost. All is pickled, for workers to unpickle: the
    scheduler unpacks what it is sent, and need not have this program, nor NumPy.
    """
    from distributed import as_completed

    job = pickle.dumps(functools.partial(_paint_on_worker, paint, settings))

    def unpickle_and_paint(*sources):
        return pickle.loads(job)(*map(pickle.loads, sources))

    @functools.cache
    def pixels(path, scale=1.0):
        size = round(settings.size * scale)
        image = images.load(path, size)
        images.check_size(path, image, settings.size, scale)
        return client.submit(bytes, pickle.dumps(images.to_uint8(image)))

    futures = {}
    for cell in cells:
        try:
            styles = [pixels(path, settings.style_scale) for path in cell.styles]
            sources = [pixels(cell.content), *styles]
        except Exception as error:
            bar.update()
            yield cell, error
            continue
        futures[client.submit(unpickle_and_paint, *sources, pure=False)] = cell
    finished = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
    asked = time.monotonic()
    while not finished.is_empty() and not interrupts.signal:
        bar.set_description(f"{bar.n}/{bar.total}")
        if time.monotonic() > asked + SILENCE:
            if missing := _missing(client):
                log.warning("%s; waiting for it (Ctrl-C ends that)", missing)
            asked = time.monotonic()
        for future, result in finished.next_batch(block=False):
            bar.update()
            asked = time.monotonic()
            yield futures.pop(future), _outcome(result)
        time.sleep(0.1)
    if interrupts.signal:
        client.cancel(list(futures))


class TileWorkers:
    """The workers of a cluster for the tiles of a picture; see tiles.Workers.

    What travels is pickled here, as in paint_cells: each tile with its task, so that the scheduler
    can give it to another worker when one is lost, and with what is common to all tiles. Were that
    a task of its own, Dask would give all tiles to the worker that has its result.
    """

    def __init__(self, client: "Client", interrupts):
        self.client, self.interrupts = client, interrupts

    def run(self, function: Callable, common: tuple, jobs: Iterator) -> Generator:
        """Raises CannotGoOn where the scheduler is lost or a worker cannot do it."""
        try:
            yield from self._run(function, common, jobs)
        except ModuleNotFoundError as error:
            raise CannotGoOn(_lacks(error)) from error
        except Exception as error:  # of many kinds, wherever a connection breaks
            missing = _missing(self.client) or "a tile failed on the Dask cluster"
            raise CannotGoOn(f"{missing} ({why(error)})") from error

    def _run(self, function, common, jobs):
        work = pickle.dumps(functools.partial(_evaluate_on_worker, function))

        def unpickle_and_evaluate(common, job):
            return pickle.loads(work)(*pickle.loads(common), pickle.loads(job))

        def submit(job):
            return self.client.submit(unpickle_and_evaluate, shared, pickle.dumps(job), pure=False)

        shared = pickle.dumps(common)
        threads = 1
        with contextlib.suppress(Exception):  # who does not answer is waited for with the result
            threads = sum(worker["nthreads"] for worker in _workers(self.client).values())
        ahead = AHEAD * max(1, threads)
        futures = deque(map(submit, itertools.islice(jobs, ahead)))
        while futures:
            yield self._result(futures.popleft())
            futures.extend(map(submit, itertools.islice(jobs, 1)))

    def _result(self, future):
        arrived: Future = Future()

        def fetch():
            try:
                arrived.set_result(future.result())
            except BaseException as error:
                arrived.set_exception(error)

        # Dask gives up what has not wholly come within a time limit, and then sends it all again.
        threading.Thread(target=fetch, daemon=True).start()
        asked = time.monotonic()
        while not wait([arrived], timeout=1).done:
            if self.interrupts.signal:
                raise KeyboardInterrupt
            if time.monotonic() > asked + SILENCE:
                asked = time.monotonic()
                if missing := _missing(self.client):
                    log.warning("%s; waiting for it (Ctrl-C ends that)", missing)
        return arrived.result()


def _lacks(error: ModuleNotFoundError) -> str:
    return f"a Dask worker lacks a module ({error}): install this program there, too"


@contextlib.contextmanager
def tile_workers(address: str | None, interrupts) -> Iterator[TileWorkers | None]:
    """Those of the cluster at this address, if there is one."""
    if not address:
        yield None
        return
    with connect(address) as client:
        yield TileWorkers(client, interrupts)


def _evaluate_on_worker(function, settings, *arguments):
    from nstlib import networks, tf

    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")  # as on the command line
    networks.prepare(settings.network)
    with _one_at_a_time:
        device = (tf.config.list_logical_devices("GPU") or [None])[0]
        name = device and device.name
        with tf.device(name):
            return function(name, settings, *arguments)


def _outcome(result):
    """The Result of a task, or the exception that it raised, which comes with its type and its
    traceback. The task's status says less: it changes when a worker is lost whose result came."""
    if isinstance(result, tuple):
        _, error, _ = result
        return UserError(_lacks(error)) if isinstance(error, ModuleNotFoundError) else error
    if isinstance(result, BaseException):
        return UserError("the Dask scheduler was lost; run the same command again")
    return result


def _paint_on_worker(paint, settings, content, *styles):
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")  # as on the command line
    with _one_at_a_time:  # TensorFlow uses all cores already, however many threads a worker has
        return paint(content, styles, settings)
