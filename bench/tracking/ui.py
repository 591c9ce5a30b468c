"""MLflow's own pages, served on a results folder's store."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.config import UserError, bench_command, without_secrets
from bench.tracking.experiments import charts_link, runs_link
from bench.tracking.store import ARTIFACTS, DATABASE, URI, is_server, open_store, store_uri
from bench.tracking.tracker import in_one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

UI_LOG = "mlflow-ui.log"
HOST = "127.0.0.1"
HERE = ("localhost:*", "127.0.0.1:*")
EVERYWHERE = "0.0.0.0"
"""The host that stands for all addresses of this machine."""


def ui(results: Path, port: int = 5000, host: str = HOST, *, is_opened: bool = False) -> None:
    """Serve MLflow's UI on the results' store until Ctrl-C, and print the links to its charts.

    ``is_opened``: a browser opens the first of them, the latest study's. With a server in the
    environment, only its links are printed. UserError if there is no store, no MLflow or no answer,
    or the address cannot be had.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("MLflow is not installed; install it to see its UI")
    if is_server(uri := store_uri(results)):
        # Without the user and the password in it: it is opened by hand.
        parts = urllib.parse.urlsplit(uri)
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        _show_links(_opened(results), address.rstrip("/"), is_opened=is_opened)
        return
    if not os.environ.get(URI) and not (results / DATABASE).exists():
        raise UserError(
            f"no MLflow store in '{results}'; run a study first, point {URI} to a store, or make "
            f"one: {bench_command('sync', results=results)}"
        )
    if ":" in host:
        raise UserError(f"--host {host}: IPv6 is not served; give a name or an IPv4 address")
    _refuse_taken(host, port)
    if not is_loopback(host):
        print(
            f"bench: whoever reaches {host}:{port} can read, change and delete all that is in this "
            "store, without a password",
            file=sys.stderr,
            flush=True,
        )
    client = _opened(results)
    with _until_stopped() as stopped, serving(results, port, host) as (base, server):
        _show_links(client, base, is_opened=is_opened)
        print("Ctrl-C ends it.", flush=True)
        while server.poll() is None:
            if stopped.is_set():
                raise KeyboardInterrupt
            time.sleep(0.5)
        raise UserError(f"MLflow's server ended; its last words are in '{results / UI_LOG}'")


@contextlib.contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """Take SIGTERM as Ctrl-C, so that the server ends in either case, and end in peace.

    The event is set, too: an interrupt that falls into a finaliser is lost.
    """
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    except KeyboardInterrupt:
        print("MLflow's UI has ended.", flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def serving(
    results: Path, port: int, host: str = HOST
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run MLflow's server with one worker; yield address and process once healthy, then end it."""
    command = [
        sys.executable, "-P", "-m", "mlflow", "server",
        "--artifacts-destination", (results / ARTIFACTS).resolve().as_uri(),
        "--host", host, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    name = name_of(host)
    if not is_loopback(host):
        # By itself it answers to this machine and to addresses of private networks alone.
        names = [name, *(own_names() if host == EVERYWHERE else [])]
        # Any port of this machine's own: one that is forwarded to it may be another.
        allowed = [*(f"{each}:{port}" for each in dict.fromkeys(names)), *HERE]
        origins = [f"http://{each}" for each in allowed]
        command += ["--allowed-hosts", ",".join(allowed)]
        command += ["--cors-allowed-origins", ",".join(origins)]
    # Nothing of the current folder is imported: not by the server, and not by what it starts.
    safe = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONSAFEPATH": "1"}
    # Not on its command line, which every user of the machine may read.
    environment = os.environ | safe | {"MLFLOW_BACKEND_STORE_URI": store_uri(results)}
    log = results / UI_LOG
    # A session of its own: Ctrl-C reaches this process alone, which then ends the server whole.
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        base = f"http://{name}:{port}"
        _wait_until_healthy(f"http://{HOST if host == EVERYWHERE else name}:{port}", server, log)
        yield base, server
    finally:
        _end(server)


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address, is reached from this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def own_names() -> list[str]:
    """Return the names and IPv4 addresses by which this machine may be reached."""
    found = [each for card in psutil.net_if_addrs().values() for each in card]
    return [
        socket.gethostname(), *(each.address for each in found if each.family == socket.AF_INET)
    ]  # fmt: skip


def name_of(host: str) -> str:
    """Return what others reach a host by: of all this machine's addresses, its name."""
    if host != EVERYWHERE:
        return host
    # Where no name server knows this machine, its own name is the better guess.
    full = socket.getfqdn()
    return socket.gethostname() if full.startswith("localhost") else full


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            other = "another with --port" if host == HOST else "others with --host and --port"
            raise UserError(
                f"port {port} on {host} cannot be used ({error}); choose {other}"
            ) from error


def _wait_until_healthy(base: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120.0
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"{base}/health", timeout=2).close()
            return
        time.sleep(0.2)
    raise UserError(f"MLflow's server did not start; its last words are in '{log}'")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its worker: they are the process group that was started for them."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            return


def _opened(results: Path) -> MlflowClient:
    try:
        return open_store(results)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the MLflow store '{without_secrets(store_uri(results))}' cannot be opened "
            f"({in_one_line(error)}); start its server, or unset {URI} for the store in '{results}'"
        ) from error


def _show_links(client: MlflowClient, base: str, *, is_opened: bool) -> None:
    links = {
        each.name: (charts_link(base, each.experiment_id), runs_link(base, each.experiment_id))
        for each in client.search_experiments(order_by=["last_update_time DESC"])
        if client.search_runs([each.experiment_id], max_results=1)
    }
    for name, (charts, runs) in links.items():
        print(f"{name}: {charts}", flush=True)
        print(f"{name}, table of runs: {runs}", flush=True)
    if is_opened and links and not webbrowser.open(next(iter(links.values()))[0]):
        print("bench: no browser could be started; open the link", file=sys.stderr, flush=True)
