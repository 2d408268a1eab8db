"""What an agent reads: the text of an answer says what was, and what helps."""

import pytest

from .harness import Agent, Place

SHARES_A_SERVER = True


async def read(agent: Agent, code: str, **more: object) -> list[str]:
    """Run code and return the lines that an agent reads below the status."""
    answer = await agent.call("run_python_code", code=code, **more)
    return answer.text.splitlines()[1:]


async def test_a_crash_of_native_code_is_told_with_the_lines_that_it_came_from(
    agent: Agent,
) -> None:
    code = "import ctypes\ndef f():\n    ctypes.string_at(0)\nf()"
    lines = await read(agent, code)
    assert lines[0] == "KernelDied: it ended by itself: killed by SIGSEGV"
    assert lines[1] == "Segmentation fault"
    assert lines[3:5] == ["  Cell, line 3 in f", "  Cell, line 4 in <module>"]
    assert "restart_kernel" in lines[5]
    assert not [line for line in lines if "IPython" in line or "kernelry" in line]


async def test_a_kernel_that_ends_without_a_crash_is_told_without_the_lines_of_an_earlier_one(
    agent: Agent,
) -> None:
    """One file has the stacks of all that a session's kernels told."""
    await read(agent, "import ctypes; ctypes.string_at(0)")
    await agent.ask("restart_kernel")
    lines = await read(agent, "import os; os._exit(3)")
    assert lines[0] == "KernelDied: it ended by itself: exit code 3"
    assert "Cell" not in "".join(lines)


async def test_a_timeout_is_told_with_the_last_lines_and_no_frame_of_ours(agent: Agent) -> None:
    code = "import time\nfor n in range(10):\n    print('step', n, end='')\ntime.sleep(30)"
    lines = await read(agent, code, timeout=1)
    assert lines[0] == "".join(f"step {n}" for n in range(10))
    assert lines[1].startswith("-----")
    assert "----> 4 time.sleep(30)" in lines
    assert lines[-1] == "KeyboardInterrupt: stopped by its timeout of 1 s; variables stay"
    assert not [line for line in lines if "kernelry" in line]


PNG = (
    "import base64, io\nfrom PIL import Image as P\n"
    "def png(width=9, height=9, kind='PNG'):\n"
    "    kept = io.BytesIO(); P.new('RGB', (width, height), 'red').save(kept, kind)\n"
    "    return kept.getvalue()\n"
    "def b64(data): return base64.b64encode(data).decode()\n"
)
SHOW = "from IPython.display import display\ndisplay({%r: %s}, raw=True)"
#: type -> the form, as code; what the text has of it, or the suffix of the file that it names
FORMS: dict[str, tuple[str, str]] = {
    "text/plain": ("'told plainly'", "told plainly"),
    "text/markdown": ("'# Told'", "# Told"),
    "text/latex": ("'$x^2$'", "$x^2$"),
    "text/html": ("'<p>told <b>in bold</b></p>'", "told in bold"),
    "application/json": ("{'told': 1}", '{"told": 1}'),
    "image/png": ("b64(png())", ".png"),
    "image/jpeg": ("b64(png(kind='JPEG'))", ".jpg"),
    "image/gif": ("b64(png(kind='GIF'))", ".gif"),
    "image/webp": ("b64(png(kind='WEBP'))", ".webp"),
    "image/svg+xml": ("'<svg xmlns=\"http://www.w3.org/2000/svg\"/>'", ".svg"),
    "image/bmp": ("b64(png(kind='BMP'))", ".bmp"),
    "image/tiff": ("b64(png(kind='TIFF'))", ".tiff"),
    "application/pdf": ("b64(b'%PDF-1.4')", ".pdf"),
    "audio/wav": ("b64(b'RIFF')", ".wav"),
    "audio/mpeg": ("b64(b'ID3')", ".mp3"),
    "video/mp4": ("b64(bytes(8))", ".mp4"),
    "video/webm": ("b64(bytes(8))", ".webm"),
    "application/vnd.plotly.v1+json": ("{'data': []}", ".plotly.json"),
    "application/vnd.vegalite.v5+json": ("{'mark': 'bar'}", ".vl.json"),
    "application/vnd.vega.v5+json": ("{'marks': []}", ".vg.json"),
    "application/geo+json": ("{'type': 'Point'}", ".geojson"),
    "application/javascript": ("'draw()'", "application/javascript"),
    "application/x-of-nobody": ("'what?'", "application/x-of-nobody"),
}


