"""Everything that TensorBoard's two loaders have loaded of a directory, in this process, nothing thinned out."""

from __future__ import annotations

import subprocess
import tempfile
import time
import warnings
from unittest import mock

import numpy as np

ALL = 10**9


def python_loader(log_dir, plugin):
    """Give {(run, tag): [(step, value), ...]} of the plugin "scalars" or "histograms", by the Python loader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
        from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

        multiplexer = EventMultiplexer(
            tensor_size_guidance={"scalars": 0, "histograms": 0}, max_reload_threads=1
        )
        multiplexer.AddRunsFromDirectory(str(log_dir))
        multiplexer.Reload()
        return _read_all(MultiplexerDataProvider(multiplexer, str(log_dir)), plugin)


def fast_loader(log_dir, plugin, until):
    """Give the same by the data server, written in Rust, once it satisfies `until`, or after a minute as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.data import server_ingester
        from tensorboard.util import grpc_util

    ingester = server_ingester.SubprocessServerDataIngester(
        server_binary=server_ingester.get_server_binary(),
        logdir=str(log_dir),
        reload_interval=1,
        channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
        samples_per_plugin={"scalars": 0, "histograms": 0},
    )
    # The ingester leaves both to the end of the process, which Python warns of.
    servers, folder, popen = [], tempfile.TemporaryDirectory(), subprocess.Popen

    def start(*arguments, **options):
        servers.append(popen(*arguments, **options))
        return servers[-1]

    with (
        mock.patch.object(server_ingester.subprocess, "Popen", start),
        mock.patch.object(server_ingester.tempfile, "TemporaryDirectory", return_value=folder),
    ):
        ingester.start()
    (server,) = servers
    try:
        deadline = time.monotonic() + 60
        while True:
            found = _read_all(ingester.data_provider, plugin)
            if until(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.2)
    finally:
        server.terminate()
        server.wait()
        server.stdin.close()
        folder.cleanup()


def _read_all(provider, plugin):
    from tensorboard.context import RequestContext

    read = provider.read_scalars if plugin == "scalars" else provider.read_tensors
    found = read(RequestContext(), experiment_id="", plugin_name=plugin, downsample=ALL)
    return {
        (run, tag): [
            (d.step, d.value if plugin == "scalars" else np.asarray(d.numpy)) for d in data
        ]
        for run, tags in found.items()
        for tag, data in tags.items()
    }
