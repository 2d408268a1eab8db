"""An answer that can't be said as a line is an error for who asked, and nobody's end."""

import json

from mcp import types

from kernelry_mcp.transports.stdio import line_of


def test_an_answer_is_a_line() -> None:
    line = line_of(types.JSONRPCResponse(jsonrpc="2.0", id=7, result={"text": "é"}))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert json.loads(line) == {"jsonrpc": "2.0", "id": 7, "result": {"text": "é"}}


def test_half_a_character_is_an_error_of_its_own_call() -> None:
    answer = json.loads(line_of(types.JSONRPCResponse(jsonrpc="2.0", id=7, result={"a": "\udce9"})))
    assert answer["id"] == 7
    assert "can't be sent" in answer["error"]["message"]
    notice = types.JSONRPCNotification(jsonrpc="2.0", method="n", params={"a": "\udce9"})
    assert line_of(notice) == b""