@pytest.mark.parametrize("mime", FORMS)
async def test_what_is_shown_is_in_the_text_or_a_picture_or_named_with_a_file(
    agent: Agent, place: Place, mime: str
) -> None:
    form, said = FORMS[mime]
    answer = await agent.call("run_python_code", code=PNG + SHOW % (mime, form))
    below = "\n".join(answer.text.splitlines()[1:])
    assert said in below, below
    if said.startswith("."):
        [file] = [file for file in answer.data["outputs"] if file["path"].endswith(said)]
        assert file["path"] in below
        assert (place.workspace / file["path"]).read_bytes()
    kinds = [block.mime_type for block in answer.content if block.type == "image"]
    converted = ("image/bmp", "image/tiff", "image/svg+xml")
    shown = "image/png" if mime in converted else mime
    assert kinds == ([shown] if mime.startswith("image/") else []), kinds


async def test_a_page_with_more_than_text_is_saved_beside_its_text(
    agent: Agent, place: Place
) -> None:
    page = "<h1>Chart</h1><script>draw()</script>"
    code = SHOW % ("text/html", repr(page))
    answer = await agent.call("run_python_code", code=code)
    assert "Chart" in answer.text
    [file] = answer.data["outputs"]
    assert (place.workspace / file["path"]).read_text() == page
    assert f"Saved: {file['path']}" in answer.text
    # A table is all in its text.
    plain = await agent.call("run_python_code", code=SHOW % ("text/html", "'<p>told</p>'"))
    assert len(plain.data["outputs"]) == 1  # it has no plain text: the page may say more
    code = "display({'text/plain': 'a  b', 'text/html': '<table></table>'}, raw=True)"
    assert not (await agent.call("run_python_code", code=code)).data["outputs"]


async def test_pictures_that_are_not_shown_as_they_are_are_named(agent: Agent) -> None:
    show = "from IPython.display import Image, display\n"
    tall = await agent.call("run_python_code", code=PNG + show + "Image(png(50, 9000))")
    assert "Picture 1 is 50x9000, shown as 11x2000; the original: outputs/" in tall.text
    many = await agent.call(
        "run_python_code",
        code=PNG + show + "for _ in range(30): display(Image(png()))",
    )
    assert sum(block.type == "image" for block in many.content) == 10
    assert "20 more pictures are not shown: outputs/" in many.text
    cut = await agent.call("run_python_code", code=PNG + show + "Image(png(300, 300)[:80])")
    assert "Picture 1 can't be shown: it is broken" in cut.text
    assert "outputs/" in cut.text
    false = await agent.call(
        "run_python_code", code=PNG + show + "Image(png(kind='JPEG'), format='png')"
    )
    assert [b.mime_type for b in false.content if b.type == "image"] == ["image/jpeg"]
    assert ".jpg" in false.text


async def test_a_figure_is_a_picture_and_not_a_line_about_one(agent: Agent) -> None:
    answer = await agent.call(
        "run_python_code", code="import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()"
    )
    assert "<Figure" not in answer.text
    assert [block.type for block in answer.content if block.type == "image"] == ["image"]


async def test_a_script_saved_anew_names_who_keeps_the_old_code_and_loads_it_anew(
    agent: Agent,
) -> None:
    first = await agent.call("save_script", name="tool", content="x = 1")
    assert "'import tool' works" in first.text
    for name in ("holds", "other"):
        await agent.ask("create_session", session_id=name)
    await agent.run("import tool; from tool import x", "holds")
    await agent.run("1", "other")
    again = await agent.call("save_script", name="tool", content="x = 2", overwrite=True)
    assert again.data["held_by"] == ["holds"]
    assert "holds imported it before" in again.text and "reload=true" in again.text
    assert await agent.value("tool.x", "holds") == "1"
    assert await agent.value("__import__('tool').x", "other") == "2"
    anew = await agent.call(
        "save_script", name="tool", content="x = 3", overwrite=True, reload=True
    )
    assert (anew.data["held_by"], anew.data["reloaded"]) == ([], ["holds", "other"])
    assert await agent.value("tool.x", "holds") == "3"
    busy = await agent.run("import time; time.sleep(60)", "holds", wait=0)
    kept = await agent.call(
        "save_script", name="tool", content="x = 4", overwrite=True, reload=True
    )
    assert (kept.data["held_by"], kept.data["reloaded"]) == (["holds"], ["other"])
    await agent.ask("interrupt_execution", execution_id=busy["execution_id"], session_id="holds")
    broken = await agent.call(
        "save_script", name="tool", content="1/0", overwrite=True, reload=True
    )
    assert broken.data["held_by"] == ["holds", "other"]


@pytest.mark.parametrize(("name", "said"), [("random", "Python's own module"), ("numpy", "numpy")])
async def test_a_script_by_a_librarys_name_says_what_shadows_what(
    agent: Agent, name: str, said: str
) -> None:
    await agent.run("1")
    saved = await agent.call("save_script", name=name, content="x = 1")
    assert said in saved.data["instead"]
    assert f"'import {name}' in a cell means something else" in saved.text
    assert await agent.value(f"hasattr(__import__({name!r}), 'x')") == "False"


