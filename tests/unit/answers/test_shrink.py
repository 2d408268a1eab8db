"""Images fit an answer: whole, smaller if need be, never cut."""

import io
import random

import pytest
from PIL import Image

from kernelry_mcp.answers.rendering import IMAGE_BYTES, IMAGE_PIXELS, shrink


def picture(width: int, height: int, mode: str = "RGB") -> bytes:
    """Return a PNG that does not compress."""
    dice = random.Random(3)
    size = width * height * len(mode)
    buffer = io.BytesIO()
    Image.frombytes(mode, (width, height), dice.randbytes(size)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_small_image_stays_as_it_is() -> None:
    data = picture(100, 80)
    assert shrink("image/png", data) == ("image/png", data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_large_image_becomes_smaller_and_whole(mode: str) -> None:
    mime, data = shrink("image/png", picture(2000, 1500, mode))
    assert len(data) <= IMAGE_BYTES
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.width * image.height <= IMAGE_PIXELS
        assert abs(image.width / image.height - 4 / 3) < 0.01
        assert mime == f"image/{str(image.format).lower()}"


@pytest.mark.parametrize("data", [b"", b"nonsense"])
def test_what_is_no_image_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="identify"):
        shrink("image/png", data)
