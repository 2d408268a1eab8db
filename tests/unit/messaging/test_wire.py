"""Messages on the wire: ours are read by jupyter_client's Session, its by us."""

import pytest
from jupyter_client.session import Session as JupyterSession

from kernelry.messaging.wire import BadMessageError, Wire

KEY = b"secret"


def test_jupyter_reads_what_we_write() -> None:
    wire = Wire(KEY, "client")
    msg_id, frames = wire.request("execute_request", {"code": "é"})
    session = JupyterSession(key=KEY)
    _, parts = session.feed_identities(frames)
    message = session.deserialize(parts)
    assert message["header"]["msg_id"] == msg_id
    assert message["header"]["session"] == "client"
    assert message["content"] == {"code": "é"}


def test_we_read_what_jupyter_writes() -> None:
    session = JupyterSession(key=KEY)
    frames = session.serialize(session.msg("status", {"execution_state": "idle"}), ident=b"topic")
    message = Wire(KEY, "client").read(frames)
    assert message is not None
    assert message["msg_type"] == "status"
    assert message["content"] == {"execution_state": "idle"}


@pytest.mark.parametrize("change", ["signature", "content", "delimiter", "json", "empty"])
def test_what_is_not_the_kernels_is_refused(change: str) -> None:
    session = JupyterSession(key=KEY)
    frames = session.serialize(session.msg("status", {"execution_state": "idle"}))
    match change:
        case "signature":
            frames = JupyterSession(key=b"other").serialize(session.msg("status", {}))
        case "content":
            frames[-1] = b'{"execution_state":"busy"}'
        case "delimiter":
            frames = frames[1:]
        case "json":
            frames[-1] = b"{"
        case _:
            frames = []
    with pytest.raises(BadMessageError):
        Wire(KEY, "client").read(frames)
