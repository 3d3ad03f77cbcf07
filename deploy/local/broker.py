"""`plaudit kafka`: a single-node Apache Kafka (KRaft) for development and tests, not for a fleet.

Its jars are downloaded once from Maven Central, as pinned in `deploy/kafka/pom.xml`.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.errors import DeployError

_POM: Final = Path(__file__).parents[1] / "kafka" / "pom.xml"
_IMAGE: Final = "apache/kafka:4.3.0"
_CLUSTER_ID: Final = "cGxhdWRpdC1kZXZlbG9wLQ"  # any 16 bytes
_START_SECONDS: Final = 60.0
_DOWNLOAD_SECONDS: Final = 600.0


def missing_tools() -> list[str]:
    """Return the programs that a local broker needs and this machine lacks."""
    return [tool for tool in ("java", "mvn") if shutil.which(tool) is None]


def jars(echo: Callable[[str], None]) -> Path:
    """Return the folder of Kafka's jars; download them on first use.

    Raises:
        DeployError: Java or Maven is not installed, or the download failed.

    """
    if missing := missing_tools():
        raise DeployError(
            f"a local Kafka needs {' and '.join(missing)}; install JDK 17 and Maven, "
            f"or run the container image {_IMAGE} and give its address with --kafka"
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "plaudit" / "kafka-4.3.0-tools"
    if folder.exists():
        return folder
    echo("Downloading Apache Kafka 4.3.0 from Maven Central (44 MB, only once).")
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
    try:
        done = subprocess.run(
            [*command, f"-DoutputDirectory={partial}"],
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeployError("Maven did not download Kafka within ten minutes; try again") from error
    if done.returncode != 0:
        raise DeployError(f"Maven could not download Kafka:\n{done.stdout[-2000:]}")
    with contextlib.suppress(OSError):  # another process was faster
        partial.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)
    return folder


@dataclass
class Broker:
    """A Kafka broker and controller in one process.

    Attributes:
        folder: Folder of its data, properties and log file.
        port: Port for clients.
        controller_port: Port of the controller.
        host: Address that it listens on.
        properties: Additional server properties; they override the default ones.
        process: The running process; None while it is stopped.

    """

    folder: Path
    port: int
    controller_port: int
    host: str = "127.0.0.1"
    properties: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Address that clients connect to."""
        return f"{self.host}:{self.port}"

    def start(self, echo: Callable[[str], None]) -> None:
        """Start the broker on the data in its folder, and wait until it listens.

        Raises:
            DeployError: The broker did not start.

        """
        libraries = jars(echo)
        properties = self._properties()
        if not (self.folder / "data" / "meta.properties").exists():
            format_ = ["format", "-t", _CLUSTER_ID, "-c", str(properties)]
            self._java(libraries, "kafka.tools.StorageTool", *format_).wait(_START_SECONDS)
        self.process = self._java(libraries, "kafka.Kafka", str(properties))
        deadline = time.monotonic() + _START_SECONDS
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise DeployError(f"Kafka did not start; see {self.folder / 'kafka.log'}")
            time.sleep(0.1)

    def _properties(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        controller = f"{self.host}:{self.controller_port}"
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str((self.folder / "data").resolve()),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker can rejoin only after its session has timed out.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "message.max.bytes": str(8 << 20),
            **self.properties,
        }
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        return file

    def _java(self, libraries: Path, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "kafka.log").open("ab") as output:
            return subprocess.Popen(
                ["java", "-Xmx512m", "-cp", f"{libraries}/*", main, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
            return True
        return False

    def tool(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of Kafka's own tools; its output goes to the broker's log file."""
        return self._java(jars(print), main, *arguments)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the broker, if it is running."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self, seconds: float = 20.0) -> None:
        """Stop the broker cleanly; kill it if that takes longer than `seconds`."""
        self.signal(signal.SIGTERM)
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill the broker at once."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self.process = None