async def test_what_repeats_is_said_once_and_how_often(agent: Agent) -> None:
    lines = await read(agent, "for _ in range(2000): print('same')")
    assert lines[:2] == ["same", "[the line above 1,999 more times]"]
    assert "offset=0) reads all of it" in lines[2]
    code = "def f(n): return g(n)\ndef g(n): return f(n + 1)\nf(0)"
    text = "\n".join(await read(agent, code))
    assert len(text) < 3000, text
    assert "RecursionError" in text


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nasync def late():\n    await asyncio.sleep(0.3)\n    print('late words')\n"
        "task = asyncio.create_task(late())",
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('late words'))).start()",
    ],
    ids=["task", "thread"],
)
async def test_what_comes_after_an_end_is_told_with_the_next(agent: Agent, code: str) -> None:
    first = await agent.run(code)
    assert first["stdout"] == ""
    answer = await agent.call("run_python_code", code="import asyncio\nawait asyncio.sleep(1.5)")
    told = f"Execution {first['execution_id']} has output since its end ('late words')"
    if "late words" not in answer.data["stdout"]:  # a thread's is that of the cell that runs
        assert told in answer.text
        read = await agent.call("get_execution", execution_id=first["execution_id"])
        assert "late words" in read.text
    assert "late words" not in (await agent.call("run_python_code", code="1")).text


async def test_a_socket_s_path_that_is_too_long_says_what_works(agent: Agent) -> None:
    code = "import socket\nsocket.socket(socket.AF_UNIX).bind('x' * 200)"
    answer = await agent.call("run_python_code", code=code)
    assert "107 bytes at most" in answer.text
    code = (
        "import multiprocessing\n"
        "with multiprocessing.get_context('fork').Manager() as manager: print(manager.list([1]))"
    )
    await agent.ask("create_session", session_id="n" * 64)  # a part of $TMPDIR
    assert (await agent.run(code, "n" * 64))["stdout"] == "[1]\n"


SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}"><circle r="9"/></svg>'


async def test_an_svg_is_shown_as_a_picture_and_saved(agent: Agent) -> None:
    code = f"from IPython.display import SVG\nSVG({SVG.format(60, 30)!r})"
    answer = await agent.call("run_python_code", code=code)
    images = [block for block in answer.content if block.type == "image"]
    assert [image.mime_type for image in images] == ["image/png"]
    assert any(file["path"].endswith(".svg") for file in answer.data["outputs"])


@pytest.mark.parametrize(
    ("source", "why"),
    [("<svg", "no picture of it"), (SVG.format(1, 1e9), "its sides are 1 and 1e+09")],
)
async def test_an_svg_that_can_t_be_drawn_harms_nothing(
    agent: Agent, source: str, why: str
) -> None:
    """The library that draws ends its process where it can't have the memory."""
    code = (
        f"from IPython.display import display\ndisplay({{'image/svg+xml': {source!r}}}, raw=True)"
    )
    answer = await agent.call("run_python_code", code=code)
    assert answer.data["status"] == "completed"
    assert why in answer.text
    huge = f"from IPython.display import SVG\nSVG({SVG.format(10**6, 10**6)!r})"
    answer = await agent.call("run_python_code", code=huge)
    assert any(block.type == "image" for block in answer.content)


async def test_a_chart_is_shown_where_its_exporter_is_installed(agent: Agent) -> None:
    """A stand-in for the exporter's one function: the real one is in `scripts/workloads`."""
    code = (
        "import base64, sys, types\n"
        "made = types.ModuleType('vl_convert')\n"
        "from PIL import Image as P; import io\n"
        "kept = io.BytesIO(); P.new('RGB', (9, 9), 'red').save(kept, 'PNG')\n"
        "made.vegalite_to_png = lambda spec: kept.getvalue()\n"
        "sys.modules['vl_convert'] = made\n"
        "from IPython.display import display\n"
        "display({'application/vnd.vegalite.v5+json': {'mark': 'bar'}}, raw=True)"
    )
    answer = await agent.call("run_python_code", code=code)
    assert any(block.type == "image" for block in answer.content)
    assert any(file["path"].endswith(".json") for file in answer.data["outputs"])


async def test_a_question_that_nobody_can_answer_names_no_tool_that_is_not_on_offer(
    agent: Agent,
) -> None:
    """The toolset is `core`: there is no send_input."""
    lines = await read(agent, "input('name? ')")
    assert "Put the value into a variable and run the code again." in lines[-1]
    assert not [line for line in lines if "send_input" in line or "stdin" in line]
