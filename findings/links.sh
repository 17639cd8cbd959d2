#!/usr/bin/env bash
# What a transport of asyncio does once it is closed depends on the loop and on TLS, in opposite ways.
#
# The common guess: after `close()`, called once or twice, `write()` is ignored and `get_extra_info()` still answers,
# on either loop. asyncio's documentation says that `close()` may be called, and no method is said to raise afterwards.
#
# Seen: after a second close(),
#   asyncio, TCP: write() is ignored, get_extra_info() answers
#   asyncio, TLS: write(), get_write_buffer_size() and get_extra_info() raise AttributeError
#   uvloop,  TCP: write() raises RuntimeError, get_extra_info() answers
#   uvloop,  TLS: write() is ignored, get_extra_info() is None
# A driver whose reader notices a reset while a writer task still writes meets all four. A task that keeps a connection
# alive and expects OSError alone ends with whichever of them is raised.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uvloop==0.23.0 trustme==1.2.1
cat > "$folder/closed.py" <<'PY'
import asyncio, ssl, sys

import trustme, uvloop

authority = trustme.CA()
serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
authority.issue_cert("127.0.0.1").configure_cert(serving)
authority.configure_trust(trusting)
SEEN = {}


def outcome(call):
    try:
        return "None" if call() is None else "answers"
    except Exception as error:
        return type(error).__name__


async def look(loop):
    for name, server, client in (("TCP", None, None), ("TLS", serving, trusting)):
        listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=server)
        _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname(), ssl=client)
        transport = writer.transport
        transport.close()
        transport.close()
        for _ in range(20):  # turns of the loop, until it is closed
            await asyncio.sleep(0.005)
        SEEN[loop, name] = [
            outcome(lambda: transport.write(b"x")),
            outcome(lambda: transport.get_extra_info("peername")),
            outcome(transport.get_write_buffer_size),
        ]
        listener.close()


asyncio.run(look("asyncio"))
uvloop.run(look("uvloop"))
print("Python", sys.version.split()[0], "uvloop", uvloop.__version__)
print(f"{'loop':8} {'over':4} {'write':14} {'get_extra_info':15} get_write_buffer_size")
for (loop, name), (write, info, size) in SEEN.items():
    print(f"{loop:8} {name:4} {write:14} {info:15} {size}")
sys.exit(SEEN != {
    ("asyncio", "TCP"): ["None", "answers", "answers"],
    ("asyncio", "TLS"): ["AttributeError", "AttributeError", "AttributeError"],
    ("uvloop", "TCP"): ["RuntimeError", "answers", "answers"],
    ("uvloop", "TLS"): ["None", "None", "answers"],
})
PY
"$folder/venv/bin/python" "$folder/closed.py"
